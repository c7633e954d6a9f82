"""Names of NAT in its official code. Maps are channels-last there too, but for those of convolutions."""

from references.reference import Reference
from tinyvit.models.nat import NAT, NATConfig

MODELS = {
    ("SHI-Labs/Neighborhood-Attention-Transformer", ""): Reference(
        NAT,
        NATConfig,
        names={
            r"(.*\.attn)\.attn_drop": r"\1.weights",  # after its dropout, which is off
            r"(.*\.mlp)\.act": r"\1.drop1",
            r"(.*\.mlp)\.drop": r"\1.drop2",  # one module there, which runs twice
            r"(.*)\.drop_path": r"\1.drop_path2",  # as is this one
            r"pos_drop": "patch_embed",
            r"avgpool": "head.input",
        },
        fixed={"ln_eps": 1e-5, "dilations": None, "qk_scale": None, "drop_rate": 0.0, "attn_drop_rate": 0.0},
        maps_last=r"(?!patch_embed\.proj|.*\.reduction).*",
        layouts={"avgpool": lambda pooled: pooled[..., None]},
    ),
}
