"""Wide ResNet: "Wide Residual Networks" (Zagoruyko & Komodakis 2016, arXiv 1605.07146).

Width instead of depth. The paper's ImageNet network WRN-50-2-bottleneck (Table 8) doubles what is inside the
bottlenecks; what goes from block to block stays as it is. (``resnet_x2`` has networks whose every width is doubled.)
"""

from __future__ import annotations

from tinyvit.models.config import Paper, Published
from tinyvit.models.resnet import ResNet, ResNetConfig

PAPER = Paper("Wide Residual Networks", "Zagoruyko & Komodakis", 2016, "1605.07146", family="resnet")

PUBLISHED = {
    "wide_resnet50_2":  Published(ResNetConfig(layers=(3, 4, 6, 3), base_width=128),  "wide_resnet50_2@224"),
    "wide_resnet101_2": Published(ResNetConfig(layers=(3, 4, 23, 3), base_width=128), "wide_resnet101_2@224"),
}  # fmt: skip

ALSO_COUNTED: dict = {}

SMALL: dict = {}

MODEL = ResNet
