"""Files that are there whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import contextmanager
from pathlib import Path


def write_atomically(path: Path, content: bytes | Iterable) -> Path:
    """Write a file so that a reader sees the old content or the new, never a part, whatever happens.

    It is written beside its place, flushed to disk, and moved there.

    content  bytes, or pieces of them (or of arrays) that come one after the other
    """
    # not tempfile: its files can be read by their owner alone, and this one would stay so
    temporary = path.with_name(f".{path.name}.{os.urandom(4).hex()}")
    try:
        with open(temporary, "xb") as file:
            file.writelines([content] if isinstance(content, bytes) else content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    return path


def remove_half_written(*paths: Path) -> None:
    """Remove what a process that was killed left of files while it wrote them atomically."""
    for path in paths:
        for part in path.parent.glob(f".{path.name}.*"):
            part.unlink()


@contextmanager
def told(path, kind: type[Exception], *damage):
    """An error of one ``kind`` that names the file, in the place of the exceptions that damage shows itself by."""
    try:
        yield
    except kind:
        raise
    except damage as error:
        raise kind(f"{path}: {getattr(error, 'strerror', None) or error}") from error


def make_folder(folder: Path) -> Path:
    """Make a folder, and its parents, and see that files can be written into it. Raises OSError naming it if not."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(folder / ".writable", b"").unlink()
    except OSError as error:
        raise OSError(f"cannot write into the folder {folder}: {error.strerror}") from error
    return folder
