"""Looking inside: attention maps, curvature, attention as convolution.

It takes a Module and arrays and knows no architecture.
"""

from tinyvit.analysis.attention_as_convolution import AttentionConv
from tinyvit.analysis.attention_maps import (
    AttentionMaps,
    attention_entropy,
    attention_maps,
    class_attention,
    mean_attention_distance,
    position_similarity,
    rollout,
)
from tinyvit.analysis.curvature import curvature, leading_eigenvalue
from tinyvit.analysis.spectrum import lanczos, power_iteration, smoothed, spectral_density, top_eigenvalues, trace
from tinyvit.nn.lifting import lift_class_attention, lift_neighbours, lift_outlook, lift_windows

__all__ = [
    "AttentionConv",
    "AttentionMaps",
    "attention_entropy",
    "attention_maps",
    "class_attention",
    "curvature",
    "lanczos",
    "leading_eigenvalue",
    "lift_class_attention",
    "lift_neighbours",
    "lift_outlook",
    "lift_windows",
    "mean_attention_distance",
    "position_similarity",
    "power_iteration",
    "rollout",
    "smoothed",
    "spectral_density",
    "top_eigenvalues",
    "trace",
]
