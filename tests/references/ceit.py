"""Names of CeiT in the official code; only the stem's width and the norms' ε are called otherwise here."""

from references.reference import Reference
from tinyvit.models.ceit import CeiT, CeiTConfig

MODELS = {
    ("coeusguo/ceit", ""): Reference(
        CeiT,
        CeiTConfig,
        arguments={"stem": "stem_width", "ln_eps": "norm_eps"},
        defaults={"qkv_bias": lambda given: False, "patch_size": lambda given: 16},
    ),
}  # fmt: skip
