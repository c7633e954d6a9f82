"""Exercise 05: LayerNorm, forward and backward (Ba, Kiros & Hinton 2016, Eq. 4)."""

from __future__ import annotations

import math

import numpy as np

from tinyvit.equations import normalize
from tinyvit.exercises.exercise import Exercise

EXERCISE = Exercise(
    5,
    "layer_norm",
    title="LayerNorm, forward and backward",
    hints=(
        "Which numbers are averaged: those of one token, of one feature, of one image? "
        "Whose mean and variance change if you push x[b, n, d] a little?\n"
        "By how many paths, then, does x[b, n, d] reach y[b, n, :]?",
        "With μ and σ² the mean and the variance (1/D, not 1/(D−1)) of one token:\n"
        "  x̂ = (x − μ) / √(σ² + ε),   y = gain · x̂ + offset.\n"
        "Cotangent of an array: the derivative of the loss by it, in its shape; g is that of y. Let h = g · gain be\n"
        "the cotangent of x̂. Three paths lead from x to x̂: directly, by μ, and by σ.\n"
        "  ∂μ/∂xᵢ = 1/D,   ∂σ²/∂xᵢ = 2 (xᵢ − μ)/D.   Add what comes along each.\n"
        "gain and offset are shared by all tokens: the gradient of what is shared is a sum over those who share it.",
        "dx = (h − mean(h) − x̂ · mean(h · x̂)) / √(σ² + ε),  means over the features of one token.\n"
        "The second term is the path by the mean, the third the path by the variance; the third is the one that is "
        "usually missing.\n"
        "dgain = Σ g · x̂  and  doffset = Σ g,  sums over batch and tokens; no gain appears in either.",
    ),
)


@EXERCISE.forward(answer=lambda x, gain, offset, eps: normalize.layer_norm(x, gain, offset, eps=eps))
def layer_norm(x, gain, offset, eps):
    """Token by token, feature by feature."""
    y = np.empty_like(x)
    batch, tokens, features = x.shape
    for b in range(batch):
        for n in range(tokens):
            mean = 0.0
            for d in range(features):
                mean += x[b, n, d] / features
            variance = 0.0
            for d in range(features):
                variance += (x[b, n, d] - mean) ** 2 / features
            for d in range(features):
                y[b, n, d] = (x[b, n, d] - mean) / math.sqrt(variance + eps) * gain[d] + offset[d]
    return y


@layer_norm.cases
def _(rng):
    """Batch, tokens and features all differ; gains are random: a gain of one would hide where it belongs."""
    yield "uneven shapes, random gains", 3 + 2 * rng.normal(size=(2, 3, 5)), *rng.normal(size=(2, 5)), 1e-5
    yield "a large ε", rng.normal(size=(3, 2, 4)), *rng.normal(size=(2, 4)), 0.3
    yield "tokens that hardly vary", 1 + 0.01 * rng.normal(size=(2, 4, 3)), *rng.normal(size=(2, 3)), 1e-4


layer_norm_backward = EXERCISE.gradient(layer_norm, takes="g x gain eps", of="x gain offset")


# wrong forwards ------------------------------------------------------------------------------


def normalised(x, eps, axis=-1, ddof=0):
    """``(x − μ) / √(σ² + ε)`` over an axis, and the root."""
    centred = x - x.mean(axis, keepdims=True)
    axes = (axis,) if isinstance(axis, int) else axis
    count = math.prod(x.shape[a] for a in axes)
    root = ((centred * centred).sum(axis, keepdims=True) / (count - ddof) + eps) ** 0.5
    return centred / root, root


@layer_norm.wrong("y", "normalised over the TOKENS", clue="Which axis do the features lie along?")
def _(x, gain, offset, eps):
    return normalised(x, eps, axis=-2)[0] * gain + offset


@layer_norm.wrong("y", "normalised over the BATCH", clue="LayerNorm looks at one token at a time.")
def _(x, gain, offset, eps):
    return normalised(x, eps, axis=0)[0] * gain + offset


@layer_norm.wrong(
    "y", "normalised over batch AND tokens, which is BatchNorm", clue="LayerNorm looks at one token at a time."
)
def _(x, gain, offset, eps):
    return normalised(x, eps, axis=(0, 1))[0] * gain + offset


@layer_norm.wrong("y", "normalised over tokens AND features", clue="LayerNorm looks at one token at a time.")
def _(x, gain, offset, eps):
    return normalised(x, eps, axis=(1, 2))[0] * gain + offset


@layer_norm.wrong("y", "with ddof=1: the variance divided by D − 1", clue="What does the definition divide by?")
def _(x, gain, offset, eps):
    return normalised(x, eps, ddof=1)[0] * gain + offset


@layer_norm.wrong("y", "with ε OUTSIDE the root", clue="√σ² + ε and √(σ² + ε) differ when σ is small.")
def _(x, gain, offset, eps):
    normal, root = normalised(x, 0.0)
    return normal * root / (root + eps) * gain + offset


@layer_norm.wrong("y", "WITHOUT ε", clue="What if all the numbers of a token are equal?")
def _(x, gain, offset):
    return normalised(x, 0.0)[0] * gain + offset


@layer_norm.wrong("y", "WITHOUT the root: divided by the variance", clue="In which unit is a variance of metres?")
def _(x, gain, offset, eps):
    normal, root = normalised(x, eps)
    return normal / root * gain + offset


@layer_norm.wrong("y", "with the gain applied TWICE", clue="Count the gains in your formula.")
def _(x, gain, offset, eps):
    return normalised(x, eps)[0] * gain * gain + offset


@layer_norm.wrong("y", "WITHOUT the gain", clue="Which of your arguments did you not use?")
def _(x, offset, eps):
    return normalised(x, eps)[0] + offset


@layer_norm.wrong("y", "WITHOUT the offset", clue="Which of your arguments did you not use?")
def _(x, gain, eps):
    return normalised(x, eps)[0] * gain


@layer_norm.wrong("y", "with the offset multiplied by the gain", clue="Which comes first, the gain or the offset?")
def _(x, gain, offset, eps):
    return (normalised(x, eps)[0] + offset) * gain


@layer_norm.wrong("y", "WITHOUT subtracting the mean above the fraction line", clue="What is the mean of your y?")
def _(x, gain, offset, eps):
    return x / normalised(x, eps)[1] * gain + offset


@layer_norm.wrong("y", "of RMSNorm: no mean is subtracted anywhere", clue="What is the mean of your y?")
def _(x, gain, offset, eps):
    return x / ((x * x).mean(-1, keepdims=True) + eps) ** 0.5 * gain + offset


# wrong backwards -----------------------------------------------------------------------------


def mean(x):
    """Over the features of each token."""
    return x.mean(-1, keepdims=True)


@layer_norm_backward.wrong(
    "dx", "WITHOUT the variance path", clue="Pushing one number of a token also changes the σ of that token."
)
def _(g, x, gain, eps):
    h = g * gain
    return (h - mean(h)) / normalised(x, eps)[1]


@layer_norm_backward.wrong(
    "dx", "WITHOUT the mean path", clue="Pushing one number of a token also changes the μ of that token."
)
def _(g, x, gain, eps):
    h, (normal, root) = g * gain, normalised(x, eps)
    return (h - normal * mean(h * normal)) / root


@layer_norm_backward.wrong(
    "dx", "WITHOUT the mean path and the variance path", clue="μ and σ are functions of x, not constants."
)
def _(g, x, gain, eps):
    return g * gain / normalised(x, eps)[1]


@layer_norm_backward.wrong("dx", "WITHOUT the gain", clue="The cotangent passes the gain first, on its way back.")
def _(g, x, eps):
    normal, root = normalised(x, eps)
    return (g - mean(g) - normal * mean(g * normal)) / root


@layer_norm_backward.wrong(
    "dx", "with the gain multiplied LAST, outside the means", clue="y = gain · x̂: which is undone first, going back?"
)
def _(g, x, gain, eps):
    normal, root = normalised(x, eps)
    return gain * (g - mean(g) - normal * mean(g * normal)) / root


@layer_norm_backward.wrong("dx", "with the gain applied TWICE", clue="Count the gains in your formula.")
def _(g, x, gain, eps):
    h, (normal, root) = g * gain * gain, normalised(x, eps)
    return (h - mean(h) - normal * mean(h * normal)) / root


@layer_norm_backward.wrong("dx", "WITHOUT the division by σ", clue="If x grew tenfold, how much would y change?")
def _(g, x, gain, eps):
    h, (normal, _root) = g * gain, normalised(x, eps)
    return h - mean(h) - normal * mean(h * normal)


@layer_norm_backward.wrong("dx", "with SUMS in place of the means", clue="μ = Σx / D: what is ∂μ/∂x?")
def _(g, x, gain, eps):
    h, (normal, root) = g * gain, normalised(x, eps)
    return (h - h.sum(-1, keepdims=True) - normal * (h * normal).sum(-1, keepdims=True)) / root


@layer_norm_backward.wrong("dx", "with PLUS before the variance path", clue="A larger σ makes the numbers smaller.")
def _(g, x, gain, eps):
    h, (normal, root) = g * gain, normalised(x, eps)
    return (h - mean(h) + normal * mean(h * normal)) / root


@layer_norm_backward.wrong(
    "dx", "with x − μ in place of x̂ in the variance path", clue="The path by σ meets two factors 1/σ more."
)
def _(g, x, gain, eps):
    h, (normal, root) = g * gain, normalised(x, eps)
    return (h - mean(h) - normal * root * mean(h * normal * root)) / root


@layer_norm_backward.wrong("dx", "with the means over the TOKENS", clue="Along which axis did the forward average?")
def _(g, x, gain, eps):
    h, (normal, root) = g * gain, normalised(x, eps)
    path = normal * (h * normal).mean(-2, keepdims=True)
    return (h - h.mean(-2, keepdims=True) - path) / root


@layer_norm_backward.wrong("dgain", "with the gain applied TWICE", clue="y = gain · x̂: what is ∂y/∂gain?")
def _(g, x, gain, eps):
    return (g * gain * normalised(x, eps)[0]).sum((0, 1))


@layer_norm_backward.wrong("dgain", "with x in place of x̂", clue="What is the gain multiplied with, going forward?")
def _(g, x):
    return (g * x).sum((0, 1))


@layer_norm_backward.wrong("dgain", "with x − μ in place of x̂", clue="What is the gain multiplied with, going forward?")
def _(g, x):
    return (g * (x - mean(x))).sum((0, 1))


@layer_norm_backward.wrong("dgain", "WITHOUT x̂: the sum of g alone", clue="What is the gain multiplied with?")
def _(g):
    return g.sum((0, 1))


@layer_norm_backward.wrong("doffset", "multiplied by the gain", clue="y = gain · x̂ + offset: what is ∂y/∂offset?")
def _(g, gain):
    return (g * gain).sum((0, 1))


SHARED = "Every token uses the same gain and offset; their gradients are what all the tokens say, added up."


@layer_norm_backward.wrong("dgain doffset", "with the MEAN over batch and tokens", clue=SHARED)
def _(g, x, eps):
    return (g * normalised(x, eps)[0]).mean((0, 1)), g.mean((0, 1))


@layer_norm_backward.wrong("dgain doffset", "with the mean over the batch, the sum over the tokens", clue=SHARED)
def _(g, x, eps):
    return (g * normalised(x, eps)[0]).sum(1).mean(0), g.sum(1).mean(0)


@layer_norm_backward.wrong("dgain doffset", "WITHOUT the sum over batch and tokens", clue=SHARED)
def _(g, x, eps):
    return g * normalised(x, eps)[0], 1.0 * g


@layer_norm_backward.wrong("dgain doffset", "WITHOUT the sum over the batch", clue=SHARED)
def _(g, x, eps):
    return (g * normalised(x, eps)[0]).sum(1), g.sum(1)


@layer_norm_backward.wrong("dgain doffset", "WITHOUT the sum over the tokens", clue=SHARED)
def _(g, x, eps):
    return (g * normalised(x, eps)[0]).sum(0), g.sum(0)


# facts ---------------------------------------------------------------------------------------


def plain(features):
    """A gain of one, an offset of zero."""
    return np.ones(features), np.zeros(features)


@EXERCISE.invariant("with gain 1 and offset 0 every token has mean 0 and variance 1")
def _(student, rng):
    y = student.layer_norm(5 + 3 * rng.normal(size=(2, 3, 5)), *plain(5), 1e-12)
    return np.stack([y.mean(-1), (y * y).mean(-1)]), np.stack([np.zeros((2, 3)), np.ones((2, 3))])


@EXERCISE.invariant("stretching and shifting a token changes nothing (when ε is tiny)")
def _(student, rng):
    x, gain, offset = rng.normal(size=(2, 3, 5)), rng.normal(size=5), rng.normal(size=5)
    stretch, shift = rng.uniform(1, 3, size=(2, 3, 1)), rng.normal(size=(2, 3, 1))
    return (student.layer_norm(x * stretch + shift, gain, offset, 1e-13),
            student.layer_norm(x, gain, offset, 1e-13))  # fmt: skip


@EXERCISE.invariant("a token does not notice what the other tokens are")
def _(student, rng):
    x, gain, offset = rng.normal(size=(2, 3, 5)), rng.normal(size=5), rng.normal(size=5)
    other = np.concatenate([x[:, :1], rng.normal(size=(2, 2, 5))], axis=1)
    return student.layer_norm(other, gain, offset, 1e-5)[:, 0], student.layer_norm(x, gain, offset, 1e-5)[:, 0]


@EXERCISE.invariant("d/dx sums to zero over each token, since shifting a token changes nothing")
def _(student, rng):
    dx, _, _ = student.layer_norm_backward(*rng.normal(size=(2, 2, 3, 5)), rng.normal(size=5), 1e-5)
    return dx.sum(-1), np.zeros((2, 3))
