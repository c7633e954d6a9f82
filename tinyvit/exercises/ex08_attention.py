"""Exercise 08: scaled dot-product attention, forward and backward (Vaswani et al. 2017, Eq. 1)."""

from __future__ import annotations

import math

import numpy as np

from tinyvit.equations.activation import softmax
from tinyvit.equations.attention import scaled_dot_product_attention
from tinyvit.exercises.exercise import Exercise
from tinyvit.primitives.elementwise import exp, where
from tinyvit.primitives.reduce import peak

EXERCISE = Exercise(
    8,
    "attention",
    title="scaled dot-product attention, forward and backward",
    needs=(4,),
    hints=(
        "q · k is a sum of d products of numbers of size 1: how large is it, typically? What does softmax do with "
        "numbers as large as that?\n"
        "Who shares out attention, the query among the keys or the key among the queries: which sums are one?\n"
        "And what score must a forbidden key have, so that its weight is exactly 0 and the others still sum to one?",
        "S = q kᵀ / √d, forbidden scores set to −∞;   P = softmax(S) over the keys;   y = P v.\n"
        "Backward is forward's steps in reverse, with  z = a b  ⇒  da = dz bᵀ,  db = aᵀ dz:\n"
        "  dP and dv from y = P v;   dS from P = softmax(S), which is exercise 04;   dq and dk from S = q kᵀ / √d.",
        "dv = Pᵀ g,   dP = g vᵀ,\n"
        "dS = P · (dP − Σₘ dP · P),  the sum over the keys: the term that is usually missing,\n"
        "dq = dS k / √d,   dk = dSᵀ q / √d.   The 1/√d is there in both. A forbidden pair has P = 0, hence dS = 0.",
    ),
)


@EXERCISE.forward(
    answer=lambda q, k, v, mask: scaled_dot_product_attention(q, k, v, np.where(mask, 0.0, -np.inf)),
)
def attention(q, k, v, mask):
    """Query by query: score every key, share one unit of attention out among those allowed, mix their values."""
    batch, queries, depth = q.shape
    keys, width = v.shape[1:]
    y = np.zeros((batch, queries, width))
    for b in range(batch):
        for n in range(queries):
            scores = {}
            for m in range(keys):
                if mask[b, n, m]:
                    scores[m] = sum(q[b, n, d] * k[b, m, d] for d in range(depth)) / math.sqrt(depth)
            largest = max(scores.values())
            total = sum(math.exp(score - largest) for score in scores.values())
            for m, score in scores.items():
                for e in range(width):
                    y[b, n, e] += math.exp(score - largest) / total * v[b, m, e]
    return y


def masks(rng, batch, queries, keys):
    """True where a query may look at a key: two in even images, three in odd ones; every key is seen by someone."""
    steps = np.arange(keys) - np.arange(queries)[:, None]
    allowed = steps % keys < 2 + np.arange(batch)[:, None, None] % 2
    return np.stack([rng.permutation(image, axis=1) for image in allowed])


@attention.cases
def _(rng):
    """Queries, keys, d and the values' width all differ, then N = M, which code with a transposed S survives."""
    q, k, v = rng.normal(size=(2, 3, 5)), rng.normal(size=(2, 4, 5)), rng.normal(size=(2, 4, 6))
    yield "3 queries, 4 keys", q, k, v, masks(rng, 2, 3, 4)
    q, k, v = rng.normal(size=(2, 4, 3)), rng.normal(size=(2, 4, 3)), rng.normal(size=(2, 4, 5))
    yield "as many queries as keys", q, k, v, masks(rng, 2, 4, 4)
    q, k, v = rng.normal(size=(3, 2, 6)), rng.normal(size=(3, 5, 6)), rng.normal(size=(3, 5, 4))
    yield "every key allowed", q, k, v, np.ones((3, 2, 5), dtype=bool)
    q, k, v = rng.normal(size=(2, 3, 5)), rng.normal(size=(2, 4, 5)), rng.normal(size=(2, 4, 6))
    q[..., 0] = k[..., 0] = 50.0  # all scores of a row are raised by 1118: their softmax is what it was
    yield "scores near 1000", q, k, v, masks(rng, 2, 3, 4)


attention_backward = EXERCISE.gradient(attention, takes="g q k v mask", of="q k v")


# wrong forwards ------------------------------------------------------------------------------


def t(x):
    """The last two axes swapped."""
    return x.swapaxes(-1, -2)


def scores(q, k):
    """``q kᵀ / √d``."""
    return q @ t(k) / math.sqrt(q.shape[-1])


def mixed(s, v, mask, axis=-1):
    """``softmax(S) v`` with the forbidden scores at −∞."""
    return softmax(where(mask, s, -np.inf), axis=axis) @ v


@attention.wrong("y", "WITHOUT 1/√d", clue="A sum of d products of numbers of size 1 has the size √d.")
def _(q, k, v, mask):
    return mixed(q @ t(k), v, mask)


@attention.wrong("y", "with 1/d in place of 1/√d", clue="It is the standard deviation of q · k that is divided out.")
def _(q, k, v, mask):
    return mixed(q @ t(k) / q.shape[-1], v, mask)


@attention.wrong("y", "with √d MULTIPLIED", clue="Should scores become larger or smaller?")
def _(q, k, v, mask):
    return mixed(q @ t(k) * math.sqrt(q.shape[-1]), v, mask)


@attention.wrong("y", "with 1/√N, N the number of QUERIES", clue="A score is a sum over the features, not the tokens.")
def _(q, k, v, mask):
    return mixed(q @ t(k) / math.sqrt(q.shape[-2]), v, mask)


@attention.wrong("y", "with 1/√M, M the number of KEYS", clue="A score is a sum over the features, not the tokens.")
def _(q, k, v, mask):
    return mixed(q @ t(k) / math.sqrt(k.shape[-2]), v, mask)


@attention.wrong("y", "with 1/√ of the width of v", clue="A score is a sum over the features of q and k.")
def _(q, k, v, mask):
    return mixed(q @ t(k) / math.sqrt(v.shape[-1]), v, mask)


@attention.wrong("y", "with the softmax over the QUERIES", clue="Which sums of weights are one?")
def _(q, k, v, mask):
    return mixed(scores(q, k), v, mask, axis=-2)


@attention.wrong(
    "y", "with the mask AFTER the softmax", clue="Do the weights of the keys that are left still sum to one?"
)
def _(q, k, v, mask):
    return (softmax(scores(q, k)) * mask) @ v


@attention.wrong(
    "y",
    "with the mask the other way ROUND (an additive mask of the wrong sign)",
    clue="True means that the query may look.",
)
def _(q, k, v, mask):
    s = where(mask, -np.inf, scores(q, k))
    e = exp(s - s.max(-1, keepdims=True))  # NaN for a query with no key left, as in plain NumPy
    return e / e.sum(-1, keepdims=True) @ v


@attention.wrong("y", "WITHOUT the mask", clue="Which of your arguments did you not use?")
def _(q, k, v):
    return softmax(scores(q, k)) @ v


@attention.wrong("y", "with forbidden scores set to 0, not −∞", clue="exp(0) is 1: a score of 0 still gets a share.")
def _(q, k, v, mask):
    return softmax(where(mask, scores(q, k), 0.0)) @ v


@attention.wrong("y", "with Sᵀ in place of S", clue="Rows of S belong to queries, columns to keys.")
def _(q, k, v, mask):
    return mixed(scores(k, q), v, mask)


@attention.wrong("y", "with the weights transposed, Pᵀ v", clue="Row n of P says what query n looks at.")
def _(q, k, v, mask):
    return t(softmax(where(mask, scores(q, k), -np.inf))) @ v


@attention.wrong("y", "with the weights NOT divided by their sum", clue="Do the weights of a query sum to one?")
def _(q, k, v, mask):
    s = where(mask, scores(q, k), -np.inf)
    return exp(s - peak(s)) @ v


@attention.wrong(
    "y", "with a softmax that does not subtract the maximum", clue="exp(1118) is larger than any float64. See 04."
)
def _(q, k, v, mask):
    e = exp(where(mask, scores(q, k), -np.inf))
    return e / e.sum(-1, keepdims=True) @ v


# wrong backwards -----------------------------------------------------------------------------


def weights(q, k, mask):
    """P."""
    return softmax(where(mask, scores(q, k), -np.inf))


def through(ds, q, k, scale=None):
    """Carry dS on to dq and dk."""
    scale = 1 / math.sqrt(q.shape[-1]) if scale is None else scale
    return ds @ k * scale, t(ds) @ q * scale


def softmax_backward(p, dp, axis=-1):
    """Carry dP on to dS."""
    return p * (dp - (dp * p).sum(axis, keepdims=True))


@attention_backward.wrong("dq dk", "WITHOUT 1/√d", clue="S = q kᵀ / √d: the chain rule meets the 1/√d, too.")
def _(g, q, k, v, mask):
    return through(softmax_backward(weights(q, k, mask), g @ t(v)), q, k, 1.0)


@attention_backward.wrong("dq dk", "with 1/√d TWICE", clue="Count the 1/√d in your formula.")
def _(g, q, k, v, mask):
    return through(softmax_backward(weights(q, k, mask), g @ t(v)), q, k, 1 / q.shape[-1])


@attention_backward.wrong(
    "dq dk",
    "WITHOUT the sum in softmax's backward (the Jacobian taken as diagonal)",
    clue="If one score grows, the other weights of its query shrink. See exercise 04.",
)
def _(g, q, k, v, mask):
    p = weights(q, k, mask)
    return through(p * (1 - p) * (g @ t(v)), q, k)


@attention_backward.wrong(
    "dq dk", "WITHOUT the second term of softmax's backward", clue="dS = P · (dP − …): what is taken away?"
)
def _(g, q, k, v, mask):
    return through(weights(q, k, mask) * (g @ t(v)), q, k)


@attention_backward.wrong(
    "dq dk", "WITHOUT the outer P· of softmax's backward", clue="A weight that is nearly zero hardly moves."
)
def _(g, q, k, v, mask):
    p, dp = weights(q, k, mask), g @ t(v)
    return through(dp - (dp * p).sum(-1, keepdims=True), q, k)


@attention_backward.wrong("dq dk", "WITHOUT softmax's backward", clue="dP is not yet dS.")
def _(g, q, k, v):
    return through(g @ t(v), q, k)


@attention_backward.wrong(
    "dq dk", "with softmax's backward over the QUERIES", clue="Along which axis does the forward's softmax sum?"
)
def _(g, q, k, v, mask):
    return through(softmax_backward(weights(q, k, mask), g @ t(v), axis=-2), q, k)


@attention_backward.wrong("dq", "with dSᵀ in place of dS", clue="z = a b ⇒ da = dz bᵀ. Which of the two is q?")
def _(g, q, k, v, mask):
    return t(softmax_backward(weights(q, k, mask), g @ t(v))) @ k / math.sqrt(q.shape[-1])


@attention_backward.wrong("dk", "with dS in place of dSᵀ", clue="S = q kᵀ: who has been transposed?")
def _(g, q, k, v, mask):
    return softmax_backward(weights(q, k, mask), g @ t(v)) @ q / math.sqrt(q.shape[-1])


@attention_backward.wrong("dq", "with q in place of k", clue="The derivative of a product: it is the other factor.")
def _(g, q, k, v, mask):
    return softmax_backward(weights(q, k, mask), g @ t(v)) @ q / math.sqrt(q.shape[-1])


@attention_backward.wrong("dk", "with k in place of q", clue="The derivative of a product: it is the other factor.")
def _(g, q, k, v, mask):
    return t(softmax_backward(weights(q, k, mask), g @ t(v))) @ k / math.sqrt(q.shape[-1])


@attention_backward.wrong("dv", "with P in place of Pᵀ", clue="z = a b ⇒ db = aᵀ dz.")
def _(g, q, k, mask):
    return weights(q, k, mask) @ g


@attention_backward.wrong("dv", "with the scores S in place of the weights P", clue="What is v multiplied with?")
def _(g, q, k):
    return t(scores(q, k)) @ g


# facts ---------------------------------------------------------------------------------------


def drawn(rng):
    """Three queries, four keys."""
    shapes = (2, 3, 5), (2, 4, 5), (2, 4, 6)
    return *(rng.normal(size=shape) for shape in shapes), masks(rng, 2, 3, 4)


@EXERCISE.invariant("if all values are equal, that value comes out, whatever is looked at")
def _(student, rng):
    q, k, v, mask = drawn(rng)
    v[:] = v[:, :1]
    return student.attention(q, k, v, mask), np.repeat(v[:, :1], 3, axis=1)


@EXERCISE.invariant("keys and values in another order (and the mask with them) give the same")
def _(student, rng):
    q, k, v, mask = drawn(rng)
    order = [2, 0, 3, 1]
    return student.attention(q, k[:, order], v[:, order], mask[..., order]), student.attention(q, k, v, mask)


@EXERCISE.invariant("what nobody may look at makes no difference")
def _(student, rng):
    q, k, v, mask = drawn(rng)
    mask[..., 1], mask[..., 2] = False, True
    before = student.attention(q, k, v, mask)
    k[:, 1], v[:, 1] = 7.0, -7.0
    return student.attention(q, k, v, mask), before


@EXERCISE.invariant("what nobody may look at gets no gradient")
def _(student, rng):
    q, k, v, mask = drawn(rng)
    mask[..., 1], mask[..., 2] = False, True
    _, dk, dv = student.attention_backward(rng.normal(size=(2, 3, 6)), q, k, v, mask)
    return np.concatenate([dk[:, 1], dv[:, 1]], axis=-1), np.zeros((2, 11))
