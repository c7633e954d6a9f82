"""A batch's gradient from its parts: side by side, to be fast, or one after the other, to need less memory.

The objective must be a mean over the samples.
"""

from __future__ import annotations

import numpy as np

from tinyvit.autodiff.watch import watch, watching
from tinyvit.machine import side_by_side, useful_workers
from tinyvit.nn.noise import source
from tinyvit.train.gradient import Gradient


def threaded(gradient: Gradient, *, workers: int | None = None, chunk: int = 8) -> Gradient:
    """The same gradient, its batch cut into micro-batches of ``chunk`` samples that run on ``workers`` Python threads.

    Each worker adds up its own micro-batches, and the workers are added in a fixed order, so the same number of workers
    gives the same bits. Every micro-batch has a generator of its own, so its noise does not depend on the threads; the
    seeds are drawn from the model's generator, whose state therefore tells everything.

    workers  the cores there are, unless given; one for a model so small that threads would wait for each other
    A batch whose samples meet in the model (BatchNorm in training) is not cut: the same function first, speed second.
    Nor is it on a device, which is parallel by itself, and inside of ``capture`` or ``profile``, which are to see it
    whole.
    """
    if (workers is not None and workers < 1) or chunk < 1:
        raise ValueError(f"workers and chunk: expected at least 1, got {workers} and {chunk}")

    def gradient_threaded(model, batch):
        total, threads = len(batch[0]), workers or useful_workers(model.num_parameters())
        mixes = model.training and any(module.mixes_batch for _, module in model.named_modules())
        size = fair_chunk(chunk, total, threads)
        if mixes or model.on_device or watch().listeners or total <= size:
            return gradient(model, batch)
        parts = _cut(batch, range(0, total, size), size)
        seeds = source(model.rng).integers(2**63, size=len(parts)) if model.training else [None] * len(parts)
        seeded = list(zip(parts, seeds, strict=True))

        def alone(part, seed):
            with watching(noise=None if seed is None else np.random.default_rng(seed), shared=True):
                return _weighted(gradient, model, part, total)

        def work(share):
            return _summed(alone(part, seed) for part, seed in share)

        return _summed(side_by_side(work, [seeded[i::threads] for i in range(min(threads, len(parts)))], threads))

    return gradient_threaded


def accumulated(gradient: Gradient, *, parts: int) -> Gradient:
    """The same gradient, from ``parts`` micro-batches one after the other: only one graph is in memory at a time.

    Where samples meet (BatchNorm in training) they meet within their part only, so there it is another function.
    """
    if parts < 1:
        raise ValueError(f"parts: expected at least 1, got {parts}")

    def gradient_accumulated(model, batch):
        total = len(batch[0])
        size = max(-(-total // parts), 1)
        return _summed(_weighted(gradient, model, part, total) for part in _cut(batch, range(0, total, size), size))

    return gradient_accumulated


def fair_chunk(chunk: int, total: int, workers: int) -> int:
    """Samples of a micro-batch: ``chunk``, or fewer where some of the workers would get none."""
    return min(chunk, -(-total // workers))


def _cut(batch: tuple, starts, size: int) -> list[tuple]:
    """The parts of a batch that begin at ``starts``; all its arrays are cut along their first axis."""
    return [tuple(array[i : i + size] for array in batch) for i in starts]


def _weighted(gradient: Gradient, model, part, total: int):
    """A micro-batch's share of the batch's loss and gradient."""
    share = len(part[0]) / total
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
