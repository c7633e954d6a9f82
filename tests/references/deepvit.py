"""Names of DeepViT in its official code."""

from references.reference import Reference
from tinyvit.models.deepvit import DeepViT, DeepViTConfig

MODELS = {
    ("zhoudaquan/dvit_repo", ""): Reference(
        DeepViT,
        DeepViTConfig,
        values={"depth": len},  # one flag per block, which says nothing
        defaults={"qkv_bias": lambda given: False},
        names={
            r"(blocks\.\d+\.attn)\.attn_drop": r"\1.weights",  # after its dropout, which is off
            r"(blocks\.\d+\.mlp)\.act": r"\1.drop1",
            r"(blocks\.\d+\.mlp)\.drop": r"\1.drop2",
        },
        fixed={"ln_eps": 1e-6, "re_atten": True, "cos_reg": False, "qk_scale": None, "hybrid_backbone": None},
    ),
}  # fmt: skip
