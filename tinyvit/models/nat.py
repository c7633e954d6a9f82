"""NAT: "Neighborhood Attention Transformer" (Hassani et al. 2023, arXiv 2204.07143).

    A_i   = [Q_i K_{ρ₁(i)}ᵀ + B(i, ρ₁(i)) … Q_i K_{ρ_k²(i)}ᵀ + B(i, ρ_k²(i))]        (Eq. 2)
    NA(i) = softmax(A_i / √d) [V_{ρ₁(i)} … V_{ρ_k²(i)}]                              (Eqs. 3-4)

Every place of a map attends to ρ(i), the k×k places nearest to it. A corner, too, has k×k of them: at the border the
neighbourhood moves inwards. The equations, and the slides, divide the bias B by √d together with the product; the
official code adds it after the scaling, as Swin does, and so does this file. Where a map is smaller than k×k the code
fills it up with zeros at the bottom and on the right, which are keys like others.

The tokenizer and the downsamplers are overlapping 3×3 convolutions of stride 2, with nothing but a norm behind them.
Parameters have the official code's names and shapes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tinyvit.equations.neighbourhood import check_kernel_size, first_neighbours, neighbourhood_attention
from tinyvit.models.config import Paper, Published
from tinyvit.nn.attention import Attention, Block
from tinyvit.nn.basic import Conv2d, LayerNorm, Linear, layer_scale
from tinyvit.nn.embed import check_images
from tinyvit.nn.init import trunc_normal
from tinyvit.nn.lifting import lift_neighbourhood
from tinyvit.nn.module import Identity, Module, Parameter, Sequential
from tinyvit.nn.noise import drop_path_rates
from tinyvit.primitives.reduce import mean
from tinyvit.primitives.shape import pad, reshape, split

EPS = 1e-5  # of every LayerNorm


@dataclass(frozen=True)
class NATConfig:
    """A NAT's sizes, under the official code's argument names. Images of any size will do.

    embed_dim    width of the first level; every level doubles it and halves the map
    depths       blocks of every level · num_heads: heads of every level
    kernel_size  side k of the neighbourhood, odd
    layer_scale  where LayerScale's γ starts; None for blocks without it
    small_stem   for small images: the tokenizer's convolutions keep the map, which the original's divide by 4
    """

    img_size: int | tuple[int, int] = 224
    in_chans: int = 3
    num_classes: int = 1000
    embed_dim: int = 64
    depths: tuple[int, ...] = (3, 4, 6, 5)
    num_heads: tuple[int, ...] = (2, 4, 8, 16)
    kernel_size: int = 7
    mlp_ratio: float = 3.0
    qkv_bias: bool = True
    drop_path_rate: float = 0.2
    layer_scale: float | None = None
    small_stem: bool = False

    def __post_init__(self):
        check_kernel_size(self.kernel_size)
        if len(self.depths) != len(self.num_heads):
            raise ValueError(
                f"num_heads: expected one number per level ({len(self.depths)} depths), got {self.num_heads}"
            )


class NeighbourhoodAttention(Attention):
    """``softmax(QKᵀ/√d + B) V`` among the k×k neighbours of every place (Eqs. 2-4).   (B, H, W, D) -> (B, H, W, D)

    B has an entry per head and offset of two places. The weights (B, h, H, W, k·k), neighbours in row-major order, can
    be captured as ``<name>.weights``; of a map smaller than k×k, those of the map filled up with zeros.
    """

    def __init__(self, dim, num_heads, *, kernel_size, qkv_bias=True, proj_drop=0.0, rng):
        super().__init__(dim, num_heads, qkv_bias=qkv_bias, proj_drop=proj_drop, rng=rng)
        check_kernel_size(kernel_size)
        self.kernel_size = kernel_size
        self.rpb = Parameter(trunc_normal((num_heads, 2 * kernel_size - 1, 2 * kernel_size - 1), std=0.02, rng=rng))

    def forward(self, x):
        _, H, W, _ = x.shape
        missing = [max(self.kernel_size - n, 0) for n in (H, W)]
        if any(missing):
            x = pad(x, widths=((0, 0), *((0, n) for n in missing), (0, 0)))
        q, k, v = split(self.qkv(x), 3)
        y = neighbourhood_attention(q, k, v, self.position_bias(q), num_heads=self.num_heads,
                                    kernel_size=self.kernel_size)  # fmt: skip
        return self.proj_drop(self.proj(y[:, :H, :W] if any(missing) else y))

    def token_map(self, weights, shape):
        return lift_neighbourhood(weights, shape[1:3])

    def position_bias(self, q):
        """B, (h, H, W, k·k): row and column of the table are the neighbour's offset, plus k - 1."""
        H, W = q.shape[1:3]
        rows, columns = (offset_index(n, self.kernel_size) for n in (H, W))
        bias = self.rpb[:, rows[:, None, :, None], columns[None, :, None, :]]
        return reshape(bias, shape=(self.num_heads, H, W, -1))


def offset_index(n: int, kernel_size: int) -> np.ndarray:
    """``j - i + k - 1`` for the neighbours j of every place i along an axis, (n, k)."""
    first = first_neighbours(n, n, kernel_size) - np.arange(n)
    return first[:, None] + np.arange(kernel_size) + kernel_size - 1


class NATBlock(Block):
    """``x + γ₁ NA(LN(x))``, then the same with the MLP; γ only where it is given a start.   (B, H, W, C), same again"""

    def __init__(self, dim, num_heads, *, init_values=None, rng, **options):
        super().__init__(dim, num_heads, attention=NeighbourhoodAttention, eps=EPS, rng=rng, **options)
        self.scaled = init_values is not None
        if self.scaled:
            self.gamma1, self.gamma2 = (layer_scale(dim, init_values, rng=rng) for _ in range(2))

    def forward(self, x):
        if not self.scaled:
            return super().forward(x)
        x = x + self.drop_path1(self.gamma1 * self.attn(self.norm1(x)))
        return x + self.drop_path2(self.gamma2 * self.mlp(self.norm2(x)))


class ConvTokenizer(Module):
    """Two overlapping convolutions and a norm (Fig. 5).   images (B, H, W, in) -> (B, ⌈H/4⌉, ⌈W/4⌉, C)"""

    def __init__(self, in_chans, dim, *, stride=2, rng):
        self.proj = Sequential(*(Conv2d(i, o, 3, stride=stride, padding=1, rng=rng)
                                 for i, o in ((in_chans, dim // 2), (dim // 2, dim))))  # fmt: skip
        self.norm = LayerNorm(dim, eps=EPS, rng=rng)

    def forward(self, images):
        return self.norm(self.proj(images))


class ConvDownsampler(Module):
    """An overlapping convolution and a norm (Fig. 5).   (B, H, W, C) -> (B, ⌈H/2⌉, ⌈W/2⌉, 2C)"""

    merges = 2

    def __init__(self, dim, *, rng):
        self.reduction = Conv2d(dim, 2 * dim, 3, stride=2, padding=1, bias=False, rng=rng)
        self.norm = LayerNorm(2 * dim, eps=EPS, rng=rng)

    def forward(self, x):
        return self.norm(self.reduction(x))


class NATLevel(Module):
    """Blocks on maps of one size, and what makes the next level's maps of theirs: nothing, in the last."""

    def __init__(self, dim, num_heads, rates, *, last, rng, **options):
        self.blocks = Sequential(*(NATBlock(dim, num_heads, drop_path=rate, rng=rng, **options) for rate in rates))
        self.downsample = Identity() if last else ConvDownsampler(dim, rng=rng)

    def forward(self, x):
        return self.downsample(self.blocks(x))


class NAT(Module):
    """Neighbourhood attention transformer.   images (B, H, W, C) -> logits (B, num_classes)"""

    def __init__(self, config: NATConfig, *, rng):
        c = self.config = config
        self.patch_embed = ConvTokenizer(c.in_chans, c.embed_dim, stride=1 if c.small_stem else 2, rng=rng)
        dim, rates = c.embed_dim, iter(drop_path_rates(c.drop_path_rate, sum(c.depths)))
        self.levels = []
        for i, (depth, heads) in enumerate(zip(c.depths, c.num_heads, strict=True)):
            dim, last = c.embed_dim * 2**i, i == len(c.depths) - 1
            self.levels.append(NATLevel(dim, heads, [next(rates) for _ in range(depth)], last=last,
                                        kernel_size=c.kernel_size, mlp_ratio=c.mlp_ratio, qkv_bias=c.qkv_bias,
                                        init_values=c.layer_scale, rng=rng))  # fmt: skip
        self.norm = LayerNorm(dim, eps=EPS, rng=rng)
        self.head = Linear(dim, c.num_classes, rng=rng) if c.num_classes else Identity()

    def forward(self, images):
        x = self.tokenized(images)
        for level in self.levels:
            x = level(x)
        return self.head(mean(self.norm(x), axis=(1, 2)))

    def stages(self, images) -> list:
        """The map after every level's blocks, finest first, each half as large and twice as wide as the one before."""
        x = self.tokenized(images)
        maps = []
        for level in self.levels:
            maps.append(level.blocks(x))
            x = level.downsample(maps[-1])
        return maps

    def tokenized(self, images):
        """The first level's map."""
        check_images(images, self.config.in_chans)
        return self.patch_embed(images)


# The paper's four sizes. -------------------------------------------------------------------

PAPER = Paper("Neighborhood Attention Transformer", "Hassani et al.", 2023, "2204.07143", family="nat")

MINI = NATConfig(embed_dim=64, depths=(3, 4, 6, 5), num_heads=(2, 4, 8, 16), mlp_ratio=3.0, drop_path_rate=0.2)
TINY = NATConfig(embed_dim=64, depths=(3, 4, 18, 5), num_heads=(2, 4, 8, 16), mlp_ratio=3.0, drop_path_rate=0.2)
SMALL_NAT = NATConfig(embed_dim=96, depths=(3, 4, 18, 5), num_heads=(3, 6, 12, 24), mlp_ratio=2.0, drop_path_rate=0.3,
                      layer_scale=1e-5)  # fmt: skip
BASE = NATConfig(embed_dim=128, depths=(3, 4, 18, 5), num_heads=(4, 8, 16, 32), mlp_ratio=2.0, drop_path_rate=0.5,
                 layer_scale=1e-5)  # fmt: skip

#   name           config         counted as
PUBLISHED = {
    "nat_mini":  Published(MINI,       "NAT-mini@224"),
    "nat_tiny":  Published(TINY,       "NAT-tiny@224"),
    "nat_small": Published(SMALL_NAT,  "NAT-small@224"),
    "nat_base":  Published(BASE,       "NAT-base@224"),
}  # fmt: skip

ALSO_COUNTED: dict = {}

SMALL = {
    "nat_digits": NATConfig(img_size=8, in_chans=1, num_classes=10, embed_dim=32, depths=(1, 1), num_heads=(4, 8),
                            kernel_size=3, mlp_ratio=2.0, drop_path_rate=0.0, small_stem=True),
    "nat_micro":  NATConfig(img_size=32, num_classes=10, embed_dim=24, depths=(2, 2, 2), num_heads=(2, 4, 8),
                            kernel_size=3, drop_path_rate=0.0),
}  # fmt: skip

MODEL = NAT
