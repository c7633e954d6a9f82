"""What experiments about a loss around trained weights are made of: one protocol for all of them.

Curvature is measured on the first 200 of 500 training images, in evaluation mode and float64; the training loss that is
spoken of, and matched, is the loss on them.
"""

from __future__ import annotations

import numpy as np

from tinyvit.analysis import Crossing, curvature, leading
from tinyvit.nn.module import Module
from tinyvit.results.experiment import Trial, of_length
from tinyvit.results.table import Reading, Table
from tinyvit.runs.looking import OBJECTIVE, first
from tinyvit.runs.tasks import Task
from tinyvit.runs.updates import updates

TRAINED_ON, IMAGES, LEVEL = 500, 200, 0.1  # images learned, images measured; nats that models are compared at
MODELS = {"ViT": "vit_digits", "ResNet": "resnet_digits", "Mixer": "mixer_digits"}
OPTIMISERS = {
    "AdamW": {"optimizer": "adamw", "rate": 2e-3, "clip": 0.0, "weight_decay": 1e-4},
    "SGD": {"optimizer": "sgd", "rate": 0.1, "clip": 5.0, "weight_decay": 1e-4},
}
SHARPNESS = Reading("lambda_max", f"λmax at a training loss of {LEVEL:g}", form=".1f")
MATCHED = Reading("loss", "training loss it was measured at", "nats", form=".4f")
RESIDUAL = Reading("residual", "residual of λmax", form=".1g")


def settings(updates: int, model: str, optimizer: str = "AdamW") -> dict:
    """Of a run of so many updates."""
    return of_length(updates, TRAINED_ON, batch=50) | OPTIMISERS[optimizer] | {"model": model, "train_size": TRAINED_ON}


def watched(model: Module, task: Task, trial: Trial, seed: int, levels=(LEVEL,), *, on=True) -> dict[float, Module]:
    """Train a model, to its end or until it was at all levels; copies from where its training loss first was each."""
    crossing = Crossing(OBJECTIVE, model, first(task.splits.train, IMAGES), levels)
    for step in updates(model, trial.config(seed), task):
        crossing.look(step.number)
        if not (on or crossing.missing):
            break
    return crossing.at


def matched(model: Module, task: Task, trial: Trial, seed: int) -> Module:
    """A model trained until its training loss is the level; one that never comes there, to its end."""
    return watched(model, task, trial, seed, on=False).get(LEVEL, model)


def sharpness_of(model: Module, task: Task, seed: int, suffix: str = "", **options) -> dict[str, float]:
    """λmax, its residual, and the loss it was measured at."""
    hessian = curvature(OBJECTIVE, model, first(task.splits.train, IMAGES), **options)
    top = leading(hessian, rng=np.random.default_rng(seed))
    found = {"lambda_max": top.value, "residual": top.residual, "loss": top.protocol.loss}
    return {name + suffix: value for name, value in found.items()}


def times(table: Table, one: tuple, other: tuple, name: str = "") -> str:
    """How many times as large one cell is as another: the geometric mean over the seeds, and the extremes."""
    ratios = table.values(*one, name) / table.values(*other, name)
    if np.any(ratios <= 0):
        return "of another sign"
    mean, least, most = (f"{ratio:.{0 if ratio >= 100 else 2}{'f' if ratio >= 100 else 'g'}}"
                         for ratio in (np.exp(np.log(ratios).mean()), ratios.min(), ratios.max()))  # fmt: skip
    return f"{mean} times ({least} to {most})"


def larger(table: Table, one: tuple, other: tuple, name: str = "") -> bool:
    """Whether one cell is larger than another with every seed."""
    return bool(np.all(table.values(*one, name) > table.values(*other, name)))


def unmatched(table: Table, level: float = LEVEL, within: float = 0.1) -> str:
    """A warning that names the cells whose loss is not the level: runs that never came to it. "" where all are."""
    odd = [f"{row}, {column}: {table.mean(row, column, 'loss'):.3f}" for row, column in table.cells
           if np.any(abs(table.values(row, column, "loss") / level - 1) > within)]  # fmt: skip
    return f" NOT at the same training loss: {'; '.join(odd)}." if odd else ""


def rounded(numbers, digits: int = 4) -> list:
    """An array as lists of numbers of so many digits: what a figure needs, and no more."""
    if np.ndim(numbers):
        return [rounded(part, digits) for part in numbers]
    return float(f"{numbers:.{digits}g}")
