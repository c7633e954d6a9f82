"""Exact counts of every variant, and what slides say of them beside it. Nothing is allocated."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import ROUND_DOWN, ROUND_HALF_UP, Decimal
from functools import cache

from tinyvit.models.catalogue import counted, published
from tinyvit.models.config import pair
from tinyvit.models.slides import FIGURES, Figure
from tinyvit.nn.describe import count_macs, example_inputs

UNITS = {"M": 10**6, "G": 10**9}


def count(name: str) -> dict:
    """One counted row: its name, family, resolution [H, W], params and macs (for one image, or one text)."""
    (H, W), params, macs = _numbers(name)
    return {"name": name, "family": counted()[name][0].PAPER.family, "resolution": [H, W], "params": params,
            "macs": macs}  # fmt: skip


@cache  # a tenth of a second for a deep model, and asked for again by every table
def _numbers(name: str) -> tuple:
    """Resolution, parameters and MACs of a counted row."""
    paper, config = counted()[name]
    model = paper.MODEL(config, rng=None)
    return resolution(model), model.num_parameters(), count_macs(model)


def resolution(model) -> tuple[int, int]:
    """(H, W) of the images a model takes; a text of N tokens is (1, N)."""
    size = getattr(model, "img_size", None) or getattr(model.config, "img_size", None)
    if size is not None:
        return pair(size)
    return 1, example_inputs(model)[0].shape[1]


def counts() -> list[dict]:
    """Every counted row, see ``count``."""
    return [count(name) for name in counted()]


@dataclass(frozen=True)
class Entry:
    """A slide's figure, our exact count, and the verdict: "agrees", "truncated" or "differs"."""

    figure: Figure
    exact: int

    @property
    def verdict(self) -> str:
        return verdict(self.figure.printed, self.exact)


def ledger() -> list[Entry]:
    """Every figure on the slides that speaks of a counted row, beside the count."""
    figures = [figure for figure in FIGURES if figure.row in counted()]
    rows = {name: count(name) for name in {figure.row for figure in figures}}
    return [Entry(figure, rows[figure.row][figure.what]) for figure in figures]


def differences(model: str) -> list[Entry]:
    """What slides print otherwise of one published model; nothing for the others."""
    row = published()[model].counted_as if model in published() else None
    figures = [figure for figure in FIGURES if figure.row == row and row in counted()]
    entries = [Entry(figure, count(row)[figure.what]) for figure in figures]
    return [entry for entry in entries if entry.verdict != "agrees"]


def verdict(printed: str, exact: int) -> str:
    """Whether a count, such as 86567656, rounds to the printed digits, such as "87M", or is cut to them, or neither."""
    figure, unit = Decimal(printed[:-1]), UNITS[printed[-1]]
    value = Decimal(exact) / unit
    if value.quantize(figure, ROUND_HALF_UP) == figure:
        return "agrees"
    return "truncated" if value.quantize(figure, ROUND_DOWN) == figure else "differs"
