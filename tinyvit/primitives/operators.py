"""The table that says ``x + y`` means ``add(x, y)``.

Tensor sits below the ops and cannot know them, so they are attached here, once. Tensor gets no attribute that
a NumPy array lacks: that is what lets one equation run on either.
"""

from __future__ import annotations

from tinyvit.autodiff.tensor import NUMPY_OPERATORS, Tensor
from tinyvit.primitives.contract import matmul
from tinyvit.primitives.elementwise import (
    add,
    divide,
    equal,
    greater,
    greater_equal,
    multiply,
    negative,
    not_equal,
    power,
    subtract,
)
from tinyvit.primitives.reduce import argmax, max, mean, sum, var
from tinyvit.primitives.shape import astype, getitem, reshape, swapaxes, transpose


def _reversed(op):
    return lambda x, y: op(y, x)


def _power(x, exponent):
    if not isinstance(exponent, int | float):
        raise TypeError("x ** y: the exponent must be a number; for a Tensor exponent write exp(y * log(x))")
    return power(x, exponent=exponent)


def _unpacked(values):
    """``x.reshape(2, 3)`` and ``x.reshape((2, 3))`` mean the same."""
    return values[0] if len(values) == 1 and isinstance(values[0], tuple | list) else values


ATTACHED = {
    "__add__": add,
    "__radd__": _reversed(add),
    "__sub__": subtract,
    "__rsub__": _reversed(subtract),
    "__mul__": multiply,
    "__rmul__": _reversed(multiply),
    "__truediv__": divide,
    "__rtruediv__": _reversed(divide),
    "__matmul__": matmul,
    "__rmatmul__": _reversed(matmul),
    "__neg__": negative,
    "__pow__": _power,
    "__gt__": greater,
    "__ge__": greater_equal,
    "__lt__": _reversed(greater),
    "__le__": _reversed(greater_equal),
    "__eq__": equal,
    "__ne__": not_equal,
    "__getitem__": lambda x, index: getitem(x, index=index),
    "T": property(lambda x: transpose(x), doc="The axes reversed."),
    "reshape": lambda x, *shape: reshape(x, shape=_unpacked(shape)),
    "transpose": lambda x, *axes: transpose(x, axes=_unpacked(axes) or None),
    "swapaxes": lambda x, axis1, axis2: swapaxes(x, axis1=axis1, axis2=axis2),
    "astype": lambda x, dtype: astype(x, dtype=dtype),
    "sum": lambda x, axis=None, keepdims=False: sum(x, axis=axis, keepdims=keepdims),
    "mean": lambda x, axis=None, keepdims=False: mean(x, axis=axis, keepdims=keepdims),
    "var": lambda x, axis=None, keepdims=False: var(x, axis=axis, keepdims=keepdims),
    "max": lambda x, axis, keepdims=False: max(x, axis=axis, keepdims=keepdims),
    "argmax": lambda x, axis=-1, keepdims=False: argmax(x, axis=axis, keepdims=keepdims),
}

for _name, _meaning in ATTACHED.items():
    # an Op is an object, not a function, so Python would not pass it ``self``
    setattr(
        Tensor,
        _name,
        _meaning if isinstance(_meaning, property) else (lambda f: lambda *a, **k: f(*a, **k))(_meaning),
    )

NUMPY_OPERATORS.update(
    add=add, subtract=subtract, multiply=multiply, divide=divide, matmul=matmul,
    greater=greater, greater_equal=greater_equal, less=_reversed(greater), less_equal=_reversed(greater_equal),
    equal=equal, not_equal=not_equal,
)  # fmt: skip
