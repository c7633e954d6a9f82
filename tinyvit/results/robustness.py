"""What is left of the accuracy on harder images (Naseer et al. 2021, Fig. 1), for four architectures.

Of digits: occlusion, shuffled and shifted images, attacks, corruptions. Of drawn shapes, each filled with a texture of
its own: what the models go by where shape and texture disagree, and whether attention outlines the shape.
"""

from __future__ import annotations

import numpy as np

from tinyvit import plots
from tinyvit.analysis import corruption_errors
from tinyvit.results.experiment import Experiment, Trial, fitted, of_length
from tinyvit.results.table import Difference, Reading, Table, appears
from tinyvit.runs.robustness import HIDDEN, PATCHES, robustness

SIZES = {
    "fast": {"seeds": (0, 1), "updates": 40, "cues": 4, "images": 60},
    "usual": {"seeds": (0, 1, 2), "updates": 400, "cues": 300},
    "full": {"seeds": (0, 1, 2, 3, 4), "updates": 2400, "cues": 1500},
}
MODELS = {"ViT": "vit_digits", "ResNet": "resnet_digits", "Swin": "swin_digits", "Mixer": "mixer_digits"}
COARSER = {"patch_size": 4}  # of 32×32 pixels
KINDS = ("occlusion", "shuffled", "shifted", "attacks", "patches", "corruptions")
HALF, QUARTER = HIDDEN.index(0.5), f"{PATCHES[-1]:.0%}"
CLEAN, SHUFFLED, SHIFTED = "clean", "shuffled, 4×4 cells", "shifted by a pixel"
BLACK, MEAN = "half hidden, black", "half hidden, mean"
CORRUPTED, BY_SHAPE, OUTLINED = "corrupted, mean of all", "called by shape, not texture", "outlined by attention"
SHARE = Reading("share", "accuracy, or share of the images", "%", 100, ".1f")
IMAGES, DRAWN = 1297, 2000


def trials(updates, cues, images=None):
    """Every model, on digits and on textured shapes; asked on so many test images, or on all."""
    also = {"images": images} if images else {}
    written, drawn = of_length(updates, IMAGES), {"data": "texture_shape"} | of_length(cues, DRAWN)
    digits = {("digits", name): Trial({"model": model} | written, also=also) for name, model in MODELS.items()}
    shapes = {("shapes", name): Trial({"model": model} | drawn, {} if name == "ResNet" else COARSER, also)
              for name, model in MODELS.items()}  # fmt: skip
    return digits | shapes


def measure(trial: Trial, seed: int) -> dict[str, dict]:
    """Every kind's accuracy; where there are several, what is told in the row's name."""
    model, task, _ = fitted(trial, seed)
    of_shapes = task.name == "texture_shape"
    kinds = ("segments", "shape_bias") if of_shapes else KINDS
    found = robustness(model, task, only=kinds, seed=seed, **trial.also)
    shares = _of_shapes(found) if of_shapes else _of_digits(found)
    errors = {CORRUPTED: [[1 - share for share in shares] for shares in found.get("corruptions", {}).values()]}
    return {row: {"share": share, "errors": errors.get(row, [])} for row, share in shares.items()}


def _of_digits(found: dict) -> dict[str, float]:
    occlusion, patches = found["occlusion"], found["patches"][QUARTER]
    shares = {CLEAN: found["clean"]}
    for row, fill in ((BLACK, "zero"), (MEAN, "mean")):
        shares[row] = occlusion[fill]["random"][HALF]
        shares[f"{row}, most salient"] = occlusion[fill]["most salient"][HALF]
        shares[f"{row}, least salient"] = occlusion[fill]["least salient"][HALF]
    shares["shuffled, 2×2 cells"], shares[SHUFFLED] = found["shuffled"]["2×2"], found["shuffled"]["4×4"]
    shares[SHIFTED] = found["shifted"]["1"]
    shares |= {
        "FGSM": found["attacks"]["fgsm"],
        "PGD": found["attacks"]["pgd"],
        "PGD, 2-norm": found["attacks"]["pgd_l2"],
    }
    shares |= {"under a patch of noise": patches["noise"], "under an adversarial patch": patches["adversarial"],
               "under a targeted patch": patches["targeted"],
               "taken for the target": patches["taken for the target, targeted"],
               "taken for it, noise": patches["taken for the target, noise"]}  # fmt: skip
    return shares | {CORRUPTED: float(np.mean(list(found["corruptions"].values())))}


def _of_shapes(found: dict) -> dict[str, float]:
    shares = {"clean, textured shapes": found["clean"], BY_SHAPE: found["shape_bias"]}
    if found["segments"]:
        shares |= {f"{OUTLINED} (Jaccard)": found["segments"]["jaccard"],
                   "outlined by shuffled attention": found["segments"]["by_chance"]}  # fmt: skip
    return shares


def mce(table: Table, name: str, relative: bool = False) -> np.ndarray:
    """A model's mean corruption error by seed; the ResNet's of the same seed is 100."""
    pairs = zip(table.cells[CORRUPTED, name], table.cells[CORRUPTED, "ResNet"], strict=True)
    clean = zip(*(1 - table.values(CLEAN, one) for one in (name, "ResNet")), strict=True)
    return np.array([corruption_errors(own["errors"], other["errors"], clean=both if relative else None).mean()
                     for (own, other), both in zip(pairs, clean, strict=True)])  # fmt: skip


def verdict(table: Table) -> str:
    """ViTs stand occlusion and shuffling better, and go less by texture: each by itself."""
    shuffling, black, mean = (Difference(table, (row, "ViT"), (row, "ResNet")) for row in (SHUFFLED, BLACK, MEAN))
    shift = Difference(table, (SHIFTED, "ResNet"), (SHIFTED, "ViT"))
    shape = Difference(table, (BY_SHAPE, "ViT"), (BY_SHAPE, "ResNet"))
    errors = ", ".join(f"{name} {mce(table, name).mean():.0f} ± {mce(table, name).std(ddof=1):.0f}"
                       for name in MODELS if name != "ResNet")  # fmt: skip
    return (
        f"{appears(shuffling.clear)} that a ViT stands shuffled patches better than a ResNet: {shuffling}. "
        f"{appears(black.clear and mean.clear)} that it stands occlusion better: {black} with black, {mean} with the "
        f"mean colour. {appears(shape.clear)} that it goes more by shape: {shape}. The ResNet over the ViT on images "
        f"shifted by a pixel: {shift}. Mean corruption error, the ResNet's being 100: {errors}."
    )


def figure(table: Table):
    """The rows that say most."""
    kept = (CLEAN, BLACK, MEAN, SHUFFLED, SHIFTED, "PGD", "under an adversarial patch", CORRUPTED, BY_SHAPE)
    dots = table.dots()
    return plots.run_dots({row: dots[row] for row in kept if row in dots}, x=SHARE.label)


EXPERIMENT = Experiment(
    title="Robustness",
    claim="ViTs stand occlusion, shuffled patches and corruptions better than CNNs, and go less by texture.",
    sizes=SIZES,
    trials=trials,
    verdict=verdict,
    figure=figure,
    measure=measure,
    readings=(SHARE,),
)
