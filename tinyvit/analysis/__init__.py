"""Looking inside: attention maps, features, curvature, sharpness, loss landscapes, attention as convolution.

It takes a Module and arrays and knows no architecture.
"""

from tinyvit.analysis.attention_as_convolution import AttentionConv
from tinyvit.analysis.attention_maps import (
    AttentionMaps,
    attention_entropy,
    attention_maps,
    class_attention,
    head_similarity,
    layer_similarity,
    mean_attention_distance,
    position_similarity,
    relevance,
    relevance_maps,
    rollout,
)
from tinyvit.analysis.curvature import (
    Leading,
    UnmatchedProtocol,
    block_eigenvalues,
    compare,
    curvature,
    dense,
    empirical_fisher,
    gauss_newton,
    leading,
    leading_eigenvalue,
    modules_of,
)
from tinyvit.analysis.features import (
    cka_matrix,
    effective_receptive_field,
    linear_cka,
    principal_filters,
    representations,
)
from tinyvit.analysis.landscape import between, direction_of, landscape, path_plane, random_direction
from tinyvit.analysis.sharpness import adaptive_sharpness, average_sharpness, epsilon_sharpness, m_sharpness
from tinyvit.analysis.spectrum import (
    hutch_plus_plus,
    lanczos,
    power_iteration,
    smoothed,
    spectral_density,
    ticking,
    top_eigenvalues,
    trace,
)
from tinyvit.analysis.surface import Protocol, Surface
from tinyvit.nn.lifting import lift_class_attention, lift_neighbourhood, lift_outlook, lift_windows

__all__ = [
    "AttentionConv",
    "AttentionMaps",
    "Leading",
    "Protocol",
    "Surface",
    "UnmatchedProtocol",
    "adaptive_sharpness",
    "attention_entropy",
    "attention_maps",
    "average_sharpness",
    "between",
    "block_eigenvalues",
    "cka_matrix",
    "class_attention",
    "compare",
    "curvature",
    "dense",
    "direction_of",
    "effective_receptive_field",
    "empirical_fisher",
    "epsilon_sharpness",
    "gauss_newton",
    "head_similarity",
    "hutch_plus_plus",
    "lanczos",
    "landscape",
    "layer_similarity",
    "leading",
    "leading_eigenvalue",
    "lift_class_attention",
    "lift_neighbourhood",
    "lift_outlook",
    "lift_windows",
    "linear_cka",
    "m_sharpness",
    "mean_attention_distance",
    "modules_of",
    "path_plane",
    "position_similarity",
    "power_iteration",
    "principal_filters",
    "random_direction",
    "relevance",
    "relevance_maps",
    "representations",
    "rollout",
    "smoothed",
    "spectral_density",
    "ticking",
    "top_eigenvalues",
    "trace",
]
