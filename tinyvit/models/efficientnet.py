"""EfficientNet: "EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks" (Tan & Le 2019, 1905.11946).

    depth d = α^φ,  width w = β^φ,  resolution r = γ^φ          with α β² γ² ≈ 2            (Eq. 3)

so that φ steps cost 2^φ times the operations; α = 1.2, β = 1.1, γ = 1.15. The published multipliers are those, rounded,
up to B3 (φ = ½, 1, 2); from B4 on they are larger than the equation says. The block is MobileNetV2's: expand, filter
every channel, squeeze and excite, project without an activation.

Parameters have timm's names and shapes. Maps are padded evenly and norms have ε = 1e-5, as in timm's own training;
weights that Google trained (``tf_`` in timm) want TensorFlow's "SAME" padding and ε = 1e-3, which are not built.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import NamedTuple

from tinyvit.equations.activation import silu
from tinyvit.models.config import Paper, Published, divisible
from tinyvit.nn.basic import BatchNorm, Linear, NormAct, plain_conv
from tinyvit.nn.embed import check_images
from tinyvit.nn.module import Identity, Module, Sequential
from tinyvit.nn.noise import Dropout, DropPath, probability
from tinyvit.nn.pool import GlobalPool
from tinyvit.nn.squeeze import SqueezeExcite


class Stage(NamedTuple):
    """A row of Table 1: ``repeats`` blocks, the first with the stride. Without expansion (1) they are separable."""

    expand: float
    kernel_size: int
    stride: int
    channels: int
    repeats: int
    se_ratio: float = 0.25  # of squeeze-and-excitation's hidden width to the block's input; 0 for none


B0 = (
    Stage(expand=1, kernel_size=3, stride=1, channels=16, repeats=1),
    Stage(expand=6, kernel_size=3, stride=2, channels=24, repeats=2),
    Stage(expand=6, kernel_size=5, stride=2, channels=40, repeats=2),
    Stage(expand=6, kernel_size=3, stride=2, channels=80, repeats=3),
    Stage(expand=6, kernel_size=5, stride=1, channels=112, repeats=3),
    Stage(expand=6, kernel_size=5, stride=2, channels=192, repeats=4),
    Stage(expand=6, kernel_size=3, stride=1, channels=320, repeats=1),
)


@dataclass(frozen=True)
class EfficientNetConfig:
    """An EfficientNet's base and how far it is scaled, under timm's argument names.

    stages              the base's rows · stem_size, num_features  channels of the first and of the last convolution
    channel_multiplier  w: every number of channels is multiplied and rounded
    depth_multiplier    d: every number of repeats is multiplied and rounded up
    drop_rate           dropout before the classifier
    drop_path_rate      stochastic depth: block i of L is dropped with i/L of it, if it has an identity
    """

    img_size: int = 224
    in_chans: int = 3
    num_classes: int = 1000
    stages: tuple[Stage, ...] = B0
    stem_size: int = 32
    num_features: int = 1280
    channel_multiplier: float = 1.0
    depth_multiplier: float = 1.0
    drop_rate: float = 0.0
    drop_path_rate: float = 0.0

    def __post_init__(self):
        if even := [stage.kernel_size for stage in self.stages if stage.kernel_size % 2 == 0]:
            raise ValueError(f"stages: expected odd kernel sizes, got {even[0]}")
        probability(self.drop_path_rate, "drop_path_rate")


def scaled(c: EfficientNetConfig) -> EfficientNetConfig:
    """The same network without multipliers: its channels and repeats are what they come to."""
    width = (lambda n: n) if c.channel_multiplier == 1 else (lambda n: divisible(c.channel_multiplier * n))
    stages = [
        stage._replace(channels=width(stage.channels), repeats=math.ceil(c.depth_multiplier * stage.repeats))
        for stage in c.stages
    ]
    return replace(c, stages=tuple(stages), stem_size=width(c.stem_size), num_features=width(c.num_features),
                   channel_multiplier=1.0, depth_multiplier=1.0)  # fmt: skip


class MBConv(Module):
    """``x + BN(1×1 SE(f(dw f(1×1 x))))``, f = SiLU after BN.   (B, H, W, C) -> (B, H/s, W/s, C')

    dw has one filter per channel. The identity is there only where nothing changes the shape. An activation after the
    last, narrow map would lose what the channels cannot hold (Sandler et al. 2018, Sec. 3.2).
    """

    def __init__(self, in_chans, stage, stride, *, drop_path, rng):
        expand, size, _, channels, _, se_ratio = stage
        inner = divisible(expand * in_chans)
        self.conv_pw = plain_conv(in_chans, inner, 1, rng=rng)
        self.bn1 = NormAct(inner, act=silu, rng=rng)
        self.conv_dw = plain_conv(inner, inner, size, stride=stride, groups=inner, rng=rng)
        self.bn2 = NormAct(inner, act=silu, rng=rng)
        self.se = _squeeze_excite(inner, se_ratio / expand, rng)
        self.conv_pwl = plain_conv(inner, channels, 1, rng=rng)
        self.bn3 = BatchNorm(channels, rng=rng)
        self.has_skip = stride == 1 and in_chans == channels
        self.drop_path = DropPath(drop_path)

    def forward(self, x):
        y = self.bn1(self.conv_pw(x))  # expand
        y = self.bn2(self.conv_dw(y))  # filter
        y = self.bn3(self.conv_pwl(self.se(y)))  # weigh and project
        return x + self.drop_path(y) if self.has_skip else y


class SeparableConv(Module):
    """MBConv1, without expansion: ``x + BN(1×1 SE(f(dw x)))``.   (B, H, W, C) -> (B, H/s, W/s, C')"""

    def __init__(self, in_chans, stage, stride, *, drop_path, rng):
        _, size, _, channels, _, se_ratio = stage
        self.conv_dw = plain_conv(in_chans, in_chans, size, stride=stride, groups=in_chans, rng=rng)
        self.bn1 = NormAct(in_chans, act=silu, rng=rng)
        self.se = _squeeze_excite(in_chans, se_ratio, rng)
        self.conv_pw = plain_conv(in_chans, channels, 1, rng=rng)
        self.bn2 = BatchNorm(channels, rng=rng)
        self.has_skip = stride == 1 and in_chans == channels
        self.drop_path = DropPath(drop_path)

    def forward(self, x):
        y = self.bn1(self.conv_dw(x))
        y = self.bn2(self.conv_pw(self.se(y)))
        return x + self.drop_path(y) if self.has_skip else y


def _squeeze_excite(dim, ratio, rng):
    """Squeeze-and-excitation to ``ratio`` of the width, under timm's names for this family."""
    if not ratio:
        return Identity()
    return SqueezeExcite(dim, round(dim * ratio), act=silu, names=("conv_reduce", "conv_expand"), rng=rng)


class EfficientNet(Module):
    """EfficientNet.   images (B, H, W, C) -> logits (B, num_classes)"""

    def __init__(self, config: EfficientNetConfig, *, rng):
        self.config, c = config, scaled(config)
        self.conv_stem = plain_conv(c.in_chans, c.stem_size, 3, stride=2, rng=rng)
        self.bn1 = NormAct(c.stem_size, act=silu, rng=rng)
        depth = sum(stage.repeats for stage in c.stages)
        rates = (c.drop_path_rate * i / depth for i in range(depth))
        in_chans, self.blocks = c.stem_size, []
        for stage in c.stages:
            kind, blocks = SeparableConv if stage.expand == 1 else MBConv, []
            for i in range(stage.repeats):
                blocks.append(kind(in_chans, stage, 1 if i else stage.stride, drop_path=next(rates), rng=rng))
                in_chans = stage.channels
            self.blocks.append(Sequential(*blocks))
        self.conv_head = plain_conv(in_chans, c.num_features, 1, rng=rng)
        self.bn2 = NormAct(c.num_features, act=silu, rng=rng)
        self.global_pool = GlobalPool()
        self.drop = Dropout(c.drop_rate)
        self.classifier = Linear(c.num_features, c.num_classes, rng=rng) if c.num_classes else Identity()

    def forward(self, images):
        x = self.bn2(self.conv_head(self.stages(images)[-1]))
        return self.classifier(self.drop(self.global_pool(x)))

    def stages(self, images) -> list:
        """The last feature map of every size, finest first, each half as large as the one before. Any size will do."""
        check_images(images, self.config.in_chans)
        x = self.bn1(self.conv_stem(images))
        maps = []
        for stage, blocks in zip(self.config.stages, self.blocks, strict=True):
            if stage.stride > 1:
                maps.append(x)
            x = blocks(x)
        return [*maps, x]


# Multipliers, resolutions and dropout of the paper's code; L2's from Noisy Student. ---------

PAPER = Paper("EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks", "Tan & Le", 2019,
              "1905.11946", family="efficientnet")  # fmt: skip


def _row(width, depth, resolution, dropout) -> EfficientNetConfig:
    return EfficientNetConfig(img_size=resolution, channel_multiplier=width, depth_multiplier=depth,
                              drop_rate=dropout, drop_path_rate=0.2)  # fmt: skip


#   name                                 w    d    r    dropout  counted as
PUBLISHED = {
    "efficientnet_b0":     Published(_row(1.0, 1.0, 224, 0.2), "EfficientNet-B0@224"),
    "efficientnet_b1":     Published(_row(1.0, 1.1, 240, 0.2), "EfficientNet-B1@240"),
    "efficientnet_b2":     Published(_row(1.1, 1.2, 260, 0.3), "EfficientNet-B2@260"),
    "efficientnet_b3":     Published(_row(1.2, 1.4, 300, 0.3), "EfficientNet-B3@300"),
    "efficientnet_b4":     Published(_row(1.4, 1.8, 380, 0.4), "EfficientNet-B4@380"),
    "efficientnet_b5":     Published(_row(1.6, 2.2, 456, 0.4), "EfficientNet-B5@456"),
    "efficientnet_b6":     Published(_row(1.8, 2.6, 528, 0.5), "EfficientNet-B6@528"),
    "efficientnet_b7":     Published(_row(2.0, 3.1, 600, 0.5), "EfficientNet-B7@600"),
    "efficientnet_l2":     Published(_row(4.3, 5.3, 800, 0.5), "EfficientNet-L2@800"),
    "efficientnet_l2_475": Published(_row(4.3, 5.3, 475, 0.5), "EfficientNet-L2@475"),
}  # fmt: skip

ALSO_COUNTED: dict = {}

SMALL = {
    "efficientnet_digits": EfficientNetConfig(
        img_size=8, in_chans=1, num_classes=10, stem_size=16, num_features=64,
        stages=(Stage(1, 3, 1, 16, 1), Stage(4, 3, 2, 24, 2))),
}  # fmt: skip

MODEL = EfficientNet
