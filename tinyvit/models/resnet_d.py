"""ResNet-D: "Bag of Tricks for Image Classification with CNNs" (He, T. et al. 2019, arXiv 1812.01187).

Two of its tweaks of ResNet (Sec. 4, Fig. 2): three 3×3 convolutions take the place of the stem's 7×7 (ResNet-C), and a
shortcut that halves the map averages 2×2 places before it projects them, where a 1×1 convolution of stride 2 passes
over three of four (ResNet-D). The third, the stride on the 3×3 convolution (ResNet-B), is in every ResNet here.
"""

from __future__ import annotations

from tinyvit.models.config import Paper, Published
from tinyvit.models.resnet import ResNet, ResNetConfig

PAPER = Paper("Bag of Tricks for Image Classification with Convolutional Neural Networks", "He et al.", 2019,
              "1812.01187", family="cnn")  # fmt: skip

# Stem and shortcut together; the deep stem alone is what segmentation calls V1c.
D = {"stem_type": "deep", "stem_width": 32, "avg_down": True}

PUBLISHED = {
    "resnet50d": Published(ResNetConfig(layers=(3, 4, 6, 3), **D), "resnet50d@224"),
}

ALSO_COUNTED: dict = {}

SMALL = {
    "resnet_d_digits": ResNetConfig(img_size=8, in_chans=1, num_classes=10, block="basic", layers=(1, 1), stem_width=16,
                                    channels=(16, 32), small_stem=True, avg_down=True),
}  # fmt: skip

MODEL = ResNet
