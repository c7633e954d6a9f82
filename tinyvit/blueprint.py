"""Arrays that have a shape and a type and no numbers.

A Blueprint goes through the same equations as an array, but only its shape is worked out. A model of 632
million parameters is "run" on them in a moment, and every multiplication it would do is counted.
"""

from __future__ import annotations

import math

import numpy as np

_RULES: dict = {}  # NumPy function -> shape rule


class Blueprint:
    """The shape and dtype of an array. Speaks NEP 13 and NEP 18; any operation gives another Blueprint."""

    def __init__(self, shape, dtype=np.float32):
        self.shape, self.dtype = tuple(int(n) for n in shape), np.dtype(dtype)

    ndim = property(lambda self: len(self.shape))
    size = property(lambda self: math.prod(self.shape))
    nbytes = property(lambda self: self.size * self.dtype.itemsize)
    real = property(lambda self: self)
    base = None

    def __repr__(self):
        return f"Blueprint(shape={self.shape}, dtype={self.dtype})"

    def __len__(self):
        return self.shape[0]

    def __array__(self, dtype=None, copy=None):
        raise TypeError("a blueprint has a shape but no numbers; create the model with rng=... to compute")

    item = __float__ = __array__

    def __getitem__(self, index):
        nothing = np.broadcast_to(np.zeros((), "V0"), self.shape)  # elements of no bytes: picking any is free
        return Blueprint(nothing[_ghost(index)].shape, self.dtype)

    def __setitem__(self, index, value):
        """Nothing to keep."""

    def astype(self, dtype, copy=True):
        """The same shape in another precision."""
        return Blueprint(self.shape, dtype)

    T = property(lambda self: np.transpose(self), doc="The axes reversed.")

    def copy(self):
        """Itself: there are no numbers that could be shared."""
        return self

    def __array_ufunc__(self, ufunc, method, *inputs, out=None, **kwargs):
        if any(hasattr(x, "__array_ufunc__") and not isinstance(x, _KNOWN) for x in inputs):
            return NotImplemented  # a Tensor knows what to do with a blueprint
        if method == "at":
            return None
        if method != "__call__":
            return NotImplemented
        if ufunc is np.matmul:
            return _like(inputs, _matmul_shape(*map(_shape, inputs)))
        dtype = ufunc(*(_one(x) for x in inputs)).dtype
        return Blueprint(np.broadcast_shapes(*map(_shape, inputs)), dtype)

    def __array_function__(self, func, types, args, kwargs):
        if func in _RULES:
            return _RULES[func](*args, **kwargs)
        return Blueprint(func(*map(_ghost, args), **kwargs).shape, self.dtype)  # a view: nothing is allocated


for _name in ("add", "sub", "mul", "truediv", "pow", "matmul"):
    _ufunc = {"sub": np.subtract, "mul": np.multiply, "truediv": np.divide, "pow": np.power}.get(_name)
    _ufunc = _ufunc or getattr(np, _name)
    setattr(Blueprint, f"__{_name}__", lambda x, y, f=_ufunc: f(x, y))
    setattr(Blueprint, f"__r{_name}__", lambda x, y, f=_ufunc: f(y, x))
for _name, _ufunc in {"lt": np.less, "le": np.less_equal, "gt": np.greater, "ge": np.greater_equal,
                      "eq": np.equal, "ne": np.not_equal}.items():  # fmt: skip
    setattr(Blueprint, f"__{_name}__", lambda x, y, f=_ufunc: f(x, y))
for _reduce in (np.sum, np.mean, np.var, np.max, np.argmax):
    setattr(Blueprint, _reduce.__name__, lambda x, *args, f=_reduce, **kwargs: f(x, *args, **kwargs))
for _name in ("reshape", "transpose", "swapaxes"):
    setattr(Blueprint, _name, lambda x, *args, f=_name: Blueprint(getattr(_ghost(x), f)(*args).shape, x.dtype))
Blueprint.__neg__ = lambda x: np.negative(x)
Blueprint.__hash__ = object.__hash__

_KNOWN = (Blueprint, np.ndarray, np.generic)


def _ghost(x):
    """An array of x's shape that occupies one number: every axis has stride zero."""
    if isinstance(x, Blueprint):
        return np.broadcast_to(np.zeros((), x.dtype), x.shape)
    return tuple(map(_ghost, x)) if isinstance(x, tuple | list) and any(isinstance(i, Blueprint) for i in x) else x


def _shape(x) -> tuple:
    return x.shape if hasattr(x, "shape") else np.shape(x)


def _one(x):
    """A single number of x's type, to ask NumPy what type comes out."""
    return np.ones((1,) if isinstance(x, Blueprint) else np.shape(x), x.dtype) if hasattr(x, "dtype") else x


def _like(xs, shape) -> Blueprint:
    return Blueprint(shape, np.result_type(*(x.dtype for x in xs)))


def _matmul_shape(x, y) -> tuple:
    if x[-1] != y[-2]:
        raise ValueError(f"matmul: the inner lengths differ: {x} @ {y}")
    return (*np.broadcast_shapes(x[:-2], y[:-2]), x[-2], y[-1])


def _rule(*functions):
    def register(rule):
        _RULES.update(dict.fromkeys(functions, rule))
        return rule

    return register


@_rule(np.sum, np.mean, np.var, np.max)
def _(x, axis=None, keepdims=False, **_):
    axes = range(x.ndim) if axis is None else [i % x.ndim for i in (axis if isinstance(axis, tuple) else (axis,))]
    if keepdims:
        return Blueprint((1 if i in axes else n for i, n in enumerate(x.shape)), x.dtype)
    return Blueprint((n for i, n in enumerate(x.shape) if i not in axes), x.dtype)


@_rule(np.shape)
def _(x):
    return x.shape


@_rule(np.argmax)
def _(x, axis=None, keepdims=False, **_):
    return np.max(x, axis=axis, keepdims=keepdims).astype(np.intp)


@_rule(np.real, np.imag, np.clip)
def _(x, *_):
    return x


@_rule(np.where)
def _(condition, x, y):
    return Blueprint(np.broadcast_shapes(*map(_shape, (condition, x, y))),
                     np.result_type(*(_one(i) for i in (x, y))))  # fmt: skip


@_rule(np.concatenate)
def _(xs, axis=0, **_):
    if len({(*x.shape[:axis], *x.shape[axis:][1:]) for x in xs}) > 1 and axis >= 0:
        raise ValueError(f"concatenate: lengths differ off axis {axis}: {[x.shape for x in xs]}")
    shape = list(xs[0].shape)
    shape[axis] = sum(x.shape[axis] for x in xs)
    return _like(xs, shape)


@_rule(np.pad)
def _(x, widths, **_):
    return Blueprint((n + sum(w) for n, w in zip(x.shape, widths, strict=True)), x.dtype)


@_rule(np.roll)
def _(x, shift, axis=None):
    return x


@_rule(np.zeros_like, np.ones_like)
def _(x, dtype=None, shape=None, **_):
    return Blueprint(x.shape if shape is None else shape, dtype or x.dtype)


@_rule(np.zeros)
def _(shape, dtype=float):
    return Blueprint(shape, dtype)


@_rule(np.take_along_axis)
def _(x, indices, axis):
    others = (1 if i == axis % x.ndim else n for i, n in enumerate(x.shape))
    return Blueprint(np.broadcast_shapes(tuple(others), indices.shape), x.dtype)


@_rule(np.einsum)
def _(spec, *operands, **_):
    terms, result = spec.replace(" ", "").split("->")
    sizes: dict = {}
    for term, x in zip(terms.split(","), operands, strict=True):
        for axis, n in zip(term, x.shape, strict=True):
            if sizes.setdefault(axis, n) != n:
                raise ValueError(f"einsum: axis {axis!r} of {spec} has lengths {sizes[axis]} and {n}")
    return _like(operands, (sizes[axis] for axis in result))


@_rule(np.put_along_axis)
def _(x, indices, values, axis):
    """Nothing to write into."""


@_rule(np.array2string)
def _(x, **_):
    return repr(x)


@_rule(np.asarray)
def _(x, dtype=None, **_):
    table = np.asarray(x, dtype)
    return Blueprint(table.shape, table.dtype) if table.dtype.kind in "fc" else table  # an index keeps its numbers
