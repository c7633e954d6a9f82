"""MLP-Mixer: "MLP-Mixer: An all-MLP Architecture for Vision" (Tolstikhin et al. 2021, arXiv 2105.01601).

    U·,ᵢ = X·,ᵢ + W₂ σ(W₁ LN(X)·,ᵢ)        for every channel i: tokens are mixed        (Eq. 1)
    Yⱼ,· = Uⱼ,· + W₄ σ(W₃ LN(U)ⱼ,·)        for every token j: channels are mixed        (Eq. 1)

No attention, no positions: the token-mixing map has a row for every place, and so knows where it is. Its second bias
never gets a gradient: it moves all channels of a token alike, and every norm takes that off again.

Parameters have timm's names and shapes; the original weights load through ``mixer_jax``. The σ of timm is the exact
GELU; that of the authors' JAX code, and of the weights it wrote, the tanh form (act_layer="gelu_tanh"). Stochastic
depth has one rate for all blocks in timm; in the JAX code it grows from zero.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from tinyvit.equations.activation import gelu, gelu_tanh
from tinyvit.models import mixer_jax
from tinyvit.models.config import Paper, Published, one_of, pair
from tinyvit.nn.basic import LayerNorm, Linear, Mlp
from tinyvit.nn.embed import PatchEmbed
from tinyvit.nn.init import start_as_jax
from tinyvit.nn.module import Identity, Module
from tinyvit.nn.noise import Dropout, DropPath
from tinyvit.primitives.reduce import mean
from tinyvit.primitives.shape import swapaxes

ACTIVATIONS = {"gelu": gelu, "gelu_tanh": gelu_tanh}


@dataclass(frozen=True)
class MixerConfig:
    """A Mixer's sizes and choices, under timm's argument names.

    mlp_ratio       hidden widths of the token-mixing and of the channel-mixing MLP, both over the number of channels
    act_layer       "gelu", exact (timm) · "gelu_tanh" (the authors' JAX code)
    drop_rate       dropout before the head
    proj_drop_rate  dropout after both layers of every MLP
    """

    img_size: int | tuple[int, int] = 224
    patch_size: int = 16
    in_chans: int = 3
    num_classes: int = 1000
    num_blocks: int = 8
    embed_dim: int = 512
    mlp_ratio: float | tuple[float, float] = (0.5, 4.0)
    act_layer: str = "gelu"
    drop_rate: float = 0.0
    proj_drop_rate: float = 0.0
    drop_path_rate: float = 0.0

    def __post_init__(self):
        one_of(ACTIVATIONS, act_layer=self.act_layer)
        if not isinstance(self.mlp_ratio, int | float) and len(self.mlp_ratio) != 2:
            raise ValueError(f"mlp_ratio: expected one ratio, or two (of tokens, of channels), got {self.mlp_ratio}")


class MixerBlock(Module):
    """Mix the tokens of every channel, then the channels of every token (Eq. 1, Fig. 1).   (B, N, D) -> (B, N, D)"""

    def __init__(self, dim, num_tokens, *, tokens_dim, channels_dim, act=gelu, drop=0.0, drop_path=0.0, rng):
        self.norm1 = LayerNorm(dim, rng=rng)
        self.mlp_tokens = Mlp(num_tokens, tokens_dim, act=act, drop=drop, rng=rng)
        self.drop_path = DropPath(drop_path)
        self.norm2 = LayerNorm(dim, rng=rng)
        self.mlp_channels = Mlp(dim, channels_dim, act=act, drop=drop, rng=rng)

    def forward(self, x):
        u = x + self.drop_path(_t(self.mlp_tokens(_t(self.norm1(x)))))  # U·,ᵢ = X·,ᵢ + W₂ σ(W₁ LN(X)·,ᵢ)
        return u + self.drop_path(self.mlp_channels(self.norm2(u)))  # Yⱼ,· = Uⱼ,· + W₄ σ(W₃ LN(U)ⱼ,·)


class Mixer(Module):
    """MLP-Mixer.   images (B, H, W, C) -> logits (B, num_classes)"""

    original_names = mixer_jax.NAMES

    def __init__(self, config: MixerConfig, *, rng):
        c = self.config = config
        self.stem = PatchEmbed(pair(c.img_size), c.patch_size, c.in_chans, c.embed_dim, rng=rng)
        rows, columns = self.stem.grid
        ratios = (c.mlp_ratio,) * 2 if isinstance(c.mlp_ratio, int | float) else c.mlp_ratio
        tokens_dim, channels_dim = (int(ratio * c.embed_dim) for ratio in ratios)
        self.blocks = [
            MixerBlock(c.embed_dim, rows * columns, tokens_dim=tokens_dim, channels_dim=channels_dim,
                       act=ACTIVATIONS[c.act_layer], drop=c.proj_drop_rate, drop_path=c.drop_path_rate, rng=rng)
            for _ in range(c.num_blocks)
        ]  # fmt: skip
        self.norm = LayerNorm(c.embed_dim, rng=rng)
        self.head_drop = Dropout(c.drop_rate)
        self.head = Linear(c.embed_dim, c.num_classes, rng=rng) if c.num_classes else Identity()
        start_as_jax(self, rng)

    def forward(self, images):
        x = self.stem(images)
        for block in self.blocks:
            x = block(x)
        return self.head(self.head_drop(mean(self.norm(x), axis=1)))


def _t(x):
    """Tokens and channels exchanged.   (B, N, D) -> (B, D, N)"""
    return swapaxes(x, axis1=1, axis2=2)


# The paper's Table 1, and patches of 8, which the paper on SAM adds (Chen et al. 2022). -------

PAPER = Paper("MLP-Mixer: An all-MLP Architecture for Vision", "Tolstikhin et al.", 2021, "2105.01601", family="mixer")

S = MixerConfig(num_blocks=8, embed_dim=512)
B = MixerConfig(num_blocks=12, embed_dim=768)
L = MixerConfig(num_blocks=24, embed_dim=1024)
H = MixerConfig(num_blocks=32, embed_dim=1280)

#   name                       config                        counted as
PUBLISHED = {
    "mixer_s32_224": Published(replace(S, patch_size=32),    "Mixer-S/32@224"),
    "mixer_s16_224": Published(S,                            "Mixer-S/16@224"),
    "mixer_s8_224":  Published(replace(S, patch_size=8),     "Mixer-S/8@224"),
    "mixer_b32_224": Published(replace(B, patch_size=32),    "Mixer-B/32@224"),
    "mixer_b16_224": Published(B,                            "Mixer-B/16@224"),
    "mixer_b8_224":  Published(replace(B, patch_size=8),     "Mixer-B/8@224"),
    "mixer_l32_224": Published(replace(L, patch_size=32),    "Mixer-L/32@224"),
    "mixer_l16_224": Published(L,                            "Mixer-L/16@224"),
    "mixer_h14_224": Published(replace(H, patch_size=14),    "Mixer-H/14@224"),
}  # fmt: skip

ALSO_COUNTED: dict = {}

SMALL = {
    "mixer_digits": MixerConfig(img_size=8, patch_size=2, in_chans=1, num_classes=10, num_blocks=3, embed_dim=32,
                                mlp_ratio=(0.5, 2.0)),
    "mixer_micro":  MixerConfig(img_size=32, patch_size=4, num_classes=10, num_blocks=4, embed_dim=64),
}  # fmt: skip

MODEL = Mixer
