"""A CuPy without a GPU: arrays that pretend to live on a device, to prove that code would run on one.

tinyvit's ops are written in ``np.*`` and reach CuPy through NumPy's own dispatch (NEP 13, NEP 18, NEP 35). What breaks
on a GPU is mixing: a host array meeting a device array, a device array turned into a host array behind one's back.
A DeviceArray refuses exactly that, on any machine: run an op on it, and whatever leaves the device raises.
"""

from __future__ import annotations

import numpy as np

# names of NumPy that CuPy lacks (14.2 against NumPy 2.4) and that an op might be tempted by
MISSING = frozenset(["vecdot", "matvec", "vecmat", "unstack", "einsum_path", "nditer", "ndenumerate", "block", "insert",
                     "geomspace", "frompyfunc", "nanquantile"])  # fmt: skip
NOT_TAKEN = frozenset(["initial", "where"])  # options that CuPy's functions do not take
NOT_COMPLEX = frozenset(["erf", "floor", "ceil"])  # functions that CuPy has for real numbers only


class DeviceArray(np.lib.mixins.NDArrayOperatorsMixin):
    """An array on a device that does not exist; ``.get()`` is the only way back, as in CuPy.

    It computes (on the host, in secret) and refuses, with TypeError: ``np.asarray(x)`` and ``float(x)``; host arrays
    in its ufuncs, functions, assignments and indices; and what CuPy has not got, or does wrongly. Numbers are welcome.
    Like CuPy's, its results are arrays of no axes where NumPy's would be numbers, and ``bool(x)`` waits for the device.
    """

    __slots__ = ("_values",)
    __hash__ = object.__hash__
    __array_priority__ = 100

    def __init__(self, values):
        self._values = np.array(values)

    shape = property(lambda self: self._values.shape, doc="Lengths of the axes.")
    dtype = property(lambda self: self._values.dtype, doc="Type of the numbers.")
    ndim = property(lambda self: self._values.ndim, doc="Number of axes.")
    size = property(lambda self: self._values.size, doc="Number of numbers.")
    nbytes = property(lambda self: self._values.nbytes, doc="Bytes the numbers take.")
    base = property(lambda self: self._values.base, doc="The memory this is a view of; None if it owns its own.")
    real = property(lambda self: _on_device(self._values.real), doc="The real parts.")
    imag = property(lambda self: _on_device(self._values.imag), doc="The imaginary parts.")
    T = property(lambda self: _on_device(self._values.T), doc="The axes reversed.")

    def get(self) -> np.ndarray:
        """The numbers, copied to the host."""
        return self._values.copy()

    def item(self):
        """The single number of a one-element array, as a Python number."""
        return self._values.item()

    def __repr__(self):
        return f"DeviceArray(shape={self.shape}, dtype={self.dtype})"

    def __len__(self):
        return len(self._values)

    def __iter__(self):
        return (self[i] for i in range(len(self)))

    def __bool__(self):
        return bool(self._values)

    def __getitem__(self, index):
        return _on_device(self._values[_unwrapped(index, "an index")])

    def __setitem__(self, index, value):
        self._values[_unwrapped(index, "an index")] = _unwrapped(value, "an assignment")

    # what is refused ------------------------------------------------------------------------

    def __array__(self, dtype=None, copy=None):
        raise TypeError("a device array was about to be copied to the host; .get() or to_numpy does so in the open")

    def _number(self):
        raise TypeError("float(x), int(x) and complex(x) make the host wait for the device; keep x an array")

    __float__ = __int__ = __complex__ = __index__ = _number

    # NumPy's dispatch -----------------------------------------------------------------------

    def __array_ufunc__(self, ufunc, method, *inputs, out=(), **kwargs):
        if any(hasattr(type(x), "__array_ufunc__") and not isinstance(x, _KNOWN) for x in inputs):
            return NotImplemented  # a Tensor, say, which knows better
        name = f"np.{ufunc.__name__}"
        _refuse(ufunc.__name__, kwargs)
        if ufunc.__name__ in NOT_COMPLEX and any(np.iscomplexobj(_unwrapped(x, name)) for x in inputs):
            raise TypeError(f"{name}: CuPy has it for real numbers only")
        if method == "at":
            _refuse_at(*inputs)
        if any(isinstance(x, np.ndarray) for x in out):
            raise TypeError(f"{name}: the result of device arrays was to be written into a host array")
        options = _unwrapped(kwargs, name)
        if out:
            options["out"] = tuple(x._values for x in out)
        result = getattr(ufunc, method)(*_unwrapped(inputs, name), **options)
        return out[0] if out else _wrapped(result)

    def __array_function__(self, func, types, args, kwargs):
        if not all(issubclass(t, _KNOWN) for t in types):
            return NotImplemented
        _refuse(func.__name__, kwargs)
        if not _holds_device_array((args, kwargs)):  # like=: host values are sent to the device in the open
            return DeviceArray(func(*args, **kwargs))
        name = f"np.{func.__name__}"
        return _wrapped(func(*_unwrapped(args, name), **_unwrapped(kwargs, name)))


_KNOWN = (DeviceArray, np.ndarray, np.generic)


def _method(name: str):
    """A method that does to the device what ndarray's does on the host."""

    def on_device(self, *args, **kwargs):
        _refuse(name, kwargs)
        method = getattr(self._values, name)
        return _wrapped(method(*_unwrapped(args, f".{name}"), **_unwrapped(kwargs, f".{name}")))

    on_device.__name__, on_device.__doc__ = name, f"As of ``numpy.ndarray.{name}``."
    return on_device


_METHODS = ["all", "any", "argmax", "argmin", "argsort", "astype", "clip", "conj", "copy", "cumsum", "dot", "fill",
            "flatten", "max", "mean", "min", "prod", "ravel", "repeat", "reshape", "round", "sort", "squeeze", "std",
            "sum", "swapaxes", "take", "trace", "transpose", "var", "view"]  # fmt: skip

for _name in _METHODS:
    setattr(DeviceArray, _name, _method(_name))


def _on_device(values) -> DeviceArray:
    """Host values, without a copy, as a DeviceArray: a view stays a view."""
    array = object.__new__(DeviceArray)
    array._values = np.asarray(values)
    return array


def _wrapped(result):
    """Arrays in a result put back on the device; shapes, types and flags are the host's business."""
    if isinstance(result, np.ndarray | np.generic):
        return _on_device(result)
    return type(result)(map(_wrapped, result)) if type(result) in (tuple, list) else result


def _unwrapped(x, where: str):
    """The host values of device arrays, at any depth; raises TypeError for a host array among them."""
    if isinstance(x, DeviceArray):
        return x._values
    if type(x) in (tuple, list):
        return type(x)(_unwrapped(part, where) for part in x)
    if type(x) is dict:
        return {key: _unwrapped(value, where) for key, value in x.items()}
    if isinstance(x, np.ndarray):
        raise TypeError(f"{where}: a host array {x.shape} {x.dtype} met a device array; move it first, with like(...)")
    return x


def _holds_device_array(x) -> bool:
    if type(x) is dict:
        return any(map(_holds_device_array, x.values()))
    return isinstance(x, DeviceArray) or (type(x) in (tuple, list) and any(map(_holds_device_array, x)))


def _refuse(name: str, options: dict) -> None:
    """Raise TypeError for a function that CuPy lacks, or an option that its functions do not take or take wrongly."""
    if name in MISSING:
        raise TypeError(f"np.{name}: CuPy has no such function")
    if wrong := sorted(NOT_TAKEN.intersection(options)):
        raise TypeError(f"np.{name}: CuPy's does not take {wrong[0]}=")
    if name.endswith("_like") and options.get("shape") == ():
        raise TypeError(f"np.{name}: CuPy gives shape=() the shape of the other array; use np.zeros((), like=x)")


def _refuse_at(out, index, *values) -> None:
    """Raise TypeError for what ``ufunc.at`` cannot do by dispatch: see ``backend.add_at``."""
    if isinstance(index, tuple | list):
        raise TypeError("ufunc.at: dispatch reaches CuPy with a single index array only, not with a tuple or a list")
    if out.dtype.kind == "c":
        raise TypeError("ufunc.at: CuPy's adds real numbers only")
