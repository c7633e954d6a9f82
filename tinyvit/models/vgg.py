"""VGG: "Very Deep Convolutional Networks for Large-Scale Image Recognition" (Simonyan & Zisserman 2015, 1409.1556).

    stages of 3×3 convolutions and ReLUs, each ended by 2×2 pooling;  then three linear layers

AlexNet's plan, deeper: two 3×3 convolutions see as much as one of 5×5, three as one of 7×7, with fewer weights and more
ReLUs. BN behind every convolution came later. Parameters have torchvision's names and shapes, and timm's files load as
well. There the linear layers are convolutions of 7×7 and 1×1: where the last map is larger, timm averages over their
places at the end, torchvision, as here, the map before them.
"""

from __future__ import annotations

from dataclasses import dataclass

from tinyvit.models.alexnet import AlexNet
from tinyvit.models.config import Paper, Published
from tinyvit.nn.basic import BatchNorm, Conv2d, Linear, ReLU
from tinyvit.nn.init import normal, zeros
from tinyvit.nn.module import Identity
from tinyvit.nn.noise import Dropout, probability
from tinyvit.nn.pool import MaxPool

TIMM_NAMES = {
    "classifier.0.weight": ("o c h w -> o (c h w)", "pre_logits.fc1.weight"),
    "classifier.0.bias":   ("o -> o",               "pre_logits.fc1.bias"),
    "classifier.3.weight": ("o i h w -> o (i h w)", "pre_logits.fc2.weight"),
    "classifier.3.bias":   ("o -> o",               "pre_logits.fc2.bias"),
    "classifier.6.weight": ("o i -> o i",           "head.fc.weight"),
    "classifier.6.bias":   ("o -> o",               "head.fc.bias"),
}  # fmt: skip


@dataclass(frozen=True)
class VGGConfig:
    """A VGG's sizes and noise.

    layers, channels   convolutions, and their channels, per stage
    batch_norm         BN between every convolution and its ReLU
    pool_size          the side of the map that the linear layers see, whatever the image's size
    hidden, dropout    widths of the linear layers before the last, and what is dropped behind each of them (Sec. 3.1)
    """

    img_size: int = 224
    in_chans: int = 3
    num_classes: int = 1000
    layers: tuple[int, ...] = (2, 2, 3, 3, 3)
    channels: tuple[int, ...] = (64, 128, 256, 512, 512)
    batch_norm: bool = False
    pool_size: int = 7
    hidden: tuple[int, ...] = (4096, 4096)
    dropout: float = 0.5

    def __post_init__(self):
        probability(self.dropout, "dropout")
        if len(self.layers) != len(self.channels):
            raise ValueError(f"channels: expected one width per stage ({len(self.layers)}), got {self.channels}")

    @property
    def width(self) -> int:
        """Channels of the last map."""
        return self.channels[-1]


class VGG(AlexNet):
    """Stages of 3×3 convolutions, and linear layers.   images (B, H, W, C) -> logits (B, num_classes)"""

    original_names = TIMM_NAMES

    def convolutions(self, rng) -> list:
        """Every stage's convolutions, each with (BN and) ReLU, and its pooling."""
        width, made = self.config.in_chans, []
        for depth, channels in zip(self.config.layers, self.config.channels, strict=True):
            for _ in range(depth):
                made.append(Conv2d(width, channels, 3, padding=1, init="kaiming", rng=rng))
                made += [BatchNorm(channels, rng=rng)] if self.config.batch_norm else []
                made.append(ReLU())
                width = channels
            made.append(MaxPool(2, stride=2))
        return made

    def linear_layers(self, width, rng) -> list:
        """A linear layer, ReLU and dropout for every hidden width, then the logits."""
        made = []
        for hidden in self.config.hidden:
            made += [linear_layer(width, hidden, rng), ReLU(), Dropout(self.config.dropout)]
            width = hidden
        return [*made, linear_layer(width, self.config.num_classes, rng)]


def linear_layer(in_features, out_features, rng):
    """A linear layer that starts as the paper's do (Sec. 3.1); without outputs (no classes) there is none."""
    if not out_features:
        return Identity()
    layer = Linear(in_features, out_features, rng=None)  # nothing is drawn twice
    layer.weight.data = normal(layer.weight.shape, std=0.01, rng=rng)
    layer.bias.data = zeros(layer.bias.shape, rng=rng)
    return layer


# The paper's Table 1, columns A, B, D and E, and the same with BN. ---------------------------

PAPER = Paper("Very Deep Convolutional Networks for Large-Scale Image Recognition", "Simonyan & Zisserman", 2015,
              "1409.1556", family="cnn")  # fmt: skip

A, B, D, E = (1, 1, 2, 2, 2), (2, 2, 2, 2, 2), (2, 2, 3, 3, 3), (2, 2, 4, 4, 4)

PUBLISHED = {
    "vgg11":    Published(VGGConfig(layers=A)),
    "vgg13":    Published(VGGConfig(layers=B)),
    "vgg16":    Published(VGGConfig(layers=D),                   "vgg16@224"),
    "vgg19":    Published(VGGConfig(layers=E)),
    "vgg11_bn": Published(VGGConfig(layers=A, batch_norm=True)),
    "vgg13_bn": Published(VGGConfig(layers=B, batch_norm=True)),
    "vgg16_bn": Published(VGGConfig(layers=D, batch_norm=True),  "vgg16_bn@224"),
    "vgg19_bn": Published(VGGConfig(layers=E, batch_norm=True)),
}  # fmt: skip

ALSO_COUNTED: dict = {}

SMALL = {
    "vgg_digits": VGGConfig(img_size=8, in_chans=1, num_classes=10, layers=(2, 2), channels=(16, 32), pool_size=2,
                            batch_norm=True, hidden=(64, 64), dropout=0.2),
}  # fmt: skip

MODEL = VGG
