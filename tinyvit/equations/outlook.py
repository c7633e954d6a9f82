"""Outlook attention: every place says from itself alone how its neighbours exchange their values."""

from __future__ import annotations

import math

from tinyvit.autodiff.op import equation
from tinyvit.autodiff.watch import tap
from tinyvit.equations.activation import softmax
from tinyvit.equations.convolution import check_images
from tinyvit.primitives.shape import fold, pad, reshape, transpose, unfold


@equation(taps=("weights",))
def outlook_attention(v, scores, keep=None, *, num_heads, kernel_size=3, padding=1, stride=1):
    """``Y_Δ = softmax(A / √d) V_Δ`` in the K×K window Δ of every s-th place, summed where windows overlap.

    v (B, H, W, h·d), scores (B, H', W', h·K⁴) -> (B, H, W, h·d), with H' = ⌊(H + 2p - K)/s⌋ + 1
    scores  for every window, laid out [head][place that receives][place that gives], both in row-major order
    keep    multiplies the weights (a dropout mask), broadcast to (B, h, H'·W', K², K²)
    Yuan et al. 2021 (VOLO), Eqs. 3-5; the division by √d is the official code's. The weights are tapped as ``weights``,
    (B, h, H'·W', K², K²); those of places in the border give zeros, and what they receive is dropped.
    """
    check_images(v)
    B, H, W, C = v.shape
    K, p = kernel_size, padding
    padded = pad(v, widths=((0, 0), (p, p), (p, p), (0, 0)))
    windows = unfold(padded, size=(K, K), stride=stride)  # V_Δ, (B, H', W', C, K, K)
    rows, columns = windows.shape[1:3]
    if C % num_heads or scores.shape != (B, rows, columns, num_heads * K**4):
        raise ValueError(f"scores: expected ({B}, {rows}, {columns}, {num_heads}·{K}⁴) for {num_heads} heads that "
                         f"share a width of {C}, got {scores.shape}")  # fmt: skip
    n, d = rows * columns, C // num_heads
    values = transpose(reshape(windows, shape=(B, n, num_heads, d, K * K)), axes=(0, 2, 1, 4, 3))
    scores = transpose(reshape(scores, shape=(B, n, num_heads, K * K, K * K)), axes=(0, 2, 1, 3, 4))
    weights = tap("weights", softmax(scores / math.sqrt(d)))
    y = (weights if keep is None else weights * keep) @ values  # Y_Δ, (B, h, n, K², d)
    y = reshape(transpose(y, axes=(0, 2, 1, 4, 3)), shape=windows.shape)
    return fold(y, shape=padded.shape, stride=stride)[:, p : p + H, p : p + W]  # Ỹ, the sum over windows
