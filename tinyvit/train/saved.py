"""States in flat dicts, name -> array or number: taken out as copies, put back only if all of it fits."""

from __future__ import annotations

import numpy as np

from tinyvit.backend import like, to_numpy


def copied(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The arrays, copied to the host."""
    return {name: np.array(to_numpy(array)) for name, array in arrays.items()}


def fitting(state: dict, own: dict, whose: str) -> dict:
    """The values of ``state``, copied to where those of ``own`` are and in their precision.

    Raises ValueError naming everything that is missing, unknown or of another shape.
    """
    wrong = [f"missing: {name}" for name in own if name not in state]
    wrong += [f"unknown: {name}" for name in state if name not in own]
    shapes = {n: (np.shape(state[n]), np.shape(own[n])) for n in own if n in state}
    wrong += [f"{name} has shape {got}, expected {ours}" for name, (got, ours) in shapes.items() if got != ours]
    if wrong:
        raise ValueError("\n  ".join([f"the state does not fit {whose}", *wrong]))
    return {name: _as(state[name], value) for name, value in own.items()}


def _as(value, own):
    return like(np.array(value, dtype=own.dtype), own) if hasattr(own, "dtype") else value
