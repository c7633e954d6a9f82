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

from tinyvit.equations.attention import additive
from tinyvit.equations.convolution import zero_padded
from tinyvit.equations.neighbourhood import check_kernel_size, neighbourhood_attention
from tinyvit.equations.pooling import avg_pool2d
from tinyvit.models.config import Paper, Published, one_of
from tinyvit.models.resnet import Bottleneck, ResNet, ResNetConfig
from tinyvit.nn.attention import head_width
from tinyvit.nn.basic import Conv2d
from tinyvit.nn.init import normal
from tinyvit.nn.lifting import lift_neighbourhood
from tinyvit.nn.module import Module, Parameter
from tinyvit.primitives.contract import einsum
from tinyvit.primitives.shape import reshape


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
        one_of((1,), cardinality=self.cardinality, block_reduce_first=self.block_reduce_first)  # no convolutions
        one_of((64,), base_width=self.base_width)
        one_of((32,), output_stride=self.output_stride)


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
        check_kernel_size(kernel_size)
        self.kernel_size, self.stride, self.mask_border = kernel_size, stride, mask_border
        self.merges = stride
        offsets = (self.head_dim // 2, kernel_size)
        self.row = Parameter(normal(offsets, std=self.head_dim**-0.5, rng=rng))
        self.col = Parameter(normal(offsets, std=self.head_dim**-0.5, rng=rng))
        self.q, self.k, self.v = (Conv2d(in_chans, out_chans, 1, bias=False, rng=rng) for _ in range(3))

    def forward(self, x):
        q = self.q(x)
        k, v = (zero_padded(conv(x), self.kernel_size // 2, 2) for conv in (self.k, self.v))
        y = neighbourhood_attention(q, k, v, self.offset_scores(q), num_heads=self.num_heads,
                                    kernel_size=self.kernel_size, scale=1.0)  # fmt: skip
        s = self.stride
        return y if s == 1 else avg_pool2d(y, size=s, ceil_mode=True, count_include_pad=False)

    def token_map(self, weights, shape):
        return lift_neighbourhood(weights, border=self.kernel_size // 2)

    def offset_scores(self, q):
        """``q_ijᵀ r_{a-i,b-j}``, of a row's part and a column's; -inf beyond the border, if it is masked.

        (B, H, W, h·d) -> (B, h, H, W, k·k)
        """
        B, H, W, _ = q.shape
        k, half = self.kernel_size, self.head_dim // 2
        q = reshape(q, shape=(B, H, W, self.num_heads, self.head_dim))
        rows = einsum(q[..., :half], self.row, spec="byxhd,dk->bhyxk")
        columns = einsum(q[..., half:], self.col, spec="byxhd,dl->bhyxl")
        scores = reshape(rows[..., :, None] + columns[..., None, :], shape=(B, self.num_heads, H, W, k * k))
        return scores + additive(inside(H, W, k), scores) if self.mask_border else scores


@lru_cache(maxsize=64)
def inside(H: int, W: int, k: int) -> np.ndarray:
    """Which of a pixel's k×k neighbours lie in the image: booleans (H, W, k·k)."""
    rows, columns = (np.arange(n)[:, None] + np.arange(k) - k // 2 for n in (H, W))
    rows, columns = (rows >= 0) & (rows < H), (columns >= 0) & (columns < W)
    return (rows[:, None, :, None] & columns[None, :, None, :]).reshape(H, W, k * k)


class AttentionBottleneck(Bottleneck):
    """ResNet's bottleneck with attention in place of its 3×3 convolution.   (B, H, W, C) -> (B, H/s, W/s, C')"""

    def __init__(self, config, in_chans, channels, stride=1, *, rng):
        super().__init__(config, in_chans, channels, stride, rng=rng)
        self.conv2 = StandAloneAttention(channels, channels, config.kernel_size, config.num_heads, stride=stride,
                                         mask_border=config.mask_border, rng=rng)  # fmt: skip


class SASAResNet(ResNet):
    """A ResNet whose 3×3 convolutions are attention.   images (B, H, W, C) -> logits (B, num_classes)"""

    def block(self, in_chans, channels, stride, *, dilation, rng):
        return AttentionBottleneck(self.config, in_chans, channels, stride, rng=rng)


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
