"""Swin: "Swin Transformer: Hierarchical Vision Transformer using Shifted Windows" (Liu et al. 2021, arXiv 2103.14030).

    ẑˡ = W-MSA(LN(zˡ⁻¹)) + zˡ⁻¹          zˡ   = MLP(LN(ẑˡ)) + ẑˡ
    ẑˡ⁺¹ = SW-MSA(LN(zˡ)) + zˡ           zˡ⁺¹ = MLP(LN(ẑˡ⁺¹)) + ẑˡ⁺¹           (Eq. 3)

Attention stays inside windows, every second block has them shifted by half a window, and between the stages 2×2 tokens
are merged into one. Parameters have timm's names and shapes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from tinyvit.models.config import Paper, Published, pair
from tinyvit.nn.attention import Block
from tinyvit.nn.basic import Conv2d, Conv3d, LayerNorm, Linear
from tinyvit.nn.embed import at_least_single, check_images, grid_of
from tinyvit.nn.lifting import lift_windows
from tinyvit.nn.module import Identity, Module
from tinyvit.nn.noise import drop_path_rates
from tinyvit.nn.pool import PooledHead
from tinyvit.nn.window import WindowAttention, attend_in_windows, pad_to_whole, resize_bias_table
from tinyvit.primitives.shape import reshape, transpose

EPS = 1e-5  # of every LayerNorm


@dataclass(frozen=True)
class SwinConfig:
    """A Swin's sizes, under timm's argument names.

    img_size     of the images to classify: a window that is larger than its map shrinks to it. None for images of any
                 size, as a backbone of dense prediction: windows keep their size, and maps are padded to whole ones
    embed_dim    width of the first stage; every stage doubles it and halves the map
    depths       blocks of every stage · num_heads  heads of every stage
    window_size  M: a side, or rows and columns
    drop_rate    dropout before the head
    """

    img_size: int | tuple[int, int] | None = 224
    patch_size: int = 4
    in_chans: int = 3
    num_classes: int = 1000
    embed_dim: int = 96
    depths: tuple[int, ...] = (2, 2, 6, 2)
    num_heads: tuple[int, ...] = (3, 6, 12, 24)
    window_size: int | tuple[int, int] = 7
    mlp_ratio: float = 4.0
    qkv_bias: bool = True
    drop_rate: float = 0.0
    drop_path_rate: float = 0.2

    def __post_init__(self):
        if len(self.depths) != len(self.num_heads):
            raise ValueError(
                f"num_heads: expected one number per stage ({len(self.depths)} depths), got {self.num_heads}"
            )
        if min(pair(self.window_size)) < 1:
            raise ValueError(f"window_size: expected at least one token on each side, got {self.window_size}")


class PatchEmbed(Module):
    """Patches mapped to C channels and normalised (Fig. 3a).   (B, H, W, in) -> (B, H/P, W/P, C)

    Without an image size any will do, and is padded to whole patches. A patch of three sides is one of a clip.
    """

    def __init__(self, img_size, patch_size, in_chans, embed_dim, *, rng):
        self.img_size, self.patch_size, self.in_chans = img_size, patch_size, in_chans
        self.grid = img_size and grid_of(img_size, patch_size)
        self.axes, conv = ("HW", Conv2d) if len(pair(patch_size)) == 2 else ("THW", Conv3d)
        self.proj = conv(in_chans, embed_dim, patch_size, stride=patch_size, rng=rng)
        self.norm = LayerNorm(embed_dim, eps=EPS, rng=rng)

    def forward(self, images):
        check_images(images, self.in_chans, self.img_size, self.axes)
        return self.norm(self.proj(pad_to_whole(images, pair(self.patch_size))))


class PatchMerging(Module):
    """Every 2×2 neighbours side by side, normalised and halved (Sec. 3.1).   (B, H, W, C) -> (B, ⌈H/2⌉, ⌈W/2⌉, 2C)

    merges  how many become one along every axis
    """

    def __init__(self, dim, merges=(2, 2), *, rng):
        self.merges = merges
        self.norm = LayerNorm(math.prod(merges) * dim, eps=EPS, rng=rng)
        self.reduction = Linear(math.prod(merges) * dim, 2 * dim, bias=False, rng=rng)

    def forward(self, x):
        return self.reduction(self.norm(merge_neighbours(x, self.merges)))


def merge_neighbours(x, merges=(2, 2)):
    """2×2 neighbours side by side: (0, 0), (1, 0), (0, 1), (1, 1) of row and column.

    (B, H, W, C) -> (B, ⌈H/2⌉, ⌈W/2⌉, 4C); odd sides are padded with zeros
    merges  how many along every axis, if not 2×2
    """
    x = pad_to_whole(x, merges)
    B, *size, C = x.shape
    n, counts = len(size), [length // m for length, m in zip(size, merges, strict=True)]
    x = reshape(x, shape=(B, *(k for axis in zip(counts, merges, strict=True) for k in axis), C))
    x = transpose(x, axes=(0, *range(1, 2 * n, 2), *range(2 * n, 0, -2), 2 * n + 1))  # the first axis runs fastest
    return reshape(x, shape=(B, *counts, math.prod(merges) * C))


class SwinBlock(Block):
    """Attention in windows shifted by ``shift``, and an MLP (Eq. 3, Fig. 3b).   (B, H, W, C) -> (B, H, W, C)"""

    def __init__(self, dim, num_heads, *, window, shift, rng, **options):
        super().__init__(dim, num_heads, attention=WindowAttention, window=window, eps=EPS, rng=rng, **options)
        self.shift = shift

    def forward(self, z):
        y = attend_in_windows(self.norm1(z), self.attn, self.window_on(z.shape), self.shift)
        z = z + self.drop_path1(y)  # ẑˡ = (S)W-MSA(LN(zˡ⁻¹)) + zˡ⁻¹
        return z + self.drop_path2(self.mlp(self.norm2(z)))  # zˡ = MLP(LN(ẑˡ)) + ẑˡ

    def window_on(self, shape) -> tuple[int, ...]:
        """The window on a map of this shape."""
        return self.attn.window

    def token_map(self, weights, shape):
        return lift_windows(weights, shape[1:-1], self.window_on(shape), self.shift)


class SwinStage(Module):
    """Blocks on maps of one size, the 2nd, 4th, … with shifted windows, after what makes such maps."""

    def __init__(self, dim, num_heads, rates, *, downsample, window, block=SwinBlock, rng, **options):
        self.downsample = downsample
        shifts = ((0,) * len(window), tuple(m // 2 for m in window))
        self.blocks = [
            block(dim, num_heads, window=window, shift=shifts[i % 2], drop_path=rate, rng=rng, **options)
            for i, rate in enumerate(rates)
        ]

    def forward(self, x):
        x = self.downsample(x)
        for block in self.blocks:
            x = block(x)
        return x


class Swin(Module):
    """Swin transformer.   images (B, H, W, C) -> logits (B, num_classes)"""

    block, neighbours = SwinBlock, (2, 2)

    def __init__(self, config: SwinConfig, *, rng):
        c = self.config = config
        self.patch_embed = PatchEmbed(self.known_size(), c.patch_size, c.in_chans, c.embed_dim, rng=rng)
        size, dim, rates = self.patch_embed.grid, c.embed_dim, drop_path_rates(c.drop_path_rate, sum(c.depths))
        self.layers = []
        for i, (depth, heads) in enumerate(zip(c.depths, c.num_heads, strict=True)):
            downsample = Identity()
            if i:
                downsample, dim = PatchMerging(dim, self.neighbours, rng=rng), 2 * dim
                size = size and tuple(math.ceil(n / 2) for n in size)
            window = tuple(map(min, pair(c.window_size), size)) if size else pair(c.window_size)
            self.layers.append(SwinStage(dim, heads, rates[:depth], downsample=downsample, block=self.block,
                                         window=window, mlp_ratio=c.mlp_ratio, qkv_bias=c.qkv_bias,
                                         rng=rng))  # fmt: skip
            rates = rates[depth:]
        self.norm = LayerNorm(dim, eps=EPS, rng=rng)
        self.head = PooledHead(dim, c.num_classes, drop=c.drop_rate, rng=rng)

    def known_size(self) -> tuple[int, int] | None:
        """Rows and columns of the images, where the config fixes them."""
        return self.config.img_size and pair(self.config.img_size)

    def forward(self, images):
        return self.head(self.norm(self.stages(images)[-1]))

    def stages(self, images) -> list:
        """The map after every stage, finest first, each half as large and twice as wide as the one before."""
        x = self.patch_embed(images)
        maps = []
        for layer in self.layers:
            x = layer(x)
            maps.append(x)
        return maps

    def fitted(self, state: dict, method: str = "bicubic") -> dict:
        """A state of another (square) window size, its bias tables resampled to this model's windows (Sec. 3.2).

        Raises ValueError for another method than "bicubic", the paper's.
        """
        if method != "bicubic":
            raise ValueError(f'positions: Swin\'s bias tables are resampled by "bicubic", got {method!r}')
        windows = {f"{name}.relative_position_bias_table": attn.window for name, attn in self.named_modules()
                   if isinstance(attn, WindowAttention)}  # fmt: skip
        rows = {name: math.prod(2 * m - 1 for m in window) for name, window in windows.items()}
        odd = [name for name in windows if name in state and state[name].shape[0] != rows[name]]
        return {**state, **{name: self.resized(at_least_single(state[name]), windows[name]) for name in odd}}

    def resized(self, table, window):
        """A square window's bias table for another window."""
        return resize_bias_table(table, window)


# The paper's Sec. 3.3 and Table 1. ---------------------------------------------------------

PAPER = Paper("Swin Transformer", "Liu et al.", 2021, "2103.14030", family="swin")

T = SwinConfig(embed_dim=96, depths=(2, 2, 6, 2), num_heads=(3, 6, 12, 24), drop_path_rate=0.2)
S = SwinConfig(embed_dim=96, depths=(2, 2, 18, 2), num_heads=(3, 6, 12, 24), drop_path_rate=0.3)
B = SwinConfig(embed_dim=128, depths=(2, 2, 18, 2), num_heads=(4, 8, 16, 32), drop_path_rate=0.5)
L = SwinConfig(embed_dim=192, depths=(2, 2, 18, 2), num_heads=(6, 12, 24, 48), drop_path_rate=0.2)
AT_384 = {"img_size": 384, "window_size": 12}

#   name                                config                    counted as
PUBLISHED = {
    "swin_tiny_patch4_window7_224":    Published(T,                      "Swin-T@224"),
    "swin_small_patch4_window7_224":   Published(S,                      "Swin-S@224"),
    "swin_base_patch4_window7_224":    Published(B,                      "Swin-B@224"),
    "swin_base_patch4_window12_384":   Published(replace(B, **AT_384),   "Swin-B@384"),
    "swin_large_patch4_window7_224":   Published(L,                      "Swin-L@224"),
    "swin_large_patch4_window12_384":  Published(replace(L, **AT_384),   "Swin-L@384"),
}  # fmt: skip

ALSO_COUNTED: dict = {}

SMALL = {
    "swin_digits": SwinConfig(img_size=8, patch_size=2, in_chans=1, num_classes=10, embed_dim=32, depths=(2, 2),
                              num_heads=(4, 8), window_size=2, mlp_ratio=2, drop_path_rate=0),
    "swin_micro":  SwinConfig(img_size=32, patch_size=2, num_classes=10, embed_dim=24, depths=(2, 2, 2),
                              num_heads=(2, 4, 8), window_size=4, drop_path_rate=0),
}  # fmt: skip

MODEL = Swin
