"""Names of DeiT in timm."""

from dataclasses import replace

from references import vit
from tinyvit.models.deit import DeiT, DeiTConfig

MODELS = {
    ("timm", "VisionTransformerDistilled"): replace(
        vit.MODELS["timm", "VisionTransformer"],
        model=DeiT,
        config=DeiTConfig,
        outputs={"logits1": "head", "logits2": "head_dist"},
        fixed={"pos_embed": "learn"},  # timm makes a learned table whatever it is told
    ),
}
