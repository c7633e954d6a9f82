"""Names of RegNet in timm."""

from references.reference import Reference
from tinyvit.models.regnet import RegNet, RegNetConfig

MODELS = {
    ("timm", "SmallRegNet"): Reference(
        RegNet,
        RegNetConfig,
        names={
            r"(s\d+\.b\d+)\.act3": r"\1",
            r"head\.global_pool": "head.fc.input",
        },
    ),
}  # fmt: skip
