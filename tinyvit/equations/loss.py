"""Losses: how far predictions are from targets."""

from __future__ import annotations

import numpy as np

from tinyvit.autodiff.op import constant, equation
from tinyvit.autodiff.tensor import raw
from tinyvit.equations.activation import log_softmax, sigmoid, softmax, softplus
from tinyvit.equations.boxes import box_giou
from tinyvit.equations.sampling import check_within
from tinyvit.primitives.elementwise import absolute, equal, greater, log, where
from tinyvit.primitives.reduce import argmax, mean, sum

# classes -----------------------------------------------------------------------------------


@equation
def cross_entropy(logits, targets, weight=None, *, smoothing=0.0, ignore_index=None, reduction="mean"):
    """``-Σₖ tₖ wₖ log softmax(z)ₖ``, averaged over the batch.

    logits (..., K); targets: classes (...) as integers, or distributions (..., K)
    weight        one for each class, (K,); the mean of classes then divides by the sum of the weights used
    smoothing     moves that much of each target's mass to all classes evenly (Szegedy et al. 2016, Sec. 7)
    ignore_index  a class number whose rows count for nothing; where all do, the mean is 0
    reduction     "mean" over all but the last axis, "sum", or "none" (...)
    Finite where a class of no target mass has logit -inf; infinite where one of some mass has; NaN in, NaN out.
    Raises ValueError for classes outside 0 … K-1.
    """
    return _likelihood(log_softmax(logits), targets, weight, smoothing, ignore_index, reduction)


@equation
def nll(log_probs, targets, weight=None, *, ignore_index=None, reduction="mean"):
    """``-wₖ log pₖ`` of the target class k, averaged over the batch: what cross-entropy is of a log-softmax."""
    return _likelihood(log_probs, targets, weight, 0.0, ignore_index, reduction)


def _likelihood(log_p, targets, weight, smoothing: float, ignore_index, reduction: str):
    hard = raw(targets).dtype.kind in "iu"
    t = one_hot(targets, log_p, ignore_index=ignore_index) if hard else targets
    if t.shape != log_p.shape:
        raise ValueError(f"targets: expected classes {log_p.shape[:-1]} or distributions {log_p.shape}, "
                         f"got {targets.shape} {targets.dtype}")  # fmt: skip
    spread = t
    if smoothing:
        rows = sum(t, axis=-1, keepdims=True) if hard else 1  # an ignored row stays without mass
        spread = t * (1 - smoothing) + rows * (smoothing / t.shape[-1])
    shares = spread if weight is None else spread * weight
    losses = -sum(shares * _possible(log_p, shares), axis=-1)
    if reduction == "mean" and hard and (weight is not None or ignore_index is not None):
        mass = sum(t if weight is None else t * weight)
        return sum(losses) / (mass + equal(mass, 0))
    return _reduced(losses, reduction)


def _possible(log_p, t):
    """Logarithms, with 0 for the -inf of what has no mass, so that 0 · -inf becomes 0."""
    return where(_impossible(log_p, t), 0, log_p)


@constant
def _impossible(log_p, t):
    return np.equal(np.real(log_p), -np.inf) * np.equal(t, 0)


@constant
def one_hot(classes, reference, *, ignore_index=None):
    """Class numbers (...) as rows (..., K) with a single one; K and precision are those of ``reference``.

    Rows of the class ``ignore_index`` are zeros.
    """
    K = reference.shape[-1]
    if classes.shape != reference.shape[:-1]:
        raise ValueError(f"targets: expected classes of shape {reference.shape[:-1]}, got {classes.shape}")
    counts = np.ones_like(classes) if ignore_index is None else classes != ignore_index
    classes = classes * counts  # an ignored class becomes 0, a number that exists
    check_within("targets: classes", classes, K)
    hot = np.zeros_like(np.real(reference))
    np.put_along_axis(hot, classes[..., None], counts[..., None].astype(hot.dtype), axis=-1)
    return hot


# distributions -----------------------------------------------------------------------------


@equation
def kl_divergence(log_q, p, *, reduction="mean"):
    """``Σₖ pₖ (log pₖ - log qₖ)``: how far q is from the target p.   (..., K)

    reduction  "mean" over all but the last axis, "sum", "none" (...), or "elements": the sum divided by the number of
               elements, K times smaller than the mean (PyTorch's "mean")
    """
    divergences = sum(where_positive(p) - p * _possible(log_q, p), axis=-1)
    if reduction == "elements":
        return mean(divergences) / log_q.shape[-1]
    return _reduced(divergences, reduction)


def where_positive(p):
    """``p log p``, which is 0 at 0."""
    return p * log(p + equal_zero(p))


@constant
def equal_zero(p):
    """1 where p is 0, else 0."""
    return np.equal(p, 0).astype(p.dtype)


@equation
def distillation(student, teacher, *, tau=1.0, reduction="mean"):
    """``τ² KL(softmax(Z_t/τ) ‖ softmax(Z_s/τ))`` of logits Z (Hinton et al. 2015, Sec. 2).   (..., K), (..., K)

    reduction as in ``kl_divergence``; DeiT's code takes "elements" where its paper has the mean over the batch.
    """
    if student.shape != teacher.shape:
        raise ValueError(f"student and teacher: expected one shape, got {student.shape} and {teacher.shape}")
    return tau * tau * kl_divergence(log_softmax(student / tau), softmax(teacher / tau), reduction=reduction)


@equation
def soft_distillation(student, teacher, targets, distilled=None, *, tau=3.0, lam=0.1, smoothing=0.0, reduction="mean"):
    """``(1 - λ) CE(Z_s, y) + λ τ² KL(softmax(Z_t/τ) ‖ softmax(Z_s/τ))`` (DeiT, Touvron et al. 2021, Eq. 2).

    student, teacher (B, K), targets and smoothing as of ``cross_entropy``; reduction of the second term, as of
    ``distillation``
    distilled  logits (B, K) of a distillation token's head, which then learn from the teacher in the student's place
    """
    second = distillation(student if distilled is None else distilled, teacher, tau=tau, reduction=reduction)
    return (1 - lam) * cross_entropy(student, targets, smoothing=smoothing) + lam * second


@equation
def hard_distillation(student, teacher, targets, distilled=None, *, lam=0.5, smoothing=0.0):
    """``(1 - λ) CE(Z_s, y) + λ CE(Z_s, argmax Z_t)``: the teacher's decision is a second label (DeiT, Eq. 3: λ = ½).

    smoothing  of the targets; a decision of the teacher is not smoothed
    distilled  logits (B, K) of a distillation token's head, which then learn from the teacher in the student's place
    """
    second = cross_entropy(student if distilled is None else distilled, argmax(teacher, axis=-1))
    return (1 - lam) * cross_entropy(student, targets, smoothing=smoothing) + lam * second


# yes or no ---------------------------------------------------------------------------------


@equation
def bce_with_logits(logits, targets, *, reduction="mean"):
    """``-t log σ(z) - (1 - t) log(1 - σ(z))``, averaged over all elements; exact where σ would round to 0 or 1."""
    return _reduced(softplus(logits) - targets * logits, reduction)


@equation
def sigmoid_focal(logits, targets, *, alpha=0.25, gamma=2.0, reduction="mean"):
    """``α_t (1 - p_t)^γ BCE(z, t)``: cross-entropy that minds the easy cases less (Lin et al. 2017, Eq. 5).

    p_t is the probability given to the target; α_t is α for t = 1 and 1 - α for t = 0, or 1 if alpha is None
    """
    missed = sigmoid(-logits) * targets + sigmoid(logits) * (1 - targets)
    losses = missed**gamma * (softplus(logits) - targets * logits)
    balance = 1 if alpha is None else alpha * targets + (1 - alpha) * (1 - targets)
    return _reduced(balance * losses, reduction)


@equation
def dice(probabilities, targets, *, eps=1.0, reduction="mean"):
    """``1 - (2 Σ p t + ε) / (Σ p + Σ t + ε)``: masks that do not overlap (Milletari et al. 2016, Eq. 2; ε as in DETR).

    probabilities, targets (B, ...) -> one number for each of B, then averaged
    """
    if probabilities.shape != targets.shape or not probabilities.shape:
        raise ValueError(f"expected two arrays (B, ...) of one shape, got {probabilities.shape} and {targets.shape}")
    axes = tuple(range(1, len(targets.shape)))
    shared, p, t = (sum(x, axis=axes) for x in (probabilities * targets, probabilities, targets))
    return _reduced(1 - (2 * shared + eps) / (p + t + eps), reduction)


# numbers -----------------------------------------------------------------------------------


@equation
def mse(x, y, *, reduction="mean"):
    """``(x - y)²``, averaged over all elements."""
    return _reduced((x - y) ** 2, reduction)


@equation
def l1(x, y, *, reduction="mean"):
    """``|x - y|``, averaged over all elements; derivative 0 where they are equal."""
    return _reduced(absolute(x - y), reduction)


@equation
def huber(x, y, *, delta=1.0, reduction="mean"):
    """``½ (x - y)²`` up to a distance of δ, straight beyond: ``δ (|x - y| - ½ δ)`` (Huber 1964), averaged."""
    return _reduced(_huber(x, y, delta), reduction)


@equation
def smooth_l1(x, y, *, beta=1.0, reduction="mean"):
    """The Huber loss of δ = β, divided by β: slope 1 beyond (Girshick 2015, Eq. 3). β = 0 is ``l1``."""
    return _reduced(_huber(x, y, beta) / beta if beta else absolute(x - y), reduction)


def _huber(x, y, delta: float):
    error = x - y
    distance = absolute(error)
    return where(greater(delta, distance), 0.5 * error * error, delta * (distance - 0.5 * delta))


@equation
def giou_loss(x, y, *, reduction="mean"):
    """``1 - GIoU`` of boxes and their targets, averaged over them (Rezatofighi et al. 2019).   (..., 4), (..., 4)"""
    return _reduced(1 - box_giou(x, y), reduction)


def _reduced(values, reduction: str):
    if reduction == "mean":
        return mean(values)
    if reduction == "sum":
        return sum(values)
    if reduction == "none":
        return values
    raise ValueError(f'reduction: expected "mean", "sum" or "none", got {reduction!r}')
