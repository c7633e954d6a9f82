"""Deeper and deeper: ViT, DeepViT's re-attention, CaiT's LayerScale, and width as the other cure (Zhou et al. 2021)."""

from __future__ import annotations

from tinyvit import plots
from tinyvit.results.experiment import Experiment, Trial, of_length
from tinyvit.results.table import Difference, Table, appears

SIZES = {
    "fast": {"seeds": (0, 1), "updates": 40, "depths": (2, 4)},
    "usual": {"seeds": (0, 1, 2), "updates": 80, "depths": (4, 8, 16)},
    "full": {"seeds": (0, 1, 2, 3, 4), "updates": 1600, "depths": (4, 8, 16, 24, 32)},
}
VIT, DEEP, CAIT, WIDE = "ViT", "DeepViT", "CaiT", "ViT, twice as wide"
MODELS = {VIT: ("vit_digits", {}), DEEP: ("deepvit_digits", {"mlp_ratio": 2.0}), CAIT: ("cait_digits", {}),
          WIDE: ("vit_digits", {"embed_dim": 64})}  # fmt: skip
IMAGES = 1297


def trials(updates, depths):
    """Every model, at every depth, at half the usual rate, which deep ones need."""
    settings = of_length(updates, IMAGES, warmup=0.2) | {"rate": 1e-3}
    return {(name, depth): Trial(settings | {"model": model}, changes | {"depth": depth})
            for name, (model, changes) in MODELS.items() for depth in depths}  # fmt: skip


def verdict(table: Table) -> str:
    """A ViT stops gaining from depth; re-attention, LayerScale or width let it go on."""
    first, last = min(table.columns), max(table.columns)
    gain = {name: Difference(table, (name, last), (name, first)) for name in MODELS}
    stalls = not gain[VIT].clear
    cured = any(gain[name].clear and gain[name].mean > gain[VIT].mean for name in (DEEP, CAIT))
    said = ", ".join(f"{name} {points}" for name, points in gain.items())
    return (
        f"{appears(stalls)} that a ViT gains nothing from depth; {appears(cured).lower()} that DeepViT or CaiT goes on "
        f"gaining. From depth {first} to {last}: {said}. Width for a ViT of {last} blocks: "
        f"{Difference(table, (WIDE, last), (VIT, last))}."
    )


EXPERIMENT = Experiment(
    title="Depth",
    claim="A plain ViT stops gaining from depth; re-attention and LayerScale let it go on, and width helps too.",
    sizes=SIZES,
    trials=trials,
    verdict=verdict,
    figure=lambda table: plots.run_lines(table.curves(), x="depth (blocks)", y="test accuracy (%)", log="x"),
)
