"""Weights in and out of safetensors files. No pickle, nothing half-written, nothing half-loaded."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import numpy as np

from tinyvit.backend import to_numpy
from tinyvit.nn.module import Module


class WeightFileError(ValueError):
    """A weight file that cannot be read: not safetensors, damaged, or of types a model cannot use."""


def save_weights(model: Module, path, metadata: dict[str, str] | None = None) -> Path:
    """Write the model's parameters and buffers to a safetensors file, under timm's names.

    The file appears whole or not at all: it is written beside its place, flushed to disk, and moved there.
    """
    from safetensors.numpy import save

    # safetensors 0.8 writes wrong numbers for arrays that are not C-contiguous, so every one is made so
    state = {name: np.ascontiguousarray(to_numpy(x)).reshape(x.shape) for name, x in model.state_dict().items()}
    return write_atomically(Path(path), save(state, metadata))


def read_weights(path) -> dict[str, np.ndarray]:
    """Name -> array, from a safetensors file. Raises WeightFileError for a file that is not one."""
    from safetensors import SafetensorError
    from safetensors.numpy import load

    content = Path(path).read_bytes()
    try:
        return load(content)
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise WeightFileError(f"{path}: not a safetensors file that NumPy can hold: {error}") from error


def load_weights(model: Module, path, *, strict: bool = True, positions: str | None = None) -> Module:
    """Load a safetensors file into a model whose names and shapes it fits. Returns the model.

    strict     every name must be met on both sides; StateError lists *all* that are missing, unexpected, mis-shaped
    positions  resample position tables of another resolution: "timm", "deit" or "jax" (see ``resample_positions``)
    """
    state = read_weights(path)
    if positions is not None:
        state = model.fitted(state, positions)
    model.load_state_dict(state, strict=strict)
    return model


def write_atomically(path: Path, content: bytes) -> Path:
    """Write a file so that it is there whole or not at all, whatever happens."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    return path
