"""What is left of a trained model's accuracy when its images are made harder: `tinyvit robustness`.

Images are those of the data, from 0 to 1. Protocols: Naseer et al. 2021 (occlusion, shuffling, segments), Hendrycks and
Dietterich 2019 (corruptions), Madry et al. 2018 (attacks), Geirhos et al. 2019 (shape and texture).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection
from functools import partial
from pathlib import Path

import numpy as np

from tinyvit import plots
from tinyvit.analysis import (
    adversarial_patch,
    attention_maps,
    corrupted,
    corruption_errors,
    corruptions_for,
    fgsm,
    occluded,
    pasted,
    pgd,
    random_cells,
    random_places,
    rollout,
    salient_cells,
    segmentation_jaccard,
    shape_bias,
    shifted,
    shuffled,
)
from tinyvit.analysis.corruptions import SEVERITIES, SMALL
from tinyvit.autodiff.derivatives import grad
from tinyvit.backend import to_numpy
from tinyvit.classify import looked_at
from tinyvit.data import Dataset
from tinyvit.data.procedural import texture_shape
from tinyvit.equations.loss import cross_entropy
from tinyvit.nn.embed import pixels
from tinyvit.nn.module import Module
from tinyvit.runs.tasks import Task
from tinyvit.train import predict

HIDDEN = (0.125, 0.25, 0.5, 0.75)  # of all cells
PATCHES = (0.1, 0.25)  # of the image's area
PATCH_STEPS = 100  # of ascent
TARGET = 0  # the class that a targeted patch is to make of all
CUES = 1000  # images whose shape and texture disagree


def robustness(model: Module, task: Task, *, baseline: Module | None = None, images: int | None = None,
               eps: float = 0.03, draws: int = 3, only: Collection[str] = (), seed: int = 0,
               progress: bool = False) -> dict:  # fmt: skip
    """Accuracy, from 0 to 1, on the test images and on what can be done to them.

    baseline  the model whose corruption error is called 100; without it there is no mCE
    images    how many test images, all if not given · draws  of everything random, whose mean is given
    only      which kinds: occlusion, shuffled, shifted, attacks, patches, corruptions and, for some data, segments and
              shape_bias; all that there are if none is named
    """
    from tqdm import tqdm

    test, validation = (Dataset(pixels(part.images[:images]), part.labels[:images])
                        for part in (task.splits.test, task.splits.validation))  # fmt: skip
    rngs = np.random.default_rng(seed).spawn(7)
    found = {"clean": _accuracy(model, *test)}
    kinds: dict[str, Callable[[], object]] = {
        "occlusion": partial(_occlusion, model, test, draws, rngs[0]),
        "shuffled": partial(_shuffling, model, test, draws, rngs[1]),
        "shifted": partial(_shifting, model, test),
        "attacks": partial(_attacks, model, test, eps, rngs[2]),
        "patches": partial(_patches, model, validation, test, rngs[3]),
        "corruptions": partial(_corruptions, model, test, rngs[4].integers(2**32)),
    }
    if masks := _masks(task, test, rngs[6]):
        kinds["segments"] = partial(_segments, model, *masks)
    if task.name == "texture_shape":
        kinds["shape_bias"] = partial(_shape_bias, model, test, rngs[5])
    if only:
        kinds = {name: measure for name, measure in kinds.items() if name in only}
    for name, measure in tqdm(kinds.items(), desc="robustness", disable=not progress, leave=False):
        found[name] = measure()
    if baseline is not None:
        theirs = _corruptions(baseline, test, np.random.default_rng(seed).spawn(7)[4].integers(2**32))
        errors = [1 - np.array(list(of.values())) for of in (found["corruptions"], theirs)]
        clean = 1 - found["clean"], 1 - _accuracy(baseline, *test)
        found["ce"] = dict(zip(theirs, corruption_errors(*errors).tolist(), strict=True))
        found["mce"] = float(np.mean(corruption_errors(*errors)))
        found["relative_mce"] = float(np.mean(corruption_errors(*errors, clean=clean)))
    found["protocol"] = {"images": len(test.labels), "draws": draws, "eps": eps, "seed": seed, "hidden": HIDDEN,
                         "cells": _grid(test.images), "patches": PATCHES, "severities": SEVERITIES}  # fmt: skip
    return found


def _accuracy(model: Module, images: np.ndarray, labels: np.ndarray) -> float:
    return float(np.mean(to_numpy(predict(model, images)).argmax(-1) == labels))


def _grid(images: np.ndarray) -> tuple[int, int]:
    """Cells to hide: 4×4 of small images, 8×8 of others, or as near as tiles them, along either side by itself."""
    most = 4 if min(images.shape[1:3]) < SMALL else 8
    return tuple(max(n for n in range(1, most + 1) if side % n == 0) for side in images.shape[1:3])


def _loss(model: Module, labels: np.ndarray):
    """The cross-entropy of images, summed, as a function of them."""
    return lambda x: cross_entropy(model(x), model.bring(labels), reduction="sum")


# each kind ---------------------------------------------------------------------------------


def _occlusion(model, test, draws, rng) -> dict:
    """Fill -> which cells -> accuracies for HIDDEN; salient by the loss, and by attention if that is as fine.

    The same random cells for the whole batch, as in the authors' code. Salient is a cell that changes the loss much if
    it is filled, to first order: |Σ ∂L/∂x (fill - x)| over its pixels.
    """
    images, labels = test
    grid = _grid(images)
    slope = to_numpy(grad(_loss(model, labels))(images))
    flow = _attention_of(model, images)
    attended = {"attended": flow} if flow is not None and flow.shape[1:] == grid else {}
    found: dict = {}
    for name, fill in {"zero": 0.0, "mean": images.mean(axis=(0, 1, 2))}.items():
        scores = {"salient": np.abs(_cell_sums(np.sum(slope * (fill - images), axis=-1), grid))} | attended
        found[name] = {"random": []} | {f"{how} {which}": [] for which in scores for how in ("most", "least")}
        for share in HIDDEN:
            count = round(share * math.prod(grid))
            drawn = [occluded(images, random_cells(grid, count, rng), fill) for _ in range(draws)]
            found[name]["random"].append(float(np.mean([_accuracy(model, x, labels) for x in drawn])))
            for which, score in scores.items():
                for how, sign in (("most", 1), ("least", -1)):
                    hidden = salient_cells(sign * score, count)
                    found[name][f"{how} {which}"].append(_accuracy(model, occluded(images, hidden, fill), labels))
    return found


def _cell_sums(values: np.ndarray, grid: tuple[int, int]) -> np.ndarray:
    """(B, H, W) -> (B, h, w)"""
    B, H, W = values.shape
    h, w = grid
    return values.reshape(B, h, H // h, w, W // w).sum(axis=(2, 4))


def _attention_of(model: Module, images: np.ndarray):
    """What reaches the head from where, (B, h, w); None where there is no attention."""
    try:
        return looked_at(model, rollout(attention_maps(model, images)), images.shape[1:3])
    except ValueError:
        return None


def _shuffling(model, test, draws, rng) -> dict:
    """Cells -> accuracy, one random order for the whole batch."""
    found = {}
    for cells in (2, 4, 8):
        if all(side % cells == 0 and cells < side for side in test.images.shape[1:3]):
            orders = [rng.permutation(cells**2) for _ in range(draws)]
            drawn = [shuffled(test.images, (cells, cells), order) for order in orders]
            found[f"{cells}×{cells}"] = float(np.mean([_accuracy(model, x, test.labels) for x in drawn]))
    return found


def _shifting(model, test) -> dict:
    """Pixels -> accuracy, in the mean over the four directions; what comes in is black."""
    found = {}
    for step in (1, 2):
        ways = ((step, 0), (-step, 0), (0, step), (0, -step))
        found[str(step)] = float(np.mean([_accuracy(model, shifted(test.images, *way), test.labels) for way in ways]))
    return found


def _attacks(model, test, eps, rng) -> dict:
    """Attack -> accuracy; in the 2-norm as much per pixel in the root mean square."""
    images, labels = test
    loss, far = _loss(model, labels), eps * math.sqrt(images[0].size)
    found = {"fgsm": fgsm(loss, images, eps), "pgd": pgd(loss, images, eps, rng=rng),
             "pgd_l2": pgd(loss, images, far, norm="2", rng=rng)}  # fmt: skip
    return {name: _accuracy(model, x, labels) for name, x in found.items()}


def _patches(model, validation, test, rng) -> dict:
    """Share of the area -> accuracy under patches made on the validation images, and under one of noise.

    One patch is not aimed at a class, the other at the class TARGET; and the shares of the images of other classes that
    are taken for it, under that patch and under noise.
    """
    images, labels = test
    found = {}
    for share in PATCHES:
        side = max(1, round(math.sqrt(share * math.prod(images.shape[1:3]))))
        side = min(side, *images.shape[1:3])
        make = partial(adversarial_patch, lambda x, y: _loss(model, y)(x), *validation, side, rng=rng,
                       steps=PATCH_STEPS)  # fmt: skip
        patches = {"adversarial": make(), "targeted": make(target=TARGET),
                   "noise": rng.uniform(size=(side, side, images.shape[-1])).astype(images.dtype)}  # fmt: skip
        places = random_places(images, side, rng)
        says = {name: to_numpy(predict(model, pasted(images, patch, places))).argmax(-1)
                for name, patch in patches.items()}  # fmt: skip
        others = labels != TARGET
        found[f"{share:.0%}"] = {name: float(np.mean(said == labels)) for name, said in says.items()} | {
            f"taken for the target, {name}": float(np.mean(says[name][others] == TARGET))
            for name in ("targeted", "noise")}  # fmt: skip
    return found


def _corruptions(model, test, seed) -> dict:
    """Corruption -> accuracies for severities 1 … 5; the same noise for every model."""

    def accuracy(name, severity):
        changed = corrupted(test.images, name, severity, rng=np.random.default_rng(seed))
        return _accuracy(model, changed, test.labels)

    return {name: [accuracy(name, severity) for severity in SEVERITIES] for name in corruptions_for(test.images)}


def _masks(task: Task, test: Dataset, rng) -> tuple | None:
    """Images, and a mask for every object in each: the ink of digits, the drawn shape; None for other data."""
    if task.name in ("digits", "mnist"):
        return test.images, test.images[..., 0][:, None] > 0.5
    if task.name == "texture_shape":
        drawn = texture_shape(len(test.labels), rng=rng, size=test.images.shape[1])
        return drawn.images, drawn.masks[:, None]
    return None


def _segments(model, images, masks) -> dict | None:
    """How well the last layer's attention outlines objects, and what is to be compared with it; None without attention.

    Of the class token, or without one the mean over all. The Jaccard index of the best of as many heads that attend to
    cells at random, and that of everything.
    """
    try:
        *_, maps = attention_maps(model, images).values()
        seen = looked_at(model, maps, images.shape[1:3])
    except ValueError:
        return None
    if any(side % cells for side, cells in zip(images.shape[1:3], seen.shape[2:], strict=True)):
        return None
    by_chance = np.random.default_rng(0).permuted(seen.reshape(*seen.shape[:2], -1), axis=-1).reshape(seen.shape)
    return {"jaccard": segmentation_jaccard(seen, masks), "by_chance": segmentation_jaccard(by_chance, masks),
            "of_everything": segmentation_jaccard(np.ones_like(seen), masks, mass=1.0)}  # fmt: skip


def _shape_bias(model, test, rng) -> float:
    """Of images whose shape and texture disagree, how many of those called by either are called by their shape."""
    cues = texture_shape(CUES, rng=rng, size=test.images.shape[1], agreement=0.0)
    return shape_bias(to_numpy(predict(model, cues.images)).argmax(-1), cues.shapes, cues.textures)


# what is printed and drawn -----------------------------------------------------------------


def rows(found: dict) -> list[tuple[str, str]]:
    """Kind and accuracy in percent, the mean where there are several, for a table."""
    lines = [("clean", found["clean"])]
    for fill, which in found["occlusion"].items():
        lines += [(f"{cells} cells, {hidden:.1%} hidden, {fill} fill", share)
                  for cells, shares in which.items() for hidden, share in zip(HIDDEN, shares, strict=True)]  # fmt: skip
    lines += [(f"{cells} cells shuffled", share) for cells, share in found["shuffled"].items()]
    lines += [(f"shifted by {pixels} px", share) for pixels, share in found["shifted"].items()]
    lines += [(name, share) for name, share in found["attacks"].items()]
    lines += [(f"{kind}{'' if ',' in kind else ' patch'}, {area} of the area", share)
              for area, kinds in found["patches"].items() for kind, share in kinds.items()]  # fmt: skip
    lines += [(f"{name}, mean of five", float(np.mean(shares))) for name, shares in found["corruptions"].items()]
    text = [(name, f"{100 * share:.1f}") for name, share in lines]
    if found.get("segments"):
        compared = {"jaccard": "attention", "by_chance": "shuffled attention", "of_everything": "everything"}
        text += [(f"Jaccard index of objects and {what}", f"{100 * found['segments'][name]:.1f}")
                 for name, what in compared.items()]  # fmt: skip
    if "shape_bias" in found:
        text.append(("called by shape, not texture", f"{100 * found['shape_bias']:.1f}"))
    return text


def draw(found: dict, path: Path) -> list[Path]:
    """Occlusion as curves over how much of it there is, and corruptions by kind and severity: two figures."""
    hidden = [0.0, *(100 * share for share in HIDDEN)]
    curves = {f"{cells}, {fill} fill": (hidden, [100 * x for x in (found["clean"], *shares)])
              for fill, which in found["occlusion"].items() for cells, shares in which.items()
              if "least" not in cells}  # fmt: skip
    figure = plots.lines(curves, x="cells hidden (%)", y="accuracy (%)")
    corruptions = {name: [100 * x for x in (found["clean"], *shares)] for name, shares in found["corruptions"].items()}
    other = plots.heat_maps({"accuracy (%)": np.array(list(corruptions.values()))},
                            [name.replace("_", " ") for name in corruptions], ["clean", *map(str, SEVERITIES)],
                            x="severity", written=".0f", limits=(0, 100))  # fmt: skip
    beside = path.with_name(f"{path.stem}_corruptions.png")
    return [plots.save(figure, path, found, also=plots.VECTORS),
            plots.save(other, beside, corruptions, also=plots.VECTORS)]  # fmt: skip
