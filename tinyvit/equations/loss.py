"""Losses: how far predictions are from targets."""

from __future__ import annotations

import numpy as np

from tinyvit.autodiff.op import constant, equation
from tinyvit.autodiff.tensor import raw
from tinyvit.equations.activation import log_softmax
from tinyvit.primitives.elementwise import log
from tinyvit.primitives.reduce import mean, sum


@equation
def cross_entropy(logits, targets, *, smoothing=0.0, reduction="mean"):
    """``-Σₖ tₖ log softmax(z)ₖ``, averaged over the batch.

    logits (..., K); targets: classes (...) as integers, or distributions (..., K)
    smoothing  moves that much of each target's mass to all classes evenly (Szegedy et al. 2016, Sec. 7)
    reduction  "mean" over all but the last axis, "sum", or "none" (...)
    Raises ValueError for classes outside 0 … K-1.
    """
    t = soft_targets(targets, logits, smoothing)
    return _reduced(-sum(t * log_softmax(logits), axis=-1), reduction)


@equation
def mse(x, y, *, reduction="mean"):
    """``(x - y)²``, averaged over all elements."""
    return _reduced((x - y) ** 2, reduction)


@equation
def kl_divergence(log_q, p, *, reduction="mean"):
    """``Σₖ pₖ (log pₖ - log qₖ)``, averaged over the batch: how far q is from the target p.   (..., K)"""
    entropy = where_positive(p)
    return _reduced(sum(entropy - p * log_q, axis=-1), reduction)


def where_positive(p):
    """``p log p``, which is 0 at 0."""
    return p * log(p + equal_zero(p))


@constant
def equal_zero(p):
    """1 where p is 0, else 0."""
    return np.equal(p, 0).astype(p.dtype)


def soft_targets(targets, logits, smoothing: float = 0.0):
    """Targets as distributions over the classes of ``logits``, smoothed."""
    if raw(targets).dtype.kind in "iu":
        targets = one_hot(targets, logits)
    if targets.shape != logits.shape:
        raise ValueError(f"targets: expected classes {logits.shape[:-1]} or distributions {logits.shape}, "
                         f"got {targets.shape} {targets.dtype}")  # fmt: skip
    return targets * (1 - smoothing) + smoothing / logits.shape[-1] if smoothing else targets


@constant
def one_hot(classes, reference):
    """Class numbers (...) as rows (..., K) with a single one; K and precision are those of ``reference``."""
    K = reference.shape[-1]
    if classes.shape != reference.shape[:-1]:
        raise ValueError(f"targets: expected classes of shape {reference.shape[:-1]}, got {classes.shape}")
    if classes.size and not (classes.min() >= 0 and classes.max() < K):
        raise ValueError(f"targets: classes must lie in 0 … {K - 1}, found {classes.min()} … {classes.max()}")
    hot = np.zeros_like(np.real(reference))
    np.put_along_axis(hot, classes[..., None], 1, axis=-1)
    return hot


def _reduced(values, reduction: str):
    if reduction == "mean":
        return mean(values)
    if reduction == "sum":
        return sum(values)
    if reduction == "none":
        return values
    raise ValueError(f'reduction: expected "mean", "sum" or "none", got {reduction!r}')
