"""What a trained model is worth beyond its own task: its score, and a linear probe of its features."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np

from tinyvit.autodiff.tensor import raw
from tinyvit.autodiff.watch import no_grad
from tinyvit.data import Dataset
from tinyvit.equations.loss import cross_entropy
from tinyvit.nn.basic import Conv2d, Linear
from tinyvit.nn.capture import capture
from tinyvit.nn.embed import pixels
from tinyvit.nn.module import Module
from tinyvit.train import predict

STRENGTHS = 10.0 ** np.arange(-6, 5)  # of the regulariser, per image


@dataclass(frozen=True)
class Report:
    """How a model does on labelled images.

    loss, accuracy  as in training · per_class (K,): the share of each class that it gets right
    confusion       (K, K): how many images of class i were called class j
    """

    loss: float
    accuracy: float
    per_class: list[float]
    confusion: list[list[int]]

    def as_dict(self) -> dict:
        """As plain lists and numbers."""
        return asdict(self)


def scored(model: Module, dataset: Dataset) -> Report:
    """Loss, accuracy and confusion of a model in evaluation mode on (images, labels)."""
    logits, labels = predict(model, dataset.images), dataset.labels
    confusion = np.zeros((logits.shape[-1],) * 2, np.int64)
    np.add.at(confusion, (labels, logits.argmax(-1)), 1)
    right = np.diag(confusion)
    return Report(
        loss=float(cross_entropy(logits, labels)),
        accuracy=float(right.sum() / len(labels)),
        per_class=(right / np.maximum(confusion.sum(1), 1)).tolist(),
        confusion=confusion.tolist(),
    )


# features ----------------------------------------------------------------------------------


def features(model: Module, images, *, blocks: int = 1, batch: int = 64) -> np.ndarray:
    """What the classifier sees, or the class tokens of the last ``blocks`` blocks side by side.   -> (N, blocks · D)

    The model should be in evaluation mode. Of a model without a class token a block's patches are averaged. Raises
    ValueError for a model without a classifier, or with fewer blocks than are asked for.
    """
    names = _places(model, blocks)
    parts = []
    for at in range(0, len(images), batch):
        with no_grad(), capture(model, *names) as seen:
            model(pixels(images[at : at + batch]))
            parts.append(np.concatenate([_pooled(raw(seen[name]), model) for name in names], axis=-1))
    return np.concatenate(parts)


def _places(model: Module, blocks: int) -> list[str]:
    """Where the features are."""
    if blocks == 1:
        return [f"{classifier_name(model)}.input"]
    depth = len(getattr(model, "blocks", ()))
    if not 1 < blocks <= depth:
        raise ValueError(f"blocks: expected 1 to {max(depth, 1)} for a {type(model).__name__}, got {blocks}")
    return [f"blocks.{i}" for i in range(depth - blocks, depth)]


def classifier_name(model: Module) -> str:
    """The name of the last linear layer, which gives the logits; BiT's is a convolution of one pixel."""
    linear = [
        name
        for name, module in model.named_modules()
        if isinstance(module, Linear) or (isinstance(module, Conv2d) and module.weight.shape[2:] == (1, 1))
    ]
    classes = getattr(model.config, "num_classes", 0)
    if not classes or not linear or dict(model.named_modules())[linear[-1]].weight.shape[0] != classes:
        raise ValueError(f"model: this {type(model).__name__} has no linear classifier at its end")
    return linear[-1]


def _pooled(x: np.ndarray, model: Module) -> np.ndarray:
    """One row per image: the class token, or the mean over what there is."""
    if x.ndim == 2:
        return x
    if x.ndim == 3 and getattr(model, "prefix", 0):
        return x[:, 0]
    return x.reshape(len(x), -1, x.shape[-1]).mean(1)


# the probe ---------------------------------------------------------------------------------


def few_shot(train: tuple, validation: tuple, test: tuple, *, shots: int, rng: np.random.Generator) -> float:
    """Test accuracy of a linear map that least squares fits to a few images per class (Dosovitskiy et al. 2021, D.4).

    W = argmin Σ‖yᵢ - W xᵢ‖² + λ‖W‖²,  yᵢ ∈ {-1, 1}ᴷ

    train, validation, test  pairs of features (N, D) and labels (N,); λ is chosen on the validation part
    shots                    images per class, drawn at random
    """
    x, labels = train
    classes = int(max(labels.max(), test[1].max())) + 1
    counts = np.bincount(labels, minlength=classes)
    if counts.min() < shots:
        raise ValueError(f"shots: class {counts.argmin()} has {counts.min()} training images, not {shots}")
    chosen = np.concatenate([rng.permutation(np.flatnonzero(labels == k))[:shots] for k in range(classes)])
    mean, scale = x[chosen].mean(0), x[chosen].std(0) + 1e-6
    rows = {name: _with_one((part - mean) / scale) for name, part in
            {"train": x[chosen], "validation": validation[0], "test": test[0]}.items()}  # fmt: skip
    targets = 2.0 * np.eye(classes)[labels[chosen]] - 1

    def accuracy(weights, part, truth):
        return float(np.mean((rows[part] @ weights).argmax(-1) == truth))

    fits = [ridge(rows["train"], targets, strength) for strength in STRENGTHS]
    best = max(fits, key=lambda weights: accuracy(weights, "validation", validation[1]))
    return accuracy(best, "test", test[1])


def ridge(x: np.ndarray, y: np.ndarray, strength: float) -> np.ndarray:
    """``(XᵀX + nλI)⁻¹ XᵀY``, by whichever of X's sides is shorter.   (n, D), (n, K) -> (D, K)"""
    n, D = x.shape
    if n < D:
        return x.T @ np.linalg.solve(x @ x.T + n * strength * np.eye(n), y)
    return np.linalg.solve(x.T @ x + n * strength * np.eye(D), x.T @ y)


def _with_one(x: np.ndarray) -> np.ndarray:
    return np.concatenate([x.astype(np.float64), np.ones((len(x), 1))], axis=1)
