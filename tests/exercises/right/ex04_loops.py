"""One row after the other."""

import math

import numpy as np


def _by_row(row_function, axis, *arrays):
    moved = [np.moveaxis(a, axis, -1) for a in arrays]
    flat = [a.reshape(-1, a.shape[-1]) for a in moved]
    out = np.array([row_function(*rows) for rows in zip(*flat, strict=True)])
    return np.moveaxis(out.reshape(moved[0].shape), -1, axis)


def _softmax(row):
    e = [math.exp(v - max(row)) for v in row]
    return [v / sum(e) for v in e]


def _log_softmax(row):
    total = math.log(math.fsum(math.exp(v - max(row)) for v in row))
    return [v - max(row) - total for v in row]


def softmax(x, axis):
    return _by_row(_softmax, axis, x)


def softmax_backward(g, y, axis):
    return _by_row(lambda g, y: [b * (a - float(g @ y)) for a, b in zip(g, y, strict=True)], axis, g, y)


def log_softmax(x, axis):
    return _by_row(_log_softmax, axis, x)


def log_softmax_backward(g, y, axis):
    return _by_row(lambda g, y: [a - math.exp(b) * float(g.sum()) for a, b in zip(g, y, strict=True)], axis, g, y)
