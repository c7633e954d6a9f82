"""Exercise 08: scaled dot-product attention, forward and backward.

Every query scores every key, shares one unit of attention out among the keys, and mixes their values:

    S = q k^T / sqrt(d)         P = softmax(S) over the keys         y = P v

    q (B, N, d)   k (B, M, d)   v (B, M, e)   mask (B, N, M)   ->   y (B, N, e)

mask is an array of booleans: query n may look at key m where mask[b, n, m] is True. A forbidden key gets the weight
0, and the weights of the others still sum to 1. Every query may look at one key at least. Do not write into the
arguments.

The backward is given g, the derivative of some loss by every element of y, and returns its derivatives by q, k
and v. It builds on exercise 04; you may import what you wrote there:  from ex04_softmax import softmax

Grade it, in this folder:  pytest          A hint (levels 1, 2, 3):  tinyvit exercises hint 08 1
"""

import numpy as np


def attention(q: np.ndarray, k: np.ndarray, v: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Return y (B, N, e), given q (B, N, d), k (B, M, d), v (B, M, e) and mask (B, N, M)."""
    raise NotImplementedError


def attention_backward(
    g: np.ndarray, q: np.ndarray, k: np.ndarray, v: np.ndarray, mask: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return dq (B, N, d), dk (B, M, d) and dv (B, M, e), given g (B, N, e) and what the forward was given."""
    raise NotImplementedError


EXPLANATION = """
Two sentences, for a person to read: why are the scores divided by sqrt(d) and not by d, and what would become
of dq and dk if they were not divided at all?
"""
