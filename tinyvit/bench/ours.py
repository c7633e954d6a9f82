"""Our contenders: the public interface as a user meets it. Each has a namesake in torch_peer.py."""

from __future__ import annotations

import numpy as np

from tinyvit.analysis.curvature import curvature
from tinyvit.autodiff.backward import gradients
from tinyvit.autodiff.tensor import Tensor
from tinyvit.autodiff.watch import no_grad
from tinyvit.bench.tasks import Convolution, Images, Inputs, Windows
from tinyvit.equations.convolution import conv2d
from tinyvit.machine import blas_threads, reuse_memory, side_by_side, useful_workers
from tinyvit.train import AdamW, classification, gradient_of, predict, threaded


def training_step(task: Images, threads: int):
    """Forward, cross-entropy, backward and the update of AdamW; gives the loss before the update.

    The batch is cut into micro-batches over the threads, as ``threaded`` offers to anybody.
    """
    reuse_memory()  # as training() does
    model, batch = task.create(), task.data()
    derivative = threaded(gradient_of(classification()), workers=workers(model, threads))
    optimizer, rng = AdamW(model), np.random.default_rng(2)

    def step():
        loss, g = derivative(model.train(rng), batch)
        optimizer.step(g, task.rate)
        return loss

    return step


def inference(task: Images, threads: int):
    """Forward without a graph, the batch in parts side by side, as ``predict`` offers to anybody; gives the logits."""
    reuse_memory()
    model, (images, _) = task.create().eval(), task.data()

    def step():
        return predict(model, images, workers=threads)

    return step


def forward(task: Inputs, threads: int):
    """The same for a model that takes anything, with equal parts of the batch side by side; gives no numbers."""
    reuse_memory()
    model, inputs, size = task.create().eval(), task.data(), -(-task.batch // threads)

    def of_part(start):
        with no_grad():
            model(*(x[start : start + size] for x in inputs))

    def step():
        side_by_side(of_part, range(0, task.batch, size), threads)

    return step


def gradient(task: Images, threads: int, *, by=None):
    """Forward, cross-entropy and backward; gives the loss and the derivative in every parameter.

    by  who computes it for a micro-batch: ``gradient_of``, unless it is somebody else
    """
    reuse_memory()
    model, batch = task.create(), task.data()
    derivative = threaded(by or gradient_of(classification()), workers=workers(model, threads))

    def step():
        loss, g = derivative(model, batch)
        return loss, *g.values()

    return step


def hessian_products(task: Images, threads: int, *, count: int):
    """The loss's Hessian times ``count`` vectors, its graph built once for all of them; gives the last product."""
    reuse_memory()
    model, batch, vectors = task.create(), task.data(), np.stack(task.directions(count), axis=1)

    def step():
        hessian = curvature(classification(), model, batch, dtype=np.float32, workers=workers(model, threads))
        return (hessian @ vectors)[:, -1]

    return step


def convolution(task: Convolution, threads: int):
    """Forward and backward; gives the output and the derivatives in input, weight and bias."""
    reuse_memory()
    *arrays, cotangent = task.data()
    inputs = [Tensor(a, requires_grad=True) for a in arrays]

    def step():
        y = conv2d(*inputs, **task.settings)
        return y.data, *gradients(y, inputs, cotangent)

    return step


def window_blocks(task: Windows, threads: int):
    """Forward and backward; gives the loss (mean of output · cotangent over the maps) and its derivatives."""
    reuse_memory()
    blocks, batch = task.create(), task.data()

    def objective(model, batch):
        x, cotangent = batch
        return (model(x) * cotangent).sum() / len(x)

    derivative = threaded(gradient_of(objective), workers=workers(blocks, threads))

    def step():
        loss, g = derivative(blocks, batch)
        return loss, *g.values()

    return step


def workers(model, threads: int) -> int:
    """How many of the threads a user's ``threaded`` would take."""
    return min(threads, useful_workers(model.num_parameters()))


# ours beside ours ---------------------------------------------------------------------------


def on_one_thread(contender, task, threads: int):
    """A contender's step, held to one thread."""
    step = contender(task, 1)

    def held():
        with blas_threads(1):
            return step()

    return held


def other_work(contender, task, threads: int, *, times: int = 1):
    """A contender's step so many times over, as a measure for work of another kind: it gives no numbers."""
    step = contender(task, threads)

    def steps():
        for _ in range(times):
            step()

    return steps
