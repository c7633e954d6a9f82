"""Loss landscapes: the loss on lines, planes and boxes through the weights.

    f(α, β, …) = L(w + α d₁ + β d₂ + …)                                  (Li et al. 2018, Sec. 3)

A *direction* is a dict, name -> array, of what moves; what it does not name stays. ``random_direction`` draws one whose
length fits the weights, ``direction_of`` makes one of a Hessian's eigenvector, ``between`` leads to another model, and
``path_plane`` finds the plane that an optimiser's path lies in. ``landscape`` walks the grid.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from tinyvit.analysis.surface import Surface, digest, flatten, parameters_called, unflatten
from tinyvit.backend import to_numpy
from tinyvit.files import write_atomically
from tinyvit.nn.module import Module, swapped

Direction = dict[str, np.ndarray]


# directions ---------------------------------------------------------------------------------------

# Over which axes of a weight (out, in, …) the length is taken that a random direction shares with it.
NORMS = {
    "filter": lambda shape: tuple(range(1, len(shape))),
    "input": lambda shape: (0,),
    "neuron": lambda shape: (2,) if len(shape) == 3 and shape[0] == 1 else tuple(range(1, len(shape))),
}


def random_direction(model: Module, *, norm: str = "neuron", rng: np.random.Generator) -> Direction:
    """A Gaussian direction, each part of it as long as the weights there: ``dᵢ ← dᵢ ‖wᵢ‖/‖dᵢ‖``.

    norm  what the parts are:
          "filter"  every filter or output neuron, along the first axis (Li et al. 2018, Sec. 4)
          "input"   every input of a matrix, across the first axis (Park and Kim 2022, their code)
          "neuron"  as "filter", but of tables (1, N, D), such as positions, every token's row by itself

    So nets that compute the same with other scales look the same. Biases, norms and whatever has one axis do not move.
    """
    if norm not in NORMS:
        raise ValueError(f"norm: expected one of {list(NORMS)}, got {norm!r}")
    weights = {name: to_numpy(p.data) for name, p in model.named_parameters() if p.ndim >= 2}
    return {name: _as_long(rng.standard_normal(w.shape), w, NORMS[norm](w.shape)) for name, w in weights.items()}


def _as_long(d: np.ndarray, w: np.ndarray, axes: tuple[int, ...]) -> np.ndarray:
    def length(x):
        return np.sqrt(np.sum(np.square(x, dtype=np.float64), axis=axes, keepdims=True))

    return d * length(w) / (length(d) + 1e-10)


def direction_of(vector: np.ndarray, model: Module, *, names="*") -> Direction:
    """A vector of all parameters, or of those that match, as a direction: an eigenvector (P,) of their Hessian."""
    named = parameters_called(names, model)
    if np.shape(vector) != (size := sum(p.size for p in named.values()),):
        raise ValueError(f"vector: expected shape ({size},), got {np.shape(vector)}")
    return dict(zip(named, unflatten(vector, named.values()), strict=True))


def between(model: Module, other: Module) -> Direction:
    """From one model to another of the same shapes: at 0 is the first, at 1 the second, running statistics included.

    Source: Goodfellow et al. 2015. Raises ValueError where the names or shapes differ.
    """
    here, there = ({n: to_numpy(x) for n, x in m.state_dict().items() if x.dtype.kind == "f"} for m in (model, other))
    if {n: x.shape for n, x in here.items()} != {n: x.shape for n, x in there.items()}:
        raise ValueError("other: expected a model with the same names and shapes")
    return {name: there[name].astype(np.float64) - here[name] for name in here}


class PathPlane(NamedTuple):
    """The plane, or whatever is asked for, that a path lies in best.

    directions   k of them, orthonormal
    coordinates  (T, k), of the T states; the last is (0, …)
    explained    (k,), the share of the path's squared lengths along each
    """

    directions: list[Direction]
    coordinates: np.ndarray
    explained: np.ndarray


def path_plane(model: Module, states: Sequence[dict], *, k: int = 2) -> PathPlane:
    """The principal directions of an optimiser's path, ``[w₀ - w_T; …; w_{T-1} - w_T]`` (Li et al. 2018, Sec. 7).

    states  (T) the parameters by name at points of the path, such as copies of ``model.state_dict()``
    k       how many directions

    The slice that shows the path goes through its end: give ``landscape`` the model of the last state. Buffers in the
    states are left out.
    """
    named = dict(model.named_parameters())
    if not 1 <= k < len(states):
        raise ValueError(f"k: expected 1 <= k < {len(states)} (the number of states), got {k}")
    path = np.stack([flatten(to_numpy(state[name]).astype(np.float64) for name in named) for state in states])
    path -= path[-1]
    _, lengths, rows = np.linalg.svd(path, full_matrices=False)
    rows = rows[:k] * np.where(rows[:k] @ path[0] < 0, -1, 1)[:, None]  # the path begins where coordinates are positive
    directions = [direction_of(row, model) for row in rows]
    return PathPlane(directions, path @ rows.T, lengths[:k] ** 2 / np.sum(lengths**2))


# the grid -----------------------------------------------------------------------------------------


def landscape(objective, model: Module, batch: tuple, directions: Sequence[Direction], coordinates: Sequence, *,
              progress: str | None = None, file: str | Path | None = None, chunk: int | None = None,
              dtype=np.float32) -> np.ndarray:  # fmt: skip
    """The objective at ``w + Σₖ aₖ dₖ`` for every a of a grid.   -> one axis for each direction

    directions   one, two, three or more
    coordinates  for each of them the numbers aₖ, in order
    progress     a name to show a progress bar under, on stderr
    file         where finished points are kept, as JSON; a walk that was interrupted goes on from there
    chunk, dtype of ``Surface``

    The model is copied, in the mode it is in, and never moved. A loss that overflows is infinite or NaN.

    Raises ValueError for directions that do not fit the model, and for a file of another walk.
    """
    from tqdm import tqdm

    axes = [np.asarray(a, dtype=np.float64) for a in coordinates]
    if not directions or len(axes) != len(directions) or any(a.ndim != 1 or not a.size for a in axes):
        raise ValueError(f"coordinates: expected a list of numbers for each of {len(directions)} directions")
    surface = Surface(objective, model, batch, chunk=chunk, dtype=dtype)
    origin = {name: x for name, x in surface.model.state_dict().items() if x.dtype.kind == "f"}
    moves = [_fitting(direction, origin, surface) for direction in directions]
    seeds = np.array([part.seed for part in surface.parts])
    arrays = [*axes, *surface.batch, *origin.values(), *(d for move in moves for d in move.values()), seeds]
    grid = _Grid([a.size for a in axes], file and Path(file), digest(*arrays) + surface.mode)
    bar = tqdm(total=grid.losses.size, initial=grid.losses.size - len(grid.missing()), desc=progress, unit="point",
               disable=None if progress else True, leave=False, dynamic_ncols=True)  # fmt: skip
    try:
        for index in grid.missing():
            place = [a[i] for a, i in zip(axes, index, strict=True)]
            with swapped(surface.model, _moved(origin, moves, place)), np.errstate(over="ignore", invalid="ignore"):
                grid.put(index, surface.loss())
            bar.update()
    finally:
        bar.close()
        grid.write()
    return grid.losses


def _fitting(direction: Direction, origin: Direction, surface: Surface) -> Direction:
    """A direction in the precision of the surface, where its model is."""
    for name, d in direction.items():
        if name not in origin or np.shape(d) != origin[name].shape:
            expected = origin[name].shape if name in origin else "no such name"
            raise ValueError(f"directions: {name} has shape {np.shape(d)}, in the model {expected}")
    return {name: surface.model.bring(np.asarray(d).astype(surface.dtype)) for name, d in direction.items()}


def _moved(origin: Direction, moves: list[Direction], place: list[float]) -> Direction:
    """``w + Σ aₖ dₖ``, of the arrays that move."""
    found: Direction = {}
    for a, move in zip(place, moves, strict=True):
        for name, d in move.items():
            found[name] = found.get(name, origin[name]) + d.dtype.type(a) * d
    return found


class _Grid:
    """Losses at the points of a grid, NaN where there is none yet; and, with a file, on disk."""

    def __init__(self, shape: Sequence[int], file: Path | None, key: str):
        self.losses = np.full(shape, np.nan)
        self.done = np.zeros(shape, bool)
        self.file, self.key, self.written = file, key, time.monotonic()
        if file is not None and file.exists():
            self.read()

    def missing(self) -> list[tuple[int, ...]]:
        """The points to be walked."""
        return [tuple(index) for index in np.argwhere(~self.done).tolist()]

    def put(self, index: tuple[int, ...], loss: float) -> None:
        """A finished point. They are written every second, as writing may take longer than a point."""
        self.losses[index], self.done[index] = loss, True
        if time.monotonic() - self.written > 1:
            self.write()

    def write(self) -> None:
        """The finished points, as numbers that read back the same; a file is there whole or not at all."""
        if self.file is not None:
            told = [loss if done else None for loss, done in zip(self.losses.flat, self.done.flat, strict=True)]
            write_atomically(self.file, json.dumps({"walk": self.key, "losses": told}).encode())
            self.written = time.monotonic()

    def read(self) -> None:
        """The finished points of a file. Raises ValueError where it is another walk's, or no such file."""
        try:
            told = json.loads(self.file.read_bytes())
            key, losses = told["walk"], told["losses"]
            numbers = np.array([np.nan if x is None else float(x) for x in losses])
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise ValueError(f"{self.file}: not a landscape's file: {error}") from error
        if key != self.key or numbers.size != self.losses.size:
            raise ValueError(f"{self.file}: the points of another landscape; remove it, or name another file")
        self.losses[...] = numbers.reshape(self.losses.shape)
        self.done[...] = np.array([x is not None for x in losses]).reshape(self.losses.shape)
