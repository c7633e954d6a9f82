"""ResNet: "Deep Residual Learning for Image Recognition" (He et al. 2016, arXiv 1512.03385).

    y = F(x, {Wᵢ}) + x          (Eq. 1; with a projection Wₛx where the shape changes, Eq. 2)

The layout "v1.5" of timm and torchvision: in the bottleneck the stride sits on the 3×3 convolution. Parameters have
timm's names and shapes. What later papers changed (``resnext``, ``resnet_d``, ``wide_resnet``, ``resnet_x2``) are
settings here.
"""

from __future__ import annotations

from dataclasses import dataclass

from tinyvit.models.config import Paper, Published, one_of
from tinyvit.nn.basic import BatchNorm, Linear, ReLU, plain_conv
from tinyvit.nn.embed import check_images
from tinyvit.nn.module import Identity, Module, Sequential
from tinyvit.nn.pool import AvgPool, GlobalPool, MaxPool
from tinyvit.primitives.elementwise import relu


@dataclass(frozen=True)
class ResNetConfig:
    """A ResNet's sizes and choices.

    block       "basic" (two 3×3 convolutions, Fig. 5 left) or "bottleneck" (1×1, 3×3, 1×1; right)
    layers      blocks per stage; every stage but the first halves the map · channels: inner width per stage
    residual    whether x is added; without, it is the paper's plain network
    stem_type   "" (one 7×7 convolution), or "deep" or "deep_tiered" (three of 3×3; ResNet-C)
    stem_width  channels of the stem's convolution; of a deep stem the last has twice as many, and a tiered one's first
                three quarters
    small_stem  for small images (Sec. 4.2): a 3×3 convolution instead of 7×7 with stride 2 and pooling
    avg_down    whether a projection averages before it (ResNet-D), instead of passing numbers over
    cardinality, base_width  groups of the bottleneck's 3×3 convolution, and what a group is wide where ``channels`` is
                64 (ResNeXt)
    block_reduce_first  by what the width of a block's first convolution is divided (SENet)
    output_stride  32; or 16 or 8, with dilated convolutions instead of the last strides (DeepLab)
    """

    img_size: int = 224
    in_chans: int = 3
    num_classes: int = 1000
    block: str = "bottleneck"
    layers: tuple[int, ...] = (3, 4, 6, 3)
    channels: tuple[int, ...] = (64, 128, 256, 512)
    residual: bool = True
    stem_type: str = ""
    stem_width: int = 64
    small_stem: bool = False
    avg_down: bool = False
    cardinality: int = 1
    base_width: int = 64
    block_reduce_first: int = 1
    output_stride: int = 32

    def __post_init__(self):
        one_of(BLOCKS, block=self.block)
        one_of(("", "deep", "deep_tiered"), stem_type=self.stem_type)
        one_of((8, 16, 32), output_stride=self.output_stride)
        if len(self.layers) != len(self.channels):
            raise ValueError(f"channels: expected one width per stage ({len(self.layers)}), got {self.channels}")
        if self.small_stem and self.stem_type:
            raise ValueError(f"small_stem: it is one convolution, and stem_type asks for another, {self.stem_type!r}")
        if self.block == "basic" and (self.cardinality, self.base_width) != (1, 64):
            raise ValueError('block: only a "bottleneck" has a cardinality and a base_width')

    @property
    def stem_channels(self) -> int:
        """Channels that the stem gives."""
        return 2 * self.stem_width if self.stem_type else self.stem_width

    def inner_width(self, channels: int) -> int:
        """Channels of a block's 3×3 convolution: all groups together (ResNeXt, Table 2)."""
        return channels * self.base_width // 64 * self.cardinality


class BasicBlock(Module):
    """``relu(BN(3×3 relu(BN(3×3 x))) + x)`` (Fig. 2).   (B, H, W, C) -> (B, H/s, W/s, C')

    dilation  of the first and the second convolution
    """

    expansion = 1

    def __init__(self, config, in_chans, channels, stride=1, *, dilation=(1, 1), rng):
        first = channels // config.block_reduce_first
        self.conv1 = plain_conv(in_chans, first, 3, stride=stride, dilation=dilation[0], rng=rng)
        self.bn1 = BatchNorm(first, rng=rng)
        self.conv2 = plain_conv(first, channels, 3, dilation=dilation[1], rng=rng)
        self.bn2 = BatchNorm(channels, rng=rng)
        self.downsample = shortcut(config, in_chans, channels, stride, dilation[1], rng=rng)

    def forward(self, x):
        y = relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        return relu(y if self.downsample is None else y + self.downsample(x))


class Bottleneck(Module):
    """1×1 to a quarter of the width, 3×3, 1×1 back (Fig. 5 right).   (B, H, W, C) -> (B, H/s, W/s, C')

    dilation  of its 3×3 convolution, and of the 3×3 convolutions of the blocks behind it
    """

    expansion = 4

    def __init__(self, config, in_chans, channels, stride=1, *, dilation=(1, 1), rng):
        width, out_chans = config.inner_width(channels), channels * self.expansion
        first = width // config.block_reduce_first
        self.conv1 = plain_conv(in_chans, first, 1, rng=rng)
        self.bn1 = BatchNorm(first, rng=rng)
        self.conv2 = plain_conv(first, width, 3, stride=stride, groups=config.cardinality, dilation=dilation[0],
                                rng=rng)  # fmt: skip
        self.bn2 = BatchNorm(width, rng=rng)
        self.conv3 = plain_conv(width, out_chans, 1, rng=rng)
        self.bn3 = BatchNorm(out_chans, rng=rng)
        self.downsample = shortcut(config, in_chans, out_chans, stride, dilation[1], rng=rng)

    def forward(self, x):
        y = relu(self.bn1(self.conv1(x)))
        y = relu(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        return relu(y if self.downsample is None else y + self.downsample(x))


BLOCKS = {"basic": BasicBlock, "bottleneck": Bottleneck}


def shortcut(config, in_chans, out_chans, stride, dilation, *, rng):
    """What is added to F(x): x, or a projection of it where the shape changes (Eq. 2); None in a plain network."""
    if not config.residual:
        return None
    if stride == 1 and in_chans == out_chans:
        return Identity()
    if not config.avg_down:
        return Sequential(plain_conv(in_chans, out_chans, 1, stride=stride, rng=rng), BatchNorm(out_chans, rng=rng))
    if dilation > 1:  # at every place, the border's zeros too
        pool = AvgPool(2, stride=1, padding=((0, 1), (0, 1)))
    else:
        pool = AvgPool(2, stride=2, ceil_mode=True) if stride == 2 else Identity()
    return Sequential(pool, plain_conv(in_chans, out_chans, 1, rng=rng), BatchNorm(out_chans, rng=rng))


class ResNet(Module):
    """Residual network.   images (B, H, W, C) -> logits (B, num_classes)"""

    def __init__(self, config: ResNetConfig, *, rng):
        c = self.config = config
        in_chans = c.stem_channels
        self.conv1 = stem(c, rng=rng)
        self.bn1 = BatchNorm(in_chans, rng=rng)
        self.maxpool = Identity() if c.small_stem else MaxPool(3, stride=2, padding=1)
        shrunk, dilation = 1 if c.small_stem else 4, 1
        for i, (depth, channels) in enumerate(zip(c.layers, c.channels, strict=True)):
            stride, before = 2 if i else 1, dilation
            if shrunk >= c.output_stride:
                stride, dilation = 1, dilation * stride
            shrunk *= stride
            blocks = []
            for j in range(depth):
                dilations = (dilation if j else before, dilation)
                blocks.append(self.block(in_chans, channels, 1 if j else stride, dilation=dilations, rng=rng))
                in_chans = channels * BLOCKS[c.block].expansion
            setattr(self, f"layer{i + 1}", Sequential(*blocks))
        self.global_pool = GlobalPool()
        self.fc = Linear(in_chans, c.num_classes, rng=rng) if c.num_classes else Identity()

    def block(self, in_chans, channels, stride, *, dilation, rng):
        """One residual block, of the kind that the config names."""
        return BLOCKS[self.config.block](self.config, in_chans, channels, stride, dilation=dilation, rng=rng)

    def forward(self, images):
        return self.fc(self.global_pool(self.stages(images)[-1]))

    def stages(self, images) -> list:
        """The feature map after every stage, finest first. Any image size will do."""
        check_images(images, self.config.in_chans)
        x = self.maxpool(relu(self.bn1(self.conv1(images))))
        maps = []
        for i in range(len(self.config.layers)):
            x = getattr(self, f"layer{i + 1}")(x)
            maps.append(x)
        return maps


def stem(config, *, rng):
    """The convolution, or three of them, before the first norm."""
    c, width = config, config.stem_width
    if c.small_stem:
        return plain_conv(c.in_chans, width, 3, rng=rng)
    if not c.stem_type:
        return plain_conv(c.in_chans, width, 7, stride=2, rng=rng)
    first = width // 4 * 3 if c.stem_type == "deep_tiered" else width
    return Sequential(
        plain_conv(c.in_chans, first, 3, stride=2, rng=rng), BatchNorm(first, rng=rng), ReLU(),
        plain_conv(first, width, 3, rng=rng), BatchNorm(width, rng=rng), ReLU(),
        plain_conv(width, 2 * width, 3, rng=rng),
    )  # fmt: skip


# The paper's Table 1, and its plain networks. ------------------------------------------------

PAPER = Paper("Deep Residual Learning for Image Recognition", "He et al.", 2016, "1512.03385", family="resnet")

PUBLISHED = {
    "resnet18":  Published(ResNetConfig(block="basic", layers=(2, 2, 2, 2)),  "ResNet-18@224"),
    "resnet34":  Published(ResNetConfig(block="basic", layers=(3, 4, 6, 3)),  "ResNet-34@224"),
    "resnet50":  Published(ResNetConfig(layers=(3, 4, 6, 3)),                 "ResNet-50@224"),
    "resnet101": Published(ResNetConfig(layers=(3, 4, 23, 3)),                "ResNet-101@224"),
    "resnet152": Published(ResNetConfig(layers=(3, 8, 36, 3)),                "ResNet-152@224"),
    "plain18":   Published(ResNetConfig(block="basic", layers=(2, 2, 2, 2), residual=False)),
    "plain34":   Published(ResNetConfig(block="basic", layers=(3, 4, 6, 3), residual=False)),
}  # fmt: skip

# Counted once more by those who rebuilt them to make them wider.
ALSO_COUNTED = {
    f"ResNet-{depth} rebuilt x1 (check)@224": PUBLISHED[f"resnet{depth}"].config for depth in (50, 101, 152)
}

SMALL = {
    "resnet_digits": ResNetConfig(img_size=8, in_chans=1, num_classes=10, block="basic", layers=(1, 1), stem_width=16,
                                  channels=(16, 32), small_stem=True),
}  # fmt: skip

MODEL = ResNet
