"""What helps a ViT to converge: warm-up, weight decay, LayerScale (CaiT, Touvron et al. 2021); at two learning rates.

The networks are deeper than usual here, so that there is something to be helped, and the rates are four and twenty
times the usual one. γ = 1 scales nothing at first.
"""

from __future__ import annotations

import numpy as np

from tinyvit import plots
from tinyvit.results.experiment import Experiment, Trial, of_length
from tinyvit.results.table import Difference, Table, appears

SIZES = {
    "fast": {"seeds": (0, 1), "updates": 40, "depth": 4},
    "usual": {"seeds": (0, 1, 2), "updates": 240, "depth": 6},
    "full": {"seeds": (0, 1, 2, 3, 4), "updates": 1600, "depth": 12},
}
USUAL, COLD, LIGHT = "ViT", "ViT, no warm-up", "ViT, no weight decay"
SCALED, UNSCALED = "CaiT, γ from 0.1", "CaiT, γ from 1"
IMAGES, LOW, HIGH = 1297, 0.008, 0.04


def trials(updates, depth):
    """Every way, at either rate."""
    settings = of_length(updates, IMAGES, warmup=0.2)
    ways = {
        USUAL: ({"model": "vit_digits"}, {}),
        COLD: ({"model": "vit_digits", "warmup": 0.0}, {}),
        LIGHT: ({"model": "vit_digits", "weight_decay": 0.0}, {}),
        SCALED: ({"model": "cait_digits"}, {"init_values": 0.1}),
        UNSCALED: ({"model": "cait_digits"}, {"init_values": 1.0}),
    }
    return {(way, rate): Trial({**settings, **own, "rate": rate}, {"depth": depth, **model})
            for way, (own, model) in ways.items() for rate in (LOW, HIGH)}  # fmt: skip


def verdict(table: Table) -> str:
    """Warm-up, decay and LayerScale help, most so at a high rate."""
    pairs = {"Warm-up": (USUAL, COLD), "Weight decay": (USUAL, LIGHT), "LayerScale": (SCALED, UNSCALED)}
    said = []
    for name, (with_it, without) in pairs.items():
        low, high = (Difference(table, (with_it, rate), (without, rate)) for rate in (LOW, HIGH))
        said.append(f"{name}: {appears(low.clear or high.clear).lower()}: {low} at a rate of {LOW}, {high} at {HIGH}.")
    return " ".join(said)


def figure(table: Table):
    """Training losses at the lower rate, at which all but one learn, stretch by stretch."""
    curves = {way: np.transpose([numbers["curve"] for numbers in table.cells[way, LOW]]) for way in table.rows}
    return plots.run_lines({way: (100 * np.arange(1, len(y) + 1) / len(y), y) for way, y in curves.items()},
                           x=f"updates (% of the run), rate {LOW}", y="training loss (nats)")  # fmt: skip


EXPERIMENT = Experiment(
    title="Convergence: warm-up, weight decay, LayerScale",
    claim="Warm-up and LayerScale keep deep ViTs from failing at high rates; weight decay helps them generalise.",
    sizes=SIZES,
    trials=trials,
    verdict=verdict,
    figure=figure,
)
