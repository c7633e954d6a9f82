"""NumPy's .npz: a zip archive of .npy files, each a short header and the numbers. It is only read here.

Not by NumPy's reader, which evaluates headers as Python and believes what they say.
"""

from __future__ import annotations

import os
import re
import struct
import zipfile
import zlib
from functools import partial
from reprlib import repr as short

import numpy as np

from tinyvit.nn.stored import HEADER_LIMIT, Stored, check_name, check_shape, filled

MAGIC = b"PK\3\4"
RATIO = 100  # numbers that training left pack to nine tenths of their size; what packs to a hundredth is a bomb

# What numpy.save writes, which is a Python literal, of the types that are plain numbers.
NPY = re.compile(
    r"\{'descr': '([<>|](?:f[248]|[iu][1248]|b1))', "
    r"'fortran_order': (True|False), "
    r"'shape': \(((?:[0-9]{1,19}, )*(?:[0-9]{1,19},?)?)\), \} *\n"
)

# What reading a damaged archive may raise; the libraries below do not promise one exception.
DAMAGE = (ValueError, EOFError, RuntimeError, OverflowError, struct.error, zlib.error, zipfile.BadZipFile)


def stored_arrays(file) -> dict[str, Stored]:
    """Name -> Stored, from the headers alone. Raises what is in DAMAGE, saying what is wrong."""
    size = file.seek(0, os.SEEK_END)
    check_end(file, size)
    archive = zipfile.ZipFile(file)
    members = archive.infolist()
    check_members(members, size)
    state = {}
    for member in members:
        name = member.filename.removesuffix(".npy")
        if name in state:
            raise ValueError(f"it has {name!r} twice")
        state[name] = read_npy(archive, member, name)
    return state


def check_end(file, size: int) -> None:
    """Raises ValueError unless the archive ends with its directory, as numpy.savez leaves it, and that is short.

    What may also stand there, a comment or the record of an archive over 4 GB, is a way to hide another directory.
    """
    file.seek(max(size - 42, 0))
    end = file.read(42).rjust(42, b"\0")
    signature, length, start, comment = struct.unpack("<4s8xLLH", end[20:])
    if signature != b"PK\5\6" or comment or start + length + 22 != size or end.startswith(b"PK\6\7"):
        raise ValueError("no whole .npz file: it does not end as one does")
    if length > HEADER_LIMIT:
        raise ValueError(f"its directory is {length} bytes long; of weights it would be {HEADER_LIMIT} at most")


def check_members(members, size: int) -> None:
    """Raises ValueError for members that cannot be in a file of this size, or would unpack to far more than it."""
    for member in members:
        if not member.filename.endswith(".npy"):
            raise ValueError(f"{short(member.filename)} in it is no array; PyTorch's own files have to be converted")
        check_name(member.filename)
        if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise ValueError(f"{member.filename!r} is packed in a way that NumPy does not use")
        if member.header_offset >= size:
            raise ValueError(f"{member.filename!r} begins behind its end")
    if sum(member.compress_size for member in members) > size:
        raise ValueError("its members lie over each other")
    if (unpacked := sum(member.file_size for member in members)) > RATIO * size:
        raise ValueError(f"its {size} bytes would unpack to {unpacked}: this is no file of weights")


def read_npy(archive, member, name: str) -> Stored:
    """One array, from the header of its .npy file. Raises ValueError for all but plain numbers of that size."""
    with archive.open(member) as stream:
        start = stream.read(10)
        length = int.from_bytes(start[8:], "little")
        text = stream.read(length).decode("latin-1")
    match = NPY.fullmatch(text)
    if start[:8] != b"\x93NUMPY\1\0" or not match:
        raise ValueError(f"{name!r} is no array of plain numbers: its header is {short(text)}")
    dtype, shape = np.dtype(match[1]), tuple(int(n) for n in match[3].split(",") if n.strip())
    if 10 + length + check_shape(name, shape, dtype) != member.file_size:
        raise ValueError(f"{name!r} of shape {shape} and type {dtype} is not {member.file_size} bytes long")
    return Stored(shape, dtype, partial(_read, archive, member, 10 + length, shape, dtype, match[2] == "True"))


def _read(archive, member, start: int, shape, dtype, by_columns: bool) -> np.ndarray:
    with archive.open(member) as stream:
        stream.read(start)
        return filled(stream, shape[::-1], dtype).T if by_columns else filled(stream, shape, dtype)
