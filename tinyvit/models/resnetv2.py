"""ResNet v2: "Identity Mappings in Deep Residual Networks" (He et al. 2016, arXiv 1603.05027).

    x_{l+1} = x_l + F(f(x_l), W_l),  f = ReLU ∘ norm          (Eq. 9)
    x_L     = x_l + Σ_{l ≤ i < L} F(f(x_i), W_i)              (Eq. 4)

Norm and ReLU come before a convolution, not behind it: nothing is left on the way of x from block to block but sums. As
in timm and in BiT, whose model this is too, the stride sits on the 3×3 convolution and the first block of a stage
projects f(x), not x. For batches too small for a batch norm there is group norm, with weight standardisation (Qiao et
al. 2019): every filter has mean 0 and variance 1 before it is used. Parameters have timm's names and shapes.
"""

from __future__ import annotations

from dataclasses import dataclass

from tinyvit.equations.convolution import conv2d, zero_padded
from tinyvit.equations.normalize import weight_standardise
from tinyvit.models.config import Paper, Published, divisible, one_of
from tinyvit.nn.basic import Conv2d, GroupNorm, NormAct, plain_conv
from tinyvit.nn.embed import check_images
from tinyvit.nn.module import Identity, Module, Sequential
from tinyvit.nn.pool import MaxPool
from tinyvit.primitives.elementwise import relu
from tinyvit.primitives.reduce import mean
from tinyvit.primitives.shape import reshape


@dataclass(frozen=True)
class ResNetV2Config:
    """A pre-activation ResNet's sizes and choices.

    layers        blocks per stage; every stage but the first halves the map
    channels      of a stage's output; a bottleneck has a quarter of them · stem_chs: channels of the stem
    width_factor  what these are multiplied by; widths are multiples of 8
    stem_type     what surrounds the stem's pooling: "" nothing, or "fixed" zeros that take part in it (BiT)
    small_stem    for small images: a 3×3 convolution instead of 7×7 with stride 2 and pooling
    num_groups    of the group norms; 0 for batch norms
    ws_eps        ε of weight standardisation; None for filters as they are
    """

    img_size: int = 224
    in_chans: int = 3
    num_classes: int = 1000
    layers: tuple[int, ...] = (3, 4, 6, 3)
    channels: tuple[int, ...] = (256, 512, 1024, 2048)
    stem_chs: int = 64
    width_factor: int = 1
    stem_type: str = ""
    small_stem: bool = False
    num_groups: int = 32
    ws_eps: float | None = 1e-6

    def __post_init__(self):
        one_of(("", "fixed"), stem_type=self.stem_type)
        if len(self.layers) != len(self.channels):
            raise ValueError(f"channels: expected one width per stage ({len(self.layers)}), got {self.channels}")

    def width(self, channels: int) -> int:
        """What a width comes to."""
        return divisible(channels * self.width_factor)


class StdConv2d(Conv2d):
    """A convolution whose filters are standardised before use.   (B, H, W, C) -> (B, H', W', O)"""

    def __init__(self, in_chans, out_chans, kernel_size, *, eps, **options):
        super().__init__(in_chans, out_chans, kernel_size, padding=kernel_size // 2, bias=False, init="kaiming",
                         **options)  # fmt: skip
        self.eps = eps

    def forward(self, x):
        return conv2d(x, weight_standardise(self.weight, eps=self.eps), **self.options)


class GroupNormAct(GroupNorm):
    """``relu(GN(x))``.   (B, ..., C) -> (B, ..., C)"""

    def forward(self, x):
        return relu(super().forward(x))


def _conv(config, in_chans, out_chans, size, *, stride=1, rng):
    if config.ws_eps is None:
        return plain_conv(in_chans, out_chans, size, stride=stride, rng=rng)
    return StdConv2d(in_chans, out_chans, size, stride=stride, eps=config.ws_eps, rng=rng)


def _norm(config, dim, *, rng):
    return GroupNormAct(dim, config.num_groups, rng=rng) if config.num_groups else NormAct(dim, rng=rng)


class PreActBottleneck(Module):
    """``x + 1×1 f(3×3 f(1×1 f(x)))``, f a norm and ReLU (Eq. 9).   (B, H, W, C) -> (B, H/s, W/s, C')

    projects  whether f(x), projected, takes the place of the x that is added
    """

    def __init__(self, config, in_chans, out_chans, stride=1, *, projects=False, rng):
        width = divisible(out_chans / 4)
        self.downsample = Downsample(config, in_chans, out_chans, stride, rng=rng) if projects else None
        self.norm1 = _norm(config, in_chans, rng=rng)
        self.conv1 = _conv(config, in_chans, width, 1, rng=rng)
        self.norm2 = _norm(config, width, rng=rng)
        self.conv2 = _conv(config, width, width, 3, stride=stride, rng=rng)
        self.norm3 = _norm(config, width, rng=rng)
        self.conv3 = _conv(config, width, out_chans, 1, rng=rng)

    def forward(self, x):
        active = self.norm1(x)
        y = self.conv1(active)
        y = self.conv2(self.norm2(y))
        y = self.conv3(self.norm3(y))
        return y + (x if self.downsample is None else self.downsample(active))


class Downsample(Module):
    """A 1×1 projection, without a norm.   (B, H, W, C) -> (B, H/s, W/s, C')"""

    def __init__(self, config, in_chans, out_chans, stride, *, rng):
        self.conv = _conv(config, in_chans, out_chans, 1, stride=stride, rng=rng)

    def forward(self, x):
        return self.conv(x)


class Stage(Module):
    """Blocks, the first of which projects.   (B, H, W, C) -> (B, H/s, W/s, C')"""

    def __init__(self, config, depth, in_chans, out_chans, stride, *, rng):
        sizes = [(in_chans, out_chans, stride)] + [(out_chans, out_chans)] * (depth - 1)
        blocks = [PreActBottleneck(config, *size, projects=not i, rng=rng) for i, size in enumerate(sizes)]
        self.blocks = Sequential(*blocks)

    def forward(self, x):
        return self.blocks(x)


class Stem(Module):
    """A 7×7 convolution and pooling; norm and ReLU are the first block's.   (B, H, W, C) -> (B, H/4, W/4, D)

    Zeros around a "fixed" pooling take part in it: at the border no negative number is the largest.
    """

    def __init__(self, config, *, rng):
        c, width = config, config.width(config.stem_chs)
        self.zeros = 0
        if c.small_stem:
            self.conv, self.pool = _conv(c, c.in_chans, width, 3, rng=rng), Identity()
        else:
            self.zeros = 1 if c.stem_type == "fixed" else 0
            self.conv = _conv(c, c.in_chans, width, 7, stride=2, rng=rng)
            self.pool = MaxPool(3, stride=2, padding=1 - self.zeros)

    def forward(self, x):
        return self.pool(zero_padded(self.conv(x), self.zeros, 2))


class ConvHead(Module):
    """A 1×1 convolution of the mean over the map; it starts from zero.   (B, H, W, C) -> (B, num_classes)"""

    def __init__(self, dim, num_classes, *, rng):
        self.fc = Conv2d(dim, num_classes, 1, init="zeros", rng=rng) if num_classes else Identity()

    def forward(self, x):
        y = self.fc(mean(x, axis=(1, 2), keepdims=True))
        return reshape(y, shape=(y.shape[0], y.shape[-1]))


class ResNetV2(Module):
    """Pre-activation residual network.   images (B, H, W, C) -> logits (B, num_classes)"""

    def __init__(self, config: ResNetV2Config, *, rng):
        c = self.config = config
        self.stem = Stem(c, rng=rng)
        in_chans = c.width(c.stem_chs)
        for i, (depth, channels) in enumerate(zip(c.layers, map(c.width, c.channels), strict=True)):
            stage = Stage(c, depth, in_chans, channels, 2 if i else 1, rng=rng)
            setattr(self, f"stages.{i}", stage)  # timm's name; ``stages`` alone is the method
            in_chans = channels
        self.norm = _norm(c, in_chans, rng=rng)
        self.head = ConvHead(in_chans, c.num_classes, rng=rng)

    def forward(self, images):
        return self.head(self.norm(self.stages(images)[-1]))

    def stages(self, images) -> list:
        """The feature map after every stage, finest first, before the last norm. Any image size will do."""
        check_images(images, self.config.in_chans)
        x, maps = self.stem(images), []
        for i in range(len(self.config.layers)):
            x = getattr(self, f"stages.{i}")(x)
            maps.append(x)
        return maps


# The paper's bottleneck networks as timm has them; and those of group norm that are compared with transformers. ------

PAPER = Paper("Identity Mappings in Deep Residual Networks", "He et al.", 2016, "1603.05027", family="resnet-x2")

BATCH_NORM = {"num_groups": 0, "ws_eps": None}

LAYERS = {50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}

PUBLISHED = {
    **{f"resnetv2_{depth}": Published(ResNetV2Config(layers=layers, **BATCH_NORM)) for depth, layers in LAYERS.items()},
    **{f"resnetv2_{depth}_gn": Published(ResNetV2Config(layers=layers), f"ResNetV2-{depth}x1 (GN+WS)@224")
       for depth, layers in LAYERS.items()},
    **{f"resnetv2_{depth}x2_gn": Published(ResNetV2Config(layers=layers, width_factor=2),
                                           f"ResNetV2-{depth}x2 (GN+WS, all widths x2)@224")
       for depth, layers in LAYERS.items()},
}  # fmt: skip

ALSO_COUNTED: dict = {}

SMALL = {
    "resnetv2_digits": ResNetV2Config(img_size=8, in_chans=1, num_classes=10, layers=(1, 1), channels=(64, 128),
                                      stem_chs=16, small_stem=True, **BATCH_NORM),
}  # fmt: skip

MODEL = ResNetV2
