"""The updates of a run, without its folder: for experiments, and to walk a finished run's path again."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from tinyvit.data.augment import Augmentation
from tinyvit.nn.module import Module
from tinyvit.runs.config import RunConfig
from tinyvit.runs.run import NOISE, Batches, random_at
from tinyvit.runs.tasks import Task
from tinyvit.runs.training import augmentation_for, average_of, gradient_for, optimizer_for, schedule_for
from tinyvit.train import Step, training
from tinyvit.train.gradient import Gradient
from tinyvit.train.parallel import Team


def updates(model: Module, config: RunConfig, task: Task, gradient: Gradient | None = None,
            augmentation: Augmentation | None = None) -> Iterator[Step]:  # fmt: skip
    """Train a model as `tinyvit train` does, update by update. When all are done it gets its averaged weights, if any.

    gradient, augmentation  others than the settings'
    """
    batches = Batches(task.splits.train, config, 0, augmentation or augmentation_for(config, task))
    schedule, optimizer = schedule_for(config, batches.per_epoch), optimizer_for(config, model)
    gradient, average = gradient or gradient_for(config, 1, Team()), average_of(config, model)
    for step in training(model, batches, gradient, optimizer, schedule, rng=partial(random_at, config, NOISE)):
        if average:
            average.update()
        yield step
    if average:
        model.load_state_dict(average.arrays)
