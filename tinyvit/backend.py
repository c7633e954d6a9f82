"""Which library an array belongs to.

tinyvit's code says ``np.exp(x)`` and means it for NumPy arrays and for CuPy arrays alike: NumPy hands a
call on a foreign array to that array's own library (NEP 13 for ufuncs, NEP 18 for functions). What dispatch
cannot do is *make* an array out of nothing, and move one between libraries. That is all this file is for, and
it is the only one that names CuPy.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np

Array = Any  # a NumPy array, a CuPy array, or anything that speaks NEP 13 and NEP 18


def is_array(x) -> bool:
    """Whether ``x`` is an array of some library (Python numbers and lists are not)."""
    return hasattr(x, "__array_function__")


def like(values, reference: Array) -> Array:
    """``values`` (a NumPy array or numbers) as an array of the library that ``reference`` lives in (NEP 35)."""
    if isinstance(reference, np.ndarray | np.generic | float | int):
        return np.asarray(values)
    return np.asarray(values, like=reference)


def on_device(x: Array) -> bool:
    """Whether an array's numbers are elsewhere than in the host's memory."""
    return hasattr(x, "get") and not isinstance(x, np.ndarray)


def to_numpy(x: Array) -> np.ndarray:
    """``x`` as a NumPy array on the host; a CuPy array is copied off its device."""
    return x.get() if on_device(x) else np.asarray(x)


def to_device(x: Array, device: str) -> Array:
    """``x`` as an array of ``device``: ``"cpu"`` (NumPy) or ``"cuda"`` (CuPy).

    Raises ValueError for another name and ImportError, saying what to install, when CuPy is missing.
    """
    if device == "cpu":
        return to_numpy(x)
    if device != "cuda":
        raise ValueError(f'device: expected "cpu" or "cuda", got {device!r}')
    try:
        import cupy
    except ImportError as error:
        raise ImportError('device "cuda" needs CuPy: pip install "tinyvit[cuda12]" or "[cuda13]"') from error
    return cupy.asarray(x)


def zeros(shape: tuple, reference: Array) -> Array:
    """C-contiguous zeros in the library and precision of ``reference``; CuPy's zeros_like ignores shape=()."""
    if not is_array(reference):  # a NumPy number
        return np.zeros(shape, reference.dtype)
    return np.zeros(shape, reference.dtype, like=reference)


def add_at(out: Array, index, x: Array) -> None:
    """Add ``x`` into the C-contiguous ``out`` at ``index``, in place; places named twice get both.

    Dispatch reaches CuPy's ``add.at`` with a single index array only, so there every index is made into one.
    """
    if on_device(out):
        index = np.reshape(np.arange(out.size, like=out), out.shape)[index]
        out, x = np.reshape(out, -1), np.broadcast_to(x, index.shape)
    np.add.at(out, index, x)


@cache
def special():
    """``scipy.special``, imported when first needed: importing tinyvit does not wait for SciPy."""
    import scipy.special

    return scipy.special
