"""Reading files of strangers: whole or not at all, and never more than they may hold."""

from __future__ import annotations

import gzip
import tarfile
import zlib
from pathlib import Path

from tinyvit import files

LARGEST = 1 << 31  # bytes of one file; the largest of the data sets here, CIFAR-10-C's, have 154 MB


class DataFileError(ValueError):
    """A file of a data set that is missing, damaged, lying, or of another format; the message names it."""


def told(path, *damage):
    """A DataFileError that names the file, in the place of what reading it raises."""
    return files.told(path, DataFileError, *damage, OSError, EOFError, zlib.error)


def content(path, largest: int = LARGEST) -> bytes:
    """A file's bytes, unpacked if it is gzipped. Raises DataFileError if there are more than ``largest``."""
    path = Path(path)
    with told(path), open(path, "rb") as file:
        packed = file.read(2) == b"\x1f\x8b"
        file.seek(0)
        return _at_most(gzip.GzipFile(fileobj=file) if packed else file, largest, path)


def _at_most(file, largest: int, name) -> bytes:
    data = file.read(largest + 1)
    if len(data) > largest:
        raise DataFileError(f"{name}: longer than the {largest:,} bytes that it may have")
    return data


def found(folder, *names: str) -> Path:
    """The first of the names that is in the folder. Raises DataFileError that lists them if none is."""
    for name in names:
        if (path := Path(folder) / name).is_file():
            return path
    raise DataFileError(f"{folder}: there is no {' or '.join(names)}")


class Archive:
    """The files of a folder, or of a .tar or .tar.gz, by their own names (the folders before them do not count).

    Nothing is unpacked to disk, so a member's path can do no harm.
    """

    def __init__(self, path):
        self.path = Path(path)
        if not self.path.exists():
            raise DataFileError(f"{self.path}: there is no such folder or archive")
        self.is_folder = self.path.is_dir()

    def names(self) -> set[str]:
        """What is in it."""
        if self.is_folder:
            return {path.name for path in self.path.iterdir() if path.is_file()}
        with told(self.path, tarfile.TarError), tarfile.open(self.path) as tar:
            return {Path(member.name).name for member in tar if member.isfile()}

    def read(self, names: list[str], largest: int) -> list[bytes]:
        """The bytes of some files, in the order asked for. Raises DataFileError for one that is not there."""
        if self.is_folder:
            return [content(found(self.path, name), largest) for name in names]
        data: dict[str, bytes] = {}
        with told(self.path, tarfile.TarError), tarfile.open(self.path) as tar:
            for member in tar:  # once through: going back in a packed archive would unpack it again
                name = Path(member.name).name
                if member.isfile() and name in names:
                    data[name] = _at_most(tar.extractfile(member), largest, f"{self.path}/{name}")
        if lacking := [name for name in names if name not in data]:
            raise DataFileError(f"{self.path}: there is no {lacking[0]} in it")
        return [data[name] for name in names]
