"""Spectra of the loss's Hessian: ViT, ResNet, Mixer, before the first update and where the training loss first is 0.1.

By stochastic Lanczos quadrature (Ghorbani et al. 2019). ViT and Mixer start with a head of zeros, so that at first only
products of head and body bend the loss: as much up as down.
"""

from __future__ import annotations

import numpy as np

from tinyvit import plots
from tinyvit.analysis import curvature, leading, smoothed, spectral_density, trace
from tinyvit.analysis.spectrum import Density
from tinyvit.results.around import IMAGES, MODELS, larger, matched, rounded, settings
from tinyvit.results.experiment import Experiment, Trial, started
from tinyvit.results.table import Reading, Table, appears
from tinyvit.runs.looking import OBJECTIVE, first

SIZES = {
    "fast": {"seeds": (0, 1), "updates": 120, "steps": 8},
    "usual": {"seeds": (0, 1, 2), "updates": 600, "steps": 20},
    "full": {"seeds": (0, 1, 2, 3, 4), "updates": 1600, "steps": 60},
}
BEFORE, AFTER = "at initialisation", "at a training loss of 0.1"
STARTS = 2  # of Lanczos, for every run
LARGEST = Reading("lambda_max", "λmax", form=".3g")
NEGATIVE = Reading("negative", "negative share of the spectrum's mass", "%", 100, ".1f")


def trials(updates, steps):
    """Every model, before and after."""
    return {(name, when): Trial(settings(updates, model), also={"steps": steps, "trained": when == AFTER})
            for name, model in MODELS.items() for when in (BEFORE, AFTER)}  # fmt: skip


def measure(trial: Trial, seed: int) -> dict[str, dict]:
    """Both ends, the trace, the density, and the share of Σ|λ| that is negative."""
    model, task = started(trial, seed)
    if trial.also["trained"]:
        model = matched(model, task, trial, seed)
    rng = np.random.default_rng(seed)
    hessian = curvature(OBJECTIVE, model, first(task.splits.train, IMAGES))
    ends = {name: leading(hessian, which=which, rng=rng) for name, which in (("max", "LA"), ("min", "SA"))}
    nodes, weights = spectral_density(hessian, steps=trial.also["steps"], starts=STARTS, rng=rng)
    mass = weights * np.abs(nodes)
    return {"": {
        "lambda_max": ends["max"].value, "residual": ends["max"].residual,
        "lambda_min": ends["min"].value, "residual_min": ends["min"].residual,
        "trace": trace(hessian, samples=10, rng=rng).value, "negative": float(mass[nodes < 0].sum() / mass.sum()),
        "loss": ends["max"].protocol.loss,
        "nodes": rounded(nodes, 6), "weights": rounded(weights, 6),
    }}  # fmt: skip


def verdict(table: Table) -> str:
    """Training leaves a few large eigenvalues and little negative curvature, most of it in a ViT."""
    convex = all(larger(table, (name, BEFORE), (name, AFTER), "negative") for name in table.rows)
    least = larger(table, ("ViT", AFTER), ("ResNet", AFTER), "negative")
    told = ", ".join(f"{name} {table.shown(name, BEFORE, NEGATIVE).mean():.0f} % and "
                     f"{table.shown(name, AFTER, NEGATIVE).mean():.1f} %" for name in table.rows)  # fmt: skip
    return (
        f"{appears(convex)} that training leaves less negative curvature than it found, as a share of Σ|λ|: {told}. "
        f"{appears(least)} that a ViT's loss is less convex than a ResNet's."
    )


def figure(table: Table):
    """The densities, seeds together, before and after."""
    return plots.hessian_spectra(
        {when: {name: density(table, name, when) for name in table.rows} for when in table.columns}
    )


def density(table: Table, name: str, when: str) -> tuple:
    """The smoothed density of all seeds together, and the mean λmax."""
    runs = table.cells[name, when]
    nodes, weights = (np.concatenate([run[key] for run in runs]) for key in ("nodes", "weights"))
    return smoothed(Density(nodes, weights / len(runs)), linear=0.1), table.mean(name, when, "lambda_max")


EXPERIMENT = Experiment(
    title="Spectra of the Hessian",
    claim="ViTs have more negative eigenvalues than convolutional networks: their losses are less convex.",
    sizes=SIZES,
    trials=trials,
    verdict=verdict,
    figure=figure,
    measure=measure,
    readings=(
        LARGEST,
        Reading("lambda_min", "λmin", form=".3g"),
        Reading("trace", "trace", form=".0f"),
        NEGATIVE,
        Reading("loss", "training loss", "nats", form=".3f"),
    ),
)
