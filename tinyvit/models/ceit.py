"""CeiT: "Incorporating Convolution Designs into Visual Transformers" (Yuan et al. 2021, arXiv 2103.11816).

    x′  = MaxPool(BN(Conv(x)))                                       I2T: patches are cut out of x′, not out of x
    x_c, x_p = Split(x)                                              LeFF (Eqs. 5-11): the class token goes by
    x_p = GELU(BN(Linear1(x_p))),   GELU(BN(DWConv(x_p))),   BN(Linear2(x_p))
    y   = LCA([x_c¹; …; x_cᴸ])                                       the last class token asks those of all L layers

The paper (and the slide) end Eq. 10 with another GELU; the official code, whose names and numbers these are, does not.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from tinyvit.equations.activation import gelu
from tinyvit.equations.attention import multi_head_attention
from tinyvit.equations.pooling import max_pool2d
from tinyvit.models.config import Paper, Published, pair
from tinyvit.nn.attention import Attention
from tinyvit.nn.basic import BatchNorm, Conv2d, LayerNorm, Linear, Mlp
from tinyvit.nn.embed import check_images, one_for_each
from tinyvit.nn.init import trunc_normal, zeros
from tinyvit.nn.lifting import lift_class_attention
from tinyvit.nn.module import Identity, Module, Parameter
from tinyvit.nn.noise import Dropout, DropPath, drop_path_rates, keep_mask
from tinyvit.primitives.shape import concatenate, reshape, stack


@dataclass(frozen=True)
class CeiTConfig:
    """A CeiT's sizes and choices, under the official code's argument names.

    patch_size       of the patches cut out of the stem's map, which has a quarter of the image's sides
    stem_width       channels of that map
    leff_local_size  side of LeFF's depthwise convolution, odd
    leff_with_bn     whether LeFF has its three BatchNorms
    """

    img_size: int | tuple[int, int] = 224
    patch_size: int = 4
    in_chans: int = 3
    num_classes: int = 1000
    embed_dim: int = 768
    depth: int = 12
    num_heads: int = 12
    mlp_ratio: float = 4.0
    qkv_bias: bool = True
    stem_width: int = 64
    leff_local_size: int = 3
    leff_with_bn: bool = True
    drop_rate: float = 0.0
    attn_drop_rate: float = 0.0
    drop_path_rate: float = 0.0
    norm_eps: float = 1e-6

    def __post_init__(self):
        if self.depth < 1:
            raise ValueError(f"depth: expected at least one layer, whose class token is read, got {self.depth}")
        if self.leff_local_size % 2 == 0:
            raise ValueError(f"leff_local_size: expected an odd number, which keeps the map's size, "
                             f"got {self.leff_local_size}")  # fmt: skip
        if not min(self.grid):
            raise ValueError(f"img_size: {pair(self.img_size)} gives a map of {self.map_size}, smaller than a patch "
                             f"of {self.patch_size}; a side needs {4 * self.patch_size - 3} pixels")  # fmt: skip

    @property
    def map_size(self) -> tuple[int, int]:
        """The stem's map: a quarter of the image, rounded up."""
        return tuple(-(-side // 4) for side in pair(self.img_size))

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of patches; what is left over of the map is dropped."""
        return tuple(side // self.patch_size for side in self.map_size)


class Image2Tokens(Module):
    """``MaxPool(BN(Conv(x)))``: low-level features before any patch is cut.   (B, H, W, C) -> (B, H/4, W/4, stem)"""

    def __init__(self, in_chans, out_chans, *, rng):
        self.conv = Conv2d(in_chans, out_chans, 7, stride=2, padding=3, bias=False, rng=rng)
        self.bn = BatchNorm(out_chans, rng=rng)

    def forward(self, images):
        return max_pool2d(self.bn(self.conv(images)), size=3, stride=2, padding=1)


class HybridEmbed(Module):
    """Patches of the stem's map, each mapped to a token.   (B, H, W, C) -> (B, N, D)"""

    def __init__(self, config: CeiTConfig, *, rng):
        c = self.config = config
        self.backbone = Image2Tokens(c.in_chans, c.stem_width, rng=rng)
        self.proj = Conv2d(c.stem_width, c.embed_dim, c.patch_size, stride=c.patch_size, rng=rng)

    def forward(self, images):
        check_images(images, self.config.in_chans, pair(self.config.img_size))
        patches = self.proj(self.backbone(images))
        return reshape(patches, shape=(patches.shape[0], -1, patches.shape[3]))


class LeFF(Module):
    """Locally-enhanced feed-forward: an MLP whose hidden tokens see their neighbours (Eqs. 5-11).

    (B, 1 + N, D) -> the same; the class token comes out as it goes in
    """

    def __init__(self, dim, hidden, grid, *, kernel_size, with_bn, rng):
        def norm(width):
            return BatchNorm(width, rng=rng) if with_bn else Identity()

        self.grid = grid
        self.conv1, self.bn1 = Conv2d(dim, hidden, 1, rng=rng), norm(hidden)
        self.conv2 = Conv2d(hidden, hidden, kernel_size, padding=kernel_size // 2, groups=hidden, rng=rng)
        self.bn2 = norm(hidden)
        self.conv3, self.bn3 = Conv2d(hidden, dim, 1, rng=rng), norm(dim)

    def forward(self, z):
        x_c, x_p = z[:, :1], z[:, 1:]
        x = reshape(x_p, shape=(z.shape[0], *self.grid, z.shape[2]))
        x = gelu(self.bn1(self.conv1(x)))
        x = gelu(self.bn2(self.conv2(x)))
        x = self.bn3(self.conv3(x))
        return concatenate(x_c, reshape(x, shape=x_p.shape), axis=1)


class LeFFBlock(Module):
    """``z += MSA(LN(z)); z += LeFF(LN(z))``: the class token gets its own norm added.   (B, 1 + N, D) -> same"""

    def __init__(self, config: CeiTConfig, drop_path: float, *, rng):
        c = config
        self.norm1 = LayerNorm(c.embed_dim, eps=c.norm_eps, rng=rng)
        self.attn = Attention(c.embed_dim, c.num_heads, qkv_bias=c.qkv_bias, attn_drop=c.attn_drop_rate,
                              proj_drop=c.drop_rate, rng=rng)  # fmt: skip
        self.drop_path1 = DropPath(drop_path)
        self.norm2 = LayerNorm(c.embed_dim, eps=c.norm_eps, rng=rng)
        self.leff = LeFF(c.embed_dim, int(c.embed_dim * c.mlp_ratio), c.grid, kernel_size=c.leff_local_size,
                         with_bn=c.leff_with_bn, rng=rng)  # fmt: skip
        self.drop_path2 = DropPath(drop_path)

    def forward(self, z):
        z = z + self.drop_path1(self.attn(self.norm1(z)))
        return z + self.drop_path2(self.leff(self.norm2(z)))


class LastTokenAttention(Attention):
    """Attention in which only the last token asks.   (B, L, D) -> (B, 1, D); weights (B, h, 1, L)"""

    def forward(self, x):
        B, L, _ = x.shape
        noisy = self.training and self.attn_drop
        keep = keep_mask(self.rng, (B, self.num_heads, 1, L), self.attn_drop, x) if noisy else None
        y = multi_head_attention(x[:, -1:], x, x, self.qkv.weight, self.qkv.bias, self.proj.weight, self.proj.bias,
                                 keep=keep, num_heads=self.num_heads)  # fmt: skip
        return self.proj_drop(y)

    def token_map(self, weights, shape):
        return lift_class_attention(weights, place=-1)

    def flow_into(self, flows):
        """What has reached the class token of every layer.   L of (B, 1 + N, 1 + N) -> (B, L, 1 + N)"""
        return np.stack([flow[:, 0] for flow in flows], axis=1)


class LayerwiseAttention(Module):
    """LCA (Sec. 3.4): the last class token gathers from those of all layers, then an MLP.   (B, L, D) -> (B, 1, D)"""

    def __init__(self, config: CeiTConfig, *, rng):
        c = config
        self.norm1 = LayerNorm(c.embed_dim, eps=c.norm_eps, rng=rng)
        self.attn = LastTokenAttention(c.embed_dim, c.num_heads, qkv_bias=c.qkv_bias, attn_drop=c.attn_drop_rate,
                                       proj_drop=c.drop_rate, rng=rng)  # fmt: skip
        self.norm2 = LayerNorm(c.embed_dim, eps=c.norm_eps, rng=rng)
        self.feedforward = Mlp(c.embed_dim, int(c.embed_dim * c.mlp_ratio), drop=c.drop_rate, rng=rng)

    def forward(self, tokens):
        y = tokens[:, -1:] + self.attn(self.norm1(tokens))
        return y + self.feedforward(self.norm2(y))


class CeiT(Module):
    """Convolution-enhanced image transformer.   images (B, H, W, C) -> logits (B, num_classes)"""

    class_place = -1  # of the token that the head reads, among those that LCA attends to

    def __init__(self, config: CeiTConfig, *, rng):
        c = self.config = config
        rows = 1 + c.grid[0] * c.grid[1]
        self.cls_token = Parameter(trunc_normal((1, 1, c.embed_dim), std=0.02, rng=rng))
        self.pos_embed = Parameter(trunc_normal((1, rows, c.embed_dim), std=0.02, rng=rng))
        self.pos_layer_embed = Parameter(zeros((1, c.depth, c.embed_dim), rng=rng))
        self.i2t = HybridEmbed(c, rng=rng)
        self.pos_drop = Dropout(c.drop_rate)
        self.idle = (f"blocks.{c.depth - 1}.leff.*",)  # nobody reads the last layer's patches
        self.blocks = [LeFFBlock(c, rate, rng=rng) for rate in drop_path_rates(c.drop_path_rate, c.depth)]
        self.lca = LayerwiseAttention(c, rng=rng)
        self.norm = LayerNorm(c.embed_dim, eps=c.norm_eps, rng=rng)
        self.head = Linear(c.embed_dim, c.num_classes, rng=rng) if c.num_classes else Identity()

    def forward(self, images):
        z = self.i2t(images)
        z = self.pos_drop(concatenate(one_for_each(self.cls_token, z), z, axis=1) + self.pos_embed)
        class_tokens = []
        for block in self.blocks:
            z = block(z)
            class_tokens.append(z[:, 0])
        y = self.lca(stack(*class_tokens, axis=1) + self.pos_layer_embed)
        return self.head(self.norm(y)[:, 0])


# The paper's three sizes, with the stem of the official code. -------------------------------

PAPER = Paper("Incorporating Convolution Designs into Visual Transformers", "Yuan et al.", 2021, "2103.11816",
              family="ceit")  # fmt: skip

T = CeiTConfig(embed_dim=192, num_heads=3)
S = CeiTConfig(embed_dim=384, num_heads=6)
B = CeiTConfig(embed_dim=768, num_heads=12)

PUBLISHED = {
    "ceit_tiny_patch16_224":   Published(T,                         "CeiT-T stem64@224"),
    "ceit_small_patch16_224":  Published(S,                         "CeiT-S stem64@224"),
    "ceit_base_patch16_224":   Published(B,                         "CeiT-B stem64@224"),
    "ceit_tiny_patch16_384":   Published(replace(T, img_size=384),  "CeiT-T stem64@384"),
    "ceit_small_patch16_384":  Published(replace(S, img_size=384),  "CeiT-S stem64@384"),
}  # fmt: skip

# Counted once more with a stem half as wide.
ALSO_COUNTED = {
    row.counted_as.replace("stem64", "stem32"): replace(row.config, stem_width=32) for row in PUBLISHED.values()
}

SMALL = {
    "ceit_digits": CeiTConfig(img_size=8, patch_size=1, in_chans=1, num_classes=10, embed_dim=32, depth=3, num_heads=4,
                              mlp_ratio=2, stem_width=16),
}  # fmt: skip

MODEL = CeiT
