"""Weights in and out of files. No pickle, nothing half-written, nothing half-loaded."""

from __future__ import annotations

from contextlib import contextmanager
from functools import partial
from pathlib import Path

import numpy as np

from tinyvit.files import write_atomically
from tinyvit.nn import npz, safetensors
from tinyvit.nn.conversion import converted
from tinyvit.nn.hub import on_this_machine
from tinyvit.nn.module import Module, StateError
from tinyvit.nn.stored import Stored, told

OTHER_FORMATS = {".npz", ".npy", ".pt", ".pth", ".bin", ".pkl", ".h5", ".msgpack"}


def save_weights(model: Module, path, metadata: dict[str, str] | None = None) -> Path:
    """Write the model's parameters and buffers to a safetensors file, under timm's names.

    The file appears whole or not at all: it is written beside its place, flushed to disk, and moved there. Equal
    weights and metadata are equal bytes. Raises TypeError for what is not a model, ValueError for a name that ends as
    another format does.
    """
    if not isinstance(model, Module):
        raise TypeError(f"model: expected a Module, got a {type(model).__name__}; save_weights(model, path)")
    if Path(path).suffix in OTHER_FORMATS:
        raise ValueError(f"path: {str(path)!r} names another format; these are safetensors: use that ending")
    return write_atomically(Path(path), safetensors.pieces(model.state_dict(), metadata))


@contextmanager
def open_weights(path):
    """Name -> Stored, from a safetensors or .npz file, which is open as long as the block runs. Only headers are read.

    Raises WeightFileError for a file that is neither, is damaged, has a name twice, or holds what is no plain number;
    so does reading an array. Raises OSError where there is no file to read.
    """
    with open(path, "rb") as file:
        known = npz if file.read(len(npz.MAGIC)) == npz.MAGIC else safetensors
        guard = partial(told, path, *known.DAMAGE)
        with guard():
            state = known.stored_arrays(file)
        yield {name: Stored(x.shape, x.dtype, guard()(x.read)) for name, x in state.items()}


def read_weights(path) -> dict[str, np.ndarray]:
    """Name -> array, all of a file's; see ``open_weights`` for what is raised."""
    with open_weights(path) as state:
        return {name: x.read() for name, x in state.items()}


def load_weights(model: Module, weights, *, strict: bool = True, positions: str | None = None) -> Module:
    """Load a file into a model whose names and shapes it fits. Returns the model.

    weights    a safetensors file, or an .npz file of the paper's own code; or "hf-hub:owner/name", with "@revision" if
               need be, which is fetched once (with the extra ``tinyvit[hub]``)
    strict     every name must be met on both sides; StateError lists *all* that are missing, unexpected, mis-shaped
    positions  resample position tables of another resolution: "timm", "deit" or "jax" (see ``resample_positions``)

    Arrays are read one after the other into the model. Raises StateError, WeightFileError or OSError, and then nothing
    has been changed.
    """
    with open_weights(on_this_machine(weights)) as state:
        state = converted(state, model.original_names)
        if positions is not None:
            if not hasattr(model, "fitted"):
                raise ValueError(f"positions: a {type(model).__name__} has no position tables to resample")
            state = model.fitted(state, positions)
        try:
            model.load_state_dict(state, strict=strict)
        except StateError as error:
            hint = _hint(model, error, positions)
            raise StateError(
                error.missing, error.unexpected, error.misshaped, error.mistyped, hint, error.strangers
            ) from None
    return model


def classes_of(model: Module, error: StateError) -> int | None:
    """How many classes a state was made for, if it is the head that does not fit; 0 if it has none."""
    asked = getattr(getattr(model, "config", None), "num_classes", None)
    own = dict(model.named_state())
    if error.missing and all(own[name].shape[:1] == (asked,) for name in error.missing):
        return 0
    heads = {got[:1] for _, got, own in error.misshaped if own[:1] == (asked,) and got[1:] == own[1:]}
    return heads.pop()[0] if len(heads) == 1 else None


def _hint(model: Module, error: StateError, positions: str | None) -> str:
    """What to try."""
    if any(name.split(".")[0] == "pos_embed" for name, *_ in error.misshaped):
        return _RESAMPLE if positions is None else _SQUARE
    if (classes := classes_of(model, error)) is not None:
        return f"the file is one of {classes} classes: make the model with num_classes={classes}"
    return _INSPECT


_INSPECT = "`tinyvit weights inspect FILE` says which model a file fits"
_RESAMPLE = 'a position table of another image size can be resampled: pass positions="timm", "deit" or "jax"'
_SQUARE = "a position table can be resampled from a square grid of tokens of the same width"
