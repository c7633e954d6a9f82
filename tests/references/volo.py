"""Names of VOLO, and of its outlook attention alone, in timm."""

from dataclasses import dataclass

from references.reference import Reference
from tinyvit.models.volo import VOLO, OutlookAttention, VOLOConfig


@dataclass(frozen=True)
class OutlookConfig:
    """The arguments of timm's OutlookAttention."""

    dim: int
    num_heads: int
    kernel_size: int = 3
    padding: int = 1
    stride: int = 1
    qkv_bias: bool = False
    attn_drop: float = 0.0
    proj_drop: float = 0.0


MODELS = {
    ("timm", "VOLO"): Reference(
        VOLO,
        VOLOConfig,
        names={
            r"(.*\.attn)\.attn_drop": r"\1.weights",  # after its dropout, which is off
            r"(.*\.mlp)\.(?:act|norm)": r"\1.drop1",
        },
        maps_last=r"pos_drop|network\.\d+(?:\.\d+.*)?",  # behind the stem
    ),
    ("timm", "OutlookAttention"): Reference(
        lambda config, rng: OutlookAttention(**vars(config), rng=rng),
        OutlookConfig,
        names={"attn_drop": "weights"},
        takes=lambda x: x,
        maps_last=".*",
    ),
}
