"""Self-training with noise (Noisy Student, Xie et al. 2020): a student learns from labels and its teacher's guesses.

Few digits have labels, the rest only images. The networks are small ResNets, which learn fast. The noise is that of
the input, crops and the digits' RandAugment; the paper has dropout and stochastic depth too. A teacher guesses without
noise. Guesses are soft.
"""

from __future__ import annotations

import numpy as np

from tinyvit import plots
from tinyvit.autodiff.tensor import raw
from tinyvit.data import Dataset
from tinyvit.data.augment import DIGITS, chained, rand_augment, random_crop
from tinyvit.equations.activation import softmax
from tinyvit.results.experiment import Experiment, Trial, of_length, scores, trained
from tinyvit.results.table import Difference, Table, appears
from tinyvit.runs.tasks import Task, find_task
from tinyvit.runs.training import initial_model
from tinyvit.train import predict

SIZES = {
    "fast": {"seeds": (0, 1), "updates": 40, "labels": 100},
    "usual": {"seeds": (0, 1, 2), "updates": 600, "labels": 100},
    "full": {"seeds": (0, 1, 2, 3, 4), "updates": 2400, "labels": 100},
}
READINGS = ("teacher", "student", "the student's student")
CALM, NOISY, ALL = "without noise", "with noise", "all labels"
IMAGES = 1297


def trials(updates, labels):
    """Teacher and students with noise and without, and what all labels would give."""
    planned = {}
    for name in (CALM, NOISY):
        same = {"noisy": name == NOISY, "updates": updates}
        few, many = same | {"labels": labels, "students": 2}, same | {"labels": IMAGES, "students": 0}
        planned[READINGS[0], name] = Trial({"model": "resnet_digits"}, also=few)
        planned[ALL, name] = Trial({"model": "resnet_digits"}, also=many)
    return planned


def measure(trial: Trial, seed: int) -> dict[str, dict]:
    """Train a teacher on what has labels, then students on everything, each taught by the one before."""
    labels, students = trial.also["labels"], trial.also["students"]
    task = find_task("digits", seed=seed)
    images, truth = task.splits.train.images, np.eye(task.classes, dtype=np.float32)[task.splits.train.labels]
    model = learned(trial, seed, task, Dataset(images[:labels], truth[:labels]))
    found = {READINGS[0] if students else "": scores(model, task)}
    for student in range(students):
        guesses = raw(softmax(predict(model, images[labels:])))
        model = learned(
            trial, seed + 100 * (student + 1), task, Dataset(images, np.concatenate([truth[:labels], guesses]))
        )
        found[READINGS[student + 1]] = scores(model, task)
    return found


def learned(trial: Trial, seed: int, task: Task, known: Dataset):
    """A new model, trained on images and distributions over classes."""
    settings = trial.settings | of_length(trial.also["updates"], len(known.labels))
    config = Trial(settings).config(seed)
    model = initial_model(config, task, **trial.model)
    noise = chained(random_crop(1), rand_augment(DIGITS, fill=0.0)) if trial.also["noisy"] else None
    part = Task(task.splits._replace(train=known), task.classes)
    trained(model, config, part, augmentation=noise)
    return model


def verdict(table: Table) -> str:
    """Students with noise outdo their teachers; without, they only repeat them."""
    noisy, calm = (Difference(table, (READINGS[1], name), (READINGS[0], name)) for name in (NOISY, CALM))
    again = Difference(table, (READINGS[2], NOISY), (READINGS[1], NOISY))
    return (
        f"{appears(noisy.clear and noisy.mean > calm.mean)} that noise makes a student better than its teacher: "
        f"{noisy} with noise, {calm} without. A second round: {again}."
    )


EXPERIMENT = Experiment(
    title="Self-training with noise",
    claim="A student with noise outdoes the teacher whose guesses it learns from; without noise it gains little.",
    sizes=SIZES,
    trials=trials,
    verdict=verdict,
    figure=lambda table: plots.run_dots(table.dots(), x="test accuracy (%)"),
    measure=measure,
)
