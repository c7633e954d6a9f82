"""Pre-training size: the crossing of ViT and BiT (Dosovitskiy et al. 2021, Fig. 4) on digits.

Both learn to tell the digits 0 to 4 apart; then a linear map is fitted, by least squares, to their features of a few
images each of the digits 5 to 9, which they have never seen. (Drawn curves, the package's set for pre-training, are no
ground to compare on at this scale: after 900 updates a ViT guesses.)
"""

from __future__ import annotations

import numpy as np

from tinyvit import plots
from tinyvit.data import Dataset, Splits
from tinyvit.nn.module import Module
from tinyvit.results.experiment import Experiment, Trial, of_length, scores, trained
from tinyvit.results.table import Difference, Table, appears
from tinyvit.runs.probe import features, few_shot
from tinyvit.runs.tasks import Task, find_task
from tinyvit.runs.training import initial_model

SIZES = {
    "fast": {"seeds": (0, 1), "updates": 20, "images": (60, 640)},
    "usual": {"seeds": (0, 1, 2), "updates": 400, "images": (60, 200, 640)},
    "full": {"seeds": (0, 1, 2, 3, 4), "updates": 3000, "images": (40, 80, 160, 320, 640)},
}
VIT, BIT = "ViT", "BiT"
MODELS = {VIT: "vit_digits", BIT: "bit_digits"}
HALF, SHOTS, DRAWS = 5, 10, 5


def trials(updates, images):
    """Both models, after pre-training on few and many images."""
    probe = {"shots": SHOTS, "draws": DRAWS}
    return {(name, n): Trial(of_length(updates, n) | {"model": model}, also={"images": n} | probe)
            for name, model in MODELS.items() for n in images}  # fmt: skip


def measure(trial: Trial, seed: int) -> dict[str, dict]:
    """Pre-train; then few-shot accuracy, over several draws, on the other digits; ``source_…`` are those it learned."""
    config, told = trial.config(seed), dict(trial.also)
    source, others = halves(find_task(config.data, seed=seed).splits, told.pop("images"))
    model = initial_model(config, source, **trial.model)
    trained(model, config, source)
    found = {f"source_{name}": value for name, value in scores(model, source).items()}
    return {"": found | {"test_accuracy": transferred(model, others, seed, **told)}}


def halves(splits: Splits, images: int) -> tuple[Task, Splits]:
    """A task of the first classes, with so many training images, and the other classes, counted from 0."""
    first = Splits(*(Dataset(x[y < HALF], y[y < HALF]) for x, y in splits))
    others = Splits(*(Dataset(x[y >= HALF], y[y >= HALF] - HALF) for x, y in splits))
    train = Dataset(*(part[:images] for part in first.train))
    return Task(first._replace(train=train), HALF), others


def transferred(model: Module, others: Splits, seed: int, shots: int, draws: int) -> float:
    """Mean few-shot accuracy of a model's features on classes that it has never seen."""
    parts = [(features(model, part.images), part.labels) for part in others]
    return float(np.mean([few_shot(*parts, shots=shots, rng=np.random.default_rng([seed, i])) for i in range(draws)]))


def verdict(table: Table) -> str:
    """BiT leads after little pre-training, ViT after much: the lines cross."""
    few, many = min(table.columns), max(table.columns)
    lead = {n: Difference(table, (BIT, n), (VIT, n)) for n in (few, many)}
    crosses = lead[few].clear and lead[many].mean < 0
    narrows = lead[many].mean < lead[few].mean
    return (
        f"{appears(crosses)} that the lines cross: BiT over ViT is {lead[few]} after {few} images and {lead[many]} "
        f"after {many}; " + ("the gap narrows." if narrows else "the gap does not even narrow.")
    )


EXPERIMENT = Experiment(
    title="Pre-training size",
    claim="BiT's features are better after little pre-training, ViT's after much: the lines cross.",
    sizes=SIZES,
    trials=trials,
    verdict=verdict,
    figure=lambda table: plots.run_lines(
        table.curves(), x="images of pre-training", y=f"{SHOTS}-shot accuracy, other digits (%)", log="x"
    ),
    measure=measure,
)
