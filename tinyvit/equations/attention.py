"""Scaled dot-product attention, alone and for all heads of a layer at once."""

from __future__ import annotations

import math

import numpy as np

from tinyvit.autodiff.op import equation
from tinyvit.autodiff.tensor import raw
from tinyvit.autodiff.watch import tap
from tinyvit.backend import like
from tinyvit.equations.activation import softmax, softmax_cotangent, softmax_in_place
from tinyvit.equations.convolution import linear
from tinyvit.primitives.reduce import peak
from tinyvit.primitives.shape import reshape, swapaxes, transpose


@equation(taps=("weights",))
def scaled_dot_product_attention(q, k, v, bias=None, keep=None, *, scale=None):
    """``softmax(q kᵀ / √d + bias) v`` (Vaswani et al. 2017, Eq. 1).

    q (..., N, d), k (..., M, d), v (..., M, e) -> (..., N, e)
    bias    added to the scaled scores, broadcast to (..., N, M); -inf forbids a pair. Or booleans: True allows a pair.
            One of (W, h, N, M) beside scores (B·W, h, N, M) serves the W windows of every image alike
    keep    multiplies the weights (a dropout mask, already divided by its probability)
    scale   1/√d if left out
    The weights are tapped as ``weights``. A query that may attend to nothing gets zeros, and its derivatives are zero.
    What is forbidden still has to be finite: it is multiplied by zero.
    """
    scores = attention_scores(q, k, scale)
    weights = tap("weights", softmax(scores if bias is None else biased(scores, bias)))
    return (weights if keep is None else weights * keep) @ v


@scaled_dot_product_attention.kernel(analytic=True)
def _(q, k, v, bias=None, keep=None, *, scale=None):
    scale = _scale(q, scale)
    weights, score_pullback = _weights(q, k, bias, scale)
    kept = weights if keep is None else weights * keep

    def attention_pullback(g):
        dkept = g @ _t(v)
        dscores = score_pullback(dkept, keep)
        scaled = dscores * scale
        return scaled @ k, _t(scaled) @ q, lambda: _t(kept) @ g, unbiased(dscores, bias), lambda: dkept * weights

    return kept @ v, attention_pullback


@equation(taps=("weights",))
def self_attention(qkv, bias=None, keep=None, *, num_heads, scale=None):
    """The attention of all heads, side by side, from one projection of the tokens (Vaswani et al. 2017, Sec. 3.2.2).

    qkv (B, N, 3·h·d), laid out [which of the three][head][d] -> (B, N, h·d); bias, keep, scale: see above, (..., N, N)
    """
    q, k, v = split_heads(qkv, num_heads)
    return merge_heads(scaled_dot_product_attention(q, k, v, bias, keep, scale=scale))


@self_attention.kernel(analytic=True)
def _(qkv, bias=None, keep=None, *, num_heads, scale=None):
    q, k, v = split_heads(qkv, num_heads)  # views: nothing is copied, here or below
    scale = _scale(q, scale)
    weights, score_pullback = _weights(q, k, bias, scale)
    kept = weights if keep is None else weights * keep
    B, N, width = qkv.shape
    y = np.empty_like(kept, shape=(B, N, width // 3), dtype=np.result_type(kept, v))
    np.matmul(kept, v, out=by_head(y, num_heads))

    def self_attention_pullback(g):
        g = by_head(g, num_heads)
        dkept = g @ _t(v)
        dscores = score_pullback(dkept, keep)
        scaled = np.multiply(dscores, scale, out=dscores if bias is None else None)
        dqkv = np.empty_like(qkv, dtype=np.result_type(scaled, qkv))
        dq, dk, dv = split_heads(dqkv, num_heads)
        np.matmul(scaled, k, out=dq)
        np.matmul(_t(scaled), q, out=dk)
        np.matmul(_t(kept), g, out=dv)
        return dqkv, unbiased(dscores, bias), lambda: dkept * weights

    return y, self_attention_pullback


@equation(taps=("weights",))
def multi_head_attention(
    query, key, value, in_weight, in_bias, out_weight, out_bias, bias=None, keep=None, *, num_heads
):
    """``Concat(headᵢ) Wᴼ``, ``headᵢ = Attention(Q Wᵢ, K Wᵢ, V Wᵢ)``: cross-attention (Vaswani et al. 2017, Sec. 3.2.2).

    query (B, N, D), key (B, M, D), value (B, M, D) -> (B, N, D)
    in_weight (3·D, D), in_bias (3·D,)   the three projections one below the other: of queries, of keys, of values
    out_weight (D, D), out_bias (D,)     of the heads side by side; either bias may be None
    bias, keep: as in ``scaled_dot_product_attention``, (..., N, M); keys to be left out are False in a (B, 1, 1, M)
    """
    D = query.shape[-1]
    if in_weight.shape != (3 * D, D) or D % num_heads:
        raise ValueError(f"in_weight: expected ({3 * D}, {D}) for query {query.shape} and {num_heads} heads, "
                         f"got {in_weight.shape}")  # fmt: skip
    heads = []
    for i, x in enumerate((query, key, value)):
        part = slice(i * D, (i + 1) * D)
        y = linear(x, in_weight[part], None if in_bias is None else in_bias[part])
        heads.append(by_head(y, num_heads))
    return linear(merge_heads(scaled_dot_product_attention(*heads, bias, keep)), out_weight, out_bias)


def attention_scores(q, k, scale=None):
    """``q kᵀ / √d``: how well every query fits every key.   (..., N, d), (..., M, d) -> (..., N, M)"""
    return q @ swapaxes(k, axis1=-1, axis2=-2) * _scale(q, scale)


def causal_mask(queries: int, keys: int | None = None) -> np.ndarray:
    """Booleans (queries, keys) that let a query attend to its own place and to those before it."""
    return np.tri(queries, keys, dtype=bool)


def biased(scores, bias):
    """Scores with a bias added; one of (W, ...) beside scores (B·W, ...) is repeated B times."""
    bias = additive(bias, scores)
    times = _times(bias, scores)
    return scores + bias if times is None else reshape(reshape(scores, shape=times) + bias, shape=scores.shape)


def unbiased(dscores, bias):
    """The bias's cotangent, broadcast as the bias was: the scores' own, with an axis more where it was repeated."""
    times = _times(bias, dscores)
    return dscores if times is None else np.reshape(dscores, times)


def _times(bias, scores):
    """The shape (B, W, ...) of scores beside which a bias is to be repeated; None where it broadcasts as it is."""
    if getattr(bias, "ndim", 0) != scores.ndim or not 1 < len(bias) != len(scores) or len(scores) % len(bias):
        return None
    return (len(scores) // len(bias), len(bias), *scores.shape[1:])


def additive(bias, scores):
    """Booleans as what is added to scores: 0 where True, -inf where False. Numbers stay what they are."""
    mask, scores = raw(bias), raw(scores)
    if not hasattr(mask, "dtype") or mask.dtype.kind != "b":
        return bias
    number = scores.real.dtype.type
    return np.where(like(mask, scores), number(0), number(-math.inf))


def split_heads(qkv, num_heads: int, parts: int = 3):
    """Queries, keys and values of every head, (3, B, h, N, d), from one projection (B, N, 3·h·d); or fewer parts."""
    if len(qkv.shape) != 3 or qkv.shape[2] % (parts * num_heads):
        raise ValueError(f"qkv: expected shape (B, N, {parts}·{num_heads}·d) for {num_heads} heads, got {qkv.shape}")
    B, N, width = qkv.shape
    return transpose(reshape(qkv, shape=(B, N, parts, num_heads, width // (parts * num_heads))), axes=(2, 0, 3, 1, 4))


def heads_last(maps):
    """Maps of all heads as one map with a channel per head.   (B, h, N, M) -> (B, N, M, h)"""
    return transpose(maps, axes=(0, 2, 3, 1))


def heads_first(maps):
    """The maps of all heads, one after the other.   (B, N, M, h) -> (B, h, N, M)"""
    return transpose(maps, axes=(0, 3, 1, 2))


def by_head(y, num_heads: int):
    """The heads of merged ones; a view, on an array.   (B, N, h·d) -> (B, h, N, d)"""
    return transpose(reshape(y, shape=(*y.shape[:2], num_heads, y.shape[2] // num_heads)), axes=(0, 2, 1, 3))


def merge_heads(y):
    """The heads side by side.   (B, h, N, d) -> (B, N, h·d)"""
    B, h, N, d = y.shape
    return reshape(transpose(y, axes=(0, 2, 1, 3)), shape=(B, N, h * d))


def _weights(q, k, bias, scale):
    """``softmax(q kᵀ · scale + bias)`` on arrays, and what takes the weights' cotangent to the scores'."""
    scores = q @ _t(k)
    scores *= scale
    if bias is not None:
        scores = biased(scores, bias)
    scores -= peak(scores)
    weights = softmax_in_place(scores)

    def score_pullback(dkept, keep):
        return softmax_cotangent(dkept if keep is None else dkept * keep, weights)

    return weights, score_pullback


def _scale(q, scale):
    return 1 / math.sqrt(q.shape[-1]) if scale is None else scale


def _t(x):
    return np.swapaxes(x, -1, -2)
