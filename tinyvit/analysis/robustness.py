"""What images are put through to see what a model relies on: occlusion, shuffling, shifts, attacks, cue conflicts.

Plain NumPy arrays of images (B, H, W, C) in [0, 1]; attacks take the loss as a function of the images, summed over
them. Protocols are those of Naseer et al. 2021 ("Intriguing Properties of Vision Transformers").
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np

from tinyvit.autodiff.derivatives import grad

Loss = Callable[[np.ndarray], object]  # images -> a Tensor of one number, the sum over images

# occlusion, shuffling, shifts --------------------------------------------------------------


def occluded(images: np.ndarray, hidden: np.ndarray, fill=0.0) -> np.ndarray:
    """Images with some cells of a grid filled.

    hidden: (h, w) or (B, h, w) bool, cells that tile the image; fill: a number, or an array that broadcasts to images

    Naseer et al. 2021, Sec. 3.1: black, at the same random cells in the whole batch. Raises ValueError for cells that
    do not tile the images.
    """
    cells = _check_cells(images, hidden.shape[-2:])
    mask = np.kron(hidden, np.ones(cells, bool))[..., None]
    return np.where(mask, np.asarray(fill, images.dtype), images)


def random_cells(grid: tuple[int, int], count: int, rng: np.random.Generator) -> np.ndarray:
    """``count`` different cells of a grid.   -> (h, w) bool"""
    chosen = np.zeros(grid, bool)
    chosen.flat[rng.permutation(chosen.size)[:count]] = True
    return chosen


def salient_cells(scores: np.ndarray, count: int) -> np.ndarray:
    """The ``count`` cells of largest score in each image (of −scores, of smallest).   (B, h, w) -> (B, h, w) bool"""
    flat = scores.reshape(len(scores), -1)
    chosen = np.zeros(flat.shape, bool)
    np.put_along_axis(chosen, np.argsort(-flat, axis=1, kind="stable")[:, :count], True, axis=1)
    return chosen.reshape(scores.shape)


def shuffled(images: np.ndarray, grid: tuple[int, int], order: Sequence[int]) -> np.ndarray:
    """Images whose cells, in row-major order, are the cells ``order`` of before.

    Naseer et al. 2021, Sec. 3.4: one random order for the whole batch. Raises ValueError for cells that do not tile.
    """
    h, w = grid
    a, b = _check_cells(images, grid)
    B, H, W, C = images.shape
    cells = images.reshape(B, h, a, w, b, C).swapaxes(2, 3).reshape(B, h * w, a, b, C)[:, order]
    return cells.reshape(B, h, w, a, b, C).swapaxes(2, 3).reshape(B, H, W, C)


def shifted(images: np.ndarray, rows: int, columns: int, fill: float = 0.0) -> np.ndarray:
    """Images moved down and to the right by whole pixels, negative ones up and to the left."""
    H, W = images.shape[1:3]
    moved = np.full_like(images, fill)
    (to_r, from_r), (to_c, from_c) = _overlap(rows, H), _overlap(columns, W)
    moved[:, to_r, to_c] = images[:, from_r, from_c]
    return moved


def _overlap(step: int, length: int) -> tuple[slice, slice]:
    """Where what stays inside goes to, and where it comes from."""
    kept = max(length - abs(step), 0)
    return (slice(step, step + kept), slice(0, kept)) if step >= 0 else (slice(0, kept), slice(-step, -step + kept))


def _check_cells(images: np.ndarray, grid: tuple[int, int]) -> tuple[int, int]:
    """The size of a cell in pixels."""
    if images.ndim != 4 or any(n % cells for n, cells in zip(images.shape[1:3], grid, strict=True)):
        raise ValueError(f"images: expected (B, H, W, C) that {tuple(grid)} cells tile, got shape {images.shape}")
    return images.shape[1] // grid[0], images.shape[2] // grid[1]


# attacks -----------------------------------------------------------------------------------


def fgsm(loss: Loss, images: np.ndarray, eps: float, *, bounds=(0.0, 1.0)) -> np.ndarray:
    """The fast gradient sign method, x + ε sign ∂L/∂x, within bounds (Goodfellow, Shlens and Szegedy 2015)."""
    return np.clip(images + eps * np.sign(grad(loss)(images)), *bounds).astype(images.dtype)


def pgd(loss: Loss, images: np.ndarray, eps: float, *, steps: int = 10, step: float | None = None, norm: str = "inf",
        rng: np.random.Generator | None = None, bounds=(0.0, 1.0)) -> np.ndarray:  # fmt: skip
    """Projected gradient ascent within ε of each image (Madry et al. 2018).

    norm  "inf": steps of sign(∂L/∂x), every pixel within ε; "2": steps along ∂L/∂x, the image's Euclidean distance
          within ε
    step  of each; 2.5 ε / steps unless given · rng  begin at a random place of the ball, not at the image
    """
    if norm not in ("inf", "2"):
        raise ValueError(f'norm: expected "inf" or "2", got {norm!r}')
    step = 2.5 * eps / steps if step is None else step
    away = np.zeros_like(images) if rng is None else _anywhere(images, eps, norm, rng)
    for _ in range(steps):
        slope = grad(loss)(np.clip(images + away, *bounds).astype(images.dtype))
        away = away + step * (np.sign(slope) if norm == "inf" else slope / np.maximum(_lengths(slope), 1e-30))
        away = np.clip(images + _into_ball(away, eps, norm), *bounds) - images
    return (images + away).astype(images.dtype)


def _lengths(x: np.ndarray) -> np.ndarray:
    return np.sqrt(np.sum(x**2, axis=(1, 2, 3), keepdims=True))


def _into_ball(away: np.ndarray, eps: float, norm: str) -> np.ndarray:
    if norm == "inf":
        return np.clip(away, -eps, eps)
    return away * np.minimum(1, eps / np.maximum(_lengths(away), 1e-30))


def _anywhere(images: np.ndarray, eps: float, norm: str, rng: np.random.Generator) -> np.ndarray:
    """Places in the ball around zero, evenly by volume."""
    if norm == "inf":
        return rng.uniform(-eps, eps, images.shape)
    ray = rng.normal(size=images.shape)
    radius = eps * rng.random((len(images), 1, 1, 1)) ** (1 / ray[0].size)
    return radius * ray / _lengths(ray)


def adversarial_patch(loss: Callable, images: np.ndarray, labels: np.ndarray, side: int, *, rng: np.random.Generator,
                      target: int | None = None, steps: int = 100, step: float = 0.1, batch: int = 32,
                      momentum: float = 0.9, bounds=(0.0, 1.0)) -> np.ndarray:  # fmt: skip
    """One patch that fools a model on any image, wherever it is pasted.   -> (side, side, C)

    loss    (images, labels) -> a Tensor of one number, the sum over images
    target  the class that all images are to be taken for; without it they are only to be taken for another than theirs

    Brown et al. 2017, Eq. 1, without turning and scaling: ascent of the expected log probability of the target, or of
    the expected loss, over images and places, some of them drawn anew in every step. Steps are signs of the averaged
    gradient, from noise, and shrink to nothing like a cosine.
    """
    patch, average = rng.uniform(*bounds, (side, side, images.shape[-1])), 0.0
    for t in range(steps):
        some = rng.permutation(len(images))[:batch]
        wanted = labels[some] if target is None else np.full(len(some), target)
        places = random_places(images[some], side, rng)
        slope = grad(partial(_with_labels, loss, wanted))(pasted(images[some], patch, places))
        over = sum(one[r : r + side, c : c + side] for one, (r, c) in zip(slope, places, strict=True))
        average = momentum * average + (over if target is None else -over)
        length = step * 0.5 * (1 + np.cos(np.pi * t / steps))
        patch = np.clip(patch + length * np.sign(average), *bounds)
    return patch.astype(images.dtype)


def _with_labels(loss: Callable, labels: np.ndarray, images):
    return loss(images, labels)


def random_places(images: np.ndarray, side: int, rng: np.random.Generator) -> np.ndarray:
    """Upper left corners of squares inside the images, one for each.   -> (B, 2)"""
    return np.stack([rng.integers(0, n - side + 1, len(images)) for n in images.shape[1:3]], axis=1)


def pasted(images: np.ndarray, patch: np.ndarray, places: np.ndarray) -> np.ndarray:
    """A copy of the images with the patch (h, w, C) in each, its upper left corner at its place (B, 2)."""
    covered, (h, w) = images.copy(), patch.shape[:2]
    for image, (row, column) in zip(covered, places, strict=True):
        image[row : row + h, column : column + w] = patch
    return covered


# cues and segments -------------------------------------------------------------------------


def shape_bias(predictions: np.ndarray, shapes: np.ndarray, textures: np.ndarray) -> float:
    """Of the images called by their shape or by their texture, the share called by their shape.   all (B,) -> 0 … 1

    Geirhos et al. 2019, on images whose shape and texture belong to different classes; others are left out. NaN where
    no image is called by either.
    """
    conflict = shapes != textures
    by_shape, by_texture = (np.sum((predictions == cue) & conflict) for cue in (shapes, textures))
    return float(by_shape / (by_shape + by_texture)) if by_shape + by_texture else float("nan")


def heaviest_cells(attention: np.ndarray, mass: float = 0.9) -> np.ndarray:
    """The fewest cells that carry more than a share of the attention.   (..., h, w) -> (..., h, w) bool

    Naseer et al. 2021, Sec. 3.3, as in their code: sorted from the smallest, those whose running sum exceeds 1 − mass.
    """
    flat = attention.reshape(*attention.shape[:-2], -1)
    order = np.argsort(flat, axis=-1, kind="stable")
    share = np.take_along_axis(flat, order, axis=-1) / flat.sum(axis=-1, keepdims=True)
    kept = np.zeros(flat.shape, bool)
    np.put_along_axis(kept, order, np.cumsum(share, axis=-1) > 1 - mass, axis=-1)
    return kept.reshape(attention.shape)


def jaccard(found: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Intersection over union of masks (..., H, W); 0 where both are empty."""
    both, either = (np.sum(part, axis=(-2, -1)) for part in (found & truth, found | truth))
    return both / np.maximum(either, 1)


def segmentation_jaccard(attention: np.ndarray, masks: Sequence[np.ndarray], *, mass: float = 0.9) -> float:
    """How well the attention of the best head outlines objects without ever having seen an outline.

    attention: (B, h, gh, gw), of the class token; masks: for each image (n, H, W) bool, one for each object

    Naseer et al. 2021, Fig. 1 e, as in their code: for each object the largest Jaccard index of any head's heaviest
    cells, in the mean over an image's objects and over images. Images without objects are left out.
    """
    kept = heaviest_cells(attention, mass)
    best = []
    for heads, objects in zip(kept, masks, strict=True):
        if len(objects):
            cells = _check_cells(np.empty((1, *objects.shape[1:], 1)), heads.shape[1:])
            outlines = np.kron(heads, np.ones((1, *cells), bool))
            best.append(jaccard(outlines[:, None], objects[None]).max(axis=0).mean())
    return float(np.mean(best))
