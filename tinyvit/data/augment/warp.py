"""Images turned, sheared and moved: an affine map of the plane, told backwards.

A matrix (n, 2, 3) says of every place (x, y, 1) of the new image where in the old one its colour is found. Places are
in pixels from the left upper corner; the middle of the first pixel is at (½, ½).
"""

from __future__ import annotations

import numpy as np


def rotation(degrees: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Around the middle, counter-clockwise as the image is seen."""
    H, W = size
    angle = np.deg2rad(degrees)
    cos, sin = np.round([np.cos(angle), np.sin(angle)], 15)  # quarter turns are exact
    x, y = W / 2, H / 2
    return _matrix(cos, -sin, (sin * y - cos * x) + x, sin, cos, -(sin * x + cos * y) + y)


def shear_x(factor: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Rows move by ``factor`` times how far down they are."""
    return _matrix(1, factor, 0, 0, 1, 0)


def shear_y(factor: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Columns move by ``factor`` times how far right they are."""
    return _matrix(1, 0, 0, factor, 1, 0)


def translation_x(share: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """To the left, by a share of the width."""
    return _matrix(1, 0, share * size[1], 0, 1, 0)


def translation_y(share: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Up, by a share of the height."""
    return _matrix(1, 0, 0, 0, 1, share * size[0])


def _matrix(*entries) -> np.ndarray:
    """Six entries, each a number or one for every image, as matrices (n, 2, 3)."""
    return np.stack(np.broadcast_arrays(*entries), axis=-1).reshape(-1, 2, 3).astype(float)


def warped(images: np.ndarray, matrix: np.ndarray, fill) -> np.ndarray:
    """Bytes seen through an affine map, by cubic convolution, as in Pillow.

    images (n, H, W, C), matrix (n, 2, 3); fill: the value, or one for each channel, of what comes from outside
    """
    _, H, W, C = images.shape
    y, x = np.mgrid[:H, :W].reshape(2, -1) + 0.5
    places, made = np.stack([x, y, np.ones_like(x)]), np.empty_like(images)
    for image, m, new in zip(images, matrix, made, strict=True):  # one fits into the processor's cache
        u, v = m @ places  # (H·W,) each
        columns, right = _taps(u, W)
        rows, down = _taps(v, H)
        pixels = image.reshape(H * W, C).astype(float)
        lines = [_cubic([pixels.take(row * W + column, axis=0) for column in columns], right) for row in rows]
        inside = (u >= 0) & (u < W) & (v >= 0) & (v < H)
        values = np.where(inside[:, None], np.clip(_cubic(lines, down), 0, 255), fill)
        new[...] = values.reshape(H, W, C)
    return made


def _taps(place: np.ndarray, length: int) -> tuple[np.ndarray, np.ndarray]:
    """The four pixels around each place, (4, n), and how far it lies behind the second; the border's go on outside."""
    before = np.floor(place - 0.5)
    taps = before + np.arange(-1, 3)[:, None]
    return np.clip(taps, 0, length - 1).astype(int), (place - 0.5 - before)[:, None]


def _cubic(v: list[np.ndarray], d: np.ndarray) -> np.ndarray:
    """Between the second and third of four values (Keys 1981, a = -1): exact where they are equal."""
    v1, v2, v3, v4 = v
    return v2 + d * (v3 - v1 + d * (2 * (v1 - v2) + v3 - v4 + d * (v2 - v1 + v4 - v3)))
