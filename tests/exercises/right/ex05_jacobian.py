"""Backward by the Jacobian of one token, (1 − 1/D − n nᵀ/D) / √(σ² + ε)."""

import numpy as np


def layer_norm(x, gain, offset, eps):
    y = np.zeros_like(x)
    for b, image in enumerate(x):
        for n, token in enumerate(image):
            centred = token - np.average(token)
            y[b, n] = centred / np.sqrt(centred @ centred / len(token) + eps) * gain + offset
    return y


def layer_norm_backward(g, x, gain, eps):
    dx, dgain, doffset = np.zeros_like(x), np.zeros_like(gain), np.zeros_like(gain)
    features = len(gain)
    for b, n in np.ndindex(x.shape[:2]):
        root = np.sqrt(x[b, n].var() + eps)
        normal = (x[b, n] - x[b, n].mean()) / root
        jacobian = (np.eye(features) - 1 / features - np.outer(normal, normal) / features) / root
        dx[b, n] = jacobian.T @ (g[b, n] * gain)
        dgain += g[b, n] * normal
        doffset += g[b, n]
    return dx, dgain, doffset
