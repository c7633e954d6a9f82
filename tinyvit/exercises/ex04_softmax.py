"""Exercise 04: softmax and log-softmax, forward and backward, along any axis."""

from __future__ import annotations

import math

import numpy as np

from tinyvit.autodiff.tensor import raw
from tinyvit.equations import activation
from tinyvit.exercises.exercise import Exercise
from tinyvit.primitives.elementwise import exp, log
from tinyvit.primitives.reduce import peak

EXERCISE = Exercise(
    4,
    "softmax",
    title="softmax and log-softmax, forward and backward",
    hints=(
        "Add 5 to every logit of a row: what happens to its softmax? Which number could you subtract, then, so that no "
        "exponential is larger than 1?\n"
        "And backward: if you push one logit up, do only its own probability and nobody else's change?",
        "With m the largest logit of the row:\n"
        "  y = exp(x − m) / Σⱼ exp(xⱼ − m)   and   log y = x − m − log Σⱼ exp(xⱼ − m).\n"
        "The Jacobian of softmax is  ∂yⱼ/∂xᵢ = yⱼ (δᵢⱼ − yᵢ);  that of log-softmax is  δᵢⱼ − exp(yᵢ).\n"
        "A backward multiplies the Jacobian with g:  dxᵢ = Σⱼ gⱼ ∂yⱼ/∂xᵢ.  Do the sum over j with pencil and paper.",
        "softmax:      dx = y · (g − Σⱼ gⱼ yⱼ).   The term that is usually missing is Σⱼ gⱼ yⱼ: every probability "
        "depends on every logit of its row, by the common denominator.\n"
        "log-softmax:  dx = g − exp(y) · Σⱼ gⱼ.   Here the sum has no y in it, and exp(y) is the softmax.\n"
        "Every sum runs along `axis`, with keepdims=True.",
    ),
)


# softmax -------------------------------------------------------------------------------------


@EXERCISE.forward(answer=lambda x, axis: activation.softmax(x, axis=axis))
def softmax(x, axis):
    """Row by row: a row is what lies along ``axis``."""
    y = np.empty_like(x)
    rows, out = np.moveaxis(x, axis, -1), np.moveaxis(y, axis, -1)  # views: what is written to out is in y
    for row in np.ndindex(rows.shape[:-1]):
        largest = max(rows[row])
        total = 0.0
        for logit in rows[row]:
            total += math.exp(logit - largest)
        for i, logit in enumerate(rows[row]):
            out[(*row, i)] = math.exp(logit - largest) / total
    return y


def logits(rng):
    """Rows along the middle axis, the first, the last; and rows that lie near 1000 and near -1000, side by side."""
    yield "ordinary logits", rng.normal(size=(2, 4, 3)), 1
    yield "rows along the first axis", rng.normal(size=(4, 2, 3)), 0
    yield "rows along the last axis", rng.normal(size=(2, 3, 5)), -1
    far = rng.normal(size=(2, 4, 3)) + 1000 * rng.permuted(np.tile([-1.0, 1.0], 3)).reshape(2, 1, 3)
    far[:, 0] -= 800  # one logit in every row whose exponential rounds to nothing
    yield "logits near ±1000", far, 1


softmax.cases(logits)
softmax_backward = EXERCISE.gradient(softmax, takes="g y axis", of="x")


def shifted(x, axis):
    """Exponentials of the logits, the largest of each row being 1."""
    return exp(x - peak(x, axis=axis))


@softmax.wrong("y", "with the sum over the LAST axis, whatever `axis` says", clue="Does `axis` reach the sum?")
def _(x, axis):
    e = shifted(x, axis)
    return e / e.sum(-1, keepdims=True)


@softmax.wrong("y", "along the LAST axis, whatever `axis` says", clue="Where do you use `axis`?")
def _(x, axis):
    e = shifted(x, -1)
    return e / e.sum(-1, keepdims=True)


@softmax.wrong("y", "along the FIRST axis, whatever `axis` says", clue="Where do you use `axis`?")
def _(x, axis):
    e = shifted(x, 0)
    return e / e.sum(0, keepdims=True)


@softmax.wrong("y", "with the sum over the WHOLE array", clue="Every row along `axis` is a distribution of its own.")
def _(x, axis):
    e = exp(x - np.max(raw(x)))
    return e / e.sum()


@softmax.wrong(
    "y",
    "WITHOUT subtracting the maximum",
    clue="exp(1000) is larger than any float64, and exp(−1000) is zero. What may be subtracted from a row for free?",
)
def _(x, axis):
    e = exp(x)
    return e / e.sum(axis, keepdims=True)


@softmax.wrong(
    "y",
    "with the maximum of the WHOLE array subtracted",
    clue="A row that lies 2000 below the largest number becomes 0/0. Each row needs a maximum of its own.",
)
def _(x, axis):
    e = exp(x - np.max(raw(x)))
    return e / e.sum(axis, keepdims=True)


@softmax.wrong("y", "WITHOUT the division by the sum", clue="Do your rows sum to one?")
def _(x, axis):
    return shifted(x, axis)


@softmax_backward.wrong(
    "dx",
    "WITHOUT the sum over j (the Jacobian taken as diagonal)",
    clue="If one logit grows, the other probabilities of its row shrink. Does your formula know?",
)
def _(g, y):
    return g * y * (1 - y)


@softmax_backward.wrong(
    "dx", "WITHOUT the second term, − y Σⱼ gⱼ yⱼ", clue="The denominator depends on every logit, too."
)
def _(g, y):
    return g * y


@softmax_backward.wrong("dx", "WITHOUT the outer y·", clue="A probability that is nearly zero hardly moves.")
def _(g, y, axis):
    return g - (g * y).sum(axis, keepdims=True)


@softmax_backward.wrong("dx", "WITHOUT y inside the sum", clue="Which derivative does each gⱼ of the sum belong to?")
def _(g, y, axis):
    return y * (g - g.sum(axis, keepdims=True))


@softmax_backward.wrong(
    "dx", "with the sum over the LAST axis, whatever `axis` says", clue="Does `axis` reach the sum?"
)
def _(g, y):
    return y * (g - (g * y).sum(-1, keepdims=True))


@softmax_backward.wrong(
    "dx", "with the sum over the FIRST axis, whatever `axis` says", clue="Does `axis` reach the sum?"
)
def _(g, y):
    return y * (g - (g * y).sum(0, keepdims=True))


@softmax_backward.wrong("dx", "with the sum over the WHOLE array", clue="Rows do not know of each other.")
def _(g, y):
    return y * (g - (g * y).sum())


@softmax_backward.wrong("dx", "with the MEAN in place of the sum over j", clue="Is there a 1/n in the formula?")
def _(g, y, axis):
    return y * (g - (g * y).mean(axis, keepdims=True))


@softmax_backward.wrong("dx", "with PLUS before the second term", clue="A growing denominator makes numbers smaller.")
def _(g, y, axis):
    return y * (g + (g * y).sum(axis, keepdims=True))


# log-softmax ---------------------------------------------------------------------------------


@EXERCISE.forward(answer=lambda x, axis: activation.log_softmax(x, axis=axis))
def log_softmax(x, axis):
    """Row by row: what is left of a logit when the logarithm of the row's sum is taken away."""
    y = np.empty_like(x)
    rows, out = np.moveaxis(x, axis, -1), np.moveaxis(y, axis, -1)
    for row in np.ndindex(rows.shape[:-1]):
        largest = max(rows[row])
        total = 0.0
        for logit in rows[row]:
            total += math.exp(logit - largest)
        for i, logit in enumerate(rows[row]):
            out[(*row, i)] = logit - largest - math.log(total)
    return y


log_softmax.cases(logits)
log_softmax_backward = EXERCISE.gradient(log_softmax, takes="g y axis", of="x")


@log_softmax.wrong(
    "y",
    "of log(softmax(x)), taken literally",
    clue="Where softmax rounds to 0 its logarithm is −∞; the right answer is an ordinary number. Simplify on paper.",
)
def _(x, axis):
    e = shifted(x, axis)
    return log(e / e.sum(axis, keepdims=True))


@log_softmax.wrong(
    "y",
    "of log(softmax(x)) WITHOUT subtracting the maximum",
    clue="exp(1000) is larger than any float64. What may be subtracted from a row for free?",
)
def _(x, axis):
    e = exp(x)
    return log(e / e.sum(axis, keepdims=True))


@log_softmax.wrong(
    "y",
    "of x − log Σ exp(x) WITHOUT subtracting the maximum",
    clue="exp(1000) is larger than any float64, and exp(−1000) is zero. What may be subtracted from a row for free?",
)
def _(x, axis):
    return x - log(exp(x).sum(axis, keepdims=True))


@log_softmax.wrong(
    "y",
    "with the maximum subtracted inside the sum ONLY",
    clue="What is subtracted inside the logarithm must come back outside it.",
)
def _(x, axis):
    return x - log(shifted(x, axis).sum(axis, keepdims=True))


@log_softmax.wrong("y", "WITHOUT the logarithm of the sum", clue="Do the exponentials of a row sum to one?")
def _(x, axis):
    return x - peak(x, axis=axis) - shifted(x, axis).sum(axis, keepdims=True)


@log_softmax.wrong("y", "with the sum over the LAST axis, whatever `axis` says", clue="Does `axis` reach the sum?")
def _(x, axis):
    return x - peak(x, axis=axis) - log(shifted(x, axis).sum(-1, keepdims=True))


@log_softmax.wrong("y", "along the LAST axis, whatever `axis` says", clue="Where do you use `axis`?")
def _(x, axis):
    return x - peak(x, axis=-1) - log(shifted(x, -1).sum(-1, keepdims=True))


@log_softmax.wrong("y", "of softmax, WITHOUT any logarithm", clue="The name has two halves.")
def _(x, axis):
    e = shifted(x, axis)
    return e / e.sum(axis, keepdims=True)


@log_softmax_backward.wrong(
    "dx",
    "WITHOUT the sum over j (the Jacobian taken as diagonal)",
    clue="If one logit grows, the other log-probabilities of its row all shrink. Does your formula know?",
)
def _(g, y):
    return g * (1 - exp(y))


@log_softmax_backward.wrong(
    "dx", "with y in place of exp(y)", clue="What this backward is given as y is a logarithm already."
)
def _(g, y, axis):
    return g - y * g.sum(axis, keepdims=True)


@log_softmax_backward.wrong("dx", "WITHOUT exp(y) before the sum", clue="Whose derivative is the sum multiplied with?")
def _(g, y, axis):
    return g - g.sum(axis, keepdims=True)


@log_softmax_backward.wrong("dx", "WITHOUT the second term", clue="The denominator depends on every logit, too.")
def _(g):
    return 1.0 * g


@log_softmax_backward.wrong(
    "dx", "of softmax's backward, applied to exp(y)", clue="y = log s: is dy/dx the same as ds/dx?"
)
def _(g, y, axis):
    s = exp(y)
    return s * (g - (g * s).sum(axis, keepdims=True))


@log_softmax_backward.wrong(
    "dx", "with exp(y) inside the sum as well", clue="Take the sum over j with pencil and paper: what multiplies gⱼ?"
)
def _(g, y, axis):
    return g - exp(y) * (g * exp(y)).sum(axis, keepdims=True)


@log_softmax_backward.wrong(
    "dx", "with the sum over the LAST axis, whatever `axis` says", clue="Does `axis` reach the sum?"
)
def _(g, y):
    return g - exp(y) * g.sum(-1, keepdims=True)


@log_softmax_backward.wrong("dx", "with PLUS before the second term", clue="A growing denominator makes y smaller.")
def _(g, y, axis):
    return g + exp(y) * g.sum(axis, keepdims=True)


# facts ---------------------------------------------------------------------------------------


@EXERCISE.invariant("the softmax of a row sums to one")
def _(student, rng):
    y = student.softmax(rng.normal(size=(2, 5, 3)), 1)
    return y.sum(1), np.ones((2, 3))


@EXERCISE.invariant("adding the same number to all logits of a row leaves its softmax as it was")
def _(student, rng):
    x, shift = rng.normal(size=(2, 5, 3)), 500 * rng.normal(size=(2, 1, 3))
    return student.softmax(x + shift, 1), student.softmax(x, 1)


@EXERCISE.invariant("exp of your log-softmax is your softmax")
def _(student, rng):
    x = rng.normal(size=(2, 5, 3))
    return np.exp(student.log_softmax(x, 1)), student.softmax(x, 1)


@EXERCISE.invariant("the gradient of a row's logits sums to zero, since shifting a row changes nothing")
def _(student, rng):
    g, y = rng.normal(size=(2, 5, 3)), rng.dirichlet(np.ones(5), size=(2, 3)).swapaxes(1, 2)
    both = student.softmax_backward(g, y, 1), student.log_softmax_backward(g, np.log(y), 1)
    return np.stack(both).sum(2), np.zeros((2, 2, 3))
