"""AlexNet: "ImageNet Classification with Deep Convolutional Neural Networks" (Krizhevsky et al. 2012).

    a_i ← relu(W_i * a_{i-1} + b_i), some of them pooled (3×3, stride 2: windows overlap);  then three linear layers

The paper cuts the channels over two GPUs (96, 256, 384, 384, 256 of them) and normalises them locally. What is used
since is the one-tower form of the author's "One weird trick for parallelizing convolutional neural networks" (2014,
arXiv 1404.5997), without that norm: torchvision's, whose names and shapes the parameters have.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from tinyvit.models.config import Paper, Published
from tinyvit.nn.basic import Conv2d, Linear, ReLU
from tinyvit.nn.embed import check_images
from tinyvit.nn.init import fan_in_uniform
from tinyvit.nn.module import Identity, Module, Sequential
from tinyvit.nn.noise import Dropout, probability
from tinyvit.nn.pool import AdaptiveAvgPool, MaxPool
from tinyvit.primitives.shape import reshape, transpose


class Convolution(NamedTuple):
    """A convolutional layer: channels, window, stride, border, and whether pooling follows."""

    channels: int
    kernel_size: int = 3
    stride: int = 1
    padding: int = 1
    pooled: bool = False


@dataclass(frozen=True)
class AlexNetConfig:
    """An AlexNet's sizes and noise.

    layers       the convolutional layers, from the pixels up
    pool_size    the side of the map that the linear layers see, whatever the image's size
    hidden       widths of the linear layers before the last
    dropout      before each of them (Sec. 4.2)
    """

    img_size: int = 224
    in_chans: int = 3
    num_classes: int = 1000
    layers: tuple[Convolution, ...] = (
        Convolution(64, kernel_size=11, stride=4, padding=2, pooled=True),
        Convolution(192, kernel_size=5, padding=2, pooled=True),
        Convolution(384),
        Convolution(256),
        Convolution(256, pooled=True),
    )
    pool_size: int = 6
    hidden: tuple[int, ...] = (4096, 4096)
    dropout: float = 0.5

    def __post_init__(self):
        probability(self.dropout, "dropout")
        if not self.layers[-1].pooled:
            raise ValueError(f"layers: expected the last to be pooled, got {self.layers[-1]}")

    @property
    def width(self) -> int:
        """Channels of the last map."""
        return self.layers[-1].channels


class AlexNet(Module):
    """Convolutions, pooling, and linear layers.   images (B, H, W, C) -> logits (B, num_classes)"""

    def __init__(self, config: AlexNetConfig, *, rng):
        c = self.config = config
        self.features = Sequential(*self.convolutions(rng))
        self.avgpool = AdaptiveAvgPool(c.pool_size)
        self.classifier = Sequential(*self.linear_layers(c.width * c.pool_size**2, rng))

    def convolutions(self, rng) -> list:
        """Every convolution with its ReLU, and pooling where the config says so."""
        width, made = self.config.in_chans, []
        for channels, size, stride, padding, pooled in self.config.layers:
            made += [Conv2d(width, channels, size, stride=stride, padding=padding, rng=rng), ReLU()]
            made += [MaxPool(3, stride=2)] if pooled else []
            width = channels
        return made

    def linear_layers(self, width, rng) -> list:
        """Dropout, a linear layer and ReLU for every hidden width, then the logits."""
        made = []
        for hidden in self.config.hidden:
            made += [Dropout(self.config.dropout), linear_layer(width, hidden, rng), ReLU()]
            width = hidden
        return [*made, linear_layer(width, self.config.num_classes, rng)]

    def forward(self, images):
        check_images(images, self.config.in_chans)
        maps = transpose(self.avgpool(self.features(images)), axes=(0, 3, 1, 2))  # flattened channel by channel,
        return self.classifier(reshape(maps, shape=(len(images), -1)))  # as the reference's weights expect

    def stages(self, images) -> list:
        """The feature map after every pooling, finest first. Any image will do that is large enough to be pooled."""
        check_images(images, self.config.in_chans)
        x, maps = images, []
        for layer in self.features:
            x = layer(x)
            maps += [x] if isinstance(layer, MaxPool) else []
        return maps


def linear_layer(in_features, out_features, rng):
    """A linear layer that starts as PyTorch's do; without outputs (no classes) there is none."""
    if not out_features:
        return Identity()
    layer = Linear(in_features, out_features, rng=None)  # nothing is drawn twice
    for p in layer.parameters():
        p.data = fan_in_uniform(p.shape, fan_in=in_features, rng=rng)
    return layer


# The one tower of 2014. ---------------------------------------------------------------------

PAPER = Paper("ImageNet Classification with Deep Convolutional Neural Networks", "Krizhevsky et al.", 2012, "1404.5997",
              family="cnn")  # fmt: skip

PUBLISHED = {"alexnet": Published(AlexNetConfig(), "alexnet@224")}

ALSO_COUNTED: dict = {}

SMALL = {
    "alexnet_digits": AlexNetConfig(img_size=8, in_chans=1, num_classes=10, pool_size=3, hidden=(64, 64), dropout=0.2,
                                    layers=(Convolution(16), Convolution(32, pooled=True))),
}  # fmt: skip

MODEL = AlexNet
