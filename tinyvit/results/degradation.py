"""Degradation: deeper plain networks are harder to train, residual ones are not (He et al. 2016, Figs. 1, 4 and 6).

The paper's networks for small images (Sec. 4.2): 6n + 2 layers, three stages of n basic blocks, here half as wide;
"plain" is the same without shortcuts. What tells is the *training* error: a network that only overfitted would have
little of it. Digits are few and easy: in three times the updates, 32 plain layers fit them too (0.3 % in one run). So
what is shown here is how slowly they learn, which is what the paper suspects behind its own finding (Sec. 4.1).
"""

from __future__ import annotations

from tinyvit import plots
from tinyvit.results.experiment import Experiment, Trial, fitted, of_length, scores, thinned
from tinyvit.results.table import ACCURACY, Difference, Reading, Table, appears
from tinyvit.train import evaluate

SIZES = {
    "fast": {"seeds": (0, 1), "updates": 20, "depths": (8, 20)},
    "usual": {"seeds": (0, 1, 2), "updates": 200, "depths": (8, 20, 32)},
    "full": {"seeds": (0, 1, 2, 3, 4), "updates": 600, "depths": (8, 20, 32, 44, 56)},
}
PLAIN, RESIDUAL = "plain", "residual"
ERROR = Reading("train_error", "training error", "%", 100, ".1f")
IMAGES = 1297


def trials(updates, depths):
    """Both kinds, at every depth."""
    settings = {"model": "resnet_digits", "rate": 4e-3} | of_length(updates, IMAGES, batch=64)
    return {(kind, depth): Trial(settings, {"layers": ((depth - 2) // 6,) * 3, "channels": (8, 16, 32), "stem_width": 8,
                                            "residual": kind == RESIDUAL})
            for kind in (PLAIN, RESIDUAL) for depth in depths}  # fmt: skip


def measure(trial: Trial, seed: int) -> dict[str, dict]:
    """Train, and score the training images too: in evaluation, by the norms' running statistics."""
    model, task, losses = fitted(trial, seed)
    error = {"train_error": 1 - evaluate(model, task.splits.train).accuracy}
    return {"": scores(model, task) | error | {"curve": thinned(losses)}}


def verdict(table: Table) -> str:
    """Training error grows with depth in plain networks, and in residual ones does not."""
    shallow, deep = min(table.columns), max(table.columns)
    more = {kind: Difference(table, (kind, deep), (kind, shallow)) for kind in (PLAIN, RESIDUAL)}
    plain, residual = (table.shown(kind, deep).mean() for kind in (PLAIN, RESIDUAL))
    return (
        f"{appears(more[PLAIN].clear and not more[RESIDUAL].clear)}: from {shallow} layers to {deep}, the training "
        f"error of plain networks changes by {more[PLAIN]}, of residual ones by {more[RESIDUAL]}; with {deep} layers "
        f"it is {plain:.1f} % and {residual:.1f} %."
    )


EXPERIMENT = Experiment(
    title="Degradation: plain and residual networks by depth",
    claim="Deeper plain networks have a higher training error than shallow ones; with shortcuts, depth does no harm.",
    sizes=SIZES,
    trials=trials,
    verdict=verdict,
    figure=lambda table: plots.run_lines(table.curves(), x="layers", y=ERROR.label),
    measure=measure,
    readings=(ERROR, ACCURACY),
)
