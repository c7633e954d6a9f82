"""RegNet: "Designing Network Design Spaces" (Radosavovic et al. 2020, arXiv 2003.13678).

    uⱼ = w₀ + w_a j                     for the blocks 0 ≤ j < d                    (Eq. 2)
    uⱼ = w₀ w_m^sⱼ                      gives sⱼ, which is rounded                  (Eq. 3)
    wⱼ = w₀ w_m^⌊sⱼ⌉                    the block's width, a multiple of 8          (Eq. 4)

Six numbers say a whole network: widths grow linearly, quantised so that neighbours share one and form a stage. RegNetY
is RegNetX with squeeze-and-excitation. Parameters have timm's names and shapes; torchvision's RegNetY-8G rounds widths
to groups in another way and is another network (39,381,472 parameters where this, the authors' own, has 39,180,068).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import groupby

from tinyvit.models.config import Paper, Published
from tinyvit.nn.basic import BatchNorm, NormAct, plain_conv
from tinyvit.nn.embed import check_images
from tinyvit.nn.module import Identity, Module, Sequential
from tinyvit.nn.pool import PooledHead
from tinyvit.nn.squeeze import SqueezeExcite
from tinyvit.primitives.elementwise import relu

QUANTUM = 8  # widths are multiples of it


@dataclass(frozen=True)
class RegNetConfig:
    """A RegNet's numbers, under timm's argument names.

    depth        d, blocks in all · w0, wa, wm  where widths start, their slope, the ratio between stages
    group_size   channels of every group of the 3×3 convolutions
    se_ratio     the hidden width of squeeze-and-excitation over that of the block's input; 0 for none (RegNetX)
    stem_width   channels that the first convolution makes
    """

    img_size: int = 224
    in_chans: int = 3
    num_classes: int = 1000
    depth: int = 22
    w0: int = 96
    wa: float = 31.41
    wm: float = 2.24
    group_size: int = 64
    se_ratio: float = 0.25
    stem_width: int = 32

    def __post_init__(self):
        if self.w0 <= 0 or self.w0 % QUANTUM:
            raise ValueError(f"w0: expected a positive multiple of {QUANTUM}, got {self.w0}")
        if self.wa < 0 or self.wm <= 1:
            raise ValueError(f"wa, wm: expected a slope of at least 0 and a ratio over 1, got {self.wa}, {self.wm}")
        if min(self.depth, self.group_size, self.stem_width) < 1:
            raise ValueError("depth, group_size, stem_width: expected at least 1, "
                             f"got {self.depth}, {self.group_size}, {self.stem_width}")  # fmt: skip


def block_widths(depth: int, w0: int, wa: float, wm: float) -> list[int]:
    """The width of every block (Eqs. 2–4)."""
    u = [w0 + wa * j for j in range(depth)]
    s = [round(math.log(uj / w0) / math.log(wm)) for uj in u]
    return [QUANTUM * round(w0 * wm**sj / QUANTUM) for sj in s]


def stages_of(config: RegNetConfig) -> list[tuple[int, int, int]]:
    """(depth, width, group size) of every stage: the blocks of one width, rounded to whole groups."""
    widths = block_widths(config.depth, config.w0, config.wa, config.wm)
    stages = []
    for width, blocks in groupby(widths):
        group = min(config.group_size, width)
        stages.append((len(list(blocks)), group * round(width / group), group))
    return stages


class ConvNormAct(Module):
    """``relu(BN(conv(x)))``, or without the ReLU.   (B, H, W, C) -> (B, H/s, W/s, C')"""

    def __init__(self, in_chans, out_chans, size, *, stride=1, groups=1, act=True, rng):
        self.conv = plain_conv(in_chans, out_chans, size, stride=stride, groups=groups, rng=rng)
        self.bn = NormAct(out_chans, act=relu, rng=rng) if act else BatchNorm(out_chans, rng=rng)

    def forward(self, x):
        return self.bn(self.conv(x))


class YBlock(Module):
    """``relu(1×1 SE(3×3 1×1 x) + x)``, the 3×3 in groups (Fig. 4).   (B, H, W, C) -> (B, H/s, W/s, C')"""

    def __init__(self, in_chans, width, stride, *, group_size, se_ratio, rng):
        self.conv1 = ConvNormAct(in_chans, width, 1, rng=rng)
        self.conv2 = ConvNormAct(width, width, 3, stride=stride, groups=width // group_size, rng=rng)
        hidden = round(se_ratio * in_chans)
        self.se = SqueezeExcite(width, hidden, rng=rng) if se_ratio else Identity()
        self.conv3 = ConvNormAct(width, width, 1, act=False, rng=rng)
        same = stride == 1 and in_chans == width
        self.downsample = Identity() if same else ConvNormAct(in_chans, width, 1, stride=stride, act=False, rng=rng)

    def forward(self, x):
        y = self.conv3(self.se(self.conv2(self.conv1(x))))
        return relu(y + self.downsample(x))


class Stage(Sequential):
    """Blocks of one width, the first of which halves the map; timm counts them b1, b2, …"""

    def __init__(self, depth, in_chans, width, *, rng, **options):
        for i in range(depth):
            block = YBlock(width if i else in_chans, width, 1 if i else 2, rng=rng, **options)
            setattr(self, f"b{i + 1}", block)


class RegNet(Module):
    """A stem, stages that each halve the map, a head (Fig. 3).   images (B, H, W, C) -> logits (B, num_classes)"""

    def __init__(self, config: RegNetConfig, *, rng):
        c = self.config = config
        self.stem = ConvNormAct(c.in_chans, c.stem_width, 3, stride=2, rng=rng)
        in_chans = c.stem_width
        for i, (depth, width, group) in enumerate(stages_of(c)):
            stage = Stage(depth, in_chans, width, group_size=group, se_ratio=c.se_ratio, rng=rng)
            setattr(self, f"s{i + 1}", stage)
            in_chans = width
        self.head = PooledHead(in_chans, c.num_classes, rng=rng)

    def forward(self, images):
        return self.head(self.stages(images)[-1])

    def stages(self, images) -> list:
        """The feature map after every stage, finest first, each half as large as the one before. Any size will do."""
        check_images(images, self.config.in_chans)
        x = self.stem(images)
        maps = []
        for i in range(len(stages_of(self.config))):
            x = getattr(self, f"s{i + 1}")(x)
            maps.append(x)
        return maps


# The paper's Table 4 (RegNetY). -------------------------------------------------------------

PAPER = Paper("Designing Network Design Spaces", "Radosavovic et al.", 2020, "2003.13678", family="regnet")

PUBLISHED = {
    "regnety_040": Published(RegNetConfig(depth=22, w0=96,  wa=31.41,  wm=2.24, group_size=64),  "RegNetY-4G@224"),
    "regnety_080": Published(RegNetConfig(depth=17, w0=192, wa=76.82,  wm=2.19, group_size=56),  "RegNetY-8G@224"),
    "regnety_160": Published(RegNetConfig(depth=18, w0=200, wa=106.23, wm=2.48, group_size=112), "RegNetY-16G@224"),
}  # fmt: skip

ALSO_COUNTED: dict = {}

SMALL = {
    "regnety_digits": RegNetConfig(img_size=8, in_chans=1, num_classes=10, depth=3, w0=32, wa=24, wm=2, group_size=8,
                                   stem_width=32),
}  # fmt: skip

MODEL = RegNet
