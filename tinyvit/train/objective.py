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
from tinyvit.autodiff.tensor import Tensor, raw
from tinyvit.autodiff.watch import no_grad, watching
from tinyvit.backend import to_numpy
from tinyvit.equations.loss import cross_entropy, hard_distillation, soft_distillation
from tinyvit.machine import side_by_side, useful_workers
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


def distilled_from(teacher: Module, *, tau: float | None = None, lam: float = 0.5) -> Objective:
    """The labels, and the word of a teacher in evaluation mode (DeiT, Touvron et al. 2021, Sec. 4).

    tau  the temperature of ``soft_distillation``; without it the teacher's decision counts, ``hard_distillation``
    lam  the weight of the teacher's word
    A student that in training returns a pair learns with its second logits from the teacher: the distillation token's.
    """

    def objective(model, batch):
        images, labels = batch
        with no_grad():
            taught = raw(teacher(images))
        outputs = model(images)
        logits, distilled = outputs if isinstance(outputs, tuple) else (outputs, None)
        if tau is None:
            return hard_distillation(logits, taught, labels, distilled, lam=lam)
        return soft_distillation(logits, taught, labels, distilled, tau=tau, lam=lam)

    return objective


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


def threaded(gradient: Gradient, *, workers: int | None = None, chunk: int = 8) -> Gradient:
    """The same gradient, its batch cut into micro-batches of ``chunk`` samples that run on ``workers`` Python threads.

    Each worker adds up its own micro-batches, and the workers are added in a fixed order, so the same number of workers
    gives the same bits. Every micro-batch has a generator of its own, so its noise does not depend on the threads. The
    objective must be a mean over the samples.

    workers  the cores there are, unless given; one for a model so small that threads would wait for each other
    A model in which samples meet (BatchNorm in training) is not cut: the same function first, speed second. Nor is one
    on a device, which is parallel by itself.
    """
    if (workers is not None and workers < 1) or chunk < 1:
        raise ValueError(f"workers and chunk: expected at least 1, got {workers} and {chunk}")

    def gradient_threaded(model, batch):
        total, threads = len(batch[0]), workers or useful_workers(model.num_parameters())
        mixes = model.training and any(module.mixes_batch for _, module in model.named_modules())
        size = fair_chunk(chunk, total, threads)
        if mixes or model.on_device or total <= size:
            return gradient(model, batch)
        cuts = [slice(i, i + size) for i in range(0, total, size)]
        noise = model.rng.spawn(len(cuts)) if model.training else [None] * len(cuts)
        parts = [(tuple(a[cut] for a in batch), rng) for cut, rng in zip(cuts, noise, strict=True)]

        def work(share):
            return _summed(_weighted(gradient, model, part, rng, total) for part, rng in share)

        return _summed(side_by_side(work, [parts[i::threads] for i in range(min(threads, len(parts)))], threads))

    return gradient_threaded


def fair_chunk(chunk: int, total: int, workers: int) -> int:
    """Samples of a micro-batch: ``chunk``, or fewer where some of the workers would get none."""
    return min(chunk, -(-total // workers))


def _weighted(gradient: Gradient, model, part, rng, total: int):
    """A micro-batch's share of the batch's loss and gradient."""
    share = len(part[0]) / total
    with watching(noise=rng):
        loss, g = gradient(model, part)
    for array in g.values():
        array *= share
    return loss * share, g


def _summed(results):
    """The sum of losses and gradients, in the order they come; the first one's arrays are added into."""
    results = iter(results)
    loss, total = next(results)
    for more, g in results:
        loss += more
        for name, array in g.items():
            total[name] += array
    return loss, total


def global_norm(arrays: dict[str, np.ndarray]) -> float:
    """The Euclidean norm of all arrays as one vector."""
    return math.sqrt(to_numpy(sum(np.sum(a * a).astype(np.float64) for a in arrays.values())))  # to the host once
