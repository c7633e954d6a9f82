"""Functions of single numbers, applied to every element.

All of them are analytic: where a decision is made (a sign, a larger one of two) it is made on the real part,
so complex arrays flow through and the complex step is exact.
"""

from __future__ import annotations

import math

import numpy as np

from tinyvit.autodiff.op import constant, primitive
from tinyvit.backend import special

# arithmetic --------------------------------------------------------------------------------


@primitive
def add(x, y):
    """``x + y``."""
    return np.add(x, y)


@add.pullback
def _(g, out, x, y):
    return g, g


@primitive
def subtract(x, y):
    """``x - y``."""
    return np.subtract(x, y)


@subtract.pullback
def _(g, out, x, y):
    return g, lambda: -g


@primitive
def multiply(x, y):
    """``x · y``, element by element."""
    return np.multiply(x, y)


@multiply.pullback
def _(g, out, x, y):
    return lambda: g * y, lambda: g * x


@primitive
def divide(x, y):
    """``x / y``, element by element."""
    return np.divide(x, y)


@divide.pullback
def _(g, out, x, y):
    return lambda: g / y, lambda: -g * out / y


@primitive
def negative(x):
    """``-x``."""
    return np.negative(x)


@negative.pullback
def _(g, out, x):
    return (-g,)


@primitive
def power(x, *, exponent):
    """``x ** exponent`` for a fixed number ``exponent``."""
    if exponent == -0.5:
        return 1 / np.sqrt(x)
    return x * x if exponent == 2 else np.power(x, exponent)


@power.pullback
def _(g, out, x, *, exponent):
    if exponent == 0:
        return (None,)
    return (g * (exponent * power(x, exponent=exponent - 1) if exponent != 1 else 1),)


# functions ---------------------------------------------------------------------------------


@primitive
def exp(x):
    """The exponential."""
    return np.exp(x)


@exp.pullback
def _(g, y, x):
    return (g * y,)


@primitive
def log(x):
    """The natural logarithm."""
    return np.log(x)


@log.pullback
def _(g, y, x):
    return (g / x,)


@primitive
def expm1(x):
    """``exp(x) - 1``, exact where x is small."""
    return np.expm1(x)


@expm1.pullback
def _(g, y, x):
    return (g * (y + 1),)


@primitive
def log1p(x):
    """``log(1 + x)``, exact where x is small."""
    return np.log1p(x)


@log1p.pullback
def _(g, y, x):
    return (g / (1 + x),)


@primitive
def sqrt(x):
    """The square root."""
    return np.sqrt(x)


@sqrt.pullback
def _(g, y, x):
    return (g / (2 * y),)


@primitive
def sin(x):
    """The sine."""
    return np.sin(x)


@sin.pullback
def _(g, y, x):
    return (g * cos(x),)


@primitive
def cos(x):
    """The cosine."""
    return np.cos(x)


@cos.pullback
def _(g, y, x):
    return (-g * sin(x),)


@primitive
def tanh(x):
    """The hyperbolic tangent."""
    return np.tanh(x)


@tanh.pullback
def _(g, y, x):
    return (g * (1 - y * y),)


@primitive
def erf(x):
    """The error function ``2/√π ∫₀ˣ exp(-t²) dt``."""
    return special().erf(x)


@erf.pullback
def _(g, y, x):
    return (g * (2 / math.sqrt(math.pi) * exp(-x * x)),)


# decisions ---------------------------------------------------------------------------------


@constant
def greater(x, y):
    """Where ``x > y`` (real parts), as booleans. A constant: its derivative is zero."""
    return np.greater(np.real(x), np.real(y))


@constant
def greater_equal(x, y):
    """Where ``x >= y`` (real parts), as booleans."""
    return np.greater_equal(np.real(x), np.real(y))


@constant
def equal(x, y):
    """Where ``x == y``, as booleans."""
    return np.equal(x, y)


@constant
def not_equal(x, y):
    """Where ``x != y``, as booleans."""
    return np.not_equal(x, y)


@primitive
def where(condition, x, y):
    """``x`` where ``condition`` holds and ``y`` elsewhere; no derivative flows to the side not chosen."""
    return np.where(condition, x, y)


@where.pullback
def _(g, out, condition, x, y):
    return None, lambda: where(condition, g, g * 0), lambda: where(condition, g * 0, g)


@primitive
def maximum(x, y):
    """The larger of two; where they are equal both get half of the derivative."""
    return np.where(greater_equal(x, y), x, y)


@maximum.pullback
def _(g, out, x, y):
    return lambda: _shared(g, x, y), lambda: _shared(g, y, x)


@primitive
def minimum(x, y):
    """The smaller of two; where they are equal both get half of the derivative."""
    return np.where(greater_equal(y, x), x, y)


@minimum.pullback
def _(g, out, x, y):
    return lambda: _shared(g, y, x), lambda: _shared(g, x, y)


def _shared(g, x, y):
    """All of ``g`` where x is larger, half of it where they are equal, nothing where x is smaller."""
    return 0.5 * (g * greater(x, y) + g * greater_equal(x, y))


@primitive
def absolute(x):
    """``|x|``, continued to complex numbers as ``±x`` by the sign of the real part; derivative 0 at 0."""
    return np.where(greater_equal(x, 0), x, -x)


@absolute.pullback
def _(g, out, x):
    return (g * _sign(x),)


@primitive
def relu(x):
    """``max(x, 0)``, with derivative 0 at 0 (Nair & Hinton 2010)."""
    if hasattr(x, "dtype") and x.dtype.kind == "f":
        return np.clip(x, 0, math.inf)  # where takes ten times as long
    return np.where(greater(x, 0), x, 0)


@relu.pullback
def _(g, out, x):
    return (g * greater(x, 0),)


@primitive
def clip(x, *, low=-math.inf, high=math.inf):
    """``x`` held between two numbers (by real part); derivative 1 from one to the other, both included, else 0."""
    return np.where(greater(x, high), high, np.where(greater(low, x), low, x))


@clip.pullback
def _(g, out, x, *, low, high):
    return (g * greater_equal(x, low) * greater_equal(high, x),)


@constant
def _sign(x):
    return np.sign(np.real(x))
