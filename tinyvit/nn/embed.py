"""Images to tokens, and where a token stands."""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np

from tinyvit.autodiff.tensor import raw
from tinyvit.backend import like
from tinyvit.equations.resize import resize
from tinyvit.equations.sampling import embedding
from tinyvit.nn.basic import Conv2d
from tinyvit.nn.init import normal, trunc_normal
from tinyvit.nn.module import Module, Parameter
from tinyvit.primitives.elementwise import where
from tinyvit.primitives.shape import concatenate, reshape, transpose, zeros_like


class PatchEmbed(Module):
    """Cut an image into P×P patches and map each to a token (ViT, Eq. 1).   (B, H, W, C) -> (B, HW/P², D)

    A convolution of kernel and stride P: flattening a patch and a linear map, in one.
    """

    def __init__(self, img_size, patch_size, in_chans, embed_dim, *, rng):
        self.img_size, self.patch_size, self.in_chans = img_size, patch_size, in_chans
        self.grid = grid_of(img_size, patch_size)
        self.proj = Conv2d(in_chans, embed_dim, patch_size, stride=patch_size, rng=rng)

    def forward(self, images):
        check_images(images, self.in_chans, self.img_size)
        patches = self.proj(images)
        B, h, w, D = patches.shape
        return reshape(patches, shape=(B, h * w, D))


class Embedding(Module):
    """A learned row for every token of a vocabulary.   integers (...) -> (..., D)

    padding  a token whose row learns nothing from being looked up: what fills short sequences
    """

    def __init__(self, vocabulary: int, dim: int, *, padding: int | None = None, std: float = 0.02, rng):
        self.weight = Parameter(normal((vocabulary, dim), std=std, rng=rng))
        self.padding = padding

    def forward(self, tokens):
        rows = embedding(tokens, self.weight)
        if self.padding is None:
            return rows
        return where((raw(tokens) == self.padding)[..., None], raw(rows), rows)


def patchify(images, patch_size: int):
    """Images cut into patches, each flattened as (row, column, channel).   (B, H, W, C) -> (B, HW/P², P²C)"""
    B, H, W, C = images.shape
    h, w = grid_of((H, W), patch_size)
    cut = reshape(images, shape=(B, h, patch_size, w, patch_size, C))
    return reshape(transpose(cut, axes=(0, 1, 3, 2, 4, 5)), shape=(B, h * w, patch_size * patch_size * C))


def check_images(images, channels: int, size: tuple[int, ...] | None = None, axes: str = "HW") -> None:
    """Say what was expected of images that a model cannot take.

    channels, size  what the model is made for; without a size any will do
    axes            between batch and channels; "THW" for clips
    Raises ValueError for a shape that is not (B, H, W, channels), TypeError for numbers that are not floating-point.
    """
    if not hasattr(images, "shape"):
        raise TypeError(f"images: expected an array, got a {type(images).__name__}; np.asarray(images, np.float32)")
    got, rank, kind = tuple(images.shape), 2 + len(axes), "clip" if len(axes) == 3 else "image"
    if len(got) != rank or got[-1] != channels or (size and got[1:-1] != tuple(size)):
        hint = ""
        if len(got) == rank - 1 and channels == 1 and (not size or got[1:] == tuple(size)):
            hint = f"; grey {kind}s have a channel axis too: {kind}s[..., None]"
        elif len(got) == rank - 1:
            hint = f"; a single {kind} is a batch of one: {kind}s[None]"
        elif len(got) == rank and got[1] == channels != got[-1]:
            hint = f"; channels come last here: np.moveaxis({kind}s, 1, -1)"
        wanted = ", ".join(map(str, size or axes))
        raise ValueError(f"{kind}s: expected shape (B, {wanted}, {channels}), got {got}{hint}")
    if images.dtype.kind not in "fc":
        raise TypeError(f"images: expected floating-point numbers, got {images.dtype}; scale them to about ±1 first")


def pixels(images):
    """Images or clips of bytes as float32 from 0 to 1; whatever else comes is left as it is."""
    is_bytes = getattr(images, "dtype", None) == np.uint8 and images.ndim >= 4
    return images.astype(np.float32) / np.float32(255) if is_bytes else images


def grid_of(img_size: tuple[int, int], patch_size: int) -> tuple[int, int]:
    """Rows and columns of patches. Raises ValueError where the image is not a whole number of them."""
    if any(n % patch_size for n in img_size):
        below = tuple(max(n // patch_size, 1) * patch_size for n in img_size)
        above = tuple(-(-n // patch_size) * patch_size for n in img_size)
        near = " or ".join(dict.fromkeys(map(str, (below, above))))
        raise ValueError(f"img_size: {img_size} is not a whole number of patches of {patch_size}; the nearest: {near}")
    return img_size[0] // patch_size, img_size[1] // patch_size


def one_for_each(token, z):
    """A learned token (1, 1, D), once for every image of the tokens z (B, N, D).   -> (B, 1, D)"""
    return token + zeros_like(z, shape=(z.shape[0], 1, z.shape[2]))


# positions ---------------------------------------------------------------------------------


class LearnedPositions2d(Module):
    """A learned row of D/2 numbers for every column and every row of the grid, put side by side (ViT, App. D.4).

    () -> (1, prefix + N, D); prefix tokens (a class token) have no place in the image and get zeros.
    """

    def __init__(self, grid, dim, prefix: int, *, rng):
        self.grid, self.prefix = grid, prefix
        self.x = Parameter(trunc_normal((1, grid[1], dim // 2), std=0.02, rng=rng))
        self.y = Parameter(trunc_normal((grid[0], 1, dim // 2), std=0.02, rng=rng))

    def forward(self):
        H, W = self.grid
        x, y = (p + zeros_like(p, shape=(H, W, p.shape[-1])) for p in (self.x, self.y))
        table = reshape(concatenate(x, y, axis=-1), shape=(1, H * W, -1))
        return concatenate(zeros_like(table, shape=(1, self.prefix, table.shape[-1])), table, axis=1)


class SinCosPositions2d(Module):
    """Fixed sines and cosines of a token's column and row; nothing to learn.   () -> (1, prefix + N, D)"""

    def __init__(self, grid, dim, prefix: int):
        self.grid, self.dim, self.prefix = grid, dim, prefix
        sincos_2d(grid, dim)  # complains now of a width that it cannot fill

    def forward(self):
        table = sincos_2d(self.grid, self.dim)
        return np.concatenate([np.zeros((1, self.prefix, self.dim)), table[None]], axis=1)


@lru_cache(maxsize=64)
def sincos_2d(grid: tuple[int, int], dim: int, temperature: float = 10_000.0) -> np.ndarray:
    """The table of SimpleViT (Beyer et al. 2022): [sin xω, cos xω, sin yω, cos yω], (H·W, D), float64.

    ωₖ = temperature^(-k / (D/4 - 1)) for k < D/4. Raises ValueError unless D is a multiple of 4, at least 8.
    """
    if dim % 4 or dim < 8:
        raise ValueError(f"dim: sin-cos positions need a multiple of 4, at least 8, got {dim}")
    omega = temperature ** (-np.arange(dim // 4) / (dim // 4 - 1))
    y, x = (np.outer(p.ravel(), omega) for p in np.mgrid[: grid[0], : grid[1]])
    table = np.concatenate([np.sin(x), np.cos(x), np.sin(y), np.cos(y)], axis=1)
    table.flags.writeable = False
    return table


@lru_cache(maxsize=64)
def sinusoid_1d(n: int, dim: int) -> np.ndarray:
    """The table of the first transformer (Vaswani et al. 2017, Sec. 3.5), (n, D), float64.

    PE[p, 2i] = sin(p / 10000^(2i/D)), PE[p, 2i+1] = cos(the same)
    """
    i = np.arange(dim)
    angle = np.arange(n)[:, None] / 10_000.0 ** ((i - i % 2) / dim)
    table = np.where(i % 2, np.cos(angle), np.sin(angle))
    table.flags.writeable = False
    return table


RESAMPLING = {
    "timm": {"mode": "bicubic", "antialias": True},
    "deit": {"mode": "bicubic"},
    "jax": {"mode": "bilinear", "align_corners": True},
}


def resample_positions(table, grid, new_grid, *, prefix: int = 1, method: str = "timm"):
    """A position table for another resolution: the grid's rows resized as an image, prefix rows kept.

    table (1, prefix + h·w, D) -> (1, prefix + h'·w', D); method: "timm" (bicubic, antialiased), "deit" (bicubic) or
    "jax" (linear between aligned corners, the original). Raises ValueError for a table that is not of ``grid``.
    """
    if method not in RESAMPLING:
        raise ValueError(f"method: expected one of {sorted(RESAMPLING)}, got {method!r}")
    if table.shape[1] != prefix + grid[0] * grid[1]:
        raise ValueError(f"table: expected {prefix} + {grid[0]}·{grid[1]} rows, got {table.shape[1]}")
    if tuple(grid) == tuple(new_grid):
        return table
    image = reshape(table[:, prefix:], shape=(1, *grid, -1))
    image = resize(image, size=tuple(new_grid), **RESAMPLING[method])
    rows = reshape(image, shape=(1, new_grid[0] * new_grid[1], -1))
    return concatenate(table[:, :prefix], rows, axis=1) if prefix else rows


def resample_square(table, grid, *, prefix: int, method: str):
    """``resample_positions`` of a table (1, prefix + n·n, D) whose grid must have been n × n; or the table as it is."""
    side = math.isqrt(max(table.shape[1] - prefix, 0))
    if not side or table.shape[1] != prefix + side * side:
        return table
    return resample_positions(table, (side, side), grid, prefix=prefix, method=method)


def at_least_single(table):
    """A table's numbers, which a file may hold in half precision, in single precision at least."""
    return table.astype(np.result_type(table.dtype, np.float32))


def fit_tables(state: dict, shapes: dict, resample, method: str) -> dict:
    """A state from another resolution, its position tables resampled to a model's.

    shapes    the model's tables: name -> shape, whose last axis is the width
    resample  ``(table, shape, method) -> table``
    Tables that fit already, or are of another width, come back as they are. Raises ValueError for an unknown method.
    """
    if method not in RESAMPLING:
        raise ValueError(f"positions: expected one of {sorted(RESAMPLING)}, got {method!r}")
    fitted = {}
    for name in shapes.keys() & state.keys():
        table, shape = state[name], shapes[name]
        if table.shape != shape and table.ndim == len(shape) and table.shape[-1] == shape[-1] and table.size:
            fitted[name] = resample(at_least_single(table), shape, method)
    return {**state, **fitted} if fitted else state


def beside(table, x):
    """A fixed table in the library and precision of the tokens it is added to."""
    return like(table.astype(np.real(raw(x)).dtype), raw(x)) if isinstance(table, np.ndarray) else table
