"""The paths that optimisers take, on the planes that they lie in best (Li et al. 2018, Sec. 7).

Only parameters move on a plane: a ResNet's running statistics stay those of the end, so that early on its path did not
meet the losses that are drawn there.
"""

from __future__ import annotations

import copy

import numpy as np

from tinyvit import plots
from tinyvit.analysis import landscape
from tinyvit.results.around import IMAGES, MODELS, OPTIMISERS, rounded, settings
from tinyvit.results.experiment import Experiment, Trial, scores, started
from tinyvit.results.table import Reading, Table, appears
from tinyvit.runs.looking import OBJECTIVE, first, path_slice
from tinyvit.runs.updates import updates

SIZES = {
    "fast": {"seeds": (0, 1), "updates": 60, "points": 5},
    "usual": {"seeds": (0, 1, 2), "updates": 400, "points": 15},
    "full": {"seeds": (0, 1, 2, 3, 4), "updates": 1600, "points": 31},
}
EVERY = 10  # updates from one state to the next
EXPLAINED = Reading("explained", "share of the path that lies in its plane", "%", 100, ".1f")


def trials(updates, points):
    """Both models, by either optimiser."""
    return {(name, by): Trial(settings(updates, MODELS[name], by), also={"points": points})
            for name in ("ViT", "ResNet") for by in OPTIMISERS}  # fmt: skip


def measure(trial: Trial, seed: int) -> dict[str, dict]:
    """Train, keeping every tenth state; the loss on the plane of their two main directions."""
    model, task = started(trial, seed)
    states = [copy.deepcopy(model.state_dict())]
    for step in updates(model, trial.config(seed), task):
        if (step.number + 1) % EVERY == 0:
            states.append(copy.deepcopy(model.state_dict()))
    where = path_slice(model, states, 2, trial.also["points"])
    losses = landscape(OBJECTIVE, model, first(task.splits.train, IMAGES), where.directions, where.axes)
    return {"": {"explained": float(where.explained.sum()), "first": float(where.explained[0]),
                 "axes": [rounded(axis) for axis in where.axes], "path": rounded(where.path),
                 "losses": rounded(losses)} | scores(model, task)}  # fmt: skip


def verdict(table: Table) -> str:
    """Paths lie in few dimensions."""
    least = min(table.cells, key=lambda cell: table.mean(*cell))
    flat = bool(np.all([table.values(*cell) > 0.4 for cell in table.cells]))
    return (
        f"{appears(flat)}: of all paths at least 40 % lies in two directions; the least on average, "
        f"{table.shown(*least).mean():.0f} %, is {least[0]}'s by {least[1]}."
    )


def figure(table: Table):
    """The paths of the first seed."""
    runs = {f"{name}, {by}": runs[0] for (name, by), runs in table.cells.items()}
    planes = {title: plots.Plane(run["losses"], run["axes"], run["path"]) for title, run in runs.items()}
    return plots.loss_planes(planes, labels=("main direction 1", "main direction 2"))


EXPERIMENT = Experiment(
    title="Paths of the optimisers",
    claim="An optimiser's path lies in a space of very few dimensions: two directions hold 40 to 90 % of it.",
    sizes=SIZES,
    trials=trials,
    verdict=verdict,
    figure=figure,
    measure=measure,
    readings=(EXPLAINED, Reading("first", "share along the first direction", "%", 100, ".1f")),
)
