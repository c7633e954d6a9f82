"""DeiT: "Training data-efficient image transformers & distillation through attention".

Touvron et al. 2021, arXiv 2012.12877. A ViT with a second token, which learns from a teacher as the class token learns
from the labels (Sec. 4, Fig. 2):

    z₀ = [x_class; x_distill; x¹ₚE; …; xᴺₚE] + E_pos
    L  = ½ CE(head(z_class), y) + ½ CE(head_dist(z_distill), argmax Z_teacher)         (Eq. 3, ``hard_distillation``)

While it is distilled, the model returns the logits of both heads, otherwise their mean. The paper speaks of adding the
two softmax outputs; its code, and this, averages logits. Paper and slides write the soft loss with KL(student,
teacher); the code, and ``soft_distillation``, computes KL(teacher ‖ student). Parameters have timm's names and shapes.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from tinyvit.models.config import Paper, Published
from tinyvit.models.vit import ViT, ViTConfig
from tinyvit.nn.basic import Linear
from tinyvit.nn.init import trunc_normal
from tinyvit.nn.module import Identity, Parameter


@dataclass(frozen=True)
class DeiTConfig(ViTConfig):
    """A ViT's sizes and choices, and whether there is a distillation token (which has no part in ``"avg"`` pooling)."""

    distilled: bool = True

    def __post_init__(self):
        super().__post_init__()
        if self.distilled and self.global_pool != "token":
            raise ValueError(f'global_pool: two heads read two tokens, expected "token", got {self.global_pool!r}')
        if self.distilled and self.representation_size:
            raise ValueError("representation_size: the two heads of DeiT have no hidden layer")


class DeiT(ViT):
    """Vision transformer with a distillation token.   images (B, H, W, C) -> logits (B, num_classes)

    In training, once ``set_distilled_training`` has said so: a pair, the logits of the class token and those of the
    distillation token.
    """

    distilled_training = False

    def __init__(self, config: DeiTConfig, *, rng):
        if config.distilled:  # before the rest, which counts the tokens
            D, K = config.embed_dim, config.num_classes
            self.dist_token = Parameter(trunc_normal((1, 1, D), std=0.02, rng=rng))
            self.head_dist = Linear(D, K, rng=rng) if K else Identity()
        super().__init__(config, rng=rng)

    def prefix_tokens(self) -> list:
        return [*super().prefix_tokens(), *([self.dist_token] if self.config.distilled else [])]

    def forward(self, images):
        if not self.config.distilled:
            return super().forward(images)
        z = self.encoded(self.tokens(images))
        logits, distilled = self.head(z[:, 0]), self.head_dist(z[:, 1])
        return (logits, distilled) if self.training and self.distilled_training else (logits + distilled) / 2

    def set_distilled_training(self, enable: bool = True):
        """Whether training is by a teacher (timm's name); ``train.distilled_from`` sets it."""
        self.distilled_training = enable


# The paper's Table 1, without and with the distillation token. -----------------------------

PAPER = Paper("Training data-efficient image transformers & distillation through attention", "Touvron et al.", 2021,
              "2012.12877", family="deit")  # fmt: skip

Ti = DeiTConfig(embed_dim=192, depth=12, num_heads=3)
S = DeiTConfig(embed_dim=384, depth=12, num_heads=6)
B = DeiTConfig(embed_dim=768, depth=12, num_heads=12)

#   name                                   config                                     counted as
PUBLISHED = {
    "deit_tiny_patch16_224":            Published(replace(Ti, distilled=False),              "DeiT-Ti@224"),
    "deit_small_patch16_224":           Published(replace(S, distilled=False),               "DeiT-S@224"),
    "deit_base_patch16_224":            Published(replace(B, distilled=False),               "DeiT-B@224"),
    "deit_base_patch16_384":            Published(replace(B, distilled=False, img_size=384), "DeiT-B@384"),
    "deit_tiny_distilled_patch16_224":  Published(Ti,                                        "DeiT-Ti-distilled@224"),
    "deit_small_distilled_patch16_224": Published(S,                                         "DeiT-S-distilled@224"),
    "deit_base_distilled_patch16_224":  Published(B,                                         "DeiT-B-distilled@224"),
    "deit_base_distilled_patch16_384":  Published(replace(B, img_size=384),                  "DeiT-B-distilled@384"),
}  # fmt: skip

ALSO_COUNTED: dict = {}

SMALL = {
    "deit_digits": DeiTConfig(img_size=8, patch_size=2, in_chans=1, num_classes=10, embed_dim=32, depth=3, num_heads=4,
                              mlp_ratio=2, weight_init="jax"),
}  # fmt: skip

MODEL = DeiT
