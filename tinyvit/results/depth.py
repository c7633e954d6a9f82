"""Deeper and deeper: ViT, DeepViT's re-attention, CaiT's LayerScale, and width as the other cure (Zhou et al. 2021).

The usual runs are short: what they show is how fast networks of some depth learn.
"""

from __future__ import annotations

from tinyvit import plots
from tinyvit.results.experiment import Experiment, Trial, of_length
from tinyvit.results.table import Difference, Table, appears

SIZES = {
    "fast": {"seeds": (0, 1), "updates": 40, "depths": (2, 4)},
    "usual": {"seeds": (0, 1, 2), "updates": 240, "depths": (4, 8, 16, 32)},
    "full": {"seeds": (0, 1, 2, 3, 4), "updates": 1600, "depths": (4, 8, 16, 24, 32)},
}
VIT, DEEP, CAIT, WIDE = "ViT", "DeepViT", "CaiT", "ViT, twice as wide"
MODELS = {VIT: ("vit_digits", {}), DEEP: ("deepvit_digits", {"mlp_ratio": 2.0}), CAIT: ("cait_digits", {}),
          WIDE: ("vit_digits", {"embed_dim": 64})}  # fmt: skip
IMAGES = 1297


def trials(updates, depths):
    """Every model, at every depth."""
    settings = of_length(updates, IMAGES, warmup=0.2)
    return {(name, depth): Trial(settings | {"model": model}, changes | {"depth": depth})
            for name, (model, changes) in MODELS.items() for depth in depths}  # fmt: skip


def verdict(table: Table) -> str:
    """A ViT stops gaining from depth; re-attention, LayerScale or width let it go on."""
    first, last = min(table.columns), max(table.columns)
    gain = {name: Difference(table, (name, last), (name, first)) for name in MODELS}
    over = {name: Difference(table, (name, last), (VIT, last)) for name in (DEEP, CAIT, WIDE)}
    cured = [name for name in (DEEP, CAIT) if gain[name].clear and gain[name].mean > gain[VIT].mean]
    by_depth, by_model = (", ".join(f"{name} {d}" for name, d in part.items()) for part in (gain, over))
    return (
        f"{appears(not gain[VIT].clear)} that a ViT gains nothing from depth; {appears(bool(cured)).lower()} that "
        f"DeepViT or CaiT goes on gaining. From depth {first} to {last}: {by_depth}. With {last} blocks, over a ViT as "
        f"deep: {by_model}."
    )


EXPERIMENT = Experiment(
    title="Depth",
    claim="A plain ViT stops gaining from depth; re-attention and LayerScale let it go on, and width helps too.",
    sizes=SIZES,
    trials=trials,
    verdict=verdict,
    figure=lambda table: plots.run_lines(table.curves(), x="depth (blocks)", y="test accuracy (%)", log="x"),
)
