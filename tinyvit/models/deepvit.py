"""DeepViT: "DeepViT: Towards Deeper Vision Transformer" (Zhou et al. 2021, arXiv 2103.11886).

    Re-Attention(Q, K, V) = Norm(Θᵀ softmax(QKᵀ/√d)) V                     (Eq. 3)

The maps of a deep ViT grow alike from block to block; Θ (h, h) makes new ones of them by mixing heads. The paper leaves
open which norm; here, as in its code, Norm is BatchNorm over the heads, and Θ has a bias. (vit-pytorch has no bias and
a LayerNorm over the heads.) A row of what results sums to anything; ``weights`` are the softmax's, before Θ.

DeepViT-S and -L have more parameters than the project's page says of them: it gives those of the plain models of 16 and
32 blocks. Parameters have the official code's names and shapes.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from tinyvit.autodiff.watch import tap
from tinyvit.equations.activation import softmax
from tinyvit.equations.attention import attention_scores, heads_first, heads_last, merge_heads, split_heads
from tinyvit.models.config import Paper, Published, pair
from tinyvit.models.vit import ViT, ViTConfig
from tinyvit.nn.attention import Attention, Block
from tinyvit.nn.basic import BatchNorm, Conv2d
from tinyvit.nn.embed import check_images, grid_of
from tinyvit.nn.module import Module
from tinyvit.primitives.elementwise import relu
from tinyvit.primitives.shape import reshape


@dataclass(frozen=True)
class DeepViTConfig(ViTConfig):
    """A ViT's sizes and choices, and under the official code's names:

    apply_transform   which blocks re-attend: True, all of them, or one boolean per block
    transform_scale   whether what re-attention mixes is divided by √d once more
    scale_adjustment  a in ``z + F(LN(a z)) / a``, of attention and of MLP
    use_cnn_embed     whether two convolutions come before the patches
    """

    apply_transform: bool | tuple[bool, ...] = True
    transform_scale: bool = False
    scale_adjustment: float = 1.0
    use_cnn_embed: bool = False

    def __post_init__(self):
        super().__post_init__()
        if self.pos_embed == "relative":
            raise ValueError('pos_embed: re-attention has no place for "relative" positions')
        if not isinstance(self.apply_transform, bool) and len(self.apply_transform) != self.depth:
            raise ValueError(f"apply_transform: expected one boolean for each of {self.depth} blocks, or one for all, "
                             f"got {len(self.apply_transform)}")  # fmt: skip
        if not self.scale_adjustment > 0:
            raise ValueError(f"scale_adjustment: expected a positive number, got {self.scale_adjustment}")
        if self.use_cnn_embed and self.patch_size % 2:
            raise ValueError(f"patch_size: the convolutions halve it, expected an even size, got {self.patch_size}")


class ReAttention(Attention):
    """``Norm(Θᵀ softmax(QKᵀ/√d)) V`` (Eq. 3).   (B, N, D) -> (B, N, D)"""

    def __init__(self, dim, num_heads, *, transform_scale=False, rng, **options):
        super().__init__(dim, num_heads, rng=rng, **options)
        self.reatten_matrix = Conv2d(num_heads, num_heads, 1, rng=rng)
        self.var_norm = BatchNorm(num_heads, rng=rng)
        self.reatten_scale = self.head_dim**-0.5 if transform_scale else 1.0

    def forward(self, x):
        qkv = self.qkv(x)
        q, k, v = split_heads(qkv, self.num_heads)
        weights = tap("weights", softmax(attention_scores(q, k)))  # A = softmax(QKᵀ/√d), (B, h, N, N)
        keep = self.kept(qkv)
        kept = weights if keep is None else weights * keep
        mixed = heads_first(self.var_norm(self.reatten_matrix(heads_last(kept))))  # Norm(ΘᵀA)
        return self.proj_drop(self.proj(merge_heads(mixed * self.reatten_scale @ v)))


class DeepBlock(Block):
    """The pre-norm block with a stronger residual: ``z + F(LN(a z)) / a``.   (B, N, D) -> (B, N, D)"""

    def __init__(self, dim, num_heads, *, scale_adjustment, rng, **options):
        super().__init__(dim, num_heads, rng=rng, **options)
        self.scale_adjustment = scale_adjustment

    def forward(self, z):
        a = self.scale_adjustment
        z = z + self.drop_path1(self.attn(self.norm1(a * z)) / a)
        return z + self.drop_path2(self.mlp(self.norm2(a * z)) / a)


class ConvPatchEmbed(Module):
    """A 7×7 convolution that halves the image, a 3×3 one, then patches of P/2.   (B, H, W, C) -> (B, HW/P², D)"""

    def __init__(self, img_size, patch_size, in_chans, embed_dim, *, width=64, rng):
        self.img_size, self.in_chans = img_size, in_chans
        self.grid = grid_of(img_size, patch_size)
        self.conv1 = Conv2d(in_chans, width, 7, stride=2, padding=3, bias=False, rng=rng)
        self.bn1 = BatchNorm(width, rng=rng)
        self.conv2 = Conv2d(width, width, 3, padding=1, bias=False, rng=rng)
        self.bn2 = BatchNorm(width, rng=rng)
        self.proj = Conv2d(width, embed_dim, patch_size // 2, stride=patch_size // 2, rng=rng)

    def forward(self, images):
        check_images(images, self.in_chans, self.img_size)
        x = relu(self.bn1(self.conv1(images)))
        x = relu(self.bn2(self.conv2(x)))
        patches = self.proj(x)
        B, h, w, D = patches.shape
        return reshape(patches, shape=(B, h * w, D))


class DeepViT(ViT):
    """Vision transformer with re-attention.   images (B, H, W, C) -> logits (B, num_classes)"""

    block = DeepBlock

    def stem(self, rng) -> Module:
        c = self.config
        if not c.use_cnn_embed:
            return super().stem(rng)
        return ConvPatchEmbed(pair(c.img_size), c.patch_size, c.in_chans, c.embed_dim, rng=rng)

    def block_options(self, i: int) -> dict:
        c = self.config
        options = {"scale_adjustment": c.scale_adjustment}
        if c.apply_transform is True or (c.apply_transform and c.apply_transform[i]):
            options |= {"attention": ReAttention, "transform_scale": c.transform_scale}
        return options


# The models of the official code: the paper's plain ones, and S and L. ----------------------

PAPER = Paper("DeepViT: Towards Deeper Vision Transformer", "Zhou et al.", 2021, "2103.11886", family="deepvit")

PLAIN = DeepViTConfig(embed_dim=384, num_heads=12, mlp_ratio=3.0)
S = replace(PLAIN, embed_dim=396, depth=16, apply_transform=(False,) * 11 + (True,) * 5, transform_scale=True,
            use_cnn_embed=True, scale_adjustment=0.5)  # fmt: skip
L = replace(PLAIN, embed_dim=420, depth=32, apply_transform=(False,) * 20 + (True,) * 12, use_cnn_embed=True,
            scale_adjustment=0.5)  # fmt: skip

#   name                                  config                        counted as
PUBLISHED = {
    "deepvit_patch16_224_re_attn_16b": Published(replace(PLAIN, depth=16), "deepvit_patch16_224_re_attn_16b@224"),
    "deepvit_patch16_224_re_attn_24b": Published(replace(PLAIN, depth=24), "deepvit_patch16_224_re_attn_24b@224"),
    "deepvit_patch16_224_re_attn_32b": Published(replace(PLAIN, depth=32), "deepvit_patch16_224_re_attn_32b@224"),
    "deepvit_S":                       Published(S,                        "deepvit_S@224"),
    "deepvit_L":                       Published(L,                        "deepvit_L@224"),
    "deepvit_L_384":                   Published(replace(L, img_size=384), "deepvit_L_384@384"),
}  # fmt: skip

ALSO_COUNTED: dict = {}

SMALL = {
    "deepvit_digits": DeepViTConfig(img_size=8, patch_size=2, in_chans=1, num_classes=10, embed_dim=32, depth=3,
                                    num_heads=4, mlp_ratio=3.0, weight_init="jax"),
}  # fmt: skip

MODEL = DeepViT
