"""What is minimised, and its gradient.

An *objective* is a plain function ``(model, batch) -> loss``. A *gradient* is a function ``(model, batch) -> (loss,
{parameter name: array})``. Whatever changes gradients (clipping, for one) takes a gradient and returns a gradient, so
the order in which things are done is the order in which they are written.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from tinyvit.autodiff.backward import gradients
from tinyvit.autodiff.tensor import Tensor
from tinyvit.equations.loss import cross_entropy
from tinyvit.nn.module import Module

Objective = Callable[[Module, tuple], Tensor]
Gradient = Callable[[Module, tuple], tuple[float, dict[str, np.ndarray]]]


def classification(*, smoothing: float = 0.0) -> Objective:
    """Cross-entropy of the model's logits with the batch's labels, which may be smoothed.

    A batch is ``(images (B, H, W, C), labels (B,))``; labels may also be distributions (B, K).
    """

    def objective(model, batch):
        images, labels = batch
        return cross_entropy(model(images), labels, smoothing=smoothing)

    return objective


def gradient_of(objective: Objective) -> Gradient:
    """The loss and its derivative in every parameter of the model. The graph is gone when it returns."""

    def gradient(model, batch):
        named = dict(model.named_parameters())
        loss = objective(model, batch)
        return loss.item(), dict(zip(named, gradients(loss, named.values()), strict=True))

    return gradient


def clipped(gradient: Gradient, *, norm: float) -> Gradient:
    """The same direction, no longer than ``norm`` over all parameters jointly (Pascanu et al. 2013, Alg. 1)."""
    if not norm > 0:
        raise ValueError(f"norm: expected a positive number, got {norm}")

    def gradient_clipped(model, batch):
        loss, g = gradient(model, batch)
        scale = min(1.0, norm / (global_norm(g) + 1e-6))
        return loss, g if scale == 1.0 else {name: array * scale for name, array in g.items()}

    return gradient_clipped


def global_norm(arrays: dict[str, np.ndarray]) -> float:
    """The Euclidean norm of all arrays as one vector."""
    return math.sqrt(sum(float(np.sum(a * a)) for a in arrays.values()))
