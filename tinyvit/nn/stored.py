"""Arrays that still lie in a file: their shapes and types are known, their numbers are read when they are wanted.

Files from strangers are hostile. Everything that a header says is checked before anything of its size is allocated.
"""

from __future__ import annotations

import math
from reprlib import repr as short

import numpy as np

from tinyvit import files

HEADER_LIMIT = 1 << 20  # bytes; the longest published header, of a thousand arrays, has an eighth of it
NAME_LIMIT = 500
AXES_LIMIT = 32
PIECE = 1 << 20


class WeightFileError(ValueError):
    """A weight file that cannot be read: of another format, damaged, lying, or of types a model cannot use."""


class Stored:
    """An array in a file: a shape and a type like an array's, and ``read``, which allocates and fills a new one."""

    def __init__(self, shape, dtype, read):
        self.shape, self.dtype, self.read = tuple(shape), np.dtype(dtype), read

    ndim = property(lambda self: len(self.shape))
    size = property(lambda self: math.prod(self.shape))
    nbytes = property(lambda self: self.size * self.dtype.itemsize)

    def astype(self, dtype, copy=True):
        """The numbers in another type, read now, row by row: a copy in any case."""
        return self.read().astype(dtype, order="C", copy=False)


def told(path, *damage):
    """A WeightFileError that names the file, in the place of the exceptions that damage shows itself by."""
    return files.told(path, WeightFileError, *damage)


def check_name(name: str) -> None:
    """Raises ValueError for a name that is no parameter's: without end, or made to upset a terminal."""
    if not name or len(name) > NAME_LIMIT or not name.isprintable():
        raise ValueError(f"{short(name)} is no name for an array")


def check_shape(name: str, shape, dtype: np.dtype) -> int:
    """How many bytes an array occupies. Raises ValueError for a shape that no array can have."""
    if not all(type(n) is int and n >= 0 for n in shape):
        raise ValueError(f"{name!r} has the shape {short(shape)}")
    if len(shape) > AXES_LIMIT or math.prod(max(n, 1) for n in shape) * dtype.itemsize >= 1 << 63:
        raise ValueError(f"{name!r} has a shape too large for any machine: {short(shape)}")
    return math.prod(shape) * dtype.itemsize


def filled(stream, shape, dtype: np.dtype) -> np.ndarray:
    """A new array with the numbers that come next, piece by piece. Raises EOFError where they end too early."""
    content = np.empty(math.prod(shape) * dtype.itemsize, np.uint8)
    for start in range(0, content.size, PIECE):
        piece = memoryview(content)[start : start + PIECE]
        if stream.readinto(piece) != len(piece):
            raise EOFError("it ends within an array")
    return content.view(dtype).reshape(shape)
