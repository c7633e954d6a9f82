"""Broadcasting and its transpose: each is the other's pullback.

The engine undoes broadcasting once, for every op, so rule authors never meet it.
"""

from __future__ import annotations

import numpy as np

from tinyvit.autodiff.op import primitive


@primitive
def broadcast_to(x, *, shape):
    """``x`` repeated along new and length-one axes until it has ``shape`` (NumPy's rule)."""
    return np.broadcast_to(x, shape)


@broadcast_to.pullback
def _(g, out, x, *, shape):
    return (sum_to(g, shape=x.shape),)


@primitive
def sum_to(x, *, shape):
    """``x`` summed over the axes along which ``shape`` would be broadcast to reach it."""
    extra = len(x.shape) - len(shape)
    if extra < 0 or any(m not in (1, n) for m, n in zip(shape, x.shape[extra:], strict=True)):
        raise ValueError(f"shape {tuple(shape)} does not broadcast to {x.shape}")
    axes = tuple(range(extra)) + tuple(extra + i for i, n in enumerate(shape) if n == 1 != x.shape[extra + i])
    return np.reshape(np.sum(x, axis=axes), shape) if axes else x


@sum_to.pullback
def _(g, out, x, *, shape):
    return (broadcast_to(g, shape=x.shape),)
