"""Scaled dot-product attention."""

from __future__ import annotations

import math

import numpy as np

from tinyvit.autodiff.op import equation
from tinyvit.autodiff.watch import tap
from tinyvit.equations.activation import softmax
from tinyvit.primitives.shape import swapaxes


@equation(taps=("weights",))
def scaled_dot_product_attention(q, k, v, bias=None, keep=None, *, scale=None):
    """``softmax(q kᵀ / √d + bias) v`` (Vaswani et al. 2017, Eq. 1).

    q (..., N, d), k (..., M, d), v (..., M, e) -> (..., N, e)
    bias    added to the scaled scores, broadcast to (..., N, M); -inf forbids a pair
    keep    multiplies the weights (a dropout mask, already divided by its probability)
    scale   1/√d if left out
    The weights are tapped as ``weights``. A query that may attend to nothing gets zeros.
    """
    scores = q @ swapaxes(k, axis1=-1, axis2=-2) * _scale(q, scale)
    weights = tap("weights", softmax(scores if bias is None else scores + bias))
    return (weights if keep is None else weights * keep) @ v


@scaled_dot_product_attention.kernel(analytic=True)
def _(q, k, v, bias=None, keep=None, *, scale=None):
    scale = _scale(q, scale)
    scores = (q * scale) @ _t(k)
    if bias is not None:
        scores = scores + bias
    weights, softmax_pullback = softmax.fast(scores)
    kept = weights if keep is None else weights * keep

    def attention_pullback(g):
        dkept = g @ _t(v)
        (dscores,) = softmax_pullback(dkept if keep is None else dkept * keep)
        scaled = dscores * scale
        return scaled @ k, _t(scaled) @ q, lambda: _t(kept) @ g, dscores, lambda: dkept * weights

    return kept @ v, attention_pullback


def _scale(q, scale):
    return 1 / math.sqrt(q.shape[-1]) if scale is None else scale


def _t(x):
    return np.swapaxes(x, -1, -2)
