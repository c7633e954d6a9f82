"""One query after the other; softmax's backward by its Jacobian."""

import numpy as np


def _weights(query, keys, allowed):
    scores = np.array([query @ key if yes else -np.inf for key, yes in zip(keys, allowed, strict=True)])
    scores = scores / np.sqrt(len(query))
    e = np.exp(scores - max(scores))
    return e / sum(e)


def attention(q, k, v, mask):
    y = np.empty((*q.shape[:2], v.shape[2]))
    for b, n in np.ndindex(q.shape[:2]):
        y[b, n] = _weights(q[b, n], k[b], mask[b, n]) @ v[b]
    return y


def attention_backward(g, q, k, v, mask):
    dq, dk, dv = np.zeros(q.shape), np.zeros(k.shape), np.zeros(v.shape)
    for b, n in np.ndindex(q.shape[:2]):
        p = _weights(q[b, n], k[b], mask[b, n])
        ds = (np.diag(p) - np.outer(p, p)) @ (v[b] @ g[b, n]) / np.sqrt(q.shape[2])
        dq[b, n] = ds @ k[b]
        dk[b] += np.outer(ds, q[b, n])
        dv[b] += np.outer(p, g[b, n])
    return dq, dk, dv
