"""CIFAR-10 and CIFAR-100 (Krizhevsky 2009) in both forms that their page offers, and CIFAR-10-C."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from tinyvit.data.digits import Dataset
from tinyvit.data.stored import Archive, DataFileError
from tinyvit.data.unpickled import unpickled

SIZE = 3 * 32 * 32
LARGEST = 200_000_000  # bytes of one file; CIFAR-100's training images have 155 MB
FILES = {  # (classes, training): names in the Python and in the binary form
    (10, True): ([f"data_batch_{i}" for i in range(1, 6)], [f"data_batch_{i}.bin" for i in range(1, 6)]),
    (10, False): (["test_batch"], ["test_batch.bin"]),
    (100, True): (["train"], ["train.bin"]),
    (100, False): (["test"], ["test.bin"]),
}


def cifar10(path, *, train: bool = True) -> Dataset:
    """CIFAR-10 from a folder, or from the .tar.gz itself, of the Python or the binary form.

    images (N, 32, 32, 3) uint8, labels (N,) int64. The Python form's pickles are read and never run. Raises
    DataFileError.
    """
    return _cifar(path, 10, train, b"labels", column=0)


def cifar100(path, *, train: bool = True, coarse: bool = False) -> Dataset:
    """CIFAR-100, see ``cifar10``; ``coarse``: the 20 superclasses."""
    return _cifar(path, 100, train, b"coarse_labels" if coarse else b"fine_labels", column=0 if coarse else 1)


def _cifar(path, classes: int, train: bool, key: bytes, column: int) -> Dataset:
    archive = Archive(path)
    python, binary = FILES[classes, train]
    here = archive.names()
    names = python if here.issuperset(python) else binary
    parts = []
    for name, data in zip(names, archive.read(names, LARGEST), strict=True):
        try:
            parts.append(_from_python(data, key) if names is python else _from_binary(data, classes, column))
        except ValueError as error:
            raise DataFileError(f"{archive.path}/{name}: {error}") from error
    pixels, labels = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    limit = 20 if key == b"coarse_labels" else classes
    if labels.size and not 0 <= labels.min() <= labels.max() < limit:
        raise DataFileError(f"{archive.path}: labels from {labels.min()} to {labels.max()}; expected 0 to {limit - 1}")
    planes = pixels.reshape(-1, 3, 32, 32)  # red, green, blue one after the other
    return Dataset(np.ascontiguousarray(planes.transpose(0, 2, 3, 1)), labels)


def _from_python(data: bytes, key: bytes):
    """Pixels (N, 3072) and labels (N,) of a pickled dict."""
    batch = unpickled(data)
    if not isinstance(batch, dict):
        raise ValueError(f"a pickled {type(batch).__name__}; expected a dict")
    batch = {k.encode() if isinstance(k, str) else k: v for k, v in batch.items()}
    pixels, labels = batch.get(b"data"), batch.get(key)
    if not isinstance(pixels, np.ndarray) or pixels.dtype != np.uint8 or pixels.shape[1:] != (SIZE,):
        raise ValueError(f"'data' is not an array of (N, {SIZE}) bytes")
    if not isinstance(labels, list) or len(labels) != len(pixels) or not all(type(label) is int for label in labels):
        raise ValueError(f"{key.decode()!r} is not a list of {len(pixels)} whole numbers")
    return pixels, np.array(labels, np.int64)


def _from_binary(data: bytes, classes: int, column: int):
    """Pixels and labels of records: one label (CIFAR-10) or two (CIFAR-100: coarse, fine), then the pixels."""
    length = SIZE + (1 if classes == 10 else 2)
    if not data or len(data) % length:
        raise ValueError(f"{len(data):,} bytes are not a whole number of records of {length}")
    records = np.frombuffer(data, np.uint8).reshape(-1, length)
    return records[:, -SIZE:], records[:, column].astype(np.int64)


def cifar10_c(folder, corruption: str, severity: int) -> Dataset:
    """The CIFAR-10 test images under one corruption (Hendrycks & Dietterich 2019), severity 1 to 5.

    images (N, 32, 32, 3) uint8, labels (N,) int64. Raises DataFileError, naming the corruptions that are there.
    """
    folder = Path(folder)
    if severity not in range(1, 6):
        raise ValueError(f"severity: expected 1 to 5, got {severity!r}")
    here = sorted(path.stem for path in folder.glob("*.npy") if path.stem != "labels")
    if corruption not in here:
        raise DataFileError(f"{folder}: no corruption {corruption!r}; there are {', '.join(here) or 'none'}")
    images, labels = (_npy(folder / f"{name}.npy") for name in (corruption, "labels"))
    if (
        images.dtype != np.uint8
        or images.shape[1:] != (32, 32, 3)
        or len(images) % 5
        or labels.shape != images.shape[:1]
    ):
        raise DataFileError(f"{folder}: images {images.shape} {images.dtype} and labels {labels.shape}; expected "
                            "(5n, 32, 32, 3) uint8 and (5n,)")  # fmt: skip
    n = len(images) // 5
    part = slice(n * (severity - 1), n * severity)
    return Dataset(np.array(images[part]), labels[part].astype(np.int64))


def _npy(path: Path):
    """An array in a .npy file, not read yet; one with objects in it, that is a pickle, is refused."""
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise DataFileError(f"{path}: {error}") from error
