"""Layers from their definitions, in loops, and modules whose every number counts: what blocks are compared with."""

import numpy as np


def shaken(module, rng):
    """The module in float64 with every number of its state moved off its initial value, variances kept positive."""
    module.astype(np.float64)
    for name, value in module.named_state():
        if value.dtype == np.float64:
            noise = rng.normal(0, 0.3, value.shape)
            value.data = value.data + (np.abs(noise) if name.endswith("running_var") else noise)
    return module


def norm(x, bn):
    """A BatchNorm's evaluation."""
    return (x - bn.running_mean.data) / np.sqrt(bn.running_var.data + 1e-5) * bn.weight.data + bn.bias.data


def convolution(x, layer, stride=1):
    """A convolution of one image (H, W, C): output o sees the k × k × c numbers that its weight is for, zeros outside.

    Of the channels those are the first c for the first group of outputs, the next c for the second, and so on.
    """
    w, (H, W, C) = layer.weight.data, x.shape
    O, c, k, _ = w.shape
    padded = np.pad(x, ((k // 2, k // 2), (k // 2, k // 2), (0, 0)))
    out = np.zeros((-(-H // stride), -(-W // stride), O))
    for i, j, o in np.ndindex(out.shape):
        first = o // (O * c // C) * c
        window = padded[i * stride : i * stride + k, j * stride : j * stride + k, first : first + c]
        out[i, j, o] = np.sum(window * np.moveaxis(w[o], 0, -1))
    return out
