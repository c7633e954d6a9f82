"""Products summed over shared axes: matmul and einsum, each closed under differentiation."""

from __future__ import annotations

import numpy as np

from tinyvit.autodiff.broadcast import broadcast_to
from tinyvit.autodiff.op import primitive
from tinyvit.primitives.shape import reshape, swapaxes


@primitive
def matmul(x, y):
    """Matrix product over the last two axes, the others broadcast: (..., n, k) @ (..., k, m) -> (..., n, m).

    Both operands need two axes or more; use ``einsum`` or ``reshape`` for vectors.
    """
    if len(x.shape) < 2 or len(y.shape) < 2:
        raise ValueError("both operands need at least two axes")
    return np.matmul(x, y)


@matmul.pullback
def _(g, out, x, y):
    return lambda: g @ swapaxes(y, axis1=-1, axis2=-2), lambda: swapaxes(x, axis1=-1, axis2=-2) @ g


@primitive
def einsum(*operands, spec):
    """Einstein's sum of one or more operands: ``einsum(x, y, spec="bij,bjk->bik")``.

    The spec is explicit (with ``->``), without ``...``, and names no axis twice within one operand. Nothing broadcasts.
    """
    terms, _ = _terms(spec, len(operands))
    _check_lengths(terms, operands)
    return np.einsum(spec, *operands, optimize=len(operands) > 1)


@einsum.pullback
def _(g, out, *operands, spec):
    terms, result = _terms(spec, len(operands))

    def cotangent(i):
        others = [x for j, x in enumerate(operands) if j != i]
        given = [result, *(t for j, t in enumerate(terms) if j != i)]
        # an axis of this operand that nobody else names was summed on its own: its cotangent is constant
        found = [a for a in terms[i] if any(a in t for t in given)]
        partial = einsum(g, *others, spec=f"{','.join(given)}->{''.join(found)}")
        shape = operands[i].shape
        kept = reshape(
            partial,
            shape=tuple(n if a in found else 1 for a, n in zip(terms[i], shape, strict=True)),
        )
        return broadcast_to(kept, shape=shape)

    return [lambda i=i: cotangent(i) for i in range(len(operands))]


def _check_lengths(terms, operands) -> None:
    """Raise ValueError for an axis of two lengths; NumPy would repeat a length of one, and MACs be miscounted."""
    lengths: dict = {}
    for term, x in zip(terms, operands, strict=True):
        if len(term) != len(x.shape):
            raise ValueError(f"spec: {term!r} names {len(term)} axes, its operand has shape {x.shape}")
        for axis, n in zip(term, x.shape, strict=True):
            if lengths.setdefault(axis, n) != n:
                raise ValueError(f"spec: axis {axis!r} has lengths {lengths[axis]} and {n}")


def _terms(spec: str, operands: int):
    """The axis letters of each operand, and of the result."""
    left, arrow, result = spec.replace(" ", "").partition("->")
    terms = left.split(",")
    if not arrow or "." in spec or len(terms) != operands:
        raise ValueError(f'spec: expected an explicit one like "ij,jk->ik" for {operands} operands, got {spec!r}')
    if any(len(set(t)) != len(t) for t in (*terms, result)):
        raise ValueError(f"spec: no axis may be named twice within one operand, got {spec!r}")
    return terms, result
