"""Names of CaiT in timm."""

from references.reference import Reference
from tinyvit.models.cait import CaiT, CaiTConfig

MODELS = {
    ("timm", "Cait"): Reference(
        CaiT,
        CaiTConfig,
        names={
            r"(blocks\.\d+\.attn)\.attn_drop": r"\1.mixed",  # dropouts are off
            r"(blocks_token_only\.\d+\.attn)\.attn_drop": r"\1.weights",
            r"(blocks\w*\.\d+\.mlp)\.(?:act|norm)": r"\1.drop1",
            r"pos_drop": "blocks.0.input",
            r"head_drop": "head.input",
        },
        maps_last=r".*\.(proj_l|proj_w|attn_drop)",
    ),
}  # fmt: skip
