"""The gradient of an objective, and how long it may be.

A *gradient* is a function ``(model, batch) -> (loss, {parameter name: array})``. Whatever changes gradients takes a
gradient and returns a gradient, so the order in which things are done is the order in which they are written:

    gradient = gradient_of(classification())
    gradient = sharpness_aware(threaded(gradient), rho=0.1)
    gradient = clipped(gradient, norm=1.0)
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from tinyvit.autodiff.backward import gradients
from tinyvit.backend import to_numpy
from tinyvit.nn.module import Module
from tinyvit.train.objective import Objective

Gradient = Callable[[Module, tuple], tuple[float, dict[str, np.ndarray]]]


def gradient_of(objective: Objective) -> Gradient:
    """The loss and its derivative in every parameter of the model. The graph is gone when it returns.

    For a model on a device, the arrays of a batch that are on the host are moved there.
    """

    def gradient(model, batch):
        named = dict(model.named_parameters())
        batch = tuple(map(model.bring, batch)) if model.on_device else batch
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
    return math.sqrt(to_numpy(sum(np.sum(a * a).astype(np.float64) for a in arrays.values())))  # to the host once
