"""Pre-training size: the crossing of ViT and ResNet (Dosovitskiy et al. 2021, Fig. 4), on drawn curves.

Both learn to tell twenty closed curves apart; then a linear map is fitted, by least squares, to their features of a few
images each of twenty other curves. Sides are halved to 16 pixels to save time.
"""

from __future__ import annotations

import numpy as np

from tinyvit import plots
from tinyvit.data.procedural import contours
from tinyvit.equations.resize import resize
from tinyvit.nn.module import Module
from tinyvit.results.experiment import Experiment, Trial, of_length, scores, trained
from tinyvit.results.table import Difference, Table, appears
from tinyvit.runs.probe import features, few_shot
from tinyvit.runs.tasks import find_task
from tinyvit.runs.training import initial_model

SIZES = {
    "fast": {"seeds": (0, 1), "updates": 20, "images": (100, 2000)},
    "usual": {"seeds": (0, 1, 2), "updates": 240, "images": (100, 500, 2000)},
    "full": {"seeds": (0, 1, 2, 3, 4), "updates": 3000, "images": (100, 250, 500, 1000, 2000)},
}
VIT, RESNET = "ViT", "ResNet"
MODELS = {VIT: ("vit_digits", {"patch_size": 4}), RESNET: ("resnet_digits", {})}
SIDE, SHOTS, DRAWS = 16, 10, 5
OTHERS, COUNTS = 1, (800, 300, 1000)  # the seed of the other curves; images to fit, to choose λ by, to report on


def trials(updates, images):
    """Both models, after pre-training on few and many images."""
    return {(name, n): Trial(of_length(updates, n) | {"model": model, "data": "contours", "train_size": n,
                                                      "img_size": SIDE}, changes, {"shots": SHOTS, "draws": DRAWS})
            for name, (model, changes) in MODELS.items() for n in images}  # fmt: skip


def measure(trial: Trial, seed: int) -> dict[str, dict]:
    """Pre-train; then few-shot accuracy, over several draws, on other curves; ``source_…`` are those it was taught."""
    config = trial.config(seed)
    task = find_task(config.data, seed=seed, size=config.img_size, train_size=config.train_size)
    model = initial_model(config, task, **trial.model)
    trained(model, config, task)
    source = {f"source_{name}": value for name, value in scores(model, task).items()}
    return {"": source | {"test_accuracy": transferred(model, seed, config.img_size, **trial.also)}}


def transferred(model: Module, seed: int, side: int, shots: int, draws: int) -> float:
    """Mean few-shot accuracy of a model's features on curves that it has never seen."""
    parts = []
    for i, n in enumerate(COUNTS):
        images, labels = contours(n, rng=np.random.default_rng([seed, 9, i]), seed=OTHERS)
        small = resize(images, size=(side, side), mode="bicubic", antialias=True)
        parts.append((features(model, np.asarray(small)), labels))
    return float(np.mean([few_shot(*parts, shots=shots, rng=np.random.default_rng([seed, i])) for i in range(draws)]))


def verdict(table: Table) -> str:
    """ResNet leads after little pre-training, ViT after much: the lines cross."""
    few, many = min(table.columns), max(table.columns)
    lead = {n: Difference(table, (RESNET, n), (VIT, n)) for n in (few, many)}
    crosses = lead[few].clear and lead[many].mean < 0
    narrows = lead[many].mean < lead[few].mean
    return (
        f"{appears(crosses)} that the lines cross: ResNet over ViT is {lead[few]} after {few} images and {lead[many]} "
        f"after {many}; " + ("the gap narrows." if narrows else "the gap does not even narrow.")
    )


EXPERIMENT = Experiment(
    title="Pre-training size",
    claim="ResNet's features are better after little pre-training, ViT's after much: the lines cross.",
    sizes=SIZES,
    trials=trials,
    verdict=verdict,
    figure=lambda table: plots.run_lines(
        table.curves(), x="images of pre-training", y=f"{SHOTS}-shot accuracy, other classes (%)", log="x"
    ),
    measure=measure,
)
