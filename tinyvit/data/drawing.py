"""Drawing small figures: how much of every pixel a shape covers, from its signed distance to the pixel's centre.

A distance is negative inside. Coordinates (x to the right, y down) are in pixels, from the middle of the shape.
"""

from __future__ import annotations

import numpy as np

SHAPES = ("disc", "square", "triangle", "star")
NOTCH = 0.45  # of the star's radius, from its middle
AREAS = {"disc": np.pi, "square": 2.0, "triangle": 0.75 * 3**0.5, "star": 5 * NOTCH * np.sin(np.pi / 5)}  # of radius 1
SURROUNDING = {
    kind: np.sqrt(np.pi / area) for kind, area in AREAS.items()
}  # radius, for the area of a disc of radius 1


def places(size: int) -> tuple[np.ndarray, np.ndarray]:
    """Columns x and rows y of the pixels' centres, (H, W) each."""
    y, x = np.mgrid[:size, :size].astype(np.float32) + 0.5
    return x, y


def distance(kind: str, x, y, radius):
    """Signed distance, in pixels, to a shape that a circle of ``radius`` surrounds.   broadcasts x, y, radius"""
    if kind == "disc":
        return np.hypot(x, y) - radius
    corners = {"square": 4, "triangle": 3, "star": 5}[kind]
    inner = np.cos(np.pi / corners)  # of the inscribed circle, for a regular polygon of radius 1
    sector = 2 * np.pi / corners
    angle = np.mod(np.arctan2(y, x) + sector / 2, sector) - sector / 2  # from the middle of a side
    length = np.hypot(x, y)
    if kind == "star":  # the side goes from a tip, at ±π/5, to a notch
        tip, notch = np.array([np.cos(sector / 2), np.sin(sector / 2)]), np.array([NOTCH, 0.0])
        normal = np.array([tip[1] - notch[1], notch[0] - tip[0]])
        normal = normal / np.hypot(*normal)
        return (
            length * np.cos(angle) * normal[0] + length * np.abs(np.sin(angle)) * normal[1] - radius * NOTCH * normal[0]
        )
    return length * np.cos(angle) - radius * inner


def coverage(distance):
    """How much of a pixel is inside, 0 to 1: half where the edge goes through its centre."""
    return np.clip(0.5 - distance, 0, 1)


def turned(x, y, angle):
    """Coordinates in the frame of a shape that is turned by ``angle``."""
    c, s = np.cos(angle), np.sin(angle)
    return c * x + s * y, c * y - s * x
