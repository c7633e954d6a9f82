"""BiT: "Big Transfer (BiT): General Visual Representation Learning" (Kolesnikov et al. 2020, arXiv 1912.11370).

A large pre-activation ResNet (``resnetv2``) that is trained on much, then fine-tuned. Its recipe for small batches on
many machines: group norm and standardised weights. "R101x3" has 101 layers of three times the width. What it was
published as, .npz files of its own names, loads. The authors' PyTorch code has ε 1e-10 in weight standardisation; timm,
which is followed here, has 1e-8.
"""

from __future__ import annotations

from tinyvit.models.config import Paper, Published
from tinyvit.models.resnetv2 import LAYERS, ResNetV2, ResNetV2Config

UNIT = "resnet/block{stage}/unit{unit:02d}"


def original_names(layers: tuple[int, ...]) -> dict:
    """What the authors' files call the parameters of so many blocks per stage (see nn/conversion.py)."""
    conv, vector = "h w i o -> o i h w", "C -> C"
    names = {
        "stem.conv.weight": (conv, "resnet/root_block/standardized_conv2d/kernel"),
        "norm.weight": (vector, "resnet/group_norm/gamma"),
        "norm.bias": (vector, "resnet/group_norm/beta"),
        "head.fc.weight": (conv, "resnet/head/conv2d/kernel"),
        "head.fc.bias": (vector, "resnet/head/conv2d/bias"),
    }
    for i, depth in enumerate(layers):
        for j in range(depth):
            ours, theirs = f"stages.{i}.blocks.{j}", UNIT.format(stage=i + 1, unit=j + 1)
            for k, letter in enumerate("abc", start=1):
                names[f"{ours}.norm{k}.weight"] = vector, f"{theirs}/{letter}/group_norm/gamma"
                names[f"{ours}.norm{k}.bias"] = vector, f"{theirs}/{letter}/group_norm/beta"
                names[f"{ours}.conv{k}.weight"] = conv, f"{theirs}/{letter}/standardized_conv2d/kernel"
        names[f"stages.{i}.blocks.0.downsample.conv.weight"] = (
            conv, f"{UNIT.format(stage=i + 1, unit=1)}/a/proj/standardized_conv2d/kernel")  # fmt: skip
    return names


class BiT(ResNetV2):
    """Big Transfer.   images (B, H, W, C) -> logits (B, num_classes)"""

    @property
    def original_names(self) -> dict:
        """How the authors' files name the parameters."""
        return original_names(self.config.layers)


# The paper's networks, at the sizes that they were fine-tuned and counted at. ------------------

PAPER = Paper("Big Transfer (BiT): General Visual Representation Learning", "Kolesnikov et al.", 2020, "1912.11370",
              family="bit")  # fmt: skip

IN21K = {"num_classes": 21843}


def _bit(depth: int, width: int, **changes) -> ResNetV2Config:
    return ResNetV2Config(layers=LAYERS[depth], width_factor=width, stem_type="fixed", ws_eps=1e-8, **changes)


PUBLISHED = {
    "resnetv2_50x1_bit":        Published(_bit(50, 1),                         "BiT-R50x1@224"),
    "resnetv2_50x3_bit":        Published(_bit(50, 3),                         "BiT-R50x3@224"),
    "resnetv2_101x1_bit":       Published(_bit(101, 1),                        "BiT-R101x1@224"),
    "resnetv2_101x3_bit":       Published(_bit(101, 3, img_size=384),          "BiT-R101x3@384"),
    "resnetv2_152x2_bit":       Published(_bit(152, 2),                        "BiT-R152x2@224"),
    "resnetv2_152x4_bit":       Published(_bit(152, 4, img_size=480),          "BiT-R152x4@480"),
    "resnetv2_101x3_bit_in21k": Published(_bit(101, 3, img_size=384, **IN21K), "BiT-R101x3-in21k@384"),
    "resnetv2_152x4_bit_in21k": Published(_bit(152, 4, img_size=480, **IN21K), "BiT-R152x4-in21k@480"),
}  # fmt: skip

ALSO_COUNTED: dict = {}

SMALL = {
    "bit_digits": ResNetV2Config(img_size=8, in_chans=1, num_classes=10, layers=(1, 1), channels=(64, 128), stem_chs=16,
                                 small_stem=True, num_groups=4, ws_eps=1e-8),
}  # fmt: skip

MODEL = BiT
