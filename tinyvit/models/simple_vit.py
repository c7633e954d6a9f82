"""SimpleViT: "Better plain ViT baselines for ImageNet-1k" (Beyer et al. 2022, arXiv 2205.01580).

A ViT without class token: fixed sin-cos positions, the mean of the tokens, and here, as in the vit-pytorch package
whose numbers it is tested against, a norm before and after the patch projection and no biases around attention.
"""

from __future__ import annotations

from dataclasses import dataclass

from tinyvit.models.config import Paper, pair
from tinyvit.nn.attention import Block
from tinyvit.nn.basic import LayerNorm, Linear
from tinyvit.nn.embed import beside, check_images, grid_of, patchify, sincos_2d
from tinyvit.nn.module import Module, Sequential
from tinyvit.primitives.reduce import mean


@dataclass(frozen=True)
class SimpleViTConfig:
    """A SimpleViT's sizes, under the names used throughout (mlp_dim and head_dim may differ from D's multiples)."""

    img_size: int | tuple[int, int] = 224
    patch_size: int = 16
    in_chans: int = 3
    num_classes: int = 1000
    embed_dim: int = 384
    depth: int = 12
    num_heads: int = 6
    head_dim: int = 64
    mlp_dim: int = 1536


class SimpleViT(Module):
    """Vision transformer without class token.   images (B, H, W, C) -> logits (B, num_classes)"""

    def __init__(self, config: SimpleViTConfig, *, rng):
        c = self.config = config
        self.grid = grid_of(pair(c.img_size), c.patch_size)
        sincos_2d(self.grid, c.embed_dim)  # complains now of a width that it cannot fill
        pixels = c.in_chans * c.patch_size**2
        self.patch_embed = Sequential(
            LayerNorm(pixels, eps=1e-5, rng=rng),
            Linear(pixels, c.embed_dim, rng=rng),
            LayerNorm(c.embed_dim, eps=1e-5, rng=rng),
        )
        self.blocks = [Block(c.embed_dim, c.num_heads, mlp_dim=c.mlp_dim, head_dim=c.head_dim, eps=1e-5,
                             qkv_bias=False, proj_bias=False, rng=rng) for _ in range(c.depth)]  # fmt: skip
        self.norm = LayerNorm(c.embed_dim, eps=1e-5, rng=rng)
        self.head = Linear(c.embed_dim, c.num_classes, rng=rng)

    def forward(self, images):
        check_images(images, self.config.in_chans, pair(self.config.img_size))
        z = self.patch_embed(patchify(images, self.config.patch_size))
        z = z + beside(sincos_2d(self.grid, self.config.embed_dim), z)
        for block in self.blocks:
            z = block(z)
        return self.head(mean(self.norm(z), axis=1))


PAPER = Paper("Better plain ViT baselines for ImageNet-1k", "Beyer et al.", 2022, "2205.01580", family="vit")
PUBLISHED: dict = {}
ALSO_COUNTED: dict = {}
SMALL = {
    "simple_vit_digits": SimpleViTConfig(img_size=8, patch_size=2, in_chans=1, num_classes=10, embed_dim=32, depth=3,
                                         num_heads=4, head_dim=8, mlp_dim=64),
}  # fmt: skip

MODEL = SimpleViT
