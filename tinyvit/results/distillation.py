"""DeiT's distillation table in small (Touvron et al. 2021, Tables 2 and 3): which loss, which teacher, which token.

Teachers learn from the same few images as their students. All images are cropped, changed and mixed, as in the paper:
of images as they are a teacher knows every label by heart, and could say nothing new.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from functools import cache

import numpy as np

from tinyvit import plots
from tinyvit.autodiff.tensor import raw
from tinyvit.autodiff.watch import no_grad
from tinyvit.nn.capture import capture
from tinyvit.nn.module import Module
from tinyvit.results.experiment import Experiment, Trial, fitted, of_length, scores, started, trained
from tinyvit.results.table import Difference, Table, appears
from tinyvit.runs.tasks import Task
from tinyvit.train import clipped, distilled_from, gradient_of

SIZES = {
    "fast": {"seeds": (0, 1), "updates": 20, "images": 300},
    "usual": {"seeds": (0, 1, 2, 3, 4), "updates": 800, "images": 300},
    "full": {"seeds": (0, 1, 2, 3, 4), "updates": 2400, "images": 300},
}
CNN, VIT = "CNN teacher", "ViT teacher"
TEACHERS = {CNN: ({"model": "resnet_digits"}, {}), VIT: ({"model": "vit_digits"}, {"embed_dim": 64})}
ITSELF, NONE, SOFT, HARD = "the teacher itself", "no distillation", "soft", "hard"
CLASS, DIST, BOTH = "hard, token: class", "hard, token: distill", "hard, token: both"


def trials(updates, images):
    """The teachers, a student without one, and with each: soft or hard labels, with a token or without."""
    same = of_length(updates, images) | {"train_size": images, "augment": True}
    teachers = {name: Trial(same | settings, model) for name, (settings, model) in TEACHERS.items()}
    planned = {(ITSELF, name): trial for name, trial in teachers.items()}
    planned[NONE, "no teacher"] = Trial(same | {"model": "vit_digits"})
    for name, trial in teachers.items():
        told = {"teacher": asdict(trial)}
        planned[SOFT, name] = Trial(same | {"model": "vit_digits", "temperature": 3.0, "lam": 0.1}, also=told)
        planned[HARD, name] = Trial(same | {"model": "vit_digits"}, also=told)
        planned["hard, token", name] = Trial(same | {"model": "deit_digits"}, also=told)
    return planned


def measure(trial: Trial, seed: int) -> dict[str, dict]:
    """Train a teacher, if one is asked for, then the student; with a token it is read in three ways."""
    config, gradient = trial.config(seed), None
    model, task = started(trial, seed)
    if trial.also:
        teacher = taught(json.dumps(trial.also["teacher"]), seed)
        objective = distilled_from(teacher, tau=config.temperature or None, lam=config.lam)
        gradient = clipped(gradient_of(objective), norm=config.clip)
    trained(model, config, task, gradient)
    return readings(model, task) if hasattr(model, "head_dist") else {"": scores(model, task)}


@cache
def taught(told: str, seed: int) -> Module:
    """The teacher that a trial, as JSON, describes."""
    return fitted(Trial(**json.loads(told)), seed)[0]


def readings(model: Module, task: Task) -> dict[str, dict]:
    """The accuracy by the class token's logits, by the distillation token's, and by their sum."""
    found: dict[str, dict] = {CLASS: {}, DIST: {}, BOTH: {}}
    for part in ("validation", "test"):
        images, labels = getattr(task.splits, part)
        with no_grad(), capture(model, "head", "head_dist") as seen:
            model(images)
        first, second = (raw(seen[name]) for name in ("head", "head_dist"))
        for name, logits in {CLASS: first, DIST: second, BOTH: first + second}.items():
            found[name][f"{part}_accuracy"] = float(np.mean(logits.argmax(-1) == labels))
    return found


def verdict(table: Table) -> str:
    """Hard over soft; the token's two heads over either; a CNN is the better teacher."""
    plain = Difference(table, (HARD, CNN), (NONE, "no teacher"))
    hard = Difference(table, (HARD, CNN), (SOFT, CNN))
    both = Difference(table, (BOTH, CNN), (HARD, CNN))
    teacher = Difference(table, (BOTH, CNN), (BOTH, VIT))
    return (
        f"Distillation (hard, by a CNN) over none: {appears(plain.clear).lower()}: {plain}. "
        f"Hard over soft: {appears(hard.clear).lower()}: {hard}. "
        f"Token and both heads over hard without it: {appears(both.clear).lower()}: {both}. "
        f"A CNN as the better teacher: {appears(teacher.clear).lower()}: {teacher}."
    )


EXPERIMENT = Experiment(
    title="Distillation",
    claim="Hard labels of a teacher beat soft ones, a token of its own helps, and a CNN teaches better than a ViT.",
    sizes=SIZES,
    trials=trials,
    verdict=verdict,
    figure=lambda table: plots.run_dots(table.dots(), x="test accuracy (%)"),
    measure=measure,
)
