"""Where a run stands, in one file: written whole or not at all, checked before anything of it is used."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np

from tinyvit.files import write_atomically
from tinyvit.nn import safetensors
from tinyvit.nn.stored import WeightFileError
from tinyvit.nn.weights import read_weights

FACTS = "run"  # the name of the array that holds the facts, as bytes of JSON


class CheckpointError(ValueError):
    """A checkpoint that cannot be gone on from: damaged, or of another run."""


def write_checkpoint(path: Path, facts: dict, parts: dict[str, dict]) -> None:
    """One safetensors file with the facts, and the arrays and numbers of every part under ``part/name``.

    It holds no time and no path: equal states are equal bytes. Raises OSError where it cannot be written; then the last
    one is still there.
    """
    arrays = {f"{part}/{name}": np.asarray(value) for part, state in parts.items() for name, value in state.items()}
    text = json.dumps(facts, sort_keys=True).encode()
    write_atomically(path, safetensors.pieces(arrays | {FACTS: np.frombuffer(text, np.uint8)}))
    folder = os.open(path.parent, os.O_RDONLY)  # the name, too, must survive a power cut
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def read_checkpoint(path: Path) -> tuple[dict, dict[str, dict]]:
    """The facts and the parts of a checkpoint. Raises CheckpointError for another file, OSError where there is none."""
    try:
        arrays = read_weights(path)
        facts = json.loads(arrays.pop(FACTS).tobytes())
        if not isinstance(facts, dict):
            raise TypeError(f"its facts are a {type(facts).__name__}")
    except (WeightFileError, KeyError, ValueError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{path}: no checkpoint that can be read: {error}") from error
    parts: dict[str, dict] = {}
    for name, array in arrays.items():
        part, _, rest = name.partition("/")
        parts.setdefault(part, {})[rest] = array if array.ndim else array.item()
    return facts, parts
