"""The Tensor: an array that knows how it was made.

A Tensor *is* the node of the computation graph. It points back at the op and the inputs it came from; nothing
points forward, so the graph has no cycles and dies with the last Tensor that needs it.
"""

from __future__ import annotations

from itertools import count

import numpy as np

from tinyvit.backend import is_array

_births = count()
NO_OPTIONS: dict = {}


class Tensor:
    """An array and how it was made.

    data           the array (NumPy, CuPy, …)
    op             the Op that made it; None for a leaf
    inputs         what the op was given: Tensors, arrays and numbers
    options        the op's keyword arguments (static facts, never differentiated)
    residual       the kernel's pullback, where a kernel made the value
    birth          a number that only grows: *creation order is the topological order*
    requires_grad  whether derivatives flow through it
    grad           where ``loss.backward()`` leaves a leaf's gradient (sugar; see ``gradients``)

    A Tensor is a value: nothing is ever assigned into it.
    """

    __slots__ = (
        "__weakref__",
        "birth",
        "data",
        "grad",
        "inputs",
        "op",
        "options",
        "requires_grad",
        "residual",
    )

    def __init__(self, data, requires_grad: bool = False):
        if isinstance(data, Tensor):
            data = data.data
        elif not is_array(data):
            data = np.asarray(data)
        if requires_grad and data.dtype.kind not in "fc":
            raise TypeError(
                f"requires_grad: only real and complex numbers have derivatives, this array is {data.dtype}; "
                "use .astype(np.float32) first"
            )
        self.data = data
        self.requires_grad = requires_grad
        self.op = self.residual = self.grad = None
        self.inputs = ()
        self.options = NO_OPTIONS
        self.birth = next(_births)

    # what an array has too ----------------------------------------------------------------

    shape = property(lambda self: self.data.shape, doc="Lengths of the axes.")
    dtype = property(lambda self: self.data.dtype, doc="Type of the numbers.")
    ndim = property(lambda self: self.data.ndim, doc="Number of axes.")
    size = property(lambda self: self.data.size, doc="Number of numbers.")

    def item(self):
        """The single number of a one-element Tensor, as a Python number."""
        return self.data.item()

    def __len__(self):
        return len(self.data)

    def __iter__(self):
        if not self.ndim:
            raise TypeError("a Tensor without axes cannot be iterated over")
        return (self[i] for i in range(len(self)))

    def __bool__(self):
        return bool(self.data)

    def __float__(self):
        return float(self.data)

    def __repr__(self):
        made = f", made by {self.op.name}" if self.op else ", requires_grad" if self.requires_grad else ""
        return f"Tensor({np.array2string(self.data, separator=', ', prefix='Tensor(')}{made})"

    __hash__ = object.__hash__

    # errors that teach ---------------------------------------------------------------------

    def __setitem__(self, index, value):
        raise TypeError("Tensors are values and are never assigned into; use where(...) or concatenate(...)")

    def __array__(self, dtype=None, copy=None):
        raise TypeError("NumPy was given a Tensor; use tensor.data for its array (this leaves the graph)")

    def __array_function__(self, func, types, args, kwargs):
        raise TypeError(f"np.{func.__name__} was given a Tensor; use tinyvit.{func.__name__}, or tensor.data")

    def __array_ufunc__(self, ufunc, method, *inputs, **kwargs):
        op = NUMPY_OPERATORS.get(ufunc.__name__)
        if op and method == "__call__" and not kwargs:  # array + tensor reaches us as np.add(array, tensor)
            return op(*inputs)
        raise TypeError(f"np.{ufunc.__name__} was given a Tensor; use tinyvit.{ufunc.__name__}, or tensor.data")


NUMPY_OPERATORS: dict = {}  # ufunc name -> op, filled by primitives/operators.py


def raw(x):
    """The array inside a Tensor; anything else as it is."""
    return x.data if isinstance(x, Tensor) else x
