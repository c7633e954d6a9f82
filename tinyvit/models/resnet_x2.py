"""ResNets of twice the width, as they are compared with transformers (Chen et al. 2022, arXiv 2106.01548).

Every width is doubled, the stem's and what goes from block to block too, which takes four times the parameters; the
50-2 of ``wide_resnet`` doubles only the inside of the bottlenecks.
"""

from __future__ import annotations

from tinyvit.models.config import Paper, Published
from tinyvit.models.resnet import ResNet, ResNetConfig

PAPER = Paper("When Vision Transformers Outperform ResNets without Pre-training or Strong Data Augmentations",
              "Chen et al.", 2022, "2106.01548", family="resnet-x2")  # fmt: skip

DOUBLED = {"stem_width": 128, "channels": (128, 256, 512, 1024)}

PUBLISHED = {
    "resnet50x2":  Published(ResNetConfig(layers=(3, 4, 6, 3), **DOUBLED),  "ResNet-50x2 (v1, BN, all widths x2)@224"),
    "resnet101x2": Published(ResNetConfig(layers=(3, 4, 23, 3), **DOUBLED), "ResNet-101x2 (v1, BN, all widths x2)@224"),
    "resnet152x2": Published(ResNetConfig(layers=(3, 8, 36, 3), **DOUBLED), "ResNet-152x2 (v1, BN, all widths x2)@224"),
}  # fmt: skip

ALSO_COUNTED: dict = {}

SMALL: dict = {}

MODEL = ResNet
