"""The safetensors format: the header's length in eight bytes, the header in JSON, the numbers one after the other.

    {"head.bias": {"dtype": "F32", "shape": [10], "data_offsets": [0, 40]}, …}

The library of that name (0.8.0, tried) passes arrays told twice, takes 1 GB for a header of 87 MB, dies with its
process when a file shrinks, writes other numbers for transposed arrays, and orders metadata anew in every call. To
guard against that, one has to read the header oneself, which is most of this page.
"""

from __future__ import annotations

import json
import os
from functools import partial
from reprlib import repr as short

import numpy as np

from tinyvit.backend import to_numpy
from tinyvit.nn.stored import HEADER_LIMIT, Stored, check_name, check_shape, filled

# In the order in which arrays lie in a file: the widest first, so that each begins at a multiple of its width.
TYPES = {name: np.dtype(code) for name, code in {
    "U64": "<u8", "I64": "<i8", "F64": "<f8", "F32": "<f4", "U32": "<u4", "I32": "<i4",
    "F16": "<f2", "U16": "<u2", "I16": "<i2", "I8": "i1", "U8": "u1", "BOOL": "?"}.items()}  # fmt: skip
METADATA = "__metadata__"

DAMAGE = (ValueError, EOFError, RecursionError)  # what reading a damaged file may raise


# reading ------------------------------------------------------------------------------------


def stored_arrays(file) -> dict[str, Stored]:
    """Name -> Stored, from the header alone. Raises what is in DAMAGE, saying what is wrong."""
    size = file.seek(0, os.SEEK_END)
    header = read_header(file, size)
    if not _is_text(header.pop(METADATA, {})):
        raise ValueError("its metadata are not text")
    start, places = file.tell(), []
    state = {}
    for name, entry in header.items():
        dtype, shape, place = read_entry(name, entry)
        places.append(place)
        state[name] = Stored(shape, dtype, partial(_read, file, start + place[0], shape, dtype))
    check_places(places, size - start)
    return state


def read_header(file, size: int) -> dict:
    """The header as it stands in the file, which is left at its end. Raises ValueError unless it is an object."""
    file.seek(0)
    length = int.from_bytes(file.read(8), "little")
    if not 8 + length <= size or length > HEADER_LIMIT:
        raise ValueError("no whole safetensors file, and no .npz file either; other formats have to be converted first")
    try:
        header = json.loads(file.read(length), object_pairs_hook=_unrepeated)
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"no safetensors file: its header is not JSON ({error})") from error
    if not isinstance(header, dict):
        raise ValueError("no safetensors file: its header is not an object")
    return header


def read_entry(name: str, entry) -> tuple[np.dtype, tuple[int, ...], tuple[int, int]]:
    """An array's type, shape, and first and last byte. Raises ValueError where they contradict each other."""
    check_name(name)
    if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
        raise ValueError(f"{name!r} is described by {short(entry)}")
    kind, shape, place = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(kind, str) or not isinstance(shape, list) or not isinstance(place, list) or len(place) != 2:
        raise ValueError(f"{name!r} is described by {short(entry)}")
    if kind not in TYPES:
        raise ValueError(f"the numbers of {name!r} are {short(kind)}, which NumPy lacks; store F32")
    length = check_shape(name, shape, TYPES[kind])
    if not all(type(n) is int for n in place) or place[1] - place[0] != length:
        raise ValueError(f"{name!r} needs {length} bytes and has those from {short(place)}")
    return TYPES[kind], tuple(shape), tuple(place)


def check_places(places, length: int) -> None:
    """Raises ValueError unless the arrays lie one after the other: none over another, no gap, nothing after them."""
    end = 0
    for first, last in [*sorted(places), (length, length)]:
        if first != end:
            raise ValueError(f"no whole safetensors file: an array ends at byte {end}, and what is next is at {first}")
        end = last


def _read(file, start: int, shape, dtype) -> np.ndarray:
    file.seek(start)
    return filled(file, shape, dtype)


def _unrepeated(pairs) -> dict:
    """A JSON object; JSON itself lets the last of two equal names win."""
    found: dict = {}
    for name, value in pairs:
        if name in found:
            raise ValueError(f"it has {short(name)} twice")
        found[name] = value
    return found


def _is_text(metadata) -> bool:
    return isinstance(metadata, dict) and all(isinstance(x, str) for pair in metadata.items() for x in pair)


# writing ------------------------------------------------------------------------------------


def pieces(state: dict, metadata: dict[str, str] | None = None):
    """The content of a file, piece by piece: the header, then each array. Equal states are equal bytes.

    Raises TypeError for metadata that are not text and for types that the format lacks.
    """
    if not _is_text(metadata or {}):
        raise TypeError(f"metadata: expected names and values that are text, got {metadata!r}")
    kinds = {name: _kind(name, x.dtype) for name, x in state.items()}
    names = sorted(state, key=lambda name: (list(TYPES).index(kinds[name]), name))
    header: dict = {METADATA: dict(sorted(metadata.items()))} if metadata else {}
    end = 0
    for name in names:
        start, end = end, end + state[name].nbytes
        header[name] = {"dtype": kinds[name], "shape": list(state[name].shape), "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)  # so that the numbers, too, begin at a multiple of eight
    yield len(text).to_bytes(8, "little") + text
    for name in names:
        yield np.ascontiguousarray(to_numpy(state[name]), TYPES[kinds[name]])


def _kind(name: str, dtype: np.dtype) -> str:
    for kind, known in TYPES.items():
        if dtype.newbyteorder("<") == known:
            return kind
    raise TypeError(f"{name}: a safetensors file cannot hold numbers of type {dtype}")
