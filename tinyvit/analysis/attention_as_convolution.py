"""Self-attention that *is* a convolution: Cordonnier, Loukas & Jaggi 2020 (arXiv 1911.03584, Theorem 1), and patches.

Take pixels as tokens and one head for each of a kernel's K² taps. Let head h score a key at offset δ from its query by

    -α (‖δ - Δₕ‖² - ‖Δₕ‖²) = vₕ · rδ      with  rδ = (‖δ‖², δ₁, δ₂),  vₕ = -α (1, -2Δₕ₁, -2Δₕ₂)

with no content at all (Q = K = 0). Its softmax is a discretised Gaussian that, as α grows, looks at the one pixel at
δ = Δₕ. If head h's value map is the kernel's slice at tap Δₕ, the heads' sum is the convolution. A table of scalar
biases does the same: β at δ = Δₕ, 0 elsewhere; rδ is then the unit vector of the offset.

With patches of P×P pixels as tokens (Li et al. 2021, arXiv 2111.01353), a head looks at a neighbouring patch, and its
value map holds all taps that lead there, a block Toeplitz matrix. (⌈l/P⌉ + ⌈r/P⌉ + 1)² heads are enough, nine for every
kernel up to K = 2P + 1, if they are as wide as an output patch, P²O.
"""

from __future__ import annotations

import numpy as np

from tinyvit.equations.attention import merge_heads, scaled_dot_product_attention, split_heads
from tinyvit.nn.basic import Linear
from tinyvit.nn.embed import beside
from tinyvit.nn.module import Module, Parameter
from tinyvit.primitives.contract import einsum
from tinyvit.primitives.shape import pad, reshape, transpose


class AttentionConv(Module):
    """An ordinary multi-head attention layer over patches, with relative positions.   (B, H, W, C) -> (B, H, W, O)

    patch     P, the side of a token in pixels
    encoding  "quadratic": rδ = (‖δ‖², δ₁, δ₂); "table": a bias of its own for every offset that a head looks at
    padding   "zero": zero tokens around the image, seen as keys and values only, make the borders those of zero
              padding. "none": a head that looks beyond the border sees the nearest pixel there is with the quadratic
              encoding (for P = 1 that is replicate padding), and the mean of all with the table.

    num_heads, head_dim   how many heads, and how wide, unless one for every tap and P²O

    qkv and proj are attention's usual matrices. head_positions (h, 3 or the number of taps) holds every vₕ.
    """

    def __init__(self, in_chans: int, out_chans: int, kernel_size: int, *, patch: int = 1, encoding: str = "quadratic",
                 padding: str = "zero", num_heads: int | None = None, head_dim: int | None = None,
                 rng=None):  # fmt: skip
        if encoding not in ("quadratic", "table"):
            raise ValueError(f'encoding: expected "quadratic" or "table", got {encoding!r}')
        if padding not in ("zero", "none"):
            raise ValueError(f'padding: expected "zero" or "none", got {padding!r}')
        self.kernel_size, self.patch, self.encoding, self.padding = kernel_size, patch, encoding, padding
        shifts, outer = len(taps(kernel_size, patch)), patch**2 * out_chans
        self.num_heads = num_heads or shifts
        inner = self.num_heads * (head_dim or outer)
        self.qkv = Linear(patch**2 * in_chans, 3 * inner, bias=False, rng=rng)
        self.proj = Linear(inner, outer, bias=False, rng=rng)
        codes = 3 if encoding == "quadratic" else shifts
        self.head_positions = Parameter(np.zeros((self.num_heads, codes), np.float32))

    @classmethod
    def searching(cls, in_chans: int, out_chans: int, kernel_size: int, *, rng, spread: float = 1.0, **options):
        """A layer that has yet to find the taps: heads with α = 1 around random pixels, no content, random values.

        spread  standard deviation, in pixels along each axis, of where heads look first. Options are those of the
                layer, with the quadratic encoding. Cordonnier et al. 2020, Sec. 4, train Δₕ and α in this way.
        """
        layer = cls(in_chans, out_chans, kernel_size, rng=rng, **options)
        _, _, values = np.split(layer.qkv.weight.data, 3)
        looks = np.stack([_looking_at(tap, 1.0) for tap in rng.normal(0, spread, (layer.num_heads, 2))])
        layer.load_state_dict({
            "qkv.weight": np.concatenate([np.zeros_like(values), np.zeros_like(values), values]),
            "proj.weight": layer.proj.weight.data,
            "head_positions": looks.astype(np.float32),
        })  # fmt: skip
        return layer

    def centres(self) -> tuple[np.ndarray, np.ndarray]:
        """Where each head of the quadratic encoding looks, Δₕ (h, 2), and how sharply, α (h,)."""
        alpha = -self.head_positions.data[:, 0]
        return self.head_positions.data[:, 1:] / (2 * alpha[:, None]), alpha

    @classmethod
    def from_kernel(cls, kernel: np.ndarray, *, alpha: float = 46.0, **options) -> AttentionConv:
        """The layer that computes ``conv2d(images, kernel, padding="same")``.

        kernel (O, C, K, K), any K: taps run from -⌊(K-1)/2⌋ to ⌊K/2⌋. alpha: how sharply a head looks; of its weight it
        misses about 4e^-α, below rounding from 17 in float32 and 37 in float64, and with the table, whose β it is,
        about N e^-β of N tokens. Options are those of the layer.
        """
        if kernel.ndim != 4 or kernel.shape[2] != kernel.shape[3]:
            raise ValueError(f"kernel: expected shape (O, C, K, K), got {kernel.shape}")
        O, C, K, _ = kernel.shape
        layer = cls(C, O, K, **options).astype(kernel.dtype)
        values = value_maps(kernel, layer.patch)
        values = values.swapaxes(1, 2).reshape(-1, values.shape[1])  # head by head, output by input
        looks = alpha * np.eye(layer.num_heads)
        if layer.encoding == "quadratic":
            looks = np.stack([_looking_at(tap, alpha) for tap in taps(K, layer.patch)])
        layer.load_state_dict({
            "qkv.weight": np.concatenate([np.zeros_like(values), np.zeros_like(values), values]),
            "proj.weight": np.tile(np.eye(layer.patch**2 * O, dtype=kernel.dtype), (1, layer.num_heads)),
            "head_positions": looks.astype(kernel.dtype),
        })  # fmt: skip
        return layer

    def forward(self, images):
        tokens = _patches(images, self.patch)
        B, H, W, _ = tokens.shape
        border = reach(self.kernel_size, self.patch) if self.padding == "zero" else (0, 0)
        before, _ = border
        padded = pad(tokens, widths=((0, 0), border, border, (0, 0)))
        q, k, v = split_heads(
            self.qkv(reshape(padded, shape=(B, padded.shape[1] * padded.shape[2], -1))), self.num_heads
        )
        inside = np.arange(q.shape[2]).reshape(padded.shape[1:3])[before : before + H, before : before + W].ravel()
        codes = relative_codes((H, W), border)
        if self.encoding == "table":
            codes = (codes[..., None, 1:] == np.array(taps(self.kernel_size, self.patch))).all(axis=-1).astype(float)
        bias = einsum(beside(codes, self.head_positions), self.head_positions, spec="qkr,hr->hqk")
        y = scaled_dot_product_attention(q[:, :, inside], k, v, bias)  # (B, h, HW, P²O)
        return _images(reshape(self.proj(merge_heads(y)), shape=(B, H, W, -1)), self.patch)


def _patches(images, P: int):
    """(B, H, W, C) -> (B, H/P, W/P, P²C)"""
    B, H, W, C = images.shape
    if H % P or W % P:
        raise ValueError(f"images: {H}×{W} is not a whole number of patches of {P}")
    cut = reshape(images, shape=(B, H // P, P, W // P, P, C))
    return reshape(transpose(cut, axes=(0, 1, 3, 2, 4, 5)), shape=(B, H // P, W // P, P * P * C))


def _images(tokens, P: int):
    """(B, h, w, P²O) -> (B, hP, wP, O)"""
    B, h, w, D = tokens.shape
    cut = reshape(tokens, shape=(B, h, w, P, P, D // P**2))
    return reshape(transpose(cut, axes=(0, 1, 3, 2, 4, 5)), shape=(B, h * P, w * P, D // P**2))


def reach(kernel_size: int, patch: int = 1) -> tuple[int, int]:
    """How many tokens a "same" kernel looks back and ahead: ⌈⌊(K-1)/2⌋ / P⌉ and ⌈⌊K/2⌋ / P⌉."""
    return -(-((kernel_size - 1) // 2) // patch), -(-(kernel_size // 2) // patch)


def taps(kernel_size: int, patch: int = 1) -> list[tuple[int, int]]:
    """The offsets (row, column) at which heads look, in the order of a kernel's taps."""
    back, ahead = reach(kernel_size, patch)
    return [(a, b) for a in range(-back, ahead + 1) for b in range(-back, ahead + 1)]


def value_maps(kernel: np.ndarray, patch: int = 1) -> np.ndarray:
    """What a patch at every offset s adds to an output patch.   (O, C, K, K) -> (heads, P²C, P²O)

    M_s[(u', v', c), (u, v, o)] = W[o, c, u' + s₁P - u + l, v' + s₂P - v + l], or 0 where there is no such tap;
    l = ⌊(K-1)/2⌋
    """
    O, C, K, _ = kernel.shape
    back, ahead = reach(K, patch)
    u, s = np.arange(patch), np.arange(-back, ahead + 1)[:, None, None]
    tap = u[:, None] + s * patch - u + (K - 1) // 2  # (n, u', u)
    padded = np.pad(kernel, ((0, 0), (0, 0), (0, 1), (0, 1)))  # index K is 0
    tap = np.where((tap >= 0) & (tap < K), tap, K)
    rows, columns = tap[:, None, :, None, :, None], tap[None, :, None, :, None, :]
    maps = padded[:, :, rows, columns]  # (O, C, n, n, u', v', u, v)
    return maps.transpose(2, 3, 4, 5, 1, 6, 7, 0).reshape(len(s) ** 2, patch**2 * C, patch**2 * O)


def relative_codes(grid: tuple[int, int], border: tuple[int, int]) -> np.ndarray:
    """rδ = (‖δ‖², δ₁, δ₂) for every query and every key of the grid and its border, δ = key - query.   (HW, N, 3)"""
    back, ahead = border
    queries = np.stack(np.mgrid[: grid[0], : grid[1]], axis=-1).reshape(-1, 1, 2)
    keys = np.stack(np.mgrid[-back : grid[0] + ahead, -back : grid[1] + ahead], axis=-1).reshape(1, -1, 2)
    delta = keys - queries
    return np.concatenate([(delta**2).sum(-1, keepdims=True), delta], axis=-1)


def _looking_at(tap: tuple[int, int], alpha: float) -> np.ndarray:
    """vₕ = -α (1, -2Δ₁, -2Δ₂): the head whose score is highest at offset Δ."""
    return -alpha * np.array([1, -2 * tap[0], -2 * tap[1]])


def taps_found(centres: np.ndarray, alpha: np.ndarray, kernel_size: int) -> int:
    """At how many taps of a kernel some head looks: it gives them more than half of its weight, away from borders.

    centres (h, 2), alpha (h,), of ``AttentionConv.centres``
    """
    around = np.stack(np.mgrid[-8:9, -8:9], axis=-1).reshape(-1, 2)
    scores = -alpha[:, None] * np.sum((around - centres[:, None]) ** 2, axis=-1)  # (h, 17²)
    weights = np.exp(scores - scores.max(axis=1, keepdims=True))
    _, places = np.nonzero(weights > 0.5 * weights.sum(axis=1, keepdims=True))
    return len({tuple(around[place]) for place in places} & set(taps(kernel_size)))


# are so many heads necessary? --------------------------------------------------------------


def missed_weight(alpha: float) -> float:
    """The largest share of its weight that a head with the quadratic encoding gives to other pixels: τ/(1+τ).

    τ = Σ over n ≠ 0 in Z² of e^(-α‖n‖²) = (1 + 2 Σ_{m≥1} e^(-αm²))² - 1, about 4e^-α
    """
    side = 2 * np.exp(-alpha * np.arange(1, 2 + int(40 / np.sqrt(alpha))) ** 2.0).sum()
    tau = side * (2 + side)
    return float(tau / (1 + tau))


def least_error(maps: np.ndarray, heads: int) -> float:
    """A bound that no layer of so many heads that look regardless of content can fall below, for white noise.

    maps (|S|, P²C, P²O), of ``value_maps``  ->  √(Σ_{i>n} σᵢ²) / ‖T‖, T with a row vec(M_s) for every offset

    n heads make AᵀM of rank n, and Eckart and Young's theorem bounds ‖T - AᵀM‖. So rank(T) heads are necessary; for
    kernels in general position it is min(|S|, C·O·(2P-1)²).
    """
    values = np.linalg.svd(maps.reshape(len(maps), -1), compute_uv=False)
    return float(np.sqrt(np.sum(values[heads:] ** 2) / np.sum(values**2)))


def fitted_heads(maps: np.ndarray, heads: int, *, rng: np.random.Generator, rounds: int = 200):
    """So many heads that come near to a convolution: where each looks, and the relative error for white noise.

    maps (|S|, P²C, P²O)  ->  attention (heads, |S|) with rows that sum to 1, ‖T - AᵀM‖ / ‖T‖

    By turns the best value maps for the attention (least squares) and the best attention, not negative, for those
    (non-negative least squares). It may end at a local minimum.
    """
    from scipy.optimize import nnls

    rows = maps.reshape(len(maps), -1)
    left, values, _ = np.linalg.svd(rows, full_matrices=False)
    target = left * values  # the same geometry in few dimensions
    attention = rng.random((heads, len(target)))
    for _ in range(rounds):
        made = np.linalg.lstsq(attention.T, target, rcond=None)[0]
        attention = np.stack([nnls(made.T, row)[0] for row in target], axis=1)
        attention /= np.maximum(attention.sum(axis=1, keepdims=True), 1e-300)
    made = np.linalg.lstsq(attention.T, target, rcond=None)[0]
    return attention, float(np.linalg.norm(target - attention.T @ made) / np.linalg.norm(target))
