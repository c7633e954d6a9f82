"""ResNeSt: "ResNeSt: Split-Attention Networks" (Zhang et al. 2020, arXiv 2004.08955).

    V = Σ_r a_r ⊙ U_r,   a = softmax_r(G(s)),   s = mean over the map of Σ_r U_r          (Sec. 3.1)

Two or more 3×3 convolutions look at the same map, and every channel chooses between them by attention: a softmax over
the splits r, whose logits a small network G makes of the map's mean. This takes the place of ResNet's 3×3 convolution.
R splits in each of K cardinal groups (ResNeXt's) are one convolution of K·R groups. The rest is ResNet-D, but that a
block halves the map by averaging 3×3 places behind its attention. "2s1x64d" is R = 2, K = 1, 64 channels wide.

Parameters have timm's names and shapes. Its convolution's channels are laid out [split][group][channel], the logits
[group][split][channel]; so here.
"""

from __future__ import annotations

from dataclasses import dataclass

from tinyvit.autodiff.watch import tap
from tinyvit.equations.activation import sigmoid, softmax
from tinyvit.models.config import Paper, Published, divisible, one_of
from tinyvit.models.resnet import ResNet, ResNetConfig, shortcut
from tinyvit.nn.basic import BatchNorm, Conv2d, plain_conv
from tinyvit.nn.module import Identity, Module
from tinyvit.nn.pool import AvgPool
from tinyvit.primitives.elementwise import relu
from tinyvit.primitives.reduce import mean, sum
from tinyvit.primitives.shape import reshape, swapaxes


@dataclass(frozen=True)
class ResNeStConfig(ResNetConfig):
    """A ResNet's sizes, and those of split attention.

    radix      R, between how many convolutions a channel chooses; with one, it is weighed by a sigmoid
    avd        whether a block halves the map by averaging (Sec. 3.2), instead of by its convolution's stride
    avd_first  whether it does so before the attention instead of after
    """

    stem_type: str = "deep"
    stem_width: int = 32
    avg_down: bool = True
    radix: int = 2
    avd: bool = True
    avd_first: bool = False

    def __post_init__(self):
        super().__post_init__()
        one_of(("bottleneck",), block=self.block)
        one_of((1,), block_reduce_first=self.block_reduce_first)
        one_of((True,), residual=self.residual)
        if self.radix < 1:
            raise ValueError(f"radix: expected at least one split, got {self.radix}")


class SplitAttention(Module):
    """Every channel chooses between the outputs of R convolutions.   (B, H, W, C) -> (B, H/s, W/s, C)

    The weights (B, R, C), which sum to one over the splits, can be captured as ``<name>.weights``. Raises ValueError
    for a width that cannot be shared evenly.
    """

    def __init__(self, dim: int, radix: int, cardinality: int = 1, *, stride=1, dilation=1, rng):
        hidden = divisible(dim * radix / 4, minimum=32)
        if dim % (radix * cardinality) or hidden % cardinality:
            raise ValueError(f"radix: {dim} channels cannot be shared evenly by {cardinality} groups of {radix} splits")
        self.radix, self.cardinality = radix, cardinality
        self.conv = plain_conv(dim, radix * dim, 3, stride=stride, dilation=dilation, groups=radix * cardinality,
                               rng=rng)  # fmt: skip
        self.bn0 = BatchNorm(radix * dim, rng=rng)
        self.fc1 = Conv2d(dim, hidden, 1, groups=cardinality, init="kaiming", rng=rng)
        self.bn1 = BatchNorm(hidden, rng=rng)
        self.fc2 = Conv2d(hidden, radix * dim, 1, groups=cardinality, init="kaiming", rng=rng)

    def forward(self, x):
        u = relu(self.bn0(self.conv(x)))
        u = reshape(u, shape=(*u.shape[:3], self.radix, -1))  # (B, H, W, R, C)
        s = mean(sum(u, axis=3), axis=(1, 2), keepdims=True)
        a = self.weights(self.fc2(relu(self.bn1(self.fc1(s)))))
        return sum(a[:, None, None] * u, axis=3)

    def weights(self, logits):
        """Softmax over the splits, or a sigmoid where there is but one.   (B, 1, 1, R·C) -> (B, R, C)"""
        B, K, R = len(logits), self.cardinality, self.radix
        by_split = swapaxes(reshape(logits, shape=(B, K, R, -1)), axis1=1, axis2=2)
        a = softmax(by_split, axis=1) if R > 1 else sigmoid(by_split)
        return tap("weights", reshape(a, shape=(B, R, -1)))


class ResNeStBottleneck(Module):
    """ResNet's bottleneck with split attention for its 3×3 convolution.   (B, H, W, C) -> (B, H/s, W/s, C')"""

    expansion = 4

    def __init__(self, config, in_chans, channels, stride=1, *, dilation=(1, 1), rng):
        c, width, out_chans = config, config.inner_width(channels), channels * self.expansion
        averages = c.avd and stride > 1
        pool = AvgPool(3, stride=stride, padding=1) if averages else Identity()
        self.conv1 = plain_conv(in_chans, width, 1, rng=rng)
        self.bn1 = BatchNorm(width, rng=rng)
        self.avd_first = pool if c.avd_first else Identity()
        self.conv2 = SplitAttention(width, c.radix, c.cardinality, stride=1 if averages else stride,
                                    dilation=dilation[0], rng=rng)  # fmt: skip
        self.avd_last = Identity() if c.avd_first else pool
        self.conv3 = plain_conv(width, out_chans, 1, rng=rng)
        self.bn3 = BatchNorm(out_chans, rng=rng)
        self.downsample = shortcut(c, in_chans, out_chans, stride, dilation[1], rng=rng)

    def forward(self, x):
        y = self.avd_first(relu(self.bn1(self.conv1(x))))
        y = self.avd_last(self.conv2(y))
        y = self.bn3(self.conv3(y))
        return relu(y + self.downsample(x))


class ResNeSt(ResNet):
    """A ResNet whose 3×3 convolutions are split attention.   images (B, H, W, C) -> logits (B, num_classes)"""

    def block(self, in_chans, channels, stride, *, dilation, rng):
        return ResNeStBottleneck(self.config, in_chans, channels, stride, dilation=dilation, rng=rng)


# The paper's depths, smaller ones, and two of the code's ablation, under timm's names. --------

PAPER = Paper("ResNeSt: Split-Attention Networks", "Zhang et al.", 2020, "2004.08955", family="cnn")

PUBLISHED = {
    "resnest14d":         Published(ResNeStConfig(layers=(1, 1, 1, 1))),
    "resnest26d":         Published(ResNeStConfig(layers=(2, 2, 2, 2)),                    "resnest26d@224"),
    "resnest50d":         Published(ResNeStConfig(layers=(3, 4, 6, 3)),                    "resnest50d@224"),
    "resnest101e":        Published(ResNeStConfig(layers=(3, 4, 23, 3), stem_width=64),    "resnest101e@224"),
    "resnest200e":        Published(ResNeStConfig(layers=(3, 24, 36, 3), stem_width=64),   "resnest200e@224"),
    "resnest269e":        Published(ResNeStConfig(layers=(3, 30, 48, 8), stem_width=64)),
    "resnest50d_4s2x40d": Published(ResNeStConfig(layers=(3, 4, 6, 3), radix=4, cardinality=2, base_width=40,
                                                  avd_first=True)),
    "resnest50d_1s4x24d": Published(ResNeStConfig(layers=(3, 4, 6, 3), radix=1, cardinality=4, base_width=24,
                                                  avd_first=True)),
}  # fmt: skip

ALSO_COUNTED: dict = {}

SMALL = {
    "resnest_digits": ResNeStConfig(img_size=8, in_chans=1, num_classes=10, layers=(1, 1), channels=(16, 32),
                                    stem_type="", stem_width=16, small_stem=True),
}  # fmt: skip

MODEL = ResNeSt
