"""Names of ResNeSt in timm, where it is a ResNet of other blocks."""

from dataclasses import dataclass, field, replace

from references import resnet
from tinyvit.models.resnest import ResNeSt, ResNeStConfig


@dataclass(frozen=True)
class TimmConfig(resnet.TimmConfig, ResNeStConfig):
    """timm's arguments: the block's own come as ``block_args``; what is not given there is other than ours."""

    block_args: dict = field(default_factory=dict)
    radix: int = 1
    avd: bool = False

    def __post_init__(self):
        if unknown := self.block_args.keys() - {"radix", "avd", "avd_first"}:
            raise ValueError(f"block_args: {sorted(unknown)[0]}")
        for name, value in self.block_args.items():
            object.__setattr__(self, name, value)
        super().__post_init__()


RESNET = resnet.MODELS["timm", "ResNet"]
MODELS = {
    ("timm", "ResNet of ResNestBottleneck"): replace(
        RESNET,
        model=ResNeSt,
        config=TimmConfig,
        values={"block": lambda _: "bottleneck"},
        names={
            r"(layer\d+\.\d+)\.act1": r"\1.avd_first.input",
            r"(layer\d+\.\d+)\.(?:bn2|act2|drop_block)": r"\1.conv2",
        }
        | RESNET.names,
        fixed={name: value for name, value in RESNET.fixed.items() if name != "block_args"},
    ),
}
