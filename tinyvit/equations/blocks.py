"""Cutting large arrays into blocks that a cache holds: what is used again soon is then read again for nothing."""

from __future__ import annotations

import math


def blocks(places: tuple, numbers: int, budget: int) -> list:
    """Indices (images, rows) that cut places (B, rows, …), each of so many numbers, into parts of about ``budget``.

    A part is several images, or some rows of one, and all are as even as can be.
    """
    B, rows, *rest = places
    at_once = max(budget // max(math.prod(rest) * numbers, 1), 1)  # rows
    if at_once >= rows:
        return [(images, slice(None)) for images in _even(B, at_once // max(rows, 1))]
    return [(slice(b, b + 1), part) for b in range(B) for part in _even(rows, at_once)]


def _even(n: int, most: int) -> list:
    """Slices of at most ``most`` that cut ``n``, of much the same length."""
    length = -(-n // -(-n // most)) if n else 1
    return [slice(i, i + length) for i in range(0, n, length)]
