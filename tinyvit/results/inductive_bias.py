"""Inductive bias and data: plain ViT, DeiT's recipe, ResNet, on few and on many digits.

All have equally many updates. Nothing was tuned: the settings are those of `tinyvit train`. Of "full" the recipe's own
120 epochs are the length; it takes two hours of one core, at 17 ms (ViT), 24 ms (recipe) and 21 ms (ResNet) an update.
"""

from __future__ import annotations

from tinyvit import plots
from tinyvit.results.experiment import Experiment, Trial, of_length
from tinyvit.results.table import Difference, Table, appears

SIZES = {
    "fast": {"seeds": (0, 1), "images": (100, 1297), "updates": 40},
    "usual": {"seeds": (0, 1, 2, 3, 4), "images": (100, 250, 600, 1297), "updates": 600},
    "full": {"seeds": (0, 1, 2, 3, 4), "images": (100, 200, 400, 800, 1297), "updates": 4800},
}
PLAIN, RECIPE, RESNET = "ViT, plain", "ViT, DeiT's recipe", "ResNet, plain"
WAYS = {
    PLAIN: {"model": "vit_digits"},
    RECIPE: {"model": "vit_digits", "recipe": "deit"},
    RESNET: {"model": "resnet_digits"},
}


def trials(images, updates):
    """Every way, on every number of images."""
    return {(way, n): Trial(settings | {"train_size": n} | of_length(updates, n))
            for way, settings in WAYS.items() for n in images}  # fmt: skip


def verdict(table: Table) -> str:
    """ViTs lack the bias, which costs most where data are few; the recipe makes up for it."""
    few, many = min(table.columns), max(table.columns)
    bias = {n: Difference(table, (RESNET, n), (PLAIN, n)) for n in (few, many)}
    recipe = {n: Difference(table, (RECIPE, n), (PLAIN, n)) for n in (few, many)}
    helps = recipe[few].clear or recipe[many].clear
    return (
        f"{appears(bias[few].clear and bias[few].mean > bias[many].mean)} that a ViT needs more data: ResNet over "
        f"plain ViT is {bias[few]} with {few} images, {bias[many]} with {many}. {appears(helps)} that the recipe "
        f"helps: {recipe[few]} and {recipe[many]}, in as many updates."
    )


EXPERIMENT = Experiment(
    title="Inductive bias and data",
    claim="Convolutional networks win where data are few, since ViTs must learn locality; a recipe makes up for it.",
    sizes=SIZES,
    trials=trials,
    verdict=verdict,
    figure=lambda table: plots.run_lines(table.curves(), x="training images", y="test accuracy (%)", log="x"),
)
