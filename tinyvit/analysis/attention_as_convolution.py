"""Self-attention that *is* a convolution (Cordonnier, Loukas & Jaggi 2020, arXiv 1911.03584, Theorem 1).

Take pixels as tokens and one head for each of a kernel's K² taps. Let head h score a key at offset δ from its query by

    -α (‖δ - Δₕ‖² - ‖Δₕ‖²) = vₕ · rδ      with  rδ = (‖δ‖², δ₁, δ₂),  vₕ = -α (1, -2Δₕ₁, -2Δₕ₂)

with no content at all (Q = K = 0). Its softmax is a discretised Gaussian that, as α grows, looks at the one pixel at
δ = Δₕ. If head h's value map is the kernel's slice at tap Δₕ, the heads' sum is the convolution.
"""

from __future__ import annotations

import numpy as np

from tinyvit.equations.attention import merge_heads, scaled_dot_product_attention, split_heads
from tinyvit.nn.basic import Linear
from tinyvit.nn.embed import beside
from tinyvit.nn.module import Module, Parameter
from tinyvit.primitives.contract import einsum
from tinyvit.primitives.shape import pad, reshape


class AttentionConv(Module):
    """An ordinary multi-head attention layer over pixels, with relative positions.   (B, H, W, C) -> (B, H, W, O)

    qkv and proj are attention's usual matrices (h heads of width O). head_positions (h, 3) holds every vₕ. Zero tokens
    around the image, seen as keys and values only, make the borders those of zero padding.
    """

    def __init__(self, in_chans: int, out_chans: int, kernel_size: int, *, rng=None):
        self.kernel_size, self.num_heads = kernel_size, kernel_size**2
        inner = self.num_heads * out_chans
        self.qkv = Linear(in_chans, 3 * inner, bias=False, rng=rng)
        self.proj = Linear(inner, out_chans, bias=False, rng=rng)
        self.head_positions = Parameter(np.zeros((self.num_heads, 3), np.float32))

    @classmethod
    def from_kernel(cls, kernel: np.ndarray, *, alpha: float = 46.0) -> AttentionConv:
        """The layer that computes ``conv2d(images, kernel, padding="same")``.

        kernel (O, C, K, K), any K: taps run from -⌊(K-1)/2⌋ to ⌊K/2⌋. alpha: how sharply a head looks; what it misses
        is about 4e^-α of its weight, below rounding from 17 in float32 and 37 in float64.
        """
        if kernel.ndim != 4 or kernel.shape[2] != kernel.shape[3]:
            raise ValueError(f"kernel: expected shape (O, C, K, K), got {kernel.shape}")
        O, C, K, _ = kernel.shape
        layer = cls(C, O, K).astype(kernel.dtype)
        nothing = np.zeros((2 * K * K * O, C), kernel.dtype)
        slices = kernel.transpose(2, 3, 0, 1).reshape(K * K * O, C)  # head by head, the kernel at its tap
        layer.load_state_dict({
            "qkv.weight": np.concatenate([nothing, slices]),
            "proj.weight": np.tile(np.eye(O, dtype=kernel.dtype), (1, K * K)),
            "head_positions": np.stack([_looking_at(tap, alpha) for tap in taps(K)]).astype(kernel.dtype),
        })  # fmt: skip
        return layer

    def forward(self, images):
        B, H, W, C = images.shape
        before, after = reach(self.kernel_size)
        border = (before, after)
        padded = pad(images, widths=((0, 0), border, border, (0, 0)))
        q, k, v = split_heads(self.qkv(reshape(padded, shape=(B, -1, C))), self.num_heads)
        inside = np.arange(q.shape[2]).reshape(padded.shape[1:3])[before : before + H, before : before + W].ravel()
        codes = beside(relative_codes((H, W), self.kernel_size), self.head_positions)
        bias = einsum(codes, self.head_positions, spec="qkr,hr->hqk")
        y = scaled_dot_product_attention(q[:, :, inside], k, v, bias)  # (B, h, HW, O)
        return reshape(self.proj(merge_heads(y)), shape=(B, H, W, -1))


def reach(kernel_size: int) -> tuple[int, int]:
    """How far a "same" kernel looks back and ahead: ⌊(K-1)/2⌋ and ⌊K/2⌋."""
    return (kernel_size - 1) // 2, kernel_size // 2


def taps(kernel_size: int) -> list[tuple[int, int]]:
    """The offsets (row, column) of a kernel's taps, in the kernel's order."""
    back, ahead = reach(kernel_size)
    return [(a, b) for a in range(-back, ahead + 1) for b in range(-back, ahead + 1)]


def relative_codes(grid: tuple[int, int], kernel_size: int) -> np.ndarray:
    """rδ = (‖δ‖², δ₁, δ₂) for every query pixel and every key of the padded grid, δ = key - query.   (HW, N, 3)"""
    back, ahead = reach(kernel_size)
    queries = np.stack(np.mgrid[: grid[0], : grid[1]], axis=-1).reshape(-1, 1, 2)
    keys = np.stack(np.mgrid[-back : grid[0] + ahead, -back : grid[1] + ahead], axis=-1).reshape(1, -1, 2)
    delta = keys - queries
    return np.concatenate([(delta**2).sum(-1, keepdims=True), delta], axis=-1)


def _looking_at(tap: tuple[int, int], alpha: float) -> np.ndarray:
    """vₕ = -α (1, -2Δ₁, -2Δ₂): the head whose score is highest at offset Δ."""
    return -alpha * np.array([1, -2 * tap[0], -2 * tap[1]])
