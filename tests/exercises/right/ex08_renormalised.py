"""The mask after the softmax, and the weights divided by what is left of their sum: the same function."""

import numpy as np


def _weights(q, k, mask):
    scores = q @ k.transpose(0, 2, 1) / q.shape[-1] ** 0.5
    e = np.exp(scores - scores.max(2, keepdims=True)) * mask
    return e / e.sum(2, keepdims=True)


def attention(q, k, v, mask):
    return _weights(q, k, mask) @ v


def attention_backward(g, q, k, v, mask):
    p = _weights(q, k, mask)
    y = p @ v
    ds = p * (g @ v.transpose(0, 2, 1) - (g * y).sum(-1, keepdims=True))  # Σₘ dP · P = g · y
    ds = ds / q.shape[-1] ** 0.5
    return ds @ k, ds.transpose(0, 2, 1) @ q, p.transpose(0, 2, 1) @ g
