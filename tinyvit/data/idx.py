"""MNIST and its relatives (LeCun et al. 1998; Fashion-MNIST, KMNIST, EMNIST): the idx format, packed or not."""

from __future__ import annotations

import math
import struct

import numpy as np

from tinyvit.data.digits import Dataset
from tinyvit.data.stored import DataFileError, content, found

TYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}


def read_idx(path) -> np.ndarray:
    """The array of an idx file, gzipped or not.

    Two zero bytes, a byte for the type, one for the number of axes, their lengths as big-endian 32-bit numbers, then
    the numbers in C order. Raises DataFileError for a file that is anything else, or longer or shorter than it says.
    """
    data = content(path)
    if len(data) < 4 or data[:2] != b"\0\0" or data[2] not in TYPES:
        raise DataFileError(f"{path}: not an idx file; it begins with {data[:4].hex(' ') or 'nothing'}")
    dtype, axes = np.dtype(TYPES[data[2]]), data[3]
    start = 4 + 4 * axes
    if len(data) < start:
        raise DataFileError(f"{path}: it ends within its header of {start} bytes")
    shape = struct.unpack(f">{axes}I", data[4:start])
    promised = math.prod(shape) * dtype.itemsize
    if len(data) - start != promised:
        raise DataFileError(f"{path}: it promises {promised:,} bytes for {shape} and holds {len(data) - start:,}")
    return np.frombuffer(data, dtype, offset=start).reshape(shape).astype(dtype.newbyteorder("="))


def mnist(folder, *, train: bool = True, prefix: str = "", transposed: bool = False) -> Dataset:
    """MNIST's training or test images from the files that its page offers.

    prefix      what comes before the usual names: ``"emnist-letters-"``
    transposed  EMNIST's images have rows and columns the other way round

    images (N, 28, 28, 1) uint8, labels (N,) int64. Raises DataFileError.
    """
    part = "train" if train else "t10k" if not prefix else "test"
    paths = [found(folder, *(f"{prefix}{part}-{what}{dot}idx{axes}-ubyte{end}" for dot in "-." for end in ("", ".gz")))
             for what, axes in (("images", 3), ("labels", 1))]  # fmt: skip
    images, labels = map(read_idx, paths)
    if images.ndim != 3 or labels.shape != images.shape[:1] or images.dtype != np.uint8 or labels.dtype != np.uint8:
        raise DataFileError(f"{folder}: images {images.shape} {images.dtype} and labels {labels.shape} {labels.dtype} "
                            "do not belong together; expected (N, H, W) and (N,), both uint8")  # fmt: skip
    images = images.swapaxes(1, 2) if transposed else images
    return Dataset(np.ascontiguousarray(images[..., None]), labels.astype(np.int64))
