"""ResNeXt: "Aggregated Residual Transformations for Deep Neural Networks" (Xie et al. 2017, arXiv 1611.05431).

    y = x + Σᵢ Tᵢ(x),  i = 1 … C          (Eq. 3)

C narrow bottlenecks side by side, summed: the same as one bottleneck whose 3×3 convolution is cut into C groups
(Fig. 3c), which is how it is built. The cardinality C is a size beside depth and width; "32x4d" is C = 32, d = 4 wide.
"""

from __future__ import annotations

from tinyvit.models.config import Paper, Published
from tinyvit.models.resnet import ResNet, ResNetConfig

# The paper's Table 3, and the 64×4d of its Table 4. -------------------------------------------

PAPER = Paper("Aggregated Residual Transformations for Deep Neural Networks", "Xie et al.", 2017, "1611.05431",
              family="resnet")  # fmt: skip

PUBLISHED = {
    "resnext50_32x4d":  Published(ResNetConfig(layers=(3, 4, 6, 3), cardinality=32, base_width=4),
                                  "resnext50_32x4d@224"),
    "resnext101_32x4d": Published(ResNetConfig(layers=(3, 4, 23, 3), cardinality=32, base_width=4),
                                  "resnext101_32x4d@224"),
    "resnext101_64x4d": Published(ResNetConfig(layers=(3, 4, 23, 3), cardinality=64, base_width=4),
                                  "resnext101_64x4d@224"),
}  # fmt: skip

ALSO_COUNTED: dict = {}

SMALL = {
    "resnext_digits": ResNetConfig(img_size=8, in_chans=1, num_classes=10, layers=(1, 1), stem_width=16,
                                   channels=(16, 32), small_stem=True, cardinality=4, base_width=16),
}  # fmt: skip

MODEL = ResNet
