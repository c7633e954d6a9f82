"""An experiment: the runs of a table, what a run measures, and what the table says about a claim."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from tinyvit.data.augment import Augmentation
from tinyvit.nn.module import Module
from tinyvit.results.table import ACCURACY, Reading, Table
from tinyvit.runs.config import RunConfig, configured
from tinyvit.runs.tasks import Task
from tinyvit.runs.training import initial_model, task_for
from tinyvit.runs.updates import updates
from tinyvit.train import evaluate
from tinyvit.train.gradient import Gradient

SIZES = ("fast", "usual", "full")


@dataclass(frozen=True)
class Trial:
    """A run of an experiment, but for its seed.

    settings  of `tinyvit train` · model  of the model's config · also  what the experiment's own ``measure`` is told
    """

    settings: dict
    model: dict = field(default_factory=dict)
    also: dict = field(default_factory=dict)

    def config(self, seed: int) -> RunConfig:
        """The run's settings."""
        return configured(**self.settings, seed=seed)


def measured(trial: Trial, seed: int) -> dict[str, dict]:
    """Train as a trial says and score the result.   -> {reading: numbers}; an ordinary run has one reading, ``""``"""
    model, task, losses = fitted(trial, seed)
    return {"": scores(model, task) | {"curve": thinned(losses)}}


def fitted(trial: Trial, seed: int) -> tuple[Module, Task, list[float]]:
    """The model that a trial's run ends with, what it learned, and the loss of every update."""
    model, task = started(trial, seed)
    return model, task, trained(model, trial.config(seed), task)


def started(trial: Trial, seed: int) -> tuple[Module, Task]:
    """A trial's model before its first update, and what it is going to learn."""
    config = trial.config(seed)
    task = task_for(config)
    return initial_model(config, task, **trial.model), task


@dataclass(frozen=True)
class Experiment:
    """What is run, and what comes of it.

    title, claim  what it is about; what slides say
    sizes         "fast", "usual", "full" -> what ``trials`` is told, and "seeds"
    trials        -> {(row, column) of the table: Trial}
    verdict       table -> sentences: whether the claim appears
    figure        table -> the Figure of ``plots``
    measure       (trial, seed) -> {reading: numbers}; where a run has several readings, each is a row of its own
    readings      which of the numbers tables show; the first is the one that the verdict and the figure are about
    """

    title: str
    claim: str
    sizes: dict[str, dict]
    trials: Callable[..., dict[tuple, Trial]]
    verdict: Callable[[Table], str]
    figure: Callable[[Table], object]
    measure: Callable[[Trial, int], dict[str, dict]] = measured
    readings: tuple[Reading, ...] = (ACCURACY,)


# what measures are made of -----------------------------------------------------------------


def trained(model: Module, config: RunConfig, task: Task, gradient: Gradient | None = None,
            augmentation: Augmentation | None = None) -> list[float]:  # fmt: skip
    """Train a model as `tinyvit train` does, without a folder; the loss of every update."""
    return [step.loss for step in updates(model, config, task, gradient, augmentation)]


def scores(model: Module, task: Task) -> dict[str, float]:
    """Accuracy and loss on the images to choose by and on those to report on."""
    parts = {name: evaluate(model, getattr(task.splits, name)) for name in ("validation", "test")}
    return {f"{part}_{name}": value for part, score in parts.items() for name, value in score._asdict().items()}


def of_length(updates: int, images: int, *, batch: int = 32, warmup: float = 0.1) -> dict:
    """Settings for about so many updates, the first of them, a part ``warmup``, with a rising rate."""
    epochs = max(1, round(updates / (images // min(batch, images))))
    return {"epochs": epochs, "warmup": warmup * epochs, "batch_size": batch}


def thinned(losses: list[float], points: int = 25) -> list[float]:
    """The means of ``points`` stretches of equal length."""
    return [float(np.mean(part)) for part in np.array_split(losses, min(points, len(losses)))]
