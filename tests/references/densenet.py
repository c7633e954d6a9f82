"""Names of DenseNet in timm."""

from references.reference import Reference
from tinyvit.models.densenet import DenseNet, DenseNetConfig

MODELS = {
    ("timm", "DenseNet"): Reference(
        DenseNet,
        DenseNetConfig,
        fixed={"stem_type": "", "global_pool": "avg", "act_layer": "relu", "norm_layer": "batchnorm2d",
               "aa_layer": None, "aa_stem_only": True, "memory_efficient": False},
    ),
}  # fmt: skip
