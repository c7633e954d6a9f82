"""States under the names and layouts of the code that a paper came with, told in a table.

    "blocks.{i}.attn.proj.weight": ("h d D -> D (h d)", "Transformer/encoderblock_{i}/…/out/kernel")

Ours on the left; on the right how the axes move, in einops' notation, and what it is called there. Several arrays there
that are one here, such as queries, keys and values, are put one below the other.
"""

from __future__ import annotations

import math
import re

import numpy as np

from tinyvit.blueprint import Blueprint
from tinyvit.nn.stored import Stored


def converted(state: dict[str, Stored], table: dict[str, tuple[str, ...]]) -> dict[str, Stored]:
    """A state under our names. What the table does not have, or what is not as it says, stays as it is.

    Nothing is read: shapes are worked out on blueprints, and numbers are moved when they are read.
    """
    found: dict[str, Stored] = {}
    used: set[str] = set()
    for ours, (axes, *theirs) in table.items():
        for i in _numbers(theirs[0], state):
            name, sources = ours.format(i=i), [source.format(i=i) for source in theirs]
            if name not in state and all(source in state for source in sources):
                try:
                    found[name] = _joined([state[source] for source in sources], axes)
                except ValueError:  # of another shape than the table says
                    continue
                used.update(sources)
    return {**{name: x for name, x in state.items() if name not in used}, **found}


def rearranged(x, axes: str):
    """Axes moved and merged: "D h d -> (h d) D" takes (D, h, d) to (h·d, D). Raises ValueError for another rank."""
    before, after = axes.split(" -> ")
    names = before.split()
    if len(x.shape) != len(names):
        raise ValueError(f"expected axes {before}, got the shape {x.shape}")
    length = dict(zip(names, x.shape, strict=True))
    order = after.replace("(", "").replace(")", "").split()
    merged = [math.prod(length[name] for name in re.findall(r"\w+", group))
              for group in re.findall(r"\(.*?\)|\w+", after)]  # fmt: skip
    return x.transpose([names.index(name) for name in order]).reshape(merged)


def _joined(parts: list[Stored], axes: str) -> Stored:
    """Arrays rearranged and put one below the other, when they are read."""
    whole = _stacked([Blueprint(part.shape, part.dtype) for part in parts], axes)
    return Stored(whole.shape, whole.dtype, lambda: _stacked([part.read() for part in parts], axes))


def _stacked(arrays: list, axes: str):
    return np.concatenate([rearranged(x, axes) for x in arrays])


def _numbers(template: str, state: dict) -> list[str]:
    """What stands for ``{i}`` in the names that a state has; one empty text where the template has none."""
    if "{i}" not in template:
        return [""]
    pattern = re.compile(re.escape(template).replace(r"\{i\}", "([0-9]+)"))
    return [match[1] for name in state if (match := pattern.fullmatch(name))]
