"""Names of ResNet in timm."""

from references.reference import Reference
from tinyvit.models.resnet import ResNet, ResNetConfig

MODELS = {
    ("timm", "ResNet"): Reference(
        ResNet, ResNetConfig, values={"block": lambda name: name.removesuffix("Block").lower()}
    ),
}  # fmt: skip
