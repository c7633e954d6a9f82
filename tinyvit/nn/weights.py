"""Weights in and out of safetensors files. No pickle, nothing half-written, nothing half-loaded."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import numpy as np

from tinyvit.backend import to_numpy
from tinyvit.files import write_atomically
from tinyvit.nn.module import Module, StateError


class WeightFileError(ValueError):
    """A weight file that cannot be read: not safetensors, damaged, or of types a model cannot use."""


OTHER_FORMATS = {".npz", ".npy", ".pt", ".pth", ".bin", ".pkl", ".h5", ".msgpack"}


def save_weights(model: Module, path, metadata: dict[str, str] | None = None) -> Path:
    """Write the model's parameters and buffers to a safetensors file, under timm's names.

    The file appears whole or not at all: it is written beside its place, flushed to disk, and moved there.
    Raises TypeError for what is not a model, ValueError for a name that ends as another format does.
    """
    from safetensors.numpy import save

    if not isinstance(model, Module):
        raise TypeError(f"model: expected a Module, got a {type(model).__name__}; save_weights(model, path)")
    if Path(path).suffix in OTHER_FORMATS:
        raise ValueError(f"path: {str(path)!r} names another format; these are safetensors: use that ending")

    # safetensors 0.8 writes wrong numbers for arrays that are not C-contiguous, so every one is made so
    state = {name: np.ascontiguousarray(to_numpy(x)).reshape(x.shape) for name, x in model.state_dict().items()}
    return write_atomically(Path(path), save(state, metadata))


def read_weights(path) -> dict[str, np.ndarray]:
    """Name -> array, from a safetensors file.

    Raises WeightFileError for a file that is not one, has a name twice, or has numbers that NumPy has no type for.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load

    content = Path(path).read_bytes()
    try:
        state = load(content)
    except KeyError as error:
        raise WeightFileError(f"{path}: its numbers are {error.args[0]}, which NumPy lacks; store float32") from error
    except (SafetensorError, TypeError, ValueError) as error:
        raise WeightFileError(f"{path}: not a whole safetensors file: {error}") from error
    if twice := _named_twice(content):
        raise WeightFileError(f"{path}: it has {twice[0]!r} twice")
    return state


def _named_twice(content: bytes) -> list[str]:
    """The names that a file's header has more than once; the library would take the last and say nothing."""
    twice: list[str] = []

    def note(pairs):
        twice.extend(name for name, n in Counter(name for name, _ in pairs).items() if n > 1)

    length = int.from_bytes(content[:8], "little")
    json.loads(content[8 : 8 + length], object_pairs_hook=note)
    return twice


def load_weights(model: Module, path, *, strict: bool = True, positions: str | None = None) -> Module:
    """Load a safetensors file into a model whose names and shapes it fits. Returns the model.

    strict     every name must be met on both sides; StateError lists *all* that are missing, unexpected, mis-shaped
    positions  resample position tables of another resolution: "timm", "deit" or "jax" (see ``resample_positions``)
    """
    state = read_weights(path)
    if positions is not None:
        if not hasattr(model, "fitted"):
            raise ValueError(f"positions: a {type(model).__name__} has no position tables to resample")
        state = model.fitted(state, positions)
    try:
        model.load_state_dict(state, strict=strict)
    except StateError as error:
        if not any(name.split(".")[0] == "pos_embed" for name, *_ in error.misshaped):
            raise
        hint = _RESAMPLE if positions is None else _SQUARE
        raise StateError(error.missing, error.unexpected, error.misshaped, error.mistyped, hint) from None
    return model


_RESAMPLE = 'a position table of another image size can be resampled: pass positions="timm", "deit" or "jax"'
_SQUARE = "a position table can be resampled from a square grid of tokens of the same width"
