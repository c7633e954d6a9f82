"""The kernels of convolution: every output is a sum over a window of the (zero-padded) input, times a filter.

The sums are taken as *products* of matrices, a window a row and a filter a column, or, where every channel has a filter
of its own, *tap by tap*. Either way the images go by in blocks that a cache holds. What flows back to the input of a
convolution is a convolution too, of the cotangent, with the filters turned round.
"""

from __future__ import annotations

import math
from functools import reduce
from itertools import product

import numpy as np

from tinyvit.backend import on_device
from tinyvit.equations.blocks import blocks
from tinyvit.machine import shared_out
from tinyvit.primitives.shape import borders, per_axis, unfold, zero_padded


def correlation(x, weight, bias, n: int, stride, padding, dilation, groups: int):
    """The value of a convolution over ``n`` spatial axes, and its pullback.

    x (B, *places, C), weight (O, C/groups, *size), bias (O,) or None -> (B, *places', O)
    """
    steps, holes = per_axis(stride, n), per_axis(dilation, n)
    windows = unfold(zero_padded(x, padding, n), size=weight.shape[2:], stride=steps, dilation=holes)
    way = _way(weight, groups, steps[-1])

    def correlation_pullback(g):
        return (
            lambda: _sent_back(g, way, x.shape, steps, borders(padding, n), holes),
            lambda: np.reshape(_filter_sums(windows, g, way), weight.shape),
            lambda: np.sum(g, axis=tuple(range(n + 1))),
        )

    return _sums(windows, way, bias), correlation_pullback


def _way(weight, groups: int, step: int):
    """The faster way to take the sums: Taps for a filter per channel, or Products."""
    O, c, *size = weight.shape
    if (O, c) == (groups, 1):
        return Taps(np.moveaxis(weight[:, 0], 0, -1), step)
    shared = np.moveaxis(np.reshape(weight, (groups, O // groups, c, *size)), 2, -1)
    by_filter = np.reshape(shared, (groups, O // groups, math.prod(size) * c))  # each moves within its own memory
    return Products(np.swapaxes(by_filter, 1, 2), size)


# back to the input -------------------------------------------------------------------------


def _sent_back(g, way, shape: tuple, steps, around, holes):
    """The cotangent of an input of ``shape``: a convolution of the output's, in steps of one, with the filters turned.

    Steps longer than one leave out taps: which ones depends on the rest of a place divided by the step. All places with
    the same rest have met the same taps, so there is a convolution for every rest.
    """
    parts = []
    axes = zip(shape[1:-1], way.size, steps, around, holes, strict=True)
    for rests in product(*(_rests(*axis) for axis in axes)):
        places, taps, starts, lengths, apart = zip(*rests, strict=True)
        turned = way.turned(taps)
        windows = unfold(_cut(g, starts, lengths), size=turned.size, dilation=apart)
        parts.append((places, _sums(windows, turned)))
    if [part.shape for _, part in parts] == [shape]:  # steps of one
        return parts[0][1]
    out = np.zeros_like(g, shape=shape, dtype=np.result_type(g, way.filters))
    for places, part in parts:
        out[(slice(None), *places)] = part
    return out


def _rests(length: int, size: int, step: int, border: tuple, hole: int):
    """For every rest along an axis: its places, its taps, which outputs these lead to (start, length), how far apart.

    Output i meets place p by tap a where ``step·i + hole·a = p + border``.
    """
    common = math.gcd(step, hole)
    for first in range(min(step, length)):
        output, rest = divmod(first + border[0], step)
        taps = [a for a in range(size) if hole * a % step == rest]
        if taps:
            near, far = hole * taps[0] // step, hole * taps[-1] // step
            count = len(range(first, length, step))
            taps = slice(taps[0], None, step // common)
            yield slice(first, None, step), taps, output - far, count + far - near, hole // common


def _cut(x, starts, lengths):
    """The part of ``x`` that starts at ``starts`` along its spatial axes; it is zero outside of x."""
    widths, at = [], []
    for n, start, length in zip(x.shape[1:-1], starts, lengths, strict=True):
        low, high = (min(max(place, 0), n) for place in (start, start + length))
        before = min(max(-start, 0), length)
        at.append(slice(low, high))
        widths.append((before, length - before - (high - low)))
    return zero_padded(x[(slice(None), *at)], widths, len(widths))


# block by block ----------------------------------------------------------------------------

BLOCK = 1 << 20  # numbers that a block of windows has
ON_DEVICE = 1 << 27  # there, a call is dear, and the caches are not ours to mind
SHARES = 8  # partial sums of a filter's gradient, whatever the number of threads: it must not change the bits


def _sums(windows, way, bias=None):
    """The output of every window.   (B, *places, C, *size) -> (B, *places, O)"""
    shape = (*windows.shape[: windows.ndim // 2], way.outputs)
    dtype = np.result_type(windows, way.filters, *(() if bias is None else (bias,)))
    y = np.empty_like(windows, shape=shape, dtype=dtype)

    def one(block):
        way.sums(windows[block], out=y[block])
        if bias is not None:
            y[block] += bias

    shared_out(one, _blocks(windows, way), y.size * way.cost > way.worth)
    return y


def _filter_sums(windows, g, way):
    """For every number of the filters: the inputs it meets times their outputs' cotangents, summed over all windows."""

    def of_share(share):
        return reduce(np.add, (way.filter_sums(windows[block], g[block]) for block in share))

    parts = _blocks(windows, way)
    if not parts:  # a batch of none
        return np.zeros_like(way.filters, dtype=np.result_type(windows, g))
    shares = [parts[i::SHARES] for i in range(min(SHARES, len(parts)))]
    return way.as_weight(reduce(np.add, shared_out(of_share, shares, g.size * way.cost > way.worth)))


def _blocks(windows, way) -> list:
    """Indices of blocks of windows: at least as many numbers as all filters have, which are read for every block."""
    budget = max(ON_DEVICE if on_device(windows) else BLOCK, way.filters.size)
    return blocks(windows.shape[: windows.ndim // 2], way.numbers, budget)


# the two ways ------------------------------------------------------------------------------


class Products:
    """A window is a row of a matrix, a filter a column of another, for every group of channels.

    filters   (groups, area·c, o) for weights (groups·o, c, *size)
    outputs   how many channels come out · numbers: that a window has · cost: multiply-adds for an output
    worth     from how many of them on threads for blocks are faster than those that BLAS has for a product; they do
              not go together, since BLAS's wait for the next product for some time by turning in circles
    """

    worth = 1 << 30

    def __init__(self, filters, size):
        self.filters, self.size = filters, tuple(size)
        self.groups, self.row, self.o = filters.shape
        self.c = self.row // max(math.prod(size), 1)
        self.outputs, self.numbers, self.cost = self.groups * self.o, self.groups * self.row, self.row

    def turned(self, taps):
        """The way back, from outputs to inputs, for some of the taps (a slice for each axis)."""
        whole = np.reshape(self.filters, (self.groups, *self.size, self.c, self.o))
        some = np.swapaxes(np.flip(whole[(slice(None), *taps)], axis=tuple(range(1, len(taps) + 1))), -2, -1)
        size = some.shape[1:-2]
        return Products(np.reshape(some, (self.groups, math.prod(size) * self.o, self.c)), size)

    def sums(self, windows, out) -> None:
        """Write the outputs of some windows."""
        np.matmul(self.columns(windows), self.filters, out=self.per_group(out))

    def filter_sums(self, windows, g):
        """(groups, o, area·c)"""
        return np.swapaxes(self.per_group(g), 1, 2) @ self.columns(windows)

    def as_weight(self, sums):
        """(groups, o, area·c) -> (groups, o, c, *size)"""
        return np.moveaxis(np.reshape(sums, (self.groups, self.o, *self.size, self.c)), -1, 2)

    def columns(self, windows):
        """(b, *places, C, *size) -> (groups, b·places, area·c)"""
        n = len(self.size)
        at = windows.shape[: n + 1]
        shared = np.moveaxis(np.reshape(windows, (*at, self.groups, self.c, *self.size)), (n + 1, n + 2), (0, -1))
        return np.reshape(shared, (self.groups, math.prod(at), self.row))

    def per_group(self, y):
        """(b, *places, O) -> (groups, b·places, o), a view where y is in one piece"""
        shared = np.reshape(y, (math.prod(y.shape[:-1]), self.groups, self.o))
        return np.moveaxis(shared, 1, 0)


class Taps:
    """Every channel has a filter of its own: windows times filters are added up tap by tap.

    einsum multiplies and adds in one go, along vectors that have to be long. Where windows follow each other in steps
    of one, a whole row of places and channels is such a vector; otherwise the channels of one place are.

    filters  (*size, C) for weights (C, 1, *size) · outputs, numbers, cost, worth: as of Products
    """

    worth = 1 << 24

    def __init__(self, filters, step: int = 1):
        self.filters, self.size, self.outputs = filters, filters.shape[:-1], filters.shape[-1]
        self.numbers = 2 * self.outputs  # what comes in and what goes out; windows are only views
        self.cost = math.prod(self.size)
        self.outer = len(self.size) + (step > 1)  # axes of batch and places that are not within a vector
        self.at, self.taps = "bthw"[: self.outer], "klm"[: len(self.size)]

    def turned(self, taps):
        """The way back, from outputs to inputs, for some of the taps (a slice for each axis)."""
        return Taps(np.flip(self.filters[tuple(taps)], axis=tuple(range(len(taps)))))

    def sums(self, windows, out) -> None:
        """Write the outputs of some windows."""
        vectors = self.vectors(windows)
        times = vectors.shape[-1] // max(self.outputs, 1)
        filters = np.empty_like(self.filters, shape=(*self.size, times, self.outputs))
        filters[...] = self.filters[..., None, :]
        filters = np.reshape(filters, (*self.size, vectors.shape[-1]))
        y = np.einsum(f"{self.at}{self.taps}n,{self.taps}n->{self.at}n", vectors, filters)
        out[...] = np.reshape(y, out.shape)

    def filter_sums(self, windows, g):
        """(*size, C)"""
        vectors = self.vectors(windows)
        rows = np.reshape(g, (*g.shape[: self.outer], vectors.shape[-1]))
        sums = np.einsum(f"{self.at}{self.taps}n,{self.at}n->{self.taps}n", vectors, rows)
        return np.sum(np.reshape(sums, (*self.size, -1, max(self.outputs, 1))), axis=-2)

    def as_weight(self, sums):
        """(*size, C) -> (C, *size)"""
        return np.moveaxis(sums, -1, 0)

    def vectors(self, windows):
        """(b, *places, C, *size) -> (b, *places, *size, C), or with the last places and the channels as one axis"""
        n = len(self.size)
        inner = range(self.outer, n + 2)
        moved = np.moveaxis(windows, inner, range(-len(inner), 0))
        return np.reshape(moved, (*moved.shape[: self.outer + n], math.prod(moved.shape[self.outer + n :])))
