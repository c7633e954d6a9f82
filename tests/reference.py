"""Numbers from reference implementations: the .npz files of tests/data."""

import json
from functools import cache
from pathlib import Path

import numpy as np

DATA = Path(__file__).parent / "data"


@cache
def fixture(name):
    """Read tests/data/<name>.npz: its arrays by key, read-only, and `meta` as a dict.

    The keys hold a path, such as `state/blocks.0.norm1.weight`; see `part`.
    """
    with np.load(DATA / f"{name}.npz") as file:
        arrays = {key: file[key] for key in file.files}
    meta = json.loads(str(arrays.pop("meta")))
    for array in arrays.values():
        array.setflags(write=False)  # an op that writes to its input is found here
    return arrays | {"meta": meta}


def part(arrays, prefix):
    """Pick the arrays under `prefix/`, with the prefix gone from their names.

    part(fixture("shared-vit-cls"), "state") is a state dict.
    """
    start = prefix + "/"
    return {key.removeprefix(start): arrays[key] for key in arrays if key.startswith(start)}


def cases(name):
    """Name the cases of an operator file, in its order."""
    return [case["case"] for case in fixture(name)["meta"]["cases"]]


@cache
def variants(family=None):
    """List the published variants, those of one family or all: parameters, MACs and where from."""
    rows = json.loads((DATA / "variants.json").read_text(encoding="utf-8"))
    return [row for row in rows if family in (None, row["family"])]
