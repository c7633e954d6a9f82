"""Backward step by step: the variance, then the mean, as one derives it the first time."""

import numpy as np


def layer_norm(x, gain, offset, eps):
    return gain * ((x - np.mean(x, axis=2, keepdims=True)) / np.sqrt(np.var(x, axis=2, keepdims=True) + eps)) + offset


def layer_norm_backward(g, x, gain, eps):
    features = x.shape[-1]
    centred = x - x.mean(axis=-1, keepdims=True)
    inverse = (x.var(axis=-1, keepdims=True) + eps) ** -0.5
    dnormal = g * gain
    dvariance = np.sum(dnormal * centred, axis=-1, keepdims=True) * -0.5 * inverse**3
    dmean = -np.sum(dnormal, axis=-1, keepdims=True) * inverse - 2 * dvariance * centred.mean(axis=-1, keepdims=True)
    dx = dnormal * inverse + dvariance * 2 * centred / features + dmean / features
    return [dx, np.sum(g * centred * inverse, axis=(0, 1)), np.sum(np.sum(g, axis=0), axis=0)]
