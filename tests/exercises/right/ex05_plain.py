import numpy as np


def layer_norm(x, gain, offset, eps):
    mean = x.mean(-1, keepdims=True)
    variance = ((x - mean) ** 2).mean(-1, keepdims=True)
    normal = (x - mean) / np.sqrt(variance + eps)
    return normal * gain + offset


def layer_norm_backward(g, x, gain, eps):
    mean = x.mean(-1, keepdims=True)
    root = np.sqrt(((x - mean) ** 2).mean(-1, keepdims=True) + eps)
    normal = (x - mean) / root
    h = g * gain
    along_mean = h.mean(-1, keepdims=True)
    along_variance = normal * (h * normal).mean(-1, keepdims=True)
    dx = (h - along_mean - along_variance) / root
    dgain = (g * normal).sum((0, 1))
    doffset = g.sum((0, 1))
    return dx, dgain, doffset
