"""DenseNet: "Densely Connected Convolutional Networks" (Huang et al. 2017, arXiv 1608.06993).

    x_ℓ = H_ℓ([x₀, x₁, …, x_{ℓ-1}])          (Eq. 2)

A layer sees the maps of all layers before it, side by side, and adds k channels of its own, the growth rate. H is
BN-ReLU-conv 1×1-BN-ReLU-conv 3×3; between dense blocks a transition halves the channels and the map: the paper's
DenseNet-BC. Parameters have timm's and torchvision's names and shapes; as in timm, a ``norm`` is BN and ReLU together.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from tinyvit.models.config import Paper, Published
from tinyvit.nn.basic import Linear, NormAct, plain_conv
from tinyvit.nn.embed import check_images
from tinyvit.nn.module import Identity, Module
from tinyvit.nn.noise import Dropout
from tinyvit.nn.pool import AvgPool, GlobalPool, MaxPool
from tinyvit.primitives.shape import concatenate

_conv = partial(plain_conv, init="kaiming_in")  # as timm and torchvision start it


@dataclass(frozen=True)
class DenseNetConfig:
    """A DenseNet's sizes and noise.

    growth_rate     k, the channels that every layer adds; the stem has 2k
    block_config    layers per dense block
    bn_size         the 1×1 convolution, the bottleneck, gives bn_size · k channels
    drop_rate       dropout before the classifier · proj_drop_rate: dropout after every layer (0.2 in Sec. 4.2)
    small_stem      for small images (Sec. 3): a 3×3 convolution instead of 7×7 with stride 2, norm and pooling
    """

    img_size: int = 224
    in_chans: int = 3
    num_classes: int = 1000
    growth_rate: int = 32
    block_config: tuple[int, ...] = (6, 12, 24, 16)
    bn_size: int = 4
    drop_rate: float = 0.0
    proj_drop_rate: float = 0.0
    small_stem: bool = False

    def __post_init__(self):
        if not self.block_config or min(self.block_config) < 1:
            raise ValueError(f"block_config: expected at least one layer in every block, got {self.block_config}")


class DenseLayer(Module):
    """``H_ℓ``: to at most bn_size · k channels, then to the k new ones (Sec. 3).   (B, H, W, C) -> (B, H, W, k)"""

    def __init__(self, in_chans, growth_rate, bn_size, *, drop=0.0, rng):
        width = bn_size * growth_rate
        self.norm1 = NormAct(in_chans, rng=rng)
        self.conv1 = _conv(in_chans, width, 1, rng=rng)
        self.norm2 = NormAct(width, rng=rng)
        self.conv2 = _conv(width, growth_rate, 3, rng=rng)
        self.drop = Dropout(drop)

    def forward(self, x):
        return self.drop(self.conv2(self.norm2(self.conv1(self.norm1(x)))))


class DenseBlock(Module):
    """Layers that each see all maps before theirs (Eq. 2).   (B, H, W, C) -> (B, H, W, C + depth · k)"""

    def __init__(self, depth, in_chans, growth_rate, bn_size, *, drop=0.0, rng):
        for i in range(depth):
            layer = DenseLayer(in_chans + i * growth_rate, growth_rate, bn_size, drop=drop, rng=rng)
            setattr(self, f"denselayer{i + 1}", layer)
        self.depth = depth

    def forward(self, x):
        maps = [x]
        for i in range(self.depth):
            layer = getattr(self, f"denselayer{i + 1}")
            maps.append(layer(concatenate(*maps, axis=-1)))
        return concatenate(*maps, axis=-1)


class Transition(Module):
    """Half the channels and half the map (Sec. 3, with compression θ = ½).   (B, H, W, C) -> (B, H/2, W/2, C/2)"""

    def __init__(self, in_chans, out_chans, *, rng):
        self.norm = NormAct(in_chans, rng=rng)
        self.conv = _conv(in_chans, out_chans, 1, rng=rng)
        self.pool = AvgPool(2, stride=2)

    def forward(self, x):
        return self.pool(self.conv(self.norm(x)))


class Features(Module):
    """All but the classifier.   images (B, H, W, C) -> (B, H', W', D)"""

    def __init__(self, config: DenseNetConfig, *, rng):
        c = config
        width = 2 * c.growth_rate
        if c.small_stem:
            self.conv0, self.norm0, self.pool0 = _conv(c.in_chans, width, 3, rng=rng), Identity(), Identity()
        else:
            self.conv0 = _conv(c.in_chans, width, 7, stride=2, rng=rng)
            self.norm0 = NormAct(width, rng=rng)
            self.pool0 = MaxPool(3, stride=2, padding=1)
        self.blocks = len(c.block_config)
        for i, depth in enumerate(c.block_config, start=1):
            block = DenseBlock(depth, width, c.growth_rate, c.bn_size, drop=c.proj_drop_rate, rng=rng)
            setattr(self, f"denseblock{i}", block)
            width += depth * c.growth_rate
            if i < self.blocks:
                setattr(self, f"transition{i}", Transition(width, width // 2, rng=rng))
                width //= 2
        self.norm5 = NormAct(width, rng=rng)
        self.width = width

    def forward(self, images):
        return self.stages(images)[-1]

    def stages(self, images) -> list:
        """The map after every dense block, the last one normalised."""
        x, maps = self.pool0(self.norm0(self.conv0(images))), []
        for i in range(1, self.blocks + 1):
            maps.append(getattr(self, f"denseblock{i}")(x))
            x = getattr(self, f"transition{i}", self.norm5)(maps[-1])
        return [*maps[:-1], x]


class DenseNet(Module):
    """Densely connected network.   images (B, H, W, C) -> logits (B, num_classes)"""

    def __init__(self, config: DenseNetConfig, *, rng):
        c = self.config = config
        self.features = Features(c, rng=rng)
        self.global_pool = GlobalPool()
        self.head_drop = Dropout(c.drop_rate)
        self.classifier = Linear(self.features.width, c.num_classes, rng=rng) if c.num_classes else Identity()

    def forward(self, images):
        check_images(images, self.config.in_chans)
        return self.classifier(self.head_drop(self.global_pool(self.features(images))))

    def stages(self, images) -> list:
        """The feature map after every dense block, finest first. Any image size will do."""
        check_images(images, self.config.in_chans)
        return self.features.stages(images)


# The paper's Table 1 (ImageNet), and the DenseNet-BC of its Table 2 (CIFAR). ----------------

PAPER = Paper("Densely Connected Convolutional Networks", "Huang et al.", 2017, "1608.06993", family="cnn")

CIFAR = {"img_size": 32, "num_classes": 10, "small_stem": True}

PUBLISHED = {
    "densenet121":         Published(DenseNetConfig(block_config=(6, 12, 24, 16)),                   "densenet121@224"),
    "densenet169":         Published(DenseNetConfig(block_config=(6, 12, 32, 32)),                   "densenet169@224"),
    "densenet201":         Published(DenseNetConfig(block_config=(6, 12, 48, 32)),                   "densenet201@224"),
    "densenet161":         Published(DenseNetConfig(growth_rate=48, block_config=(6, 12, 36, 24)),   "densenet161@224"),
    "densenet100_12_bc":   Published(DenseNetConfig(growth_rate=12, block_config=(16,) * 3, **CIFAR)),
    "densenet250_24_bc":   Published(DenseNetConfig(growth_rate=24, block_config=(41,) * 3, **CIFAR)),
    "densenet190_40_bc":   Published(DenseNetConfig(growth_rate=40, block_config=(31,) * 3, **CIFAR)),
}  # fmt: skip

ALSO_COUNTED: dict = {}

SMALL = {
    "densenet_digits": DenseNetConfig(img_size=8, in_chans=1, num_classes=10, growth_rate=8, block_config=(3, 3),
                                      small_stem=True),
}  # fmt: skip

MODEL = DenseNet
