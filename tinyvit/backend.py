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


def to_numpy(x: Array) -> np.ndarray:
    """``x`` as a NumPy array on the host; a CuPy array is copied off its device."""
    return x.get() if hasattr(x, "get") and not isinstance(x, np.ndarray) else np.asarray(x)


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


@cache
def special():
    """``scipy.special``, imported when first needed: importing tinyvit does not wait for SciPy."""
    import scipy.special

    return scipy.special
