"""CaiT: "Going deeper with Image Transformers" (Touvron et al. 2021, arXiv 2103.17239).

    x′ₗ   = xₗ + γₗ ⊙ SA(LN(xₗ))                              (Eq. 4, LayerScale; γ one number per channel)
    xₗ₊₁  = x′ₗ + γ′ₗ ⊙ FFN(LN(x′ₗ))
    z     = [x_class, x_patches]
    Q     = W_q x_class + b_q,  K = W_k z + b_k,  V = W_v z + b_v    (Eqs. 5-7)
    CA    = W_o softmax(QKᵀ/√(d/h)) V + b_o                          (Eqs. 8-9)

Patches first attend to each other without a class token; then two class-attention blocks gather from them what the
class token needs, and leave them as they are. Self-attention has talking heads (Shazeer et al. 2020): one linear map
over the heads before the softmax, one behind it, here with biases as in the official code.

γ starts at 0.1 up to depth 18, at 1e-5 for 24 and 1e-6 beyond by the paper's rule; the official XXS36 has 1e-5.
Stochastic depth has one rate in all self-attention blocks and none in the class blocks. The slides give the parameters
at 224 for 384 too, where the table of positions is larger. Parameters have timm's names and shapes.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from tinyvit.autodiff.watch import tap
from tinyvit.equations.activation import softmax
from tinyvit.equations.attention import (
    attention_scores,
    heads_first,
    heads_last,
    merge_heads,
    scaled_dot_product_attention,
    split_heads,
)
from tinyvit.models.config import Paper, Published, one_of, pair
from tinyvit.nn.attention import Attention, Block, head_width
from tinyvit.nn.basic import LayerNorm, Linear, layer_scale
from tinyvit.nn.embed import PatchEmbed, fit_tables, one_for_each, resample_square
from tinyvit.nn.init import start_as_jax, trunc_normal
from tinyvit.nn.lifting import lift_class_attention
from tinyvit.nn.module import Identity, Module, Parameter
from tinyvit.nn.noise import Dropout
from tinyvit.primitives.reduce import mean
from tinyvit.primitives.shape import concatenate


@dataclass(frozen=True)
class CaiTConfig:
    """A CaiT's sizes and choices, under timm's argument names.

    init_values           where γ starts
    depth_token_only      how many class-attention blocks
    mlp_ratio_token_only  their MLPs' hidden width over their width
    weight_init           "timm" or "jax", as in a ViT; narrow models need the second in order to learn
    global_pool           "token": the class token · "avg": the mean of the patches, which leaves the class blocks idle
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
    init_values: float = 1e-4
    depth_token_only: int = 2
    mlp_ratio_token_only: float = 4.0
    global_pool: str = "token"
    weight_init: str = "timm"
    drop_path_rate: float = 0.0

    def __post_init__(self):
        one_of(("token", "avg"), global_pool=self.global_pool)
        one_of(("timm", "jax"), weight_init=self.weight_init)
        if self.depth_token_only < 1 and self.global_pool == "token":
            raise ValueError("depth_token_only: without class-attention blocks the class token sees no image")


class TalkingHeadAttention(Attention):
    """``proj_w(softmax(proj_l(QKᵀ/√d))) V``, both maps over the heads (Shazeer et al. 2020).   (B, N, D) -> (B, N, D)

    The softmax can be captured as ``<name>.weights``, what proj_w makes of it as ``<name>.mixed``, both (B, h, N, N).
    """

    def __init__(self, dim, num_heads, *, rng, **options):
        super().__init__(dim, num_heads, rng=rng, **options)
        self.proj_l = Linear(num_heads, num_heads, rng=rng)
        self.proj_w = Linear(num_heads, num_heads, rng=rng)

    def forward(self, x):
        qkv = self.qkv(x)
        q, k, v = split_heads(qkv, self.num_heads)
        scores = heads_first(self.proj_l(heads_last(attention_scores(q, k))))
        weights = tap("weights", softmax(scores))
        mixed = tap("mixed", heads_first(self.proj_w(heads_last(weights))))
        keep = self.kept(qkv)
        return self.proj_drop(self.proj(merge_heads((mixed if keep is None else mixed * keep) @ v)))


class ClassAttention(Module):
    """``W_o softmax(QKᵀ/√(d/h)) V + b_o``, the class token the only query (Eqs. 5-9).   (B, 1 + N, D) -> (B, 1, D)

    The weights, (B, h, 1, 1 + N), can be captured as ``<name>.weights``.
    """

    def __init__(self, dim, num_heads, *, qkv_bias=True, proj_drop=0.0, rng):
        head_width(dim, num_heads)  # complains now of heads that do not divide
        self.num_heads = num_heads
        self.q = Linear(dim, dim, bias=qkv_bias, rng=rng)
        self.k = Linear(dim, dim, bias=qkv_bias, rng=rng)
        self.v = Linear(dim, dim, bias=qkv_bias, rng=rng)
        self.proj = Linear(dim, dim, rng=rng)
        self.proj_drop = Dropout(proj_drop)

    def forward(self, z):
        projections = self.q(z[:, :1]), self.k(z), self.v(z)
        q, k, v = (split_heads(x, self.num_heads, parts=1)[0] for x in projections)
        return self.proj_drop(self.proj(merge_heads(scaled_dot_product_attention(q, k, v))))

    def token_map(self, weights, shape):
        return lift_class_attention(weights)


class LayerScaleBlock(Block):
    """``x + γ ⊙ SA(LN(x))``, then the same with the MLP (Eq. 4).   (B, N, D) -> (B, N, D)"""

    def __init__(self, dim, num_heads, *, init_values, attention=TalkingHeadAttention, rng, **options):
        super().__init__(dim, num_heads, attention=attention, rng=rng, **options)
        self.gamma_1 = layer_scale(dim, init_values, rng=rng)
        self.gamma_2 = layer_scale(dim, init_values, rng=rng)

    def forward(self, x):
        x = x + self.drop_path1(self.gamma_1 * self.attn(self.norm1(x)))
        return x + self.drop_path2(self.gamma_2 * self.mlp(self.norm2(x)))


class ClassBlock(LayerScaleBlock):
    """The block of the class token alone (Sec. 3, Fig. 2).   x (B, N, D), cls (B, 1, D) -> cls (B, 1, D)"""

    def __init__(self, dim, num_heads, *, rng, **options):
        super().__init__(dim, num_heads, attention=ClassAttention, rng=rng, **options)

    def forward(self, x, cls):
        cls = cls + self.gamma_1 * self.attn(self.norm1(concatenate(cls, x, axis=1)))
        return cls + self.gamma_2 * self.mlp(self.norm2(cls))


class CaiT(Module):
    """Class-attention image transformer.   images (B, H, W, C) -> logits (B, num_classes)"""

    def __init__(self, config: CaiTConfig, *, rng):
        c = self.config = config
        self.patch_embed = PatchEmbed(pair(c.img_size), c.patch_size, c.in_chans, c.embed_dim, rng=rng)
        rows, columns = self.patch_embed.grid
        self.cls_token = Parameter(trunc_normal((1, 1, c.embed_dim), std=0.02, rng=rng))
        self.pos_embed = Parameter(trunc_normal((1, rows * columns, c.embed_dim), std=0.02, rng=rng))
        shared = {"init_values": c.init_values, "qkv_bias": c.qkv_bias, "rng": rng}
        self.blocks = [
            LayerScaleBlock(c.embed_dim, c.num_heads, mlp_ratio=c.mlp_ratio, drop_path=c.drop_path_rate, **shared)
            for _ in range(c.depth)
        ]
        self.blocks_token_only = [
            ClassBlock(c.embed_dim, c.num_heads, mlp_ratio=c.mlp_ratio_token_only, **shared)
            for _ in range(c.depth_token_only)
        ]
        self.norm = LayerNorm(c.embed_dim, rng=rng)
        self.head = Linear(c.embed_dim, c.num_classes, rng=rng) if c.num_classes else Identity()
        if c.weight_init == "jax":
            start_as_jax(self, rng)

    def forward(self, images):
        x = self.patch_embed(images) + self.pos_embed
        for block in self.blocks:
            x = block(x)
        cls = one_for_each(self.cls_token, x)
        for block in self.blocks_token_only:
            cls = block(x, cls)
        z = self.norm(concatenate(cls, x, axis=1))
        return self.head(z[:, 0] if self.config.global_pool == "token" else mean(z[:, 1:], axis=1))

    def fitted(self, state: dict, method: str = "timm") -> dict:
        """A state from another resolution with its positions resampled to this model's (see embed.py)."""

        def resample(table, shape, method):
            return resample_square(table, self.patch_embed.grid, prefix=0, method=method)

        return fit_tables(state, {"pos_embed": self.pos_embed.shape}, resample, method)


# The paper's Table 3, and the resolutions its models are fine-tuned at. --------------------

PAPER = Paper("Going deeper with Image Transformers", "Touvron et al.", 2021, "2103.17239", family="cait")

XXS24 = CaiTConfig(embed_dim=192, depth=24, num_heads=4, init_values=1e-5)
XXS36 = CaiTConfig(embed_dim=192, depth=36, num_heads=4, init_values=1e-5)
XS24 = CaiTConfig(embed_dim=288, depth=24, num_heads=6, init_values=1e-5)
XS36 = CaiTConfig(embed_dim=288, depth=36, num_heads=6, init_values=1e-6)
S24 = CaiTConfig(embed_dim=384, depth=24, num_heads=8, init_values=1e-5)
S36 = CaiTConfig(embed_dim=384, depth=36, num_heads=8, init_values=1e-6)
S48 = CaiTConfig(embed_dim=384, depth=48, num_heads=8, init_values=1e-6)
M24 = CaiTConfig(embed_dim=768, depth=24, num_heads=16, init_values=1e-5)
M36 = CaiTConfig(embed_dim=768, depth=36, num_heads=16, init_values=1e-6)
M48 = CaiTConfig(embed_dim=768, depth=48, num_heads=16, init_values=1e-6)

#   name                       config                           counted as
PUBLISHED = {
    "cait_xxs24_224": Published(XXS24,                         "CaiT-XXS24@224"),
    "cait_xxs24_384": Published(replace(XXS24, img_size=384),  "CaiT-XXS24@384"),
    "cait_xxs36_224": Published(XXS36,                         "CaiT-XXS36@224"),
    "cait_xxs36_384": Published(replace(XXS36, img_size=384),  "CaiT-XXS36@384"),
    "cait_xs24_224":  Published(XS24,                          "CaiT-XS24@224"),
    "cait_xs24_384":  Published(replace(XS24, img_size=384),   "CaiT-XS24@384"),
    "cait_xs36_224":  Published(XS36,                          "CaiT-XS36@224"),
    "cait_xs36_384":  Published(replace(XS36, img_size=384),   "CaiT-XS36@384"),
    "cait_s24_224":   Published(S24,                           "CaiT-S24@224"),
    "cait_s24_384":   Published(replace(S24, img_size=384),    "CaiT-S24@384"),
    "cait_s36_224":   Published(S36,                           "CaiT-S36@224"),
    "cait_s36_384":   Published(replace(S36, img_size=384),    "CaiT-S36@384"),
    "cait_s48_224":   Published(S48,                           "CaiT-S48@224"),
    "cait_s48_384":   Published(replace(S48, img_size=384),    "CaiT-S48@384"),
    "cait_m24_224":   Published(M24,                           "CaiT-M24@224"),
    "cait_m24_384":   Published(replace(M24, img_size=384),    "CaiT-M24@384"),
    "cait_m36_224":   Published(M36,                           "CaiT-M36@224"),
    "cait_m36_384":   Published(replace(M36, img_size=384),    "CaiT-M36@384"),
    "cait_m48_224":   Published(M48,                           "CaiT-M48@224"),
    "cait_m48_384":   Published(replace(M48, img_size=384),    "CaiT-M48@384"),
    "cait_m48_448":   Published(replace(M48, img_size=448),    "CaiT-M48@448"),
}  # fmt: skip

ALSO_COUNTED: dict = {}

SMALL = {
    "cait_digits": CaiTConfig(img_size=8, patch_size=2, in_chans=1, num_classes=10, embed_dim=32, depth=3, num_heads=4,
                              mlp_ratio=2.0, init_values=0.1, mlp_ratio_token_only=2.0, weight_init="jax"),
}  # fmt: skip

MODEL = CaiT
