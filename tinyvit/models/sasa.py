"""SASA: "Stand-Alone Self-Attention in Vision Models" (Ramachandran et al. 2019, arXiv 1906.05909).

    y_ij = Σ_{ab ∈ N_k(ij)} softmax_ab( q_ijᵀ k_ab + q_ijᵀ r_{a-i,b-j} ) v_ab          (Eq. 3)

A pixel attends to the k×k pixels around it, and the layer takes the place of every 3×3 convolution of a ResNet. Half of
a query is compared with the row offset's embedding, half with the column's; all heads share them. There is no 1/√d.

The paper does not say what lies beyond the border: here nothing, or zeros that get their share (``mask_border``). A
popular PyTorch code, not the authors', takes a softmax per channel instead, which is another function. The networks
here keep ResNet's convolution stem; the paper also has a stem of attention. It quotes 10.3, 14.1 and 18.0 M parameters,
and for ResNet-50 without any convolution 7.2 G operations; ours has 18.02 M and 3.40 G multiply-accumulates, or 6.81 G
operations.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from tinyvit.autodiff.watch import tap
from tinyvit.equations.activation import softmax
from tinyvit.equations.attention import additive
from tinyvit.equations.convolution import zero_padded
from tinyvit.equations.pooling import avg_pool2d
from tinyvit.models.config import Paper, Published
from tinyvit.models.resnet import Bottleneck, ResNet, ResNetConfig
from tinyvit.nn.attention import head_width
from tinyvit.nn.basic import Conv2d
from tinyvit.nn.init import normal
from tinyvit.nn.lifting import lift_neighbours
from tinyvit.nn.module import Module, Parameter
from tinyvit.primitives.contract import einsum
from tinyvit.primitives.shape import reshape, transpose, unfold


@dataclass(frozen=True)
class SASAConfig(ResNetConfig):
    """A ResNet's sizes, and those of the attention in it.

    kernel_size  side k of the neighbourhood, odd · num_heads: heads in every layer
    mask_border  whether what lies beyond the border is left out; if not, it is there as zeros, which get their share
    """

    kernel_size: int = 7
    num_heads: int = 8
    mask_border: bool = True

    def __post_init__(self):
        super().__post_init__()
        if self.block != "bottleneck":
            raise ValueError(f'block: the paper\'s ResNets are made of "bottleneck" blocks, got {self.block!r}')


class StandAloneAttention(Module):
    """Every pixel attends to the k×k pixels around it (Eq. 3).   (B, H, W, C) -> (B, H/s, W/s, O)

    The weights (B, h, H, W, k·k), neighbours in raster order, can be captured as ``<name>.weights``; an HW×HW matrix of
    scores is never formed. With a stride, the mean of every s×s outputs follows.
    """

    def __init__(self, in_chans, out_chans, kernel_size, num_heads, *, stride=1, mask_border=True, rng):
        self.num_heads, self.head_dim = num_heads, head_width(out_chans, num_heads)
        if self.head_dim % 2:
            raise ValueError(f"num_heads: {num_heads} heads of width {self.head_dim} cannot be halved between rows and "
                             "columns; the width of a head must be even")  # fmt: skip
        if kernel_size % 2 == 0:
            raise ValueError(f"kernel_size: expected an odd number, which has a middle, got {kernel_size}")
        self.kernel_size, self.stride, self.mask_border = kernel_size, stride, mask_border
        self.merges = stride
        offsets = (self.head_dim // 2, kernel_size)
        self.row = Parameter(normal(offsets, std=self.head_dim**-0.5, rng=rng))
        self.col = Parameter(normal(offsets, std=self.head_dim**-0.5, rng=rng))
        self.q, self.k, self.v = (Conv2d(in_chans, out_chans, 1, bias=False, rng=rng) for _ in range(3))

    def forward(self, x):
        q, keys, values = self.by_head(self.q(x)), self.neighbours(self.k(x)), self.neighbours(self.v(x))
        scores = einsum(q, keys, spec="byxhd,byxhdkl->byxhkl") + self.offset_scores(q)
        y = einsum(self.weights(scores), values, spec="bhyxkl,byxhdkl->byxhd")
        y = reshape(y, shape=(*y.shape[:3], -1))
        s = self.stride
        return y if s == 1 else avg_pool2d(y, size=s, ceil_mode=True, count_include_pad=False)

    def token_map(self, weights, shape):
        return lift_neighbours(weights)

    def by_head(self, x):
        """(B, H, W, h·d) -> (B, H, W, h, d)"""
        return reshape(x, shape=(*x.shape[:3], self.num_heads, self.head_dim))

    def neighbours(self, x):
        """The pixels around every pixel, by head.   (B, H, W, h·d) -> (B, H, W, h, d, k, k)"""
        windows = unfold(zero_padded(x, self.kernel_size // 2, 2), size=(self.kernel_size, self.kernel_size))
        B, H, W, _, k, _ = windows.shape
        return reshape(windows, shape=(B, H, W, self.num_heads, self.head_dim, k, k))

    def offset_scores(self, q):
        """``q_ijᵀ r_{a-i,b-j}``, of a row's part and a column's.   (B, H, W, h, d) -> (B, H, W, h, k, k)"""
        half = self.head_dim // 2
        rows = einsum(q[..., :half], self.row, spec="byxhd,dk->byxhk")
        columns = einsum(q[..., half:], self.col, spec="byxhd,dl->byxhl")
        return rows[..., :, None] + columns[..., None, :]

    def weights(self, scores):
        """Softmax over the neighbours, and its tap.   (B, H, W, h, k, k) -> (B, h, H, W, k, k)"""
        B, H, W, h, k, _ = scores.shape
        if self.mask_border:
            scores = scores + additive(inside(H, W, k), scores)
        weights = softmax(reshape(scores, shape=(B, H, W, h, k * k)))
        weights = tap("weights", transpose(weights, axes=(0, 3, 1, 2, 4)))
        return reshape(weights, shape=(B, h, H, W, k, k))


@lru_cache(maxsize=64)
def inside(H: int, W: int, k: int) -> np.ndarray:
    """Which of a pixel's k×k neighbours lie in the image: booleans (H, W, 1, k, k)."""
    rows, columns = (np.arange(n)[:, None] + np.arange(k) - k // 2 for n in (H, W))
    rows, columns = (rows >= 0) & (rows < H), (columns >= 0) & (columns < W)
    return rows[:, None, None, :, None] & columns[None, :, None, None, :]


class AttentionBottleneck(Bottleneck):
    """ResNet's bottleneck with attention in place of its 3×3 convolution.   (B, H, W, C) -> (B, H/s, W/s, C')"""

    def __init__(self, in_chans, width, stride, *, kernel_size, num_heads, mask_border, rng):
        super().__init__(in_chans, width, stride, rng=rng)
        self.conv2 = StandAloneAttention(width, width, kernel_size, num_heads, stride=stride, mask_border=mask_border,
                                         rng=rng)  # fmt: skip


class SASAResNet(ResNet):
    """A ResNet whose 3×3 convolutions are attention.   images (B, H, W, C) -> logits (B, num_classes)"""

    def block(self, in_chans, width, stride, *, rng):
        c = self.config
        return AttentionBottleneck(in_chans, width, stride, kernel_size=c.kernel_size, num_heads=c.num_heads,
                                   mask_border=c.mask_border, rng=rng)  # fmt: skip


# The paper's three depths, with convolution in the stem. ------------------------------------

PAPER = Paper("Stand-Alone Self-Attention in Vision Models", "Ramachandran et al.", 2019, "1906.05909", family="sasa")

PUBLISHED = {
    "sasa_resnet26": Published(SASAConfig(layers=(1, 2, 4, 1))),
    "sasa_resnet38": Published(SASAConfig(layers=(2, 3, 5, 2))),
    "sasa_resnet50": Published(SASAConfig(layers=(3, 4, 6, 3))),
}  # fmt: skip

ALSO_COUNTED: dict = {}

SMALL = {
    "sasa_digits": SASAConfig(img_size=8, in_chans=1, num_classes=10, layers=(1, 1), stem_width=16, channels=(8, 16),
                              small_stem=True, kernel_size=3, num_heads=2),
}  # fmt: skip

MODEL = SASAResNet
