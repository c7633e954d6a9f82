"""SAM or not, for ViT, ResNet and Mixer (Chen et al. 2022, Table 2), over ρ; which ρ counts is told by validation."""

from __future__ import annotations

from tinyvit import plots
from tinyvit.results.experiment import Experiment, Trial, of_length
from tinyvit.results.table import Difference, Table, appears

SIZES = {
    "fast": {"seeds": (0, 1), "updates": 15, "images": 500, "rhos": (0.0, 0.1)},
    "usual": {"seeds": (0, 1, 2, 3, 4), "updates": 600, "images": 500, "rhos": (0.0, 0.02, 0.05, 0.2)},
    "full": {"seeds": (0, 1, 2, 3, 4), "updates": 1200, "images": 500, "rhos": (0.0, 0.02, 0.05, 0.1, 0.2, 0.4)},
}
MODELS = {"ViT": "vit_digits", "ResNet": "resnet_digits", "Mixer": "mixer_digits"}


def trials(updates, images, rhos):
    """Every model, at every radius; 0 is none."""
    same = of_length(updates, images) | {"train_size": images}
    return {(name, rho): Trial(same | {"model": model, "rho": rho}) for name, model in MODELS.items() for rho in rhos}


def chosen(table: Table, name: str) -> float:
    """The radius with the best mean accuracy on the validation images."""
    return max((rho for rho in table.columns if rho), key=lambda rho: table.mean(name, rho, "validation_accuracy"))


def verdict(table: Table) -> str:
    """SAM helps, and networks without convolutions more than a ResNet."""
    rhos = {name: chosen(table, name) for name in MODELS}
    gains = {name: Difference(table, (name, rho), (name, 0.0)) for name, rho in rhos.items()}
    others = min(gains["ViT"].mean, gains["Mixer"].mean)
    said = ", ".join(f"{name} {gain} (ρ = {rhos[name]:g} chosen on validation)" for name, gain in gains.items())
    return (
        f"{appears(gains['ViT'].clear and gains['Mixer'].clear and others > gains['ResNet'].mean)} that SAM helps ViT "
        f"and Mixer more than ResNet: {said}. A step with SAM takes two gradients."
    )


EXPERIMENT = Experiment(
    title="Sharpness-aware minimisation",
    claim="SAM improves ViTs and Mixers, which end in sharp minima, by much more than ResNets.",
    sizes=SIZES,
    trials=trials,
    verdict=verdict,
    figure=lambda table: plots.run_lines(table.curves(), x="ρ (0: without SAM)", y="test accuracy (%)"),
)
