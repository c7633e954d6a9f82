"""Names of ViT in timm."""

from references.reference import Reference
from tinyvit.models.vit import ViT, ViTConfig

MODELS = {
    ("timm", "VisionTransformer"): Reference(
        ViT,
        ViTConfig,
        values={"pos_embed": lambda kind: {"": "none"}.get(kind, kind)},
        defaults={"fc_norm": lambda given: given.get("global_pool", "token") == "avg"},
        names={
            r"(blocks\.\d+\.attn)\.attn_drop": r"\1.weights",  # after its dropout, which is off
            r"(blocks\.\d+\.mlp)\.(?:act|norm)": r"\1.drop1",
            r"(blocks\.\d+)\.ls1": r"\1.attn",
            r"(blocks\.\d+)\.ls2": r"\1.mlp",
            r"patch_drop|norm_pre": "pos_drop",
            r"head_drop": "fc_norm",
        },
    ),
}  # fmt: skip
