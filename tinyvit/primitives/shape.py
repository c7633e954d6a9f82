"""Rearranging numbers without changing them. Nearly all come in pairs, each the other's pullback."""

from __future__ import annotations

import math

import numpy as np

from tinyvit.autodiff.op import constant, primitive
from tinyvit.backend import add_at, like, zeros


@primitive
def reshape(x, *, shape):
    """The same numbers in the same order with other axes; one length may be -1."""
    return np.reshape(x, shape)


@reshape.pullback
def _(g, out, x, *, shape):
    return (reshape(g, shape=x.shape),)


@primitive
def transpose(x, *, axes=None):
    """The axes in another order; reversed if ``axes`` is left out."""
    return np.transpose(x, axes)


@transpose.pullback
def _(g, out, x, *, axes):
    return (transpose(g, axes=axes and tuple(sorted(range(len(axes)), key=lambda i: axes[i] % len(axes)))),)


@primitive
def swapaxes(x, *, axis1, axis2):
    """Two axes exchanged."""
    return np.swapaxes(x, axis1, axis2)


@swapaxes.pullback
def _(g, out, x, *, axis1, axis2):
    return (swapaxes(g, axis1=axis1, axis2=axis2),)


@primitive
def astype(x, *, dtype):
    """The same numbers in another precision; complex ones stay complex."""
    return x.astype(np.result_type(dtype, np.complex64) if x.dtype.kind == "c" else dtype)


@astype.pullback
def _(g, out, x, *, dtype):
    return (astype(g, dtype=x.dtype),)


# parts and wholes --------------------------------------------------------------------------


@primitive
def getitem(x, *, index):
    """``x[index]`` for any NumPy index: numbers, slices, None, ``...``, integer or boolean arrays."""
    return x[_beside(index, x)]


@getitem.pullback
def _(g, out, x, *, index):
    return (scatter(g, index=index, shape=x.shape),)


@primitive
def scatter(x, *, index, shape):
    """Zeros of ``shape`` into which ``x`` is added at ``index``; places named twice get both."""
    out = zeros(shape, x)
    if _is_basic(index):
        out[index] = x
    else:
        add_at(out, _beside(index, x), x)
    return out


@scatter.pullback
def _(g, out, x, *, index, shape):
    return (getitem(g, index=index),)


def _is_basic(index) -> bool:
    """Whether an index is made of numbers, slices, None and ``...`` only, so that no place is named twice."""
    parts = index if isinstance(index, tuple) else (index,)
    return all(isinstance(i, int | slice | np.integer) or i is None or i is Ellipsis for i in parts)


def _beside(index, x):
    """An index whose arrays (tables made on the host, say) are of x's library."""
    if isinstance(index, tuple):
        return tuple(_beside(i, x) for i in index)
    return like(index, x) if isinstance(index, np.ndarray | list) and not isinstance(x, np.ndarray) else index


@primitive
def take_along_axis(x, indices, *, axis):
    """For every place, the element of ``x`` that ``indices`` names along ``axis`` (indices: integers)."""
    return np.take_along_axis(x, indices, axis)


@take_along_axis.pullback
def _(g, out, x, indices, *, axis):
    return put_along_axis(g, indices, axis=axis, shape=x.shape), None


@primitive
def put_along_axis(x, indices, *, axis, shape):
    """Zeros of ``shape`` into which ``x`` is added at ``indices`` along ``axis``."""
    out = zeros(shape, x)
    places = [like(i, x) for i in np.ix_(*map(range, shape))]  # these and the indices broadcast to x's shape
    places[axis] = indices
    add_at(out, tuple(places), x)
    return out


@put_along_axis.pullback
def _(g, out, x, indices, *, axis, shape):
    return take_along_axis(g, indices, axis=axis), None


@primitive
def concatenate(*xs, axis=0):
    """Arrays joined end to end along an axis they already have."""
    return np.concatenate(xs, axis)


@concatenate.pullback
def _(g, out, *xs, axis):
    ends = np.cumsum([x.shape[axis] for x in xs]).tolist()
    return [g[_along(axis % len(x.shape), end - x.shape[axis], end)] for x, end in zip(xs, ends, strict=True)]


def _along(axis: int, start: int, stop: int) -> tuple:
    """The index of ``start:stop`` along one axis."""
    return (slice(None),) * axis + (slice(start, stop),)


def stack(*xs, axis=0):
    """Arrays of one shape side by side along a new axis."""
    axis %= len(xs[0].shape) + 1
    return concatenate(*(reshape(x, shape=(*x.shape[:axis], 1, *x.shape[axis:])) for x in xs), axis=axis)


def split(x, sections: int, axis=-1) -> list:
    """``x`` cut into ``sections`` equal parts along an axis."""
    axis %= len(x.shape)
    size, rest = divmod(x.shape[axis], sections)
    if rest:
        raise ValueError(f"split: axis {axis} of shape {x.shape} cannot be cut into {sections} equal parts")
    return [x[_along(axis, i * size, (i + 1) * size)] for i in range(sections)]


@primitive
def pad(x, *, widths, value=0.0):
    """``x`` with a border of ``value``; ``widths`` has a pair (before, after) for every axis."""
    return np.pad(x, widths, constant_values=value)


@pad.pullback
def _(g, out, x, *, widths, value):
    return (g[tuple(slice(before, before + n) for (before, _), n in zip(widths, x.shape, strict=True))],)


@primitive
def roll(x, *, shift, axis):
    """``x`` moved along axes, what leaves at one end coming back at the other."""
    return np.roll(x, shift, axis)


@roll.pullback
def _(g, out, x, *, shift, axis):
    back = tuple(-s for s in shift) if isinstance(shift, tuple) else -shift
    return (roll(g, shift=back, axis=axis),)


# sliding windows ---------------------------------------------------------------------------


@primitive
def unfold(x, *, size, stride=1, dilation=1):
    """Every window of ``x``, as a view: (B, H, W, C) -> (B, H', W', C, k, l) for ``size = (k, l)``.

    Works for any number of spatial axes, which lie between the first (batch) and the last (channels).
    stride, dilation: a number, or one per spatial axis. H' = ⌊(H - d(k-1) - 1)/s⌋ + 1.
    """
    n = len(size)
    stride, dilation = per_axis(stride, n), per_axis(dilation, n)
    reach = tuple(d * (k - 1) + 1 for k, d in zip(size, dilation, strict=True))
    windows = np.lib.stride_tricks.sliding_window_view(x, reach, axis=tuple(range(1, n + 1)))
    steps = tuple(slice(None, None, s) for s in stride)
    holes = tuple(slice(None, None, d) for d in dilation)
    return windows[(slice(None), *steps, slice(None), *holes)]


@unfold.pullback
def _(g, out, x, *, size, stride, dilation):
    return (fold(g, shape=x.shape, stride=stride, dilation=dilation),)


@primitive
def fold(x, *, shape, stride=1, dilation=1):
    """The transpose of ``unfold``: windows added up where they overlap, (B, H', W', C, k, l) -> ``shape``.

    Raises ValueError for a ``shape`` that the windows do not fit into.
    """
    n = len(shape) - 2
    out = np.zeros_like(x, shape=shape)
    places, size = x.shape[1 : n + 1], x.shape[n + 2 :]
    stride, dilation = per_axis(stride, n), per_axis(dilation, n)
    reach = [s * (m - 1) + d * (k - 1) + 1 for s, m, d, k in zip(stride, places, dilation, size, strict=True)]
    if any(r > length for r, length in zip(reach, shape[1 : n + 1], strict=True)):
        raise ValueError(f"the windows reach over {tuple(reach)}, shape is only {tuple(shape[1 : n + 1])} there")
    for tap in np.ndindex(*size):
        starts = [t * d for t, d in zip(tap, dilation, strict=True)]
        at = tuple(slice(a, a + s * (m - 1) + 1, s) for a, s, m in zip(starts, stride, places, strict=True))
        out[(slice(None), *at)] += x[(..., *tap)]
    return out


@fold.pullback
def _(g, out, x, *, shape, stride, dilation):
    return (unfold(g, size=x.shape[len(shape) :], stride=stride, dilation=dilation),)


def per_axis(value, n: int) -> tuple:
    """A number for each of ``n`` axes: one number serves them all."""
    values = (value,) * n if isinstance(value, int) else tuple(value)
    if len(values) != n:
        raise ValueError(f"expected a number or {n} of them, one per spatial axis, got {value!r}")
    return values


def borders(padding, n: int) -> tuple:
    """(before, after) for each of ``n`` spatial axes, from one number, one per axis, or the pairs themselves."""
    return tuple((p, p) if isinstance(p, int) else tuple(p) for p in per_axis(padding, n))


def zero_padded(x, padding, n: int):
    """``x`` with a border of zeros around its ``n`` spatial axes."""
    widths = borders(padding, n)
    return pad(x, widths=((0, 0), *widths, (0, 0))) if any(map(any, widths)) else x


# shapes without derivatives ----------------------------------------------------------------


@constant
def zeros_like(x, shape=None):
    """Zeros of x's library and precision, of its shape or another."""
    return np.zeros_like(x, shape=shape)


def flatten(x, start: int = 1):
    """Axes from ``start`` on merged into one: (B, H, W, C) -> (B, H·W·C)."""
    return reshape(x, shape=(*x.shape[:start], math.prod(x.shape[start:])))
