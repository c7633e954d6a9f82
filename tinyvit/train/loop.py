"""The training loop, as a generator: what others write as callbacks is the body of your ``for``.

for step in training(model, epochs, gradient, AdamW(model), warmup_cosine(2e-3, warmup=50, total=600), rng=rng):
if step.number % 50 == 0:
print(step)
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from tinyvit.autodiff.tensor import raw
from tinyvit.autodiff.watch import no_grad, watch
from tinyvit.equations.loss import cross_entropy
from tinyvit.machine import reuse_memory, side_by_side, useful_workers
from tinyvit.nn.embed import pixels
from tinyvit.nn.module import Module
from tinyvit.train.gradient import Gradient, global_norm
from tinyvit.train.microbatch import fair_chunk
from tinyvit.train.optimizer import Optimizer
from tinyvit.train.schedule import Schedule


@dataclass(frozen=True)
class Step:
    """One update: its number from 0, the batch's loss before it, the rate, the gradient's norm, seconds it took."""

    number: int
    loss: float
    rate: float
    gradient_norm: float
    seconds: float


class Score(NamedTuple):
    """How a model does on a data set: mean cross-entropy, and the share of labels it gets right."""

    loss: float
    accuracy: float


def training(
    model: Module,
    batches: Iterable,
    gradient: Gradient,
    optimizer: Optimizer,
    schedule: Schedule,
    *,
    rng: np.random.Generator | Callable[[int], np.random.Generator],
    start: int = 0,
    progress: str | None = None,
) -> Iterator[Step]:
    """Train on every batch, yielding after each update. The model is in evaluation mode at the yield and after.

    batches   pairs (images, labels), on the host or where the model is; a length tells the progress bar the end
    rng       the source of the model's noise (dropout, stochastic depth); or a function that gives each step its own
    start     the number of the first step: a run that goes on begins where it stopped
    progress  a name to show a progress bar under, on stderr; None for none

    Raises FloatingPointError, naming the step, when the loss is not a finite number.
    """
    reuse_memory()
    with _bar(batches, start, progress) as bar:
        for number, batch in enumerate(batches, start):
            began = time.perf_counter()
            model.train(rng(number) if callable(rng) else rng)
            try:
                loss, g = gradient(model, batch)
            finally:
                model.eval()
            if not np.isfinite(loss):
                raise FloatingPointError(f"the loss is {loss} at step {number}; a smaller learning rate may help")
            rate = schedule(number)
            optimizer.step(g, rate)
            bar.set_postfix(loss=f"{loss:.3f}", refresh=False)
            bar.update()
            yield Step(number, loss, rate, global_norm(g), time.perf_counter() - began)


def predict(model: Module, images, *, chunk: int = 16, workers: int | None = None):
    """The model's outputs for images, as one array; nothing is recorded.   (N, H, W, C) -> (N, …)

    The images are cut into parts of ``chunk`` that run side by side on ``workers`` threads (see ``threaded``), but not
    for a model in training mode or on a device, nor inside of ``capture`` or ``profile``, which are to see all images
    together. Put it in evaluation mode for outputs without noise. Images on the host are moved to where the model is;
    the outputs stay there. Bytes are taken as pixels from 0 to 255.
    """
    whole = model.training or model.on_device or watch().listeners
    threads = 1 if whole else workers or useful_workers(model.num_parameters())
    size = len(images) if threads == 1 else fair_chunk(chunk, len(images), threads)

    def forward(start):
        with no_grad():
            return raw(model(model.bring(pixels(images[start : start + size]))))

    return np.concatenate(side_by_side(forward, range(0, max(len(images), 1), max(size, 1)), threads))


def evaluate(model: Module, dataset: tuple, *, batch_size: int = 256) -> Score:
    """Loss and accuracy of the model, as it is (put it in evaluation mode first), on (images, labels)."""
    images, labels = dataset
    total_loss = total_right = 0.0
    for at in range(0, len(labels), batch_size):
        part = slice(at, at + batch_size)
        logits, truth = predict(model, images[part]), model.bring(labels[part])
        total_loss += cross_entropy(logits, truth, reduction="sum").item()
        total_right += np.sum(np.argmax(logits, axis=-1) == truth).item()
    return Score(total_loss / len(labels), total_right / len(labels))


def _bar(batches, start: int, name: str | None):
    """A progress bar over the batches; silent without a name, and where nobody watches (a file, a pipe)."""
    from tqdm import tqdm

    total = start + len(batches) if hasattr(batches, "__len__") else None
    return tqdm(
        total=total,
        initial=start,
        desc=name,
        disable=None if name else True,
        unit="step",
        leave=False,
        dynamic_ncols=True,
    )
