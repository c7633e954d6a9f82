"""Names of ConvNeXt in timm."""

from dataclasses import dataclass

from references.reference import Reference
from tinyvit.models.convnext import ConvNeXt, ConvNeXtConfig


@dataclass(frozen=True)
class TimmConfig(ConvNeXtConfig):
    """timm's arguments; how its head starts is no matter here."""

    head_init_scale: float = 1.0


MODELS = {
    ("timm", "ConvNeXt"): Reference(
        ConvNeXt,
        TimmConfig,
        names={
            r"norm_pre": "head.input",
            r"head\.global_pool": "head.norm.input",
            r"head\.(?:flatten|pre_logits|drop)": "head.fc.input",
            r"(.*\.blocks\.\d+)\.shortcut": r"\1.conv_dw.input",
            r"(.*\.mlp)\.(?:act|norm)": r"\1.drop1",
        },
        fixed={"global_pool": "avg", "output_stride": 32, "stem_type": "patch", "head_norm_first": False,
               "head_hidden_size": None, "conv_mlp": False, "conv_bias": True, "use_grn": False, "act_layer": "gelu",
               "norm_layer": None, "norm_eps": None},
        maps_last=r".*\.blocks\.\d+\.(?:norm|mlp(?:\..*)?)",
    ),
}  # fmt: skip
