"""T2T-ViT: "Tokens-to-Token ViT: Training Vision Transformers from Scratch on ImageNet" (Yuan et al. 2021, 2101.11986).

    T′ᵢ  = MLP(MSA(Tᵢ))                                   re-structurization (Eq. 1), in 64 channels
    Iᵢ   = Reshape(T′ᵢ)                                   tokens as a map again (Eq. 2)
    Tᵢ₊₁ = SS(Iᵢ)                                         soft split (Eq. 4): overlapping windows, each a token
    T_f0 = [t_cls; T_f] + E,   then ViT's blocks          (Eq. 5); E are fixed sinusoids

Names and numbers are the official code's. There, unlike in the paper, MSA's skip connection starts from the values
(input and output differ in width), and its scores are divided by the root of the *input's* width. The weights that were
released had ``qk_scale=embed_dim**-0.5`` in their blocks.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from tinyvit.equations.attention import self_attention
from tinyvit.equations.convolution import zero_padded
from tinyvit.models.config import Paper, Published, pair
from tinyvit.nn.attention import Block
from tinyvit.nn.basic import GELU, LayerNorm, Linear, Mlp
from tinyvit.nn.embed import check_images, one_for_each, sinusoid_1d
from tinyvit.nn.init import full, orthogonal, trunc_normal
from tinyvit.nn.module import Frozen, Identity, Module, Parameter, Sequential
from tinyvit.nn.noise import Dropout, drop_path_rates
from tinyvit.primitives.elementwise import exp
from tinyvit.primitives.reduce import sum
from tinyvit.primitives.shape import concatenate, reshape, split, swapaxes, unfold


@dataclass(frozen=True)
class T2TViTConfig:
    """A T2T-ViT's sizes and choices, under the official code's argument names.

    tokens_type  what re-structures tokens: "transformer", or "performer", whose cost is linear in their number
    token_dim    its width
    splits       (side, stride, padding) of the three soft splits' windows (Sec. 3.1); others for small images
    """

    img_size: int | tuple[int, int] = 224
    tokens_type: str = "performer"
    in_chans: int = 3
    num_classes: int = 1000
    embed_dim: int = 768
    depth: int = 12
    num_heads: int = 12
    mlp_ratio: float = 4.0
    qkv_bias: bool = False
    qk_scale: float | None = None
    drop_rate: float = 0.0
    attn_drop_rate: float = 0.0
    drop_path_rate: float = 0.0
    token_dim: int = 64
    norm_eps: float = 1e-5
    splits: tuple[tuple[int, int, int], ...] = ((7, 4, 2), (3, 2, 1), (3, 2, 1))

    def __post_init__(self):
        if self.tokens_type not in TOKENS:
            raise ValueError(f"tokens_type: expected one of {sorted(TOKENS)}, got {self.tokens_type!r}")
        if len(self.splits) != 3:
            raise ValueError(f"splits: expected (side, stride, padding) of three soft splits, got {self.splits}")
        if any(n < 1 for grid in self.grids for n in grid):
            raise ValueError(f"img_size: {pair(self.img_size)} is too small for the windows of the soft splits "
                             f"{self.splits}")  # fmt: skip

    @property
    def grids(self) -> list[tuple[int, int]]:
        """Rows and columns of tokens after every soft split."""
        grids, size = [], pair(self.img_size)
        for side, stride, padding in self.splits:
            size = tuple((n + 2 * padding - side) // stride + 1 for n in size)
            grids.append(size)
        return grids


class SoftSplit(Module):
    """Every window of the map, overlapping its neighbours, as a token (Eq. 3).   (B, H, W, C) -> (B, N, C·k·k)"""

    def __init__(self, side, stride, padding):
        self.side, self.stride, self.padding = side, stride, padding
        self.merges = stride

    def forward(self, x):
        windows = unfold(zero_padded(x, self.padding, 2), size=(self.side, self.side), stride=self.stride)
        return reshape(windows, shape=(x.shape[0], windows.shape[1] * windows.shape[2], -1))


class TokenAttention(Module):
    """``v + softmax(qkᵀ/√C) v W``, with one head and C the width of the input.   (B, N, C) -> (B, N, d)"""

    def __init__(self, dim, token_dim, *, rng):
        self.qkv = Linear(dim, 3 * token_dim, bias=False, rng=rng)
        self.proj = Linear(token_dim, token_dim, rng=rng)
        self.scale = dim**-0.5

    def forward(self, x):
        qkv = self.qkv(x)
        _, _, v = split(qkv, 3)
        return v + self.proj(self_attention(qkv, num_heads=1, scale=self.scale))


class TokenTransformer(Module):
    """Re-structurization by a transformer layer (Eq. 1).   (B, N, C) -> (B, N, d)"""

    def __init__(self, dim, token_dim, eps, *, rng):
        self.norm1 = LayerNorm(dim, eps=eps, rng=rng)
        self.attn = TokenAttention(dim, token_dim, rng=rng)
        self.norm2 = LayerNorm(token_dim, eps=eps, rng=rng)
        self.mlp = Mlp(token_dim, token_dim, rng=rng)

    def forward(self, x):
        x = self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class TokenPerformer(Module):
    """Re-structurization by a Performer layer (Choromanski et al. 2021).   (B, N, C) -> (B, N, d)

    The N×N attention weights are never formed; ``implied_weights`` says what they would be. ``w`` is drawn once.
    """

    def __init__(self, dim, token_dim, eps, *, rng):
        features = token_dim // 2
        self.kqv = Linear(dim, 3 * token_dim, rng=rng)
        self.dp = Dropout(0.1)
        self.proj = Linear(token_dim, token_dim, rng=rng)
        self.norm1 = LayerNorm(dim, eps=eps, rng=rng)
        self.norm2 = LayerNorm(token_dim, eps=eps, rng=rng)
        self.mlp = Sequential(Linear(token_dim, token_dim, rng=rng), GELU(), Linear(token_dim, token_dim, rng=rng),
                              Dropout(0.1))  # fmt: skip
        self.w = Frozen(orthogonal((features, token_dim), gain=math.sqrt(features), rng=rng))

    def forward(self, x):
        k, q, v = split(self.kqv(self.norm1(x)), 3)
        y = linear_attention(random_features(q, self.w), random_features(k, self.w), v)
        x = v + self.dp(self.proj(y))
        return x + self.mlp(self.norm2(x))

    def implied_weights(self, x):
        """The weights that multiply the values.   (B, N, C) -> (B, N, N)"""
        k, q, _ = split(self.kqv(self.norm1(x)), 3)
        products = random_features(q, self.w) @ swapaxes(random_features(k, self.w), axis1=1, axis2=2)
        return products / (sum(products, axis=-1, keepdims=True) + EPSILON)


EPSILON = 1e-8  # keeps a query whose features are all zero from dividing by zero


def random_features(u, w):
    """``φ(u) = exp(Wu - |u|²/2) / √m``: positive, and ``φ(q)·φ(k) ≈ exp(q·k)`` (Choromanski et al. 2021, Lemma 1).

    u (B, N, d), w (m, d) -> (B, N, m)
    """
    return exp(u @ w.T - sum(u * u, axis=-1, keepdims=True) / 2) / math.sqrt(w.shape[0])


def linear_attention(q, k, v):
    """``φ(q) (φ(k)ᵀ v) / (φ(q) · Σφ(k))``: attention without the N×N matrix, by multiplying from the right first.

    q (B, N, m), k (B, N, m), v (B, N, d) -> (B, N, d); q and k are features, and positive
    """
    k_t = swapaxes(k, axis1=1, axis2=2)
    return q @ (k_t @ v) / (q @ sum(k_t, axis=2, keepdims=True) + EPSILON)


TOKENS = {"transformer": TokenTransformer, "performer": TokenPerformer}


class TokensToToken(Module):
    """Split softly, re-structure, split again: fewer and fewer tokens that know more (Fig. 3).

    images (B, H, W, C) -> (B, N, D), with N = HW/16² for the paper's windows
    """

    def __init__(self, config: T2TViTConfig, *, rng):
        c = self.config = config
        sides = [side for side, _, _ in c.splits]
        restructure = TOKENS[c.tokens_type]
        self.soft_split0, self.soft_split1, self.soft_split2 = (SoftSplit(*window) for window in c.splits)
        self.attention1 = restructure(c.in_chans * sides[0] ** 2, c.token_dim, c.norm_eps, rng=rng)
        self.attention2 = restructure(c.token_dim * sides[1] ** 2, c.token_dim, c.norm_eps, rng=rng)
        self.project = Linear(c.token_dim * sides[2] ** 2, c.embed_dim, rng=rng)

    def forward(self, images):
        check_images(images, self.config.in_chans, pair(self.config.img_size))
        x = self.attention1(self.soft_split0(images))
        x = self.attention2(self.soft_split1(self.as_map(x, 0)))
        return self.project(self.soft_split2(self.as_map(x, 1)))

    def as_map(self, x, split: int):
        """The tokens of a soft split where their windows were (Eq. 2).   (B, N, d) -> (B, h, w, d)"""
        return reshape(x, shape=(x.shape[0], *self.config.grids[split], x.shape[2]))


class T2TViT(Module):
    """Tokens-to-token vision transformer.   images (B, H, W, C) -> logits (B, num_classes)"""

    def __init__(self, config: T2TViTConfig, *, rng):
        c = self.config = config
        table = sinusoid_1d(1 + math.prod(c.grids[-1]), c.embed_dim)
        self.cls_token = Parameter(trunc_normal((1, 1, c.embed_dim), std=0.02, rng=rng))
        self.pos_embed = Frozen(full((1, *table.shape), value=table, rng=rng))
        self.tokens_to_token = TokensToToken(c, rng=rng)
        self.pos_drop = Dropout(c.drop_rate)
        self.blocks = [Block(c.embed_dim, c.num_heads, mlp_ratio=c.mlp_ratio, qkv_bias=c.qkv_bias, scale=c.qk_scale,
                             drop=c.drop_rate, attn_drop=c.attn_drop_rate, drop_path=rate, eps=c.norm_eps, rng=rng)
                       for rate in drop_path_rates(c.drop_path_rate, c.depth)]  # fmt: skip
        self.norm = LayerNorm(c.embed_dim, eps=c.norm_eps, rng=rng)
        self.head = Linear(c.embed_dim, c.num_classes, rng=rng) if c.num_classes else Identity()

    def forward(self, images):
        z = self.tokens_to_token(images)
        z = self.pos_drop(concatenate(one_for_each(self.cls_token, z), z, axis=1) + self.pos_embed)
        for block in self.blocks:
            z = block(z)
        return self.head(self.norm(z)[:, 0])


# The paper's Table 1. ----------------------------------------------------------------------

PAPER = Paper("Tokens-to-Token ViT: Training Vision Transformers from Scratch on ImageNet", "Yuan et al.", 2021,
              "2101.11986", family="t2t")  # fmt: skip

LITE = T2TViTConfig(embed_dim=256, num_heads=4, mlp_ratio=2.0)
T14 = T2TViTConfig(embed_dim=384, depth=14, num_heads=6, mlp_ratio=3.0)
T19 = T2TViTConfig(embed_dim=448, depth=19, num_heads=7, mlp_ratio=3.0)
T24 = T2TViTConfig(embed_dim=512, depth=24, num_heads=8, mlp_ratio=3.0)

PUBLISHED = {
    "t2t_vit_7":     Published(replace(LITE, depth=7),                   "T2T-ViT-7@224"),
    "t2t_vit_10":    Published(replace(LITE, depth=10),                  "T2T-ViT-10@224"),
    "t2t_vit_12":    Published(replace(LITE, depth=12),                  "T2T-ViT-12@224"),
    "t2t_vit_14":    Published(T14,                                      "T2T-ViT-14@224"),
    "t2t_vit_19":    Published(T19,                                      "T2T-ViT-19@224"),
    "t2t_vit_24":    Published(T24,                                      "T2T-ViT-24@224"),
    "t2t_vit_t_14":  Published(replace(T14, tokens_type="transformer"),  "T2T-ViT-t_14@224"),
    "t2t_vit_t_19":  Published(replace(T19, tokens_type="transformer"),  "T2T-ViT-t_19@224"),
    "t2t_vit_t_24":  Published(replace(T24, tokens_type="transformer"),  "T2T-ViT-t_24@224"),
}  # fmt: skip

ALSO_COUNTED: dict = {}

DIGITS = T2TViTConfig(img_size=8, in_chans=1, num_classes=10, embed_dim=48, depth=3, num_heads=4, mlp_ratio=2.0,
                      token_dim=24, splits=((3, 1, 1), (3, 2, 1), (3, 1, 1)))  # fmt: skip

SMALL = {
    "t2t_vit_digits": DIGITS,
    "t2t_vit_t_digits": replace(DIGITS, tokens_type="transformer"),
}  # fmt: skip

MODEL = T2TViT
