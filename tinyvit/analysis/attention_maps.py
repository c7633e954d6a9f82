"""What attention maps say: rollout, distance, entropy, and the positions behind them.

The functions of this file take plain NumPy arrays. An attention map is an array (B, h, N, N) whose
entry (b, i, q, k) says how much head i of image b moves from key token k to query token q; its rows
(the last axis) sum to 1. The first `prefix_tokens` tokens are not patches (a class token counts 1,
a distillation token 1 more), the others are the patches in row-major order.
"""

from collections.abc import Sequence

import numpy as np

from tinyvit.autodiff.tensor import raw
from tinyvit.autodiff.watch import no_grad
from tinyvit.backend import to_numpy
from tinyvit.nn.capture import capture
from tinyvit.nn.module import Module

# --------------------------------------------------------------------------------------------------
# From a model and images to maps
# --------------------------------------------------------------------------------------------------


def attention_maps(model: Module, images: np.ndarray, pattern: str = "*attn.weights") -> dict[str, np.ndarray]:
    """Every attention map of a model on some images, by name and in the order of the layers.

    images (B, H, W, C) -> {"blocks.0.attn.weights": (B, h, N, N), …}; `pattern` chooses among them.
    Raises ValueError where nothing of that name runs (see `tinyvit.capture`).
    """
    with no_grad(), capture(model, pattern) as seen:
        model(model.bring(images))
    return {name: to_numpy(raw(value)) for name, value in seen.items()}


# --------------------------------------------------------------------------------------------------
# From maps to numbers
# --------------------------------------------------------------------------------------------------

_FUSE = {"mean": np.mean, "max": np.max, "min": np.min}


def rollout(maps: Sequence[np.ndarray], *, head_fusion: str = "mean", discard: float = 0.0) -> np.ndarray:
    """Attention rollout: how much of every input token reaches every output token.

    maps: layers, first to last, each (B, h, N, N)  ->  (B, N, N), rows sum to 1

    Abnar and Zuidema 2020, Sec. 3: half of each layer's flow is its attention, half the residual
    connection, Â = (A + I) / 2 with rows summing to 1, and the layers multiply with *later layers
    on the left*, R = Â_L ⋯ Â_2 Â_1. The paper takes the mean over heads. Two variants of common
    use are not in the paper: `head_fusion` "max" or "min", and `discard`, the fraction of each
    image's smallest fused entries to set to zero first.

    Raises ValueError for unequal shapes, an unknown fusion or a fraction outside [0, 1).
    """
    layers = [_check_maps(layer, f"maps[{index}]") for index, layer in enumerate(maps)]
    if not layers:
        raise ValueError("maps: expected at least one layer, got an empty sequence")
    if head_fusion not in _FUSE:
        raise ValueError(f"head_fusion: expected one of {sorted(_FUSE)}, got {head_fusion!r}")
    if not 0 <= discard < 1:
        raise ValueError(f"discard: expected a fraction in [0, 1), got {discard}")
    result = None
    for index, layer in enumerate(layers):
        flow = _with_residual(_discard(_FUSE[head_fusion](layer, axis=1), discard))  # (B, N, N)
        if result is not None and flow.shape != result.shape:
            raise ValueError(
                f"maps[{index}]: expected {result.shape[0]} images of {result.shape[1]} tokens "
                f"as in maps[0], got shape {layer.shape}"
            )
        result = flow if result is None else flow @ result
    return result


def mean_attention_distance(maps: np.ndarray, grid: Sequence[int], patch: float, prefix_tokens: int = 1) -> np.ndarray:
    """Mean distance in pixels between a patch and the patches it attends to, for each head.

    maps: (B, h, N, N), grid: (gh, gw)  ->  (h,)

    Dosovitskiy et al. 2021, Fig. 7 right and Fig. 11: the mean over images and query patches of
    Σ_k A[q, k] ‖x_q − x_k‖, where x is `patch` times the place of a patch in the grid. Prefix
    tokens have no place: their rows and columns are dropped and the other rows made to sum to 1
    again. A row with all its weight on prefix tokens has no distance and is left out; a head with
    no other rows gives NaN.

    Raises ValueError when the number of tokens is not prefix_tokens + gh * gw.
    """
    maps = _check_maps(maps, "maps")
    _check_tokens(maps.shape[-1], grid, prefix_tokens, "maps")
    between = maps[..., prefix_tokens:, prefix_tokens:]
    weight = between.sum(axis=-1)  # (B, h, N)
    distance = np.sum(between * _distances(grid, patch), axis=-1)
    has_place = weight > 0
    distance = np.divide(distance, weight, out=np.zeros_like(distance), where=has_place)
    count = has_place.sum(axis=(0, 2))
    none = np.full(count.shape, np.nan)
    return np.divide(distance.sum(axis=(0, 2)), count, out=none, where=count > 0)


def attention_entropy(maps: np.ndarray, *, normalised: bool = False) -> np.ndarray:
    """Mean entropy of the attention rows of each head, in nats.

    maps: (B, h, N, N)  ->  (h,)

    The mean over images and queries of −Σ_k A[q, k] log A[q, k]: 0 when every query looks at one
    token, log N when it looks at all alike. With `normalised` the entropy is divided by log N,
    which makes models with different numbers of tokens comparable.

    Raises ValueError when `maps` is not (B, h, N, N).
    """
    maps = _check_maps(maps, "maps")
    logs = np.log(maps, out=np.zeros_like(maps), where=maps > 0)  # 0 log 0 = 0
    entropy = -np.sum(maps * logs, axis=-1).mean(axis=(0, 2))
    return entropy / np.log(maps.shape[-1]) if normalised else entropy


def class_attention(maps: np.ndarray, grid: Sequence[int], query: int = 0, prefix_tokens: int = 1) -> np.ndarray:
    """What one query token looks at, laid out over the patches of the image.

    maps: (..., N, N), grid: (gh, gw)  ->  (..., gh, gw)

    For maps (B, h, N, N) that is one picture for each image and head, for a rollout (B, N, N) one
    for each image. Query 0 is the class token, the patch in row r and column c is query
    prefix_tokens + r * gw + c. The weights are those of the map: what the query gives to prefix
    tokens is dropped, so a picture sums to at most 1.

    Raises ValueError for a wrong number of tokens, IndexError for a query that does not exist.
    """
    maps = np.asarray(maps)
    if maps.ndim < 2 or maps.shape[-1] != maps.shape[-2]:
        raise ValueError(f"maps: expected shape (..., N, N), got {maps.shape}")
    tokens = maps.shape[-1]
    _check_tokens(tokens, grid, prefix_tokens, "maps")
    if not -tokens <= query < tokens:
        raise IndexError(f"query: expected a token of 0 to {tokens - 1}, got {query}")
    row = maps[..., query, prefix_tokens:]
    return row.reshape(*row.shape[:-1], *grid)


def position_similarity(table: np.ndarray, grid: Sequence[int], prefix_tokens: int = 1) -> np.ndarray:
    """Cosine similarity of the position embedding of every patch with that of every other.

    table: (prefix_tokens + gh gw, D) or (1, prefix_tokens + gh gw, D)  ->  (gh, gw, gh, gw)

    Dosovitskiy et al. 2021, Fig. 7 centre: result[r, c] is the picture of the patch in row r and
    column c. Use prefix_tokens=0 for a table that holds no row for the class token.

    Raises ValueError for a wrong number of rows, or a row of zeros, which has no direction.
    """
    table = np.asarray(table)
    if table.ndim == 3 and table.shape[0] == 1:
        table = table[0]
    if table.ndim != 2:
        raise ValueError(f"table: expected shape (N, D) or (1, N, D), got {table.shape}")
    _check_tokens(len(table), grid, prefix_tokens, "table")
    patches = table[prefix_tokens:]
    norms = np.linalg.norm(patches, axis=1, keepdims=True)
    if not np.all(norms > 0):
        where = int(np.argmin(norms > 0))
        raise ValueError(f"table: the embedding of patch {where} is zero and has no direction")
    directions = patches / norms
    return (directions @ directions.T).reshape(*grid, *grid)


# --------------------------------------------------------------------------------------------------
# Parts
# --------------------------------------------------------------------------------------------------


def _with_residual(attention: np.ndarray) -> np.ndarray:
    """(A + I) / 2 with rows made to sum to 1, which fused or discarded maps no longer do."""
    flow = (attention + np.eye(attention.shape[-1], dtype=attention.dtype)) / 2
    return flow / flow.sum(axis=-1, keepdims=True)


def _discard(attention: np.ndarray, fraction: float) -> np.ndarray:
    """A copy of (B, N, N) maps with the smallest `fraction` of each image's entries set to zero."""
    count = int(fraction * attention[0].size)
    flat = attention.reshape(len(attention), -1).copy()
    smallest = np.argsort(flat, axis=1, kind="stable")[:, :count]
    np.put_along_axis(flat, smallest, 0, axis=1)
    return flat.reshape(attention.shape)


def _distances(grid: Sequence[int], patch: float) -> np.ndarray:
    """Pixels between every two patches of a grid: (gh, gw) -> (gh gw, gh gw)."""
    places = patch * np.indices(grid).reshape(len(grid), -1).T  # (N, 2)
    return np.linalg.norm(places[:, None] - places, axis=-1)


def _check_maps(maps: np.ndarray, name: str) -> np.ndarray:
    maps = np.asarray(maps)
    if maps.ndim != 4 or maps.shape[2] != maps.shape[3]:
        raise ValueError(f"{name}: expected attention of shape (B, h, N, N), got {maps.shape}")
    return maps


def _check_tokens(tokens: int, grid: Sequence[int], prefix_tokens: int, name: str) -> None:
    if np.ndim(grid) != 1:
        raise ValueError(f"grid: expected the rows and columns of patches (gh, gw), got {grid!r}")
    if prefix_tokens < 0:
        raise ValueError(f"prefix_tokens: expected a number >= 0, got {prefix_tokens}")
    expected = prefix_tokens + int(np.prod(grid))
    if tokens != expected:
        raise ValueError(
            f"{name}: expected {prefix_tokens} prefix tokens + {tuple(grid)} patches = {expected} tokens, got {tokens}"
        )
