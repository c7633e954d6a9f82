"""ResNet: "Deep Residual Learning for Image Recognition" (He et al. 2016, arXiv 1512.03385).

    y = F(x, {Wᵢ}) + x          (Eq. 1; with a projection Wₛx where the shape changes, Eq. 2)

The layout "v1.5" of timm and torchvision: in the bottleneck the stride sits on the 3×3 convolution. Parameters have
timm's names and shapes.
"""

from __future__ import annotations

from dataclasses import dataclass

from tinyvit.models.config import Paper, Published
from tinyvit.nn.basic import BatchNorm, Linear, plain_conv
from tinyvit.nn.embed import check_images
from tinyvit.nn.module import Identity, Module, Sequential
from tinyvit.nn.pool import GlobalPool, MaxPool
from tinyvit.primitives.elementwise import relu


@dataclass(frozen=True)
class ResNetConfig:
    """A ResNet's sizes and choices.

    block      "basic" (two 3×3 convolutions, Fig. 5 left) or "bottleneck" (1×1, 3×3, 1×1; right)
    layers     blocks per stage; every stage but the first halves the map
    channels   inner width per stage
    small_stem for small images (Sec. 4.2): a 3×3 convolution instead of 7×7 with stride 2 and pooling
    """

    img_size: int = 224
    in_chans: int = 3
    num_classes: int = 1000
    block: str = "bottleneck"
    layers: tuple[int, ...] = (3, 4, 6, 3)
    channels: tuple[int, ...] = (64, 128, 256, 512)
    stem_width: int = 64
    small_stem: bool = False

    def __post_init__(self):
        if self.block not in BLOCKS:
            raise ValueError(f"block: expected one of {sorted(BLOCKS)}, got {self.block!r}")
        if len(self.layers) != len(self.channels):
            raise ValueError(f"channels: expected one width per stage ({len(self.layers)}), got {self.channels}")


class BasicBlock(Module):
    """``relu(BN(3×3 relu(BN(3×3 x))) + x)`` (Fig. 2).   (B, H, W, C) -> (B, H/s, W/s, C')"""

    expansion = 1

    def __init__(self, in_chans, width, stride, *, rng):
        self.conv1 = plain_conv(in_chans, width, 3, stride=stride, rng=rng)
        self.bn1 = BatchNorm(width, rng=rng)
        self.conv2 = plain_conv(width, width, 3, rng=rng)
        self.bn2 = BatchNorm(width, rng=rng)
        self.downsample = _shortcut(in_chans, width * self.expansion, stride, rng)

    def forward(self, x):
        y = relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        return relu(y + self.downsample(x))


class Bottleneck(Module):
    """1×1 to a quarter of the width, 3×3, 1×1 back (Fig. 5 right).   (B, H, W, C) -> (B, H/s, W/s, C')"""

    expansion = 4

    def __init__(self, in_chans, width, stride, *, rng):
        self.conv1 = plain_conv(in_chans, width, 1, rng=rng)
        self.bn1 = BatchNorm(width, rng=rng)
        self.conv2 = plain_conv(width, width, 3, stride=stride, rng=rng)
        self.bn2 = BatchNorm(width, rng=rng)
        self.conv3 = plain_conv(width, width * self.expansion, 1, rng=rng)
        self.bn3 = BatchNorm(width * self.expansion, rng=rng)
        self.downsample = _shortcut(in_chans, width * self.expansion, stride, rng)

    def forward(self, x):
        y = relu(self.bn1(self.conv1(x)))
        y = relu(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        return relu(y + self.downsample(x))


BLOCKS = {"basic": BasicBlock, "bottleneck": Bottleneck}


class ResNet(Module):
    """Residual network.   images (B, H, W, C) -> logits (B, num_classes)"""

    def __init__(self, config: ResNetConfig, *, rng):
        c = self.config = config
        size, stride = (3, 1) if c.small_stem else (7, 2)
        self.conv1 = plain_conv(c.in_chans, c.stem_width, size, stride=stride, rng=rng)
        self.bn1 = BatchNorm(c.stem_width, rng=rng)
        self.maxpool = Identity() if c.small_stem else MaxPool(3, stride=2, padding=1)
        width_in = c.stem_width
        for i, (depth, width) in enumerate(zip(c.layers, c.channels, strict=True)):
            blocks = []
            for j in range(depth):
                blocks.append(self.block(width_in, width, 2 if i and not j else 1, rng=rng))
                width_in = width * BLOCKS[c.block].expansion
            setattr(self, f"layer{i + 1}", Sequential(*blocks))
        self.global_pool = GlobalPool()
        self.fc = Linear(width_in, c.num_classes, rng=rng) if c.num_classes else Identity()

    def block(self, in_chans, width, stride, *, rng):
        """One residual block, of the kind that the config names."""
        return BLOCKS[self.config.block](in_chans, width, stride, rng=rng)

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


def _shortcut(in_chans, out_chans, stride, rng):
    """The identity, or a 1×1 projection where the shape changes (Eq. 2, option B)."""
    if stride == 1 and in_chans == out_chans:
        return Identity()
    return Sequential(plain_conv(in_chans, out_chans, 1, stride=stride, rng=rng), BatchNorm(out_chans, rng=rng))


# The paper's Table 1. ----------------------------------------------------------------------

PAPER = Paper("Deep Residual Learning for Image Recognition", "He et al.", 2016, "1512.03385", family="resnet")

PUBLISHED = {
    "resnet18":  Published(ResNetConfig(block="basic", layers=(2, 2, 2, 2)),  "ResNet-18@224"),
    "resnet34":  Published(ResNetConfig(block="basic", layers=(3, 4, 6, 3)),  "ResNet-34@224"),
    "resnet50":  Published(ResNetConfig(layers=(3, 4, 6, 3)),                 "ResNet-50@224"),
    "resnet101": Published(ResNetConfig(layers=(3, 4, 23, 3)),                "ResNet-101@224"),
    "resnet152": Published(ResNetConfig(layers=(3, 8, 36, 3)),                "ResNet-152@224"),
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
