"""What SAM does to minima of ViT, ResNet, Mixer, over its radius ρ, at the same training loss (Chen et al. 2022).

Accuracies are another matter: see ``sharpness``.
"""

from __future__ import annotations

from tinyvit import plots
from tinyvit.analysis import m_sharpness
from tinyvit.results.around import (
    IMAGES,
    MATCHED,
    MODELS,
    RESIDUAL,
    SHARPNESS,
    larger,
    matched,
    settings,
    sharpness_of,
    times,
    unmatched,
)
from tinyvit.results.experiment import Experiment, Trial, started
from tinyvit.results.table import Reading, Table, appears
from tinyvit.runs.looking import OBJECTIVE, first

SIZES = {
    "fast": {"seeds": (0, 1), "updates": 120, "rhos": (0.0, 0.1)},
    "usual": {"seeds": (0, 1, 2), "updates": 600, "rhos": (0.0, 0.05, 0.1)},
    "full": {"seeds": (0, 1, 2, 3, 4), "updates": 1600, "rhos": (0.0, 0.02, 0.05, 0.1, 0.2, 0.4)},
}
RADIUS, PART = 0.05, 50  # SAM's sharpness is measured with the same radius everywhere, on parts as large as a batch
RISE = Reading("sam_sharpness", f"SAM's sharpness (ρ = {RADIUS:g}, m = {PART})", "nats", form=".3f")


def trials(updates, rhos):
    """Every model at every radius; 0 is without SAM."""
    return {(name, rho): Trial(settings(updates, model) | {"rho": rho})
            for name, model in MODELS.items() for rho in rhos}  # fmt: skip


def measure(trial: Trial, seed: int) -> dict[str, dict]:
    """λmax and SAM's own measure where the training loss first is 0.1."""
    model, task = started(trial, seed)
    at = matched(model, task, trial, seed)
    rise = m_sharpness(OBJECTIVE, at, first(task.splits.train, IMAGES), rho=RADIUS, m=PART)
    return {"": sharpness_of(at, task, seed) | {"sam_sharpness": rise}}


def verdict(table: Table) -> str:
    """SAM makes every model's minima flatter, and those of models without convolutions most."""
    largest = max(table.columns)
    flatter = all(larger(table, (name, 0.0), (name, largest)) for name in table.rows)
    told = ", ".join(f"{name} {times(table, (name, 0.0), (name, largest))}" for name in table.rows)
    gains = {name: table.mean(name, 0.0) / table.mean(name, largest) for name in table.rows}
    return (
        f"{appears(flatter)} that SAM's minima are flatter: λmax without it is, against ρ = {largest:g}: {told}. "
        f"{appears(min(gains['ViT'], gains['Mixer']) > gains['ResNet'])} that ViT and Mixer are flattened most."
        f"{unmatched(table)}"
    )


def figure(table: Table):
    """Both measures over ρ."""
    panels = {SHARPNESS.label: table.curves(), "SAM's sharpness (nats)": table.curves(RISE)}
    return plots.run_panels(panels, x="ρ (0: without SAM)", log="y")


EXPERIMENT = Experiment(
    title="What SAM does to the minima",
    claim="SAM flattens minima, ViT's and Mixer's by far more than ResNet's (λmax 738.8 to 20.9; 179.8 to 42.0).",
    sizes=SIZES,
    trials=trials,
    verdict=verdict,
    figure=figure,
    measure=measure,
    readings=(SHARPNESS, RISE, RESIDUAL, MATCHED),
)
