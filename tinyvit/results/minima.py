"""Minima of ViT, ResNet and Mixer, by optimiser: how sharp, at the same training loss (Chen et al. 2022, Table 1).

The paper trains ResNets with SGD and the others with AdamW, and compares at the end, where losses differ. Beside the
usual ViT stands one whose class token does not start at zero (see ``class_token``).
"""

from __future__ import annotations

import numpy as np

from tinyvit import plots
from tinyvit.nn.module import Module
from tinyvit.results.around import (
    LEVEL,
    MATCHED,
    MODELS,
    OPTIMISERS,
    RESIDUAL,
    SHARPNESS,
    larger,
    settings,
    sharpness_of,
    times,
    unmatched,
    watched,
)
from tinyvit.results.experiment import Experiment, Trial, scores, started
from tinyvit.results.table import Reading, Table, appears

SIZES = {
    "fast": {"seeds": (0, 1), "updates": 120},
    "usual": {"seeds": (0, 1, 2, 3, 4), "updates": 600},
    "full": {"seeds": (0, 1, 2, 3, 4), "updates": 1600},
}
VIT, LONG, RESNET, MIXER = "ViT", "ViT, class token from N(0, 1)", "ResNet", "Mixer"
EARLY = 0.3  # nats, another level: whether what is found hangs on the one


def trials(updates):
    """Every model with either optimiser."""
    planned = {(name, by): Trial(settings(updates, model, by)) for name, model in MODELS.items() for by in OPTIMISERS}
    longer = {(LONG, by): Trial(settings(updates, MODELS[VIT], by), also={"token": 1.0}) for by in OPTIMISERS}
    return planned | longer


def redrawn(model: Module, stds: dict[str, float | None], seed: int) -> Module:
    """A ViT whose class token and positions start from N(0, std²), where a std is told."""
    for i, (told, name) in enumerate({"token": "cls_token", "positions": "pos_embed"}.items()):
        if stds.get(told) is not None:
            start = getattr(model, name)
            drawn = np.random.default_rng([seed, 7 + i]).standard_normal(start.shape)
            start.data = (stds[told] * drawn).astype(start.dtype)
    return model


def measure(trial: Trial, seed: int) -> dict[str, dict]:
    """λmax where the training loss first is 0.3 and 0.1, and at the end; of a run that never came there, at the end."""
    model, task = started(trial, seed)
    redrawn(model, trial.also, seed)
    at = watched(model, task, trial, seed, (EARLY, LEVEL))
    found = sharpness_of(at.get(LEVEL, model), task, seed)
    found |= sharpness_of(at.get(EARLY, model), task, seed, "_early") | sharpness_of(model, task, seed, "_end")
    return {"": found | scores(model, task)}


def verdict(table: Table) -> str:
    """A ViT is sharper than a ResNet: as the paper pairs them, and with the same optimiser."""
    paired = larger(table, (VIT, "AdamW"), (RESNET, "SGD"))
    same = {by: larger(table, (VIT, by), (RESNET, by)) and larger(table, (LONG, by), (RESNET, by)) for by in OPTIMISERS}
    told = "; ".join(f"with {by} {times(table, (VIT, by), (RESNET, by))}, its token from N(0, 1) "
                     f"{times(table, (LONG, by), (RESNET, by))}" for by in OPTIMISERS)  # fmt: skip
    return (
        f"{appears(paired)} that ViT (AdamW) is sharper than ResNet (SGD), as they were trained there: "
        f"{times(table, (VIT, 'AdamW'), (RESNET, 'SGD'))}. {appears(all(same.values()))} that this is the "
        f"architecture's doing, whatever the optimiser: λmax of ViT over ResNet is {told}. Mixer over ViT, AdamW: "
        f"{times(table, (MIXER, 'AdamW'), (VIT, 'AdamW'))}.{unmatched(table)}"
    )


EXPERIMENT = Experiment(
    title="Sharpness of minima",
    claim="A ViT's minima are sharper than a ResNet's: λmax of 738.8 and 179.8.",
    sizes=SIZES,
    trials=trials,
    verdict=verdict,
    figure=lambda table: plots.run_dots(table.dots(), x=SHARPNESS.label, log=True),
    measure=measure,
    readings=(
        SHARPNESS,
        RESIDUAL,
        MATCHED,
        Reading("lambda_max_early", f"λmax at a training loss of {EARLY:g}", form=".1f"),
        Reading("lambda_max_end", "λmax at the end of training", form=".2g"),
        Reading("loss_end", "training loss at the end", "nats", form=".2g"),
    ),
)
