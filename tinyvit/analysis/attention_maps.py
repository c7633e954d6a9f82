"""Attention maps of any model, and what they say: rollout, distance, entropy, and the positions behind them.

Only the first two functions take a model, the others plain NumPy arrays. An attention map is an array
(B, h, N, N) whose entry (b, i, q, k) says how much head i of image b moves from key token k to query
token q; its rows (the last axis) sum to 1. The first `prefix_tokens` tokens are not patches (a class token counts 1,
a distillation token 1 more), the others are the patches in row-major order.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial

import numpy as np

from tinyvit.autodiff.backward import gradients
from tinyvit.autodiff.tensor import Tensor, raw
from tinyvit.autodiff.watch import Listener, listening, no_grad
from tinyvit.backend import to_numpy
from tinyvit.nn.capture import INPUT, capture
from tinyvit.nn.lifting import merging
from tinyvit.nn.module import Module

# --------------------------------------------------------------------------------------------------
# From a model and images to maps
# --------------------------------------------------------------------------------------------------


class AttentionMaps(dict):
    """Maps (B, h, N, N) by the names of their weights, in the order of the layers.

    into  layer -> function, where its tokens are not those of the layer before: of the flows (B, N, N₀) after all
          layers before it makes the flow into this one, for `rollout`
    """

    def __init__(self):
        super().__init__()
        self.into = {}


def attention_maps(model: Module, images: np.ndarray, pattern: str = "*weights") -> AttentionMaps:
    """Every attention map of a model on some images, by name and in the order of the layers.

    images (B, H, W, C) -> {"blocks.0.attn.weights": (B, h, N, N), …}; `pattern` chooses among them.

    Attention in windows, neighbourhoods and outlooks, and that of a class token alone, is lifted to all tokens of its
    layer in row-major order (`tinyvit.nn.lifting`): N² numbers per head. What `rollout` needs to compose layers with
    different tokens comes along. Weights that are not between tokens (ResNeSt's, between splits) are left out. Raises
    ValueError where nothing of that name runs (see `tinyvit.capture`).
    """
    with no_grad(), listening(_Shapes(model)) as ran, capture(model, pattern) as seen:
        model(model.bring(images))
    return _lifted(model, ran.shapes, {name: to_numpy(raw(weights)) for name, weights in seen.items()})


def relevance_maps(model: Module, images: np.ndarray, classes=None, *, pattern: str = "*weights") -> AttentionMaps:
    """The part of every attention map that speaks for a class, (∇A ⊙ A)⁺ with ∇A = ∂(logit of the class)/∂A.

    images (B, H, W, C), classes (B,), those that the model would choose if not given  ->  maps as in `attention_maps`

    Chefer, Gur and Wolf 2021 (generic attention-model explainability), Eq. 5 before its mean over heads, which
    `relevance` takes.
    """
    with listening(_Shapes(model)) as ran, capture(model, pattern) as seen:
        logits = model(model.bring(images))
    chosen = np.argmax(to_numpy(raw(logits)), axis=-1) if classes is None else np.asarray(classes)
    picked = model.bring(np.eye(logits.shape[-1], dtype=logits.dtype)[chosen])
    names = [name for name, value in seen.items() if isinstance(value, Tensor) and value.requires_grad]
    slopes = gradients(logits, [seen[name] for name in names], picked)
    weights = {name: to_numpy(raw(seen[name])) for name in names}
    parts = {name: np.maximum(to_numpy(slope) * weights[name], 0) for name, slope in zip(names, slopes, strict=True)}
    maps, rest = _lifted(model, ran.shapes, parts), _lifted(model, ran.shapes, _zeros(parts))
    for name, nothing in rest.items():
        maps[name] = maps[name] - nothing  # a class token's layer lifts to an identity for the other tokens
    return maps


def _zeros(arrays: Mapping) -> dict:
    return {name: np.zeros_like(array) for name, array in arrays.items()}


def _lifted(model: Module, shapes: Mapping, seen: Mapping) -> AttentionMaps:
    """What was seen of every layer as maps between its tokens, with the ways from layer to layer."""
    modules, maps, merged = dict(model.named_modules()), AttentionMaps(), []
    for place, (given, made) in shapes.items():
        for name in _taps(seen, place, modules):
            owner = _nearest(modules, place)
            weights = seen[name]
            lifted = weights if owner is None else modules[owner].token_map(weights, shapes[owner][0])
            if lifted.ndim != 4:
                continue
            if way := _way_into(modules.get(owner), lifted, maps, merged):
                maps.into[name] = way
            maps[name], merged = lifted, []
        block = getattr(modules[place], "merges", 1)
        if maps and np.max(block) > 1:
            merged.append((given[1:-1], block, math.prod(made[1:-1])))
    return maps


class _Shapes(Listener):
    """The modules that ran, in the order in which they ended: name -> shapes of input and output."""

    def __init__(self, model: Module):
        self.names = {id(module): name for name, module in model.named_modules()}
        self.given, self.shapes = [], {}

    def entered(self, module, inputs):
        self.given.append(getattr(inputs[0], "shape", None) if inputs else None)
        return inputs

    def left(self, module, value):
        name, given = self.names.get(id(module)), self.given.pop()
        if name is not None:
            self.shapes.pop(name, None)  # of a module that ran before, the last time counts
            self.shapes[name] = given, getattr(value, "shape", None)
        return value


def _taps(seen: Mapping, place: str, modules: Mapping) -> list[str]:
    """The names of what was tapped in a module, without modules below it and inputs."""
    below = [name for name in seen if name.rpartition(".")[0] == place]
    return [name for name in below if name not in modules and not f".{name}".endswith(INPUT)]


def _nearest(modules: Mapping, place: str) -> str | None:
    """The module that says how weights are lifted: the one they were tapped in, or the next above it that does."""
    parts = place.split(".")
    above = [".".join(parts[:n]) for n in range(len(parts), -1, -1)]  # some are lists, and no modules
    return next((name for name in above if hasattr(modules.get(name), "token_map")), None)


def _way_into(owner: Module | None, lifted: np.ndarray, before: AttentionMaps, merged: list):
    """How the flow so far becomes the flow into a layer; None where the layer has the tokens of the last."""
    if not before:
        return None
    if hasattr(owner, "flow_into"):
        return owner.flow_into
    last = merged[-1][2] if merged else next(reversed(before.values())).shape[2]
    prefix = lifted.shape[2] - last
    return partial(_carried, merged, max(prefix, 0)) if merged or prefix > 0 else None


def _carried(merged: list[tuple], prefix: int, flows: list[np.ndarray]) -> np.ndarray:
    """The last flow, its tokens merged, behind new ones that were beside it.   (B, N, M) -> (B, p + N', p + M)"""
    flow = flows[-1]
    for step in merged:
        flow = merging(*step).astype(flow.dtype) @ flow
    beside = np.zeros((len(flow), *np.add(flow.shape[1:], prefix)), flow.dtype)
    beside[:, range(prefix), range(prefix)] = 1
    beside[:, prefix:, prefix:] = flow
    return beside


# --------------------------------------------------------------------------------------------------
# From maps to numbers
# --------------------------------------------------------------------------------------------------

_FUSE = {"mean": np.mean, "max": np.max, "min": np.min}


def rollout(maps: Mapping | Sequence, *, head_fusion: str = "mean", discard: float = 0.0) -> np.ndarray:
    """Attention rollout: how much of every input token reaches every output token.

    maps: layers, first to last, each (B, h, N, N)  ->  (B, N, N₀), rows sum to 1

    Abnar and Zuidema 2020, Sec. 3: half of each layer's flow is its attention, half the residual
    connection, Â = (A + I) / 2 with rows summing to 1, and the layers multiply with *later layers
    on the left*, R = Â_L ⋯ Â_2 Â_1. The paper takes the mean over heads. Two variants of common
    use are not in the paper: `head_fusion` "max" or "min", and `discard`, the fraction of each
    image's smallest fused entries to set to zero first.

    Layers may differ in their tokens if the maps are what `attention_maps` returned. Where tokens
    are merged or pooled, a coarse one stands for the mean of the block of fine ones it came from,
    R = Â₂ M Â₁; windows that overlap count as blocks. A class token that comes in late has been
    itself until then. CeiT's last layer is among the class tokens that all layers before it left.

    Raises ValueError for unequal shapes, an unknown fusion or a fraction outside [0, 1).
    """
    if head_fusion not in _FUSE:
        raise ValueError(f"head_fusion: expected one of {sorted(_FUSE)}, got {head_fusion!r}")
    if not 0 <= discard < 1:
        raise ValueError(f"discard: expected a fraction in [0, 1), got {discard}")
    return _composed(maps, lambda layer: _with_residual(_discard(_FUSE[head_fusion](layer, axis=1), discard)))


def relevance(maps: Mapping | Sequence) -> np.ndarray:
    """How much every input token did for the class, by way of every output token: gradient-weighted rollout.

    maps: what `relevance_maps` returned  ->  (B, N, N₀)

    Chefer, Gur and Wolf 2021, Eq. 5 and 6: R ← R + Ā R from R = I, where Ā is the mean over heads of (∇A ⊙ A)⁺; so
    R = (I + Ā_L) ⋯ (I + Ā_1). Rows do not sum to 1. Raises ValueError for unequal shapes.
    """
    return _composed(maps, lambda layer: layer.mean(axis=1) + np.eye(layer.shape[-1], dtype=layer.dtype))


def _composed(maps: Mapping | Sequence, flow_of: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """The product of the layers' flows, later ones on the left; between different tokens, by the maps' own ways."""
    layers = maps if isinstance(maps, Mapping) else {f"maps[{i}]": layer for i, layer in enumerate(maps)}
    if not layers:
        raise ValueError("maps: expected at least one layer, got none")
    into, flows = getattr(maps, "into", {}), []
    for name, layer in layers.items():
        layer = _check_maps(layer, name)
        flow = flow_of(layer)  # (B, N, N)
        if flows:
            before = into[name](flows) if name in into else flows[-1]
            if flow.shape[:2] != before.shape[:2]:
                raise ValueError(
                    f"{name}: expected {before.shape[0]} images of {before.shape[1]} tokens "
                    f"as in the layer before, got shape {layer.shape}"
                )
            flow = flow @ before
        flows.append(flow)
    return flows[-1]


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

    maps: (B, h, N, N), or the rows of some queries (B, h, Q, N)  ->  (h,)

    The mean over images and queries of −Σ_k A[q, k] log A[q, k]: 0 when every query looks at one
    token, log N when it looks at all alike. With `normalised` the entropy is divided by log N,
    which makes models with different numbers of tokens comparable.

    Raises ValueError when `maps` is not (B, h, Q, N).
    """
    maps = _check_maps(maps, "maps", square=False)
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


def layer_similarity(maps: Sequence[np.ndarray], *, centred: bool = False) -> np.ndarray:
    """How alike the attention of every two layers is.

    maps: L layers, each (B, h, N, N)  ->  (L, L), from -1 to 1

    Zhou et al. 2021 (DeepViT), Eq. 2: the cosine of A^p[h, :, t] and A^q[h, :, t], columns of the same head, which say
    how much token t gives to every other, in the mean over images, heads and tokens. The value alone is no evidence of
    collapse: maps that are nearly uniform, as at initialisation, are alike too (independent logits of deviation s
    have e^(-s²)). With ``centred`` a column's mean is taken away first, which leaves 0 for those; a column without
    deviation counts 0.

    Raises ValueError for layers of unequal shapes.
    """
    columns = _stacked(maps).astype(np.float64)  # (L, B, h, N, t)
    if centred:
        columns = columns - columns.mean(axis=-2, keepdims=True)
    columns = _directions(columns, axis=-2)
    return np.einsum("pbhnt,qbhnt->pq", columns, columns) / np.prod([*columns.shape[1:3], columns.shape[-1]])


def head_similarity(maps: np.ndarray) -> np.ndarray:
    """How alike the attention of every two heads of a layer is: the mean over images of the cosine of their maps.

    maps: (B, h, N, N), or the rows of some queries (B, h, Q, N)  ->  (h, h)

    1 where a head repeats another. Raises ValueError when `maps` is not (B, h, Q, N).
    """
    maps = _check_maps(maps, "maps", square=False).astype(np.float64)
    flat = _directions(maps.reshape(*maps.shape[:2], -1), axis=-1)
    return np.einsum("bhn,bgn->hg", flat, flat) / len(flat)


def token_grid(tokens: int, size: Sequence[int]) -> tuple[int, tuple[int, int]]:
    """How many of a layer's tokens are no patches, and the grid (gh, gw) of those that are.

    tokens: N, size: of the images, (H, W). It is the finest grid of square patches, those at the border perhaps cut,
    that so many tokens are enough for. Raises ValueError for too few.
    """
    for patch in range(1, max(size) + 1):
        grid = tuple(-(-side // patch) for side in size)
        if (patches := math.prod(grid)) <= tokens:
            return tokens - patches, grid
    raise ValueError(f"tokens: {tokens} are no grid of patches of images of {size[0]}×{size[1]}")


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


def position_correlation(similarity: np.ndarray) -> float:
    """How well positions tell what is near: the correlation of their similarity with -distance, over all pairs.

    similarity: (gh, gw, gh, gw), of ``position_similarity``  ->  -1 … 1, Pearson's
    """
    grid = similarity.shape[:2]
    pairs = ~np.eye(math.prod(grid), dtype=bool)
    alike = similarity.reshape(pairs.shape)[pairs]
    return float(np.corrcoef(alike, -_distances(grid, 1.0)[pairs])[0, 1])


# --------------------------------------------------------------------------------------------------
# Parts
# --------------------------------------------------------------------------------------------------


def _with_residual(attention: np.ndarray) -> np.ndarray:
    """(A + I) / 2 with rows made to sum to 1, which fused or discarded maps no longer do."""
    flow = (attention + np.eye(attention.shape[-1], dtype=attention.dtype)) / 2
    return flow / flow.sum(axis=-1, keepdims=True)


def _stacked(maps: Sequence[np.ndarray]) -> np.ndarray:
    """Layers of one shape as one array.   (L, B, h, N, N)"""
    layers = [_check_maps(layer, f"maps[{i}]") for i, layer in enumerate(maps)]
    if len({layer.shape for layer in layers}) != 1:
        raise ValueError(f"maps: expected layers of one shape, got {[layer.shape for layer in layers]}")
    return np.stack(layers)


def _directions(vectors: np.ndarray, axis: int) -> np.ndarray:
    """Vectors of length 1; those without a length, to rounding, become 0."""
    lengths = np.linalg.norm(vectors, axis=axis, keepdims=True)
    return np.divide(vectors, lengths, out=np.zeros_like(vectors), where=lengths > 1e-12)


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


def _check_maps(maps: np.ndarray, name: str, square: bool = True) -> np.ndarray:
    maps = np.asarray(maps)
    if maps.ndim != 4 or (square and maps.shape[2] != maps.shape[3]):
        raise ValueError(f"{name}: expected attention of shape (B, h, {'N' if square else 'Q'}, N), got {maps.shape}")
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
