"""ConvNeXt: "A ConvNet for the 2020s" (Liu et al. 2022, arXiv 2201.03545).

    x ← x + γ ⊙ W₂ GELU(W₁ LN(dwconv₇ₓ₇(x)))          (Fig. 4)

A ResNet brought up to date step by step until it does what Swin does: patches for a stem, a depthwise 7×7 convolution
where Swin's windows attend, then a transformer's MLP, one norm and one activation per block, LayerScale (γ), and
convolutions of their own, with a norm before them, between stages. Parameters have timm's names and shapes.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from tinyvit.models.config import Paper, Published
from tinyvit.nn.basic import Conv2d, LayerNorm, Linear, Mlp, layer_scale
from tinyvit.nn.embed import check_images
from tinyvit.nn.module import Identity, Module, Sequential
from tinyvit.nn.noise import Dropout, DropPath, drop_path_rates, probability
from tinyvit.primitives.reduce import mean


@dataclass(frozen=True)
class ConvNeXtConfig:
    """A ConvNeXt's sizes and noise.

    depths, dims    blocks and width of every stage; every stage but the first halves the map
    kernel_sizes    of the depthwise convolutions, one or one per stage
    ls_init_value   what LayerScale's γ starts from; None for no γ
    patch_size      P, the side of the stem's patches; those of 2 are halved once more by the first stage, as in timm
    drop_rate       dropout before the classifier · drop_path_rate: of the last block, growing from 0
    """

    img_size: int = 224
    in_chans: int = 3
    num_classes: int = 1000
    depths: tuple[int, ...] = (3, 3, 9, 3)
    dims: tuple[int, ...] = (96, 192, 384, 768)
    kernel_sizes: int | tuple[int, ...] = 7
    ls_init_value: float | None = 1e-6
    patch_size: int = 4
    drop_rate: float = 0.0
    drop_path_rate: float = 0.0

    def __post_init__(self):
        n = len(self.depths)
        if len(self.dims) != n:
            raise ValueError(f"dims: expected one width per stage ({n}), got {self.dims}")
        probability(self.drop_path_rate, "drop_path_rate")
        if len(self.kernels) != n or any(k % 2 == 0 for k in self.kernels):
            raise ValueError(f"kernel_sizes: expected an odd number, or {n} of them, got {self.kernel_sizes}")

    @property
    def kernels(self) -> tuple[int, ...]:
        """The side of the depthwise convolutions, stage by stage."""
        k = self.kernel_sizes
        return (k,) * len(self.depths) if isinstance(k, int) else tuple(k)


class ConvNeXtBlock(Module):
    """``x + γ ⊙ MLP(LN(dwconv(x)))``: places are mixed first, then channels (Fig. 4).   (B, H, W, C) -> (B, H, W, C)"""

    def __init__(self, dim, kernel_size, *, ls_init_value, drop_path=0.0, rng):
        self.gamma = None if ls_init_value is None else layer_scale(dim, ls_init_value, rng=rng)
        self.conv_dw = Conv2d(dim, dim, kernel_size, padding=kernel_size // 2, groups=dim, init="normal", rng=rng)
        self.norm = LayerNorm(dim, rng=rng)
        self.mlp = Mlp(dim, 4 * dim, rng=rng)
        self.drop_path = DropPath(drop_path)

    def forward(self, x):
        y = self.mlp(self.norm(self.conv_dw(x)))
        y = y if self.gamma is None else self.gamma * y
        return x + self.drop_path(y)


class Stage(Module):
    """A norm and a 2×2 convolution that halves the map (or neither), and blocks.   (B, H, W, C) -> (B, H/s, W/s, C')"""

    def __init__(self, in_chans, dim, kernel_size, rates, *, stride, ls_init_value, rng):
        self.downsample = Identity()
        if stride == 2 or in_chans != dim:
            halving = Conv2d(in_chans, dim, stride, stride=stride, init="normal", rng=rng)
            self.downsample = Sequential(LayerNorm(in_chans, rng=rng), halving)
        blocks = (ConvNeXtBlock(dim, kernel_size, ls_init_value=ls_init_value, drop_path=p, rng=rng) for p in rates)
        self.blocks = Sequential(*blocks)

    def forward(self, x):
        return self.blocks(self.downsample(x))


class NormHead(Module):
    """The mean over the map, normalised, to classes.   (B, H, W, C) -> (B, num_classes)"""

    def __init__(self, dim, num_classes, drop, *, rng):
        self.norm = LayerNorm(dim, rng=rng)
        self.drop = Dropout(drop)
        self.fc = Linear(dim, num_classes, rng=rng) if num_classes else Identity()

    def forward(self, x):
        y = self.norm(mean(x, axis=(1, 2), keepdims=True))[:, 0, 0]
        return self.fc(self.drop(y))


class ConvNeXt(Module):
    """A convolutional network with a transformer's manners.   images (B, H, W, C) -> logits (B, num_classes)"""

    def __init__(self, config: ConvNeXtConfig, *, rng):
        c = self.config = config
        P, in_chans = c.patch_size, c.dims[0]
        self.stem = Sequential(
            Conv2d(c.in_chans, in_chans, P, stride=P, init="normal", rng=rng), LayerNorm(in_chans, rng=rng)
        )
        rates = iter(drop_path_rates(c.drop_path_rate, sum(c.depths)))
        for i, (depth, dim, kernel_size) in enumerate(zip(c.depths, c.dims, c.kernels, strict=True)):
            stage = Stage(in_chans, dim, kernel_size, [next(rates) for _ in range(depth)],
                          stride=2 if i or P == 2 else 1, ls_init_value=c.ls_init_value, rng=rng)  # fmt: skip
            setattr(self, f"stages.{i}", stage)  # timm's name; ``stages`` alone is the method
            in_chans = dim
        self.head = NormHead(in_chans, c.num_classes, c.drop_rate, rng=rng)

    def forward(self, images):
        return self.head(self.stages(images)[-1])

    def stages(self, images) -> list:
        """The feature map after every stage, finest first. What is left of a patch or of a halving is cut off."""
        check_images(images, self.config.in_chans)
        x, maps = self.stem(images), []
        for i in range(len(self.config.depths)):
            x = getattr(self, f"stages.{i}")(x)
            maps.append(x)
        return maps


# The paper's sizes (Sec. 3), with the drop path that they were trained with (Table 5; XL as L). -----

PAPER = Paper("A ConvNet for the 2020s", "Liu et al.", 2022, "2201.03545", family="convnext")

T = ConvNeXtConfig(depths=(3, 3, 9, 3), dims=(96, 192, 384, 768), drop_path_rate=0.1)
S = ConvNeXtConfig(depths=(3, 3, 27, 3), dims=(96, 192, 384, 768), drop_path_rate=0.4)
B = ConvNeXtConfig(depths=(3, 3, 27, 3), dims=(128, 256, 512, 1024), drop_path_rate=0.5)
L = ConvNeXtConfig(depths=(3, 3, 27, 3), dims=(192, 384, 768, 1536), drop_path_rate=0.5)
XL = ConvNeXtConfig(depths=(3, 3, 27, 3), dims=(256, 512, 1024, 2048), drop_path_rate=0.5)

PUBLISHED = {
    "convnext_tiny":       Published(T,                         "ConvNeXt-T@224"),
    "convnext_small":      Published(S,                         "ConvNeXt-S@224"),
    "convnext_base":       Published(B,                         "ConvNeXt-B@224"),
    "convnext_large":      Published(L,                         "ConvNeXt-L@224"),
    "convnext_xlarge":     Published(XL,                        "ConvNeXt-XL@224"),
    "convnext_tiny_384":   Published(replace(T, img_size=384),  "ConvNeXt-T@384"),
    "convnext_small_384":  Published(replace(S, img_size=384),  "ConvNeXt-S@384"),
    "convnext_base_384":   Published(replace(B, img_size=384),  "ConvNeXt-B@384"),
    "convnext_large_384":  Published(replace(L, img_size=384),  "ConvNeXt-L@384"),
    "convnext_xlarge_384": Published(replace(XL, img_size=384), "ConvNeXt-XL@384"),
}  # fmt: skip

ALSO_COUNTED: dict = {}

SMALL = {  # shallow, so that γ may start from 1; so small a start as the paper's takes more epochs than these need
    "convnext_digits": ConvNeXtConfig(img_size=8, in_chans=1, num_classes=10, depths=(1, 2), dims=(24, 48),
                                      kernel_sizes=3, patch_size=2, ls_init_value=1.0),
}  # fmt: skip

MODEL = ConvNeXt
