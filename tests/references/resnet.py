"""Names of ResNet, and of what became of it, in timm."""

from dataclasses import dataclass

from references.reference import Reference
from tinyvit.models.resnet import ResNet, ResNetConfig


@dataclass(frozen=True)
class TimmConfig(ResNetConfig):
    """timm's arguments: its plain stem is 64 wide whatever it is told; how a network starts is no matter here."""

    zero_init_last: bool = True

    def __post_init__(self):
        if not self.stem_type:
            object.__setattr__(self, "stem_width", 64)
        super().__post_init__()


MODELS = {
    ("timm", "ResNet"): Reference(
        ResNet,
        TimmConfig,
        values={"block": lambda name: name.removesuffix("Block").lower()},
        names={
            r"act1": "maxpool.input",
            r"(layer\d+\.\d+)\.(?:act1|drop_block|aa)": r"\1.conv2.input",
            r"(layer\d+\.\d+)\.act3": r"\1",
        },
        fixed={"global_pool": "avg", "replace_stem_pool": False, "down_kernel_size": 1, "act_layer": "relu",
               "norm_layer": "batchnorm2d", "aa_layer": None, "block_args": None, "drop_rate": 0.0,
               "drop_path_rate": 0.0, "drop_block_rate": 0.0},
    ),
}  # fmt: skip
