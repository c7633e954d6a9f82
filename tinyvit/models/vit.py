"""ViT: "An Image is Worth 16x16 Words" (Dosovitskiy et al. 2021, arXiv 2010.11929).

    z₀  = [x_class; x¹ₚE; …; xᴺₚE] + E_pos               (Eq. 1)
    z′ₗ = MSA(LN(zₗ₋₁)) + zₗ₋₁                            (Eq. 2)
    zₗ  = MLP(LN(z′ₗ)) + z′ₗ                              (Eq. 3)
    y   = LN(z⁰_L)                                        (Eq. 4)

Parameters have timm's names and shapes, so its weights load unchanged; the original ones load through ``vit_jax``.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial

from tinyvit.equations.resize import resize
from tinyvit.models import vit_jax
from tinyvit.models.config import Paper, Published, one_of, pair
from tinyvit.nn.attention import Block, RelativeAttention
from tinyvit.nn.basic import LayerNorm, Linear
from tinyvit.nn.embed import (
    RESAMPLING,
    LearnedPositions2d,
    PatchEmbed,
    SinCosPositions2d,
    beside,
    fit_tables,
    grid_of,
    one_for_each,
    resample_square,
)
from tinyvit.nn.init import start_as_jax, trunc_normal
from tinyvit.nn.module import Identity, Module, Parameter
from tinyvit.nn.noise import Dropout, drop_path_rates
from tinyvit.primitives.elementwise import tanh
from tinyvit.primitives.reduce import mean
from tinyvit.primitives.shape import concatenate

POSITIONS = ("learn", "learn2d", "relative", "sincos", "none")
PLACES = ("stem", "every_layer", "every_layer_shared")


@dataclass(frozen=True)
class ViTConfig:
    """A ViT's sizes and choices, under timm's argument names.

    global_pool   "token": the class token, after the norm (Eq. 4) · "avg": the mean of the patch tokens
    fc_norm       with "avg", where the norm stands: True, after the mean (timm) · False, before it (the original)
    pos_embed     "learn" a row per token · "learn2d" a row per column and per row · "relative" per offset ·
                  "sincos" fixed · "none"
    weight_init   "timm": every linear map normal with σ = 0.02 · "jax": by its width, as the original code does (see
                  ``nn.init.jax_initial``); narrow models need it in order to learn
    drop_rate     dropout after the positions, both layers of every MLP and every attention's projection (the paper's)
    representation_size  width of the head's hidden layer at pre-training (Sec. 3.1); timm's weights have none
    pos_embed_at  "stem" once · "every_layer" a table per block · "every_layer_shared" the same table at every block
    """

    img_size: int | tuple[int, int] = 224
    patch_size: int = 16
    in_chans: int = 3
    num_classes: int = 1000
    embed_dim: int = 768
    depth: int = 12
    num_heads: int = 12
    mlp_ratio: float = 4.0
    qkv_bias: bool = True
    class_token: bool = True
    global_pool: str = "token"
    fc_norm: bool = True
    pos_embed: str = "learn"
    pos_embed_at: str = "stem"
    drop_rate: float = 0.0
    attn_drop_rate: float = 0.0
    drop_path_rate: float = 0.0
    weight_init: str = "timm"
    representation_size: int | None = None

    def __post_init__(self):
        one_of(("token", "avg"), global_pool=self.global_pool)
        one_of(POSITIONS, pos_embed=self.pos_embed)
        one_of(PLACES, pos_embed_at=self.pos_embed_at)
        one_of(("timm", "jax"), weight_init=self.weight_init)
        if self.global_pool == "token" and not self.class_token:
            raise ValueError('global_pool: "token" needs class_token=True; use "avg"')
        if self.pos_embed_at != "stem" and self.pos_embed in ("none", "relative"):
            raise ValueError(
                f"pos_embed_at: {self.pos_embed!r} positions have no table to add at {self.pos_embed_at!r}"
            )
        if self.pos_embed == "learn2d" and self.embed_dim % 2:
            raise ValueError(f'embed_dim: "learn2d" positions need an even width, got {self.embed_dim}')


class ViT(Module):
    """Vision transformer.   images (B, H, W, C) -> logits (B, num_classes)"""

    block = Block
    original_names = vit_jax.NAMES

    def __init__(self, config: ViTConfig, *, rng):
        c = self.config = config
        if c.class_token:
            self.cls_token = Parameter(trunc_normal((1, 1, c.embed_dim), std=0.02, rng=rng))
        self.make_positions(rng)
        self.patch_embed = self.stem(rng)
        self.pos_drop = Dropout(c.drop_rate)
        block = partial(self.block, c.embed_dim, c.num_heads, mlp_ratio=c.mlp_ratio, qkv_bias=c.qkv_bias, rng=rng,
                        drop=c.drop_rate, attn_drop=c.attn_drop_rate)  # fmt: skip
        rates = drop_path_rates(c.drop_path_rate, c.depth)
        self.blocks = [block(drop_path=rate, **self.block_options(i)) for i, rate in enumerate(rates)]
        after_mean = c.global_pool == "avg" and c.fc_norm
        self.norm = Identity() if after_mean else LayerNorm(c.embed_dim, rng=rng)
        self.fc_norm = LayerNorm(c.embed_dim, rng=rng) if after_mean else Identity()
        if c.representation_size:
            self.pre_logits = PreLogits(c.embed_dim, c.representation_size, rng=rng)
        width = c.representation_size or c.embed_dim
        self.head = Linear(width, c.num_classes, rng=rng) if c.num_classes else Identity()
        if c.weight_init == "jax":
            start_as_jax(self, rng)

    def forward(self, images):
        z = self.encoded(self.tokens(images))
        y = z[:, 0] if self.config.global_pool == "token" else mean(z[:, self.prefix :], axis=1)
        y = self.fc_norm(y)
        return self.head(self.pre_logits(y) if self.config.representation_size else y)

    def tokens(self, images):
        """Patches mapped to tokens, behind the class token: z₀.   (B, H, W, C) -> (B, prefix + N, D)"""
        return self.assembled(self.patch_embed(images))

    def assembled(self, z):
        """Embedded patches behind the class token, positions added (Eq. 1).   (B, N, D) -> (B, prefix + N, D)"""
        z = concatenate(*(one_for_each(token, z) for token in self.prefix_tokens()), z, axis=1)
        if self.config.pos_embed_at == "stem" and self.pos_embed is not None:
            z = z + self.table(self.pos_embed, z)
        return self.pos_drop(z)

    def encoded(self, z):
        """z₀ through all blocks, normed (Eqs. 2-4).   (B, prefix + N, D) -> (B, prefix + N, D)"""
        for i, block in enumerate(self.blocks):
            z = block(self.placed(z, i))
        return self.norm(z)

    # what descendants change ---------------------------------------------------------------

    def prefix_tokens(self) -> list:
        """The tokens that stand before the patches: the class token, if there is one."""
        return [self.cls_token] if self.config.class_token else []

    @property
    def prefix(self) -> int:
        """How many tokens stand before the patches."""
        return len(self.prefix_tokens())

    def stem(self, rng) -> Module:
        """What makes patches of images."""
        c = self.config
        return PatchEmbed(pair(c.img_size), c.patch_size, c.in_chans, c.embed_dim, rng=rng)

    def block_options(self, i: int) -> dict:
        """What block i must be told besides: here, to use relative positions."""
        if self.config.pos_embed != "relative":
            return {}
        h, w = grid_of(pair(self.config.img_size), self.config.patch_size)
        return {"attention": RelativeAttention, "num_tokens": self.prefix + h * w}

    # positions ----------------------------------------------------------------------------

    def make_positions(self, rng):
        """``self.pos_embed``: one table, one per block, or None."""
        c = self.config
        grid = grid_of(pair(c.img_size), c.patch_size)

        def table():
            if c.pos_embed == "learn":
                rows = self.prefix + grid[0] * grid[1]
                return Parameter(trunc_normal((1, rows, c.embed_dim), std=0.02, rng=rng))
            if c.pos_embed == "learn2d":
                return LearnedPositions2d(grid, c.embed_dim, self.prefix, rng=rng)
            return SinCosPositions2d(grid, c.embed_dim, self.prefix)

        if c.pos_embed in ("none", "relative"):
            self.pos_embed = None
        else:
            self.pos_embed = [table() for _ in range(c.depth)] if c.pos_embed_at == "every_layer" else table()

    def placed(self, z, layer: int):
        """The tokens with their positions added, in the variants that do so at every block."""
        at = self.config.pos_embed_at
        if at == "stem":
            return z
        return z + self.table(self.pos_embed[layer] if at == "every_layer" else self.pos_embed, z)

    def table(self, positions, z):
        """A position table as an array (1, prefix + N, D) beside the tokens."""
        return positions if isinstance(positions, Parameter) else beside(positions(), z)

    def fitted(self, state: dict, method: str = "timm") -> dict:
        """A state from another resolution with its position tables resampled to this model's (see embed.py).

        A square grid is assumed of the state. Tables that fit already, or cannot be fitted, come back as they are.
        Raises ValueError for an unknown method.
        """
        own = {name: value.shape for name, value in self.named_state() if name.split(".")[0] == "pos_embed"}
        return fit_tables(state, own, self.resampled, method)

    def resampled(self, table, shape, method: str):
        """One position table resampled to ``shape``."""
        if self.config.pos_embed == "learn2d":  # a line of columns, or of rows: an image one pixel wide
            return resize(table[None], size=shape[:2], **RESAMPLING[method])[0]
        return resample_square(table, self.patch_embed.grid, prefix=self.prefix, method=method)


class PreLogits(Module):
    """The hidden layer of the head at pre-training (Sec. 3.1): ``tanh(y Wᵀ + b)``.   (B, D) -> (B, R)"""

    def __init__(self, dim, hidden, *, rng):
        self.fc = Linear(dim, hidden, rng=rng)

    def forward(self, y):
        return tanh(self.fc(y))


# The paper's Table 1, and Ti and S as DeiT named them. -------------------------------------

PAPER = Paper("An Image is Worth 16x16 Words", "Dosovitskiy et al.", 2021, "2010.11929", family="vit")

Ti = ViTConfig(embed_dim=192, depth=12, num_heads=3)
S = ViTConfig(embed_dim=384, depth=12, num_heads=6)
B = ViTConfig(embed_dim=768, depth=12, num_heads=12)
L = ViTConfig(embed_dim=1024, depth=24, num_heads=16)
H = ViTConfig(embed_dim=1280, depth=32, num_heads=16, patch_size=14)
GAP = {"global_pool": "avg", "fc_norm": False}

#   name                                     config                                         counted as
PUBLISHED = {
    "vit_tiny_patch16_224":         Published(Ti,                                            "ViT-Ti/16@224"),
    "vit_small_patch32_224":        Published(replace(S, patch_size=32),                     "ViT-S/32@224"),
    "vit_small_patch16_224":        Published(S,                                             "ViT-S/16@224"),
    "vit_small_patch14_224":        Published(replace(S, patch_size=14),                     "ViT-S/14@224"),
    "vit_small_patch8_224":         Published(replace(S, patch_size=8),                      "ViT-S/8@224"),
    "vit_base_patch32_224":         Published(replace(B, patch_size=32),                     "ViT-B/32@224"),
    "vit_base_patch16_224":         Published(B,                                             "ViT-B/16@224"),
    "vit_base_patch8_224":          Published(replace(B, patch_size=8),                      "ViT-B/8@224"),
    "vit_large_patch32_224":        Published(replace(L, patch_size=32),                     "ViT-L/32@224"),
    "vit_large_patch16_224":        Published(L,                                             "ViT-L/16@224"),
    "vit_large_patch14_224":        Published(replace(L, patch_size=14),                     "ViT-L/14@224"),
    "vit_huge_patch14_224":         Published(H,                                             "ViT-H/14@224"),
    "vit_huge_patch16_224":         Published(replace(H, patch_size=16),                     "ViT-H/16@224"),
    "vit_base_patch16_384":         Published(replace(B, img_size=384),                      "ViT-B/16@384"),
    "vit_large_patch16_384":        Published(replace(L, img_size=384),                      "ViT-L/16@384"),
    "vit_huge_patch14_392":         Published(replace(H, img_size=392),                      "ViT-H/14@392"),
    "vit_base_patch16_224_in21k":   Published(replace(B, num_classes=21843),                 "ViT-B/16-in21k@224"),
    "vit_large_patch16_224_in21k":  Published(replace(L, num_classes=21843),                 "ViT-L/16-in21k@224"),
    "vit_huge_patch14_224_in21k":   Published(replace(H, num_classes=21843),                 "ViT-H/14-in21k@224"),
    "vit_base_patch16_gap_224":     Published(replace(B, **GAP),                             "ViT-B/16-gap@224"),
    "vit_base_patch16_nocls_224":   Published(replace(B, **GAP, class_token=False),         "ViT-B/16-gap-notoken@224"),
}  # fmt: skip

NO_TOKEN = {"class_token": False, "global_pool": "avg"}

# Counted beside them: without the head (what is moved to another task), without the class token, half as wide.
ALSO_COUNTED = {
    "ViT-B/16-headless@224":            replace(B, num_classes=0),
    "ViT-L/16-headless@224":            replace(L, num_classes=0),
    "ViT-H/14-headless@224":            replace(H, num_classes=0),
    "ViT-b (B halved)@224":             replace(B, patch_size=32, embed_dim=768 // 2, num_heads=6),
    "ViT-B/16 without class token@224": replace(B, **NO_TOKEN),
    "ViT-B/16 without class token@384": replace(B, **NO_TOKEN, img_size=384),
    "ViT-L/16 without class token@224": replace(L, **NO_TOKEN),
    "ViT-L/16 without class token@384": replace(L, **NO_TOKEN, img_size=384),
    "ViT-S/16 without class token@224": replace(S, **NO_TOKEN),
    "ViT-S/16 without class token@384": replace(S, **NO_TOKEN, img_size=384),
}  # fmt: skip

SMALL = {
    "vit_digits": ViTConfig(img_size=8, patch_size=2, in_chans=1, num_classes=10, embed_dim=32, depth=3, num_heads=4,
                            mlp_ratio=2, weight_init="jax"),
    "vit_micro":  ViTConfig(img_size=32, patch_size=4, num_classes=10, embed_dim=48, depth=4, num_heads=3,
                            weight_init="jax"),
}  # fmt: skip

MODEL = ViT
