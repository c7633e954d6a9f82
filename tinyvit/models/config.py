"""What every model's table is made of."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Paper:
    """Where a model comes from: title, authors, year, arXiv number, and the family its rows are counted under."""

    title: str
    authors: str
    year: int
    arxiv: str
    family: str


@dataclass(frozen=True)
class Published:
    """A published variant: its config, and the name under which its parameters and MACs were counted, if they were."""

    config: object
    counted_as: str | None = None


def pair(size: int | tuple[int, int]) -> tuple[int, int]:
    """One side of a square, or both sides, as both sides."""
    return (size, size) if isinstance(size, int) else tuple(size)
