"""No keepdims: the axis is moved to the end; backward multiplies with the Jacobian written out in full."""

import numpy as np


def softmax(x, axis):
    rows = np.moveaxis(x, axis, -1)
    e = np.exp(rows - rows.max(-1)[..., None])
    return np.moveaxis(e / e.sum(-1)[..., None], -1, axis)


def softmax_backward(g, y, axis):
    g, y = np.moveaxis(g, axis, -1), np.moveaxis(y, axis, -1)
    jacobian = y[..., :, None] * (np.eye(y.shape[-1]) - y[..., None, :])
    return np.moveaxis(np.einsum("...j,...ji->...i", g, jacobian), -1, axis)


def log_softmax(x, axis):
    rows = np.moveaxis(x, axis, -1)
    shifted = rows - rows.min(-1)[..., None]
    shifted = shifted - shifted.max(-1)[..., None]
    return np.moveaxis(shifted - np.log(np.exp(shifted).sum(-1))[..., None], -1, axis)


def log_softmax_backward(g, y, axis):
    g, y = np.moveaxis(g, axis, -1), np.moveaxis(y, axis, -1)
    jacobian = np.eye(y.shape[-1]) - np.exp(y)[..., None, :]
    return np.moveaxis(np.einsum("...j,...ji->...i", g, jacobian), -1, axis)
