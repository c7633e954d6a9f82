"""What every model's table is made of."""

from __future__ import annotations

from dataclasses import dataclass

from tinyvit.equations.activation import gelu, gelu_tanh, quick_gelu
from tinyvit.primitives.elementwise import relu

# language models' activations, under the transformers package's names
ACTIVATIONS = {"relu": relu, "gelu": gelu, "gelu_new": gelu_tanh, "quick_gelu": quick_gelu}


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


def one_of(allowed, **settings) -> None:
    """Raise ValueError for the first setting whose value is not among those allowed, naming it."""
    for name, value in settings.items():
        if value not in allowed:
            raise ValueError(f"{name}: expected one of {tuple(allowed)}, got {value!r}")


def pair(size: int | tuple[int, int]) -> tuple[int, int]:
    """One side of a square, or both sides, as both sides."""
    return (size, size) if isinstance(size, int) else tuple(size)


def divisible(channels: float, minimum: int = 8) -> int:
    """The multiple of 8 nearest to a number of channels, but never less than 90 % of it, or than ``minimum``."""
    rounded = max(minimum, int(channels + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * channels else rounded
