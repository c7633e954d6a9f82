"""Names of stand-alone attention in a transcription of its formula; there was no official code to take them from."""

from dataclasses import dataclass

from references.operators import first
from references.reference import Reference
from tinyvit.models.sasa import StandAloneAttention


@dataclass(frozen=True)
class LayerConfig:
    """The layer's arguments."""

    in_chans: int
    out_chans: int
    kernel_size: int
    num_heads: int
    mask_border: bool


MODELS = {
    ("own", ""): Reference(
        lambda config, rng: StandAloneAttention(**vars(config), rng=rng),
        LayerConfig,
        arguments={"in_ch": "in_chans", "out_ch": "out_chans", "k": "kernel_size", "heads": "num_heads"},
        names={r"k_\.weight": "k.weight"},
        gives=first,
    ),
}  # fmt: skip
