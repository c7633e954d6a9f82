"""From settings to the parts of a training run: model, optimiser, schedule, gradient."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from tinyvit.data import augment
from tinyvit.data.augment import Augmentation
from tinyvit.nn.module import Module, StateError
from tinyvit.nn.weights import classes_of, load_weights
from tinyvit.runs.config import RunConfig, configured
from tinyvit.runs.tasks import Task, find_task, model_for
from tinyvit.train import (
    SGD,
    Adam,
    AdamW,
    Average,
    RMSprop,
    adaptive_sharpness_aware,
    classification,
    clipped,
    distilled_from,
    gradient_of,
    layer_decay,
    sharpness_aware,
    threaded,
    warmup_cosine,
    weights_decay,
)
from tinyvit.train.optimizer import Optimizer
from tinyvit.train.parallel import Team

OPTIMISERS = {"adamw": AdamW, "adam": Adam, "sgd": lambda model, **rest: SGD(model, momentum=0.9, **rest),
              "rmsprop": RMSprop}  # fmt: skip


def initial_model(config: RunConfig, task: Task, **changes) -> Module:
    """The model before the first step; ``changes`` are of its config."""
    if config.drop_path:
        changes["drop_path_rate"] = config.drop_path
    model = model_for(config.model, task, rng=np.random.default_rng(config.seed), **changes)
    model.astype(np.dtype(config.dtype))
    if config.weights:
        _started_from(model, config, task)
    return model.eval()


def optimizer_for(config: RunConfig, model: Module) -> Optimizer:
    """The optimiser, with customary groups."""
    groups = weights_decay if config.layer_decay == 1 else layer_decay(model, config.layer_decay)
    return OPTIMISERS[config.optimizer](model, weight_decay=config.weight_decay, groups=groups)


def schedule_for(config: RunConfig, per_epoch: int):
    """A warm-up and half a cosine, by the step."""
    return warmup_cosine(config.rate, warmup=config.warmup * per_epoch, total=config.epochs * per_epoch,
                         floor=config.floor)  # fmt: skip


def augmentation_for(config: RunConfig, task: Task) -> Augmentation | None:
    """What happens to a batch before the model sees it."""
    if not config.augment:
        return None
    size = task.splits.train.images.shape[1]
    return augment.deit_digits(task.classes) if size <= 8 else augment.deit(size, task.classes)


def average_of(config: RunConfig, model: Module) -> Average | None:
    """The running average of the weights, if there is to be one."""
    return Average(model, config.average) if config.average else None


def gradient_for(config: RunConfig, threads: int | None, team: Team):
    """Objective, threads, processes, sharpness, clipping: from the inside out."""
    objective = classification(smoothing=config.smoothing)
    if config.teacher:
        teacher = model_of_run(config.teacher).astype(np.dtype(config.dtype))
        objective = distilled_from(teacher, tau=config.temperature or None, lam=config.lam)
    gradient = team.reduced(threaded(gradient_of(objective), workers=threads))
    if config.rho:
        aware = adaptive_sharpness_aware if config.adaptive else sharpness_aware
        gradient = aware(gradient, rho=config.rho)
    return clipped(gradient, norm=config.clip) if config.clip else gradient


def config_of_run(folder) -> RunConfig:
    """The settings of a finished run. Raises ValueError where there is none."""
    folder = Path(folder)
    if not (folder / "config.toml").is_file() or not (folder / "model.safetensors").is_file():
        raise ValueError(f"{folder}: no finished run of `tinyvit train`")
    return configured(file=folder / "config.toml")


def task_for(config: RunConfig) -> Task:
    """What a run of these settings learns."""
    return find_task(config.data, seed=config.seed, size=config.img_size, train_size=config.train_size)


def existing(source) -> Path:
    """The path of a run's folder or a weight file. Raises ValueError where nothing is."""
    if not Path(source).exists():
        raise ValueError(
            f"{source}: there is no such run folder or weight file; `tinyvit train --out {source}` makes a run"
        )
    return Path(source)


def model_of_run(folder) -> Module:
    """The model that a finished run has trained, in evaluation mode. Raises ValueError where there is none."""
    return _model_and_own_task(folder)[0]


def _model_and_own_task(folder) -> tuple[Module, Task]:
    """A finished run's model, and the data that it has learned."""
    config = config_of_run(folder)
    task = find_task(config.data, seed=config.seed, size=config.img_size)
    return load_weights(model_for(config.model, task, rng=None), Path(folder) / "model.safetensors").eval(), task


def model_and_task(source, *, data: str | None = None, name: str | None = None, seed: int = 0) -> tuple[Module, Task]:
    """A trained model, in evaluation mode, and the data to ask it about.

    source  a run folder, with the run's own data unless others are named; or a weight file, of the model ``name``, with
            digits unless others are named
    """
    if existing(source).is_dir():
        model, own = _model_and_own_task(source)
        config = config_of_run(source)
        return model, find_task(data, seed=config.seed, size=config.img_size) if data else own
    if name is None:
        raise ValueError(f"model: {source} is a file; which model is it of? `tinyvit weights inspect` tells")
    task = find_task(data or "digits", seed=seed)
    return load_weights(model_for(name, task, rng=None), source).eval(), task


def _started_from(model: Module, config: RunConfig, task: Task) -> None:
    """Load a file. Where it was made for other classes, the classifier stays as it was made."""
    positions = config.positions or None
    try:
        load_weights(model, config.weights, positions=positions)
    except StateError as error:
        classes = classes_of(model, error)
        if classes is None:
            raise
        source = model_for(config.model, task, rng=None, num_classes=classes)
        there = load_weights(source, config.weights, positions=positions).state_dict()
        fits = {name: array for name, array in there.items() if array.shape == model.state_dict()[name].shape}
        model.load_state_dict(fits, strict=False)
