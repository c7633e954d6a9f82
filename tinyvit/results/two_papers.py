"""Two papers disagree: ViT's minima are sharper (Chen et al. 2022), they are flatter (Park and Kim 2022).

They do not measure the same. Chen et al.: λmax of the cross-entropy of clean images at the end of training, of a ViT by
AdamW and a ResNet by SGD. Park and Kim: the five eigenvalues of largest modulus of each of many batches of 16 augmented
images, of the loss with its ℓ2 term. Here both look at the same networks, trained on augmented images.
"""

from __future__ import annotations

import numpy as np

from tinyvit import plots
from tinyvit.analysis import curvature, top_eigenvalues
from tinyvit.data.augment import DIGITS, chained, rand_augment, random_crop
from tinyvit.nn.module import Module
from tinyvit.results.around import IMAGES, MODELS, larger, rounded, settings, sharpness_of, times
from tinyvit.results.experiment import Experiment, Trial, scores, started, trained
from tinyvit.results.table import Reading, Table, appears
from tinyvit.runs.looking import OBJECTIVE, first
from tinyvit.runs.tasks import Task

SIZES = {
    "fast": {"seeds": (0, 1), "updates": 60, "batches": 2},
    "usual": {"seeds": (0, 1, 2), "updates": 400, "batches": 6},
    "full": {"seeds": (0, 1, 2, 3, 4), "updates": 1600, "batches": 12},
}
DECAY = {"AdamW": 0.05, "SGD": 5e-4}  # the ℓ2 term's factor, too
LOOKS = chained(random_crop(1), rand_augment(DIGITS, fill=0.0))
BATCH, TOP = 16, 5
CHEN = Reading("lambda_max", f"λmax, {IMAGES} clean images (as Chen et al.)", form=".1f")
PARK = Reading("top", f"largest eigenvalue, {BATCH} augmented images, ℓ2 (as Park and Kim)", form=".1f")


def trials(updates, batches):
    """Both networks by both optimisers, on augmented images."""
    return {(name, by): Trial(settings(updates, MODELS[name], by) | {"weight_decay": decay}, also={"batches": batches})
            for name in ("ViT", "ResNet") for by, decay in DECAY.items()}  # fmt: skip


def measure(trial: Trial, seed: int) -> dict[str, dict]:
    """Train, then measure in either way."""
    model, task = started(trial, seed)
    trained(model, trial.config(seed), task, augmentation=LOOKS)
    theirs = batch_by_batch(model, task, trial.settings["weight_decay"], seed, trial.also["batches"])
    return {"": sharpness_of(model, task, seed) | theirs | scores(model, task)}


def batch_by_batch(model: Module, task: Task, decay: float, seed: int, batches: int) -> dict:
    """The five eigenvalues of largest modulus of every batch; the mean of their first, and how many are negative."""
    images, labels = first(task.splits.train, BATCH * batches)
    found, losses = [], []
    for i in range(batches):
        part, rng = slice(BATCH * i, BATCH * (i + 1)), np.random.default_rng([seed, i])
        looks, truth = LOOKS(images[part], labels[part], rng)
        hessian = curvature(penalised(decay), model, (looks, truth))
        found.append(top_eigenvalues(hessian, TOP, which="LM", tol=1e-2, rng=rng).values)
        losses.append(OBJECTIVE(model, (looks.astype(np.float32), truth)).item())
    values = np.array(found)
    return {"top": float(values.max(axis=1).mean()), "negative": float(np.mean(values < 0)),
            "loss_augmented": float(np.mean(losses)),
            "eigenvalues": rounded(values.ravel())}  # fmt: skip


def penalised(decay: float):
    """Cross-entropy + λ/2 ‖w‖²: every eigenvalue is larger by λ."""

    def objective(model, batch):
        return OBJECTIVE(model, batch) + sum((p * p).sum() for _, p in model.named_parameters()) * (decay / 2)

    return objective


def verdict(table: Table) -> str:
    """Sharper by the one protocol, flatter and less convex by the other."""
    chen = larger(table, ("ViT", "AdamW"), ("ResNet", "SGD"))
    park = larger(table, ("ResNet", "AdamW"), ("ViT", "AdamW"), "top")
    less_convex = larger(table, ("ViT", "AdamW"), ("ResNet", "AdamW"), "negative")

    def told(name):
        return (f"{times(table, ('ViT', 'AdamW'), ('ResNet', 'SGD'), name)} where the ResNet had SGD, "
                f"{times(table, ('ViT', 'AdamW'), ('ResNet', 'AdamW'), name)} where both had AdamW, "
                f"{times(table, ('ViT', 'SGD'), ('ResNet', 'SGD'), name)} where both had SGD")  # fmt: skip

    return (
        f"{appears(chen)} that ViT is sharper, measured and trained as Chen et al. did. {appears(park)} that it is "
        f"flatter, measured and trained as Park and Kim did, and {appears(less_convex).lower()} that it has more "
        f"negative eigenvalues. ViT over ResNet, Chen et al.'s way: {told('lambda_max')}; Park and Kim's: "
        f"{told('top')}. Neither compares at the same training loss: by AdamW it is "
        f"{table.mean('ViT', 'AdamW', 'loss'):.2f} for ViT, {table.mean('ResNet', 'AdamW', 'loss'):.2f} for ResNet."
    )


def figure(table: Table):
    """Both measures, as dots on one axis."""
    ways = {f"{name}, {by}": (name, by) for name, by in table.cells}
    return plots.run_dots({says: {way: table.values(*cell, name) for way, cell in ways.items()}
                           for says, name in (("Chen et al.", CHEN.name), ("Park and Kim", PARK.name))},
                          x="largest eigenvalue of the Hessian", log=True)  # fmt: skip


EXPERIMENT = Experiment(
    title="Two papers, two protocols",
    claim="Chen et al.: ViT's minima are sharper than ResNet's. Park and Kim: they are flatter, and less convex.",
    sizes=SIZES,
    trials=trials,
    verdict=verdict,
    figure=figure,
    measure=measure,
    readings=(
        CHEN,
        PARK,
        Reading("negative", f"negative among the {TOP} of largest modulus (as Park and Kim)", "%", 100, ".1f"),
        Reading("loss", "training loss, clean images", "nats", form=".3f"),
        Reading("loss_augmented", "training loss, augmented images", "nats", form=".3f"),
    ),
)
