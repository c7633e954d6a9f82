"""A loss as a function of one long vector of parameters, with everything else held still.

Curvature, sharpness and landscapes all look at the same function: the objective of a model on fixed data, in a fixed
mode, in one precision. A ``Surface`` is that function, and its ``Protocol`` says which one it is.
"""

from __future__ import annotations

import copy
import hashlib
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import NamedTuple

import numpy as np

from tinyvit.autodiff.backward import gradients
from tinyvit.autodiff.watch import no_grad, watching
from tinyvit.backend import to_numpy
from tinyvit.nn.embed import pixels
from tinyvit.nn.module import Module, swapped


@dataclass(frozen=True)
class Protocol:
    """What was measured, and where. Results under different protocols do not compare.

    matrix      "hessian", "gauss-newton" or "fisher"
    loss        the objective on the data: as it goes to zero, so does the curvature
    mode        "evaluation", or "training" (noise drawn once, statistics of the batch)
    samples     how many the objective is the mean of
    data        a digest of them
    parameters  the patterns of names whose parameters were moved
    n_params    how many numbers those are
    dtype       the precision of the computation
    """

    matrix: str
    loss: float
    mode: str
    samples: int
    data: str
    parameters: str
    n_params: int
    dtype: str


class Part(NamedTuple):
    """A part of the data, its share of the whole, and the seed of its noise."""

    batch: tuple
    share: float
    seed: int


class Surface:
    """``objective(model, batch)`` as a function of the vector w of its parameters.

    objective  (model, batch) -> loss, a mean over samples
    model      it is copied, in the mode it is in; of one in training mode the noise is drawn once and stays
    batch      arrays whose first axes are the samples: (images, labels)
    names      a pattern, or several, of the parameters that are the vector; the others stay where they are
    chunk      how many samples' graph is in memory at a time; all of them, unless given. Where samples meet (BatchNorm
               in training) they meet within their part
    dtype      the precision of everything

    Raises ValueError where no parameter's name matches, or for a chunk under one.
    """

    def __init__(self, objective, model: Module, batch: tuple, *, names="*", chunk: int | None = None,
                 dtype=np.float64):  # fmt: skip
        self.objective, self.batch, self.dtype = objective, tuple(batch), np.dtype(dtype)
        self.model = copy.deepcopy(model).astype(dtype)
        self.named = parameters_called(names, self.model)
        if chunk is not None and chunk < 1:
            raise ValueError(f"chunk: expected at least 1, got {chunk}")
        self.parameters = list(self.named.values())
        self.patterns = names if isinstance(names, str) else " ".join(names)
        self.size = sum(p.size for p in self.parameters)
        self.samples = len(self.batch[0])
        self.parts = self._cut(chunk or self.samples)

    def _cut(self, chunk: int) -> list[Part]:
        whole = [self._cast(x) for x in self.batch]
        starts = range(0, self.samples, chunk)
        seeds = self.model.rng.integers(2**63, size=len(starts)) if self.model.training else np.zeros(len(starts), int)
        batches = [tuple(x[i : i + chunk] for x in whole) for i in starts]
        return [Part(b, len(b[0]) / self.samples, s) for b, s in zip(batches, seeds, strict=True)]

    def _cast(self, x):
        """An array where the model is; numbers that are not whole in the precision that it computes in."""
        x = pixels(self.model.bring(x))
        return x.astype(self.dtype) if x.dtype.kind == "f" else x

    @property
    def mode(self) -> str:
        """The model's mode, in words."""
        if not self.model.training:
            return "evaluation"
        return "training" if len(self.parts) == 1 else f"training, {len(self.parts[0].batch[0])} at a time"

    # the function ---------------------------------------------------------------------------------

    @property
    def w(self) -> np.ndarray:
        """Where the parameters are, (P,)."""
        return to_numpy(flatten(p.data for p in self.parameters))

    def split(self, vector: np.ndarray) -> list:
        """A vector (P,) cut into arrays of the parameters' shapes, where the model is."""
        return unflatten(self.model.bring(np.ravel(vector).astype(self.dtype)), self.parameters)

    def named_parts(self, vector: np.ndarray) -> dict[str, np.ndarray]:
        """A vector (P,) as parameters by name."""
        return dict(zip(self.named, self.split(vector), strict=True))

    def part_loss(self, part: Part):
        """The objective on a part, as a Tensor."""
        with self.noise(part):
            return self.objective(self.model, part.batch)

    def noise(self, part: Part):
        """In training mode, a context in which a part's noise is what it was before."""
        return watching(noise=np.random.default_rng(part.seed)) if self.model.training else nullcontext()

    @contextmanager
    def at(self, w):
        """Run a block with the parameters at w (P,)."""
        with swapped(self.model, {} if w is None else self.named_parts(w)):
            yield

    def loss(self, w=None) -> float:
        """L(w); where the model is, unless w is given."""
        with self.at(w), no_grad():
            return sum(part.share * self.part_loss(part).item() for part in self.parts)

    def gradient(self, w=None) -> tuple[float, np.ndarray]:
        """L(w) and ∇L(w), (P,)."""
        value, total = 0.0, 0.0
        with self.at(w):
            for part in self.parts:
                loss = self.part_loss(part)
                value += part.share * loss.item()
                total = total + part.share * flatten(gradients(loss, self.parameters))
        return value, to_numpy(total)

    def protocol(self, matrix: str = "hessian") -> Protocol:
        """Under which conditions it is what it is."""
        return Protocol(matrix, self.loss(), self.mode, self.samples, digest(*self.batch), self.patterns, self.size,
                        self.dtype.name)  # fmt: skip


def parameters_called(names, model: Module) -> dict:
    """The model's parameters by name, those that match a pattern or one of several."""
    patterns = (names,) if isinstance(names, str) else tuple(names)
    everything = dict(model.named_parameters())
    found = {name: p for name, p in everything.items() if any(fnmatchcase(name, pattern) for pattern in patterns)}
    if not found:
        raise ValueError(f"names: no parameter is called {' or '.join(patterns)}; there is {next(iter(everything))}")
    return found


def digest(*arrays) -> str:
    """Sixteen letters that differ where shapes, types or numbers differ."""
    found = hashlib.sha256()
    for array in map(np.ascontiguousarray, map(to_numpy, arrays)):
        found.update(f"{array.dtype.str}{array.shape}".encode())
        found.update(array.data)
    return found.hexdigest()[:16]


def flatten(arrays) -> np.ndarray:
    """Arrays as one vector."""
    return np.concatenate([np.ravel(a) for a in arrays])


def unflatten(vector: np.ndarray, like) -> list[np.ndarray]:
    """A vector cut into arrays of the shapes of ``like``."""
    like = list(like)
    cuts = np.cumsum([x.size for x in like])[:-1].tolist()
    return [part.reshape(x.shape) for part, x in zip(np.split(vector, cuts), like, strict=True)]
