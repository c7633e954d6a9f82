"""Counting multiply-accumulates where they happen: in matmul and einsum, and nowhere else.

A kernel is charged for the products of its equation, which is run on Blueprints: shapes and no numbers.
"""

from __future__ import annotations

import math

from tinyvit.autodiff.tensor import Tensor, raw
from tinyvit.autodiff.watch import Listener, listening, watch, watching
from tinyvit.blueprint import Blueprint


class MacCounter(Listener):
    """Adds up the multiply-accumulates of everything that runs, and by module.

    ``total`` is the whole; ``by_module`` is keyed by the identity of the modules it happened inside of.
    """

    def __init__(self):
        self.total = 0
        self.by_module: dict[int, int] = {}

    def called(self, op, inputs, options, value, seconds):
        macs = macs_of(op, inputs, options, value)
        self.total += macs
        for module in watch().modules:
            self.by_module[id(module)] = self.by_module.get(id(module), 0) + macs


def macs_of(op, inputs, options, value) -> int:
    """The multiply-accumulates of one call of a primitive or a kernel."""
    if op.name == "matmul":
        return value.size * raw(inputs[0]).shape[-1]
    if op.name == "einsum":
        return _einsum_macs(options["spec"], inputs) if len(inputs) > 1 else 0
    if op.is_primitive:
        return 0
    counter = MacCounter()
    with listening(counter, alone=True):
        op.function(*(_shape_only(raw(x)) for x in inputs), **options)
    return counter.total


class _PullCounter(Listener):
    """Adds up what the pullbacks of everything that runs would multiply."""

    def __init__(self):
        self.total = 0

    def called(self, op, inputs, options, value, seconds):
        self.total += pull_macs_of(op, inputs, options, value)


def pull_macs_of(op, inputs, options, value) -> int:
    """The multiply-accumulates of one call's pullback, for all inputs that record derivatives.

    The derivative of a product in each of its factors is a product with as many multiplications. What a kernel
    multiplies a second time, to save memory, is not counted.
    """
    if op.is_primitive:
        factors = sum(isinstance(x, Tensor) and x.requires_grad for x in inputs)
        return factors and factors * macs_of(op, inputs, options, value)
    counter = _PullCounter()
    with watching(recording=True), listening(counter, alone=True):
        op.function(*(_shape_only(raw(x), getattr(x, "requires_grad", False)) for x in inputs), **options)
    return counter.total


def _einsum_macs(spec: str, operands) -> int:
    """The product of the lengths of all axes: each combination is one multiply-accumulate."""
    terms = spec.replace(" ", "").split("->")[0].split(",")
    lengths = {axis: n for term, x in zip(terms, operands, strict=True) for axis, n in zip(term, x.shape, strict=True)}
    return math.prod(lengths.values())


def _shape_only(x, requires_grad=False):
    """An array of reals as a Tensor of its shape: on a Tensor ``x @ y`` is the op matmul, which is heard."""
    known = getattr(x, "shape", ()) and x.dtype.kind == "f"
    return Tensor(Blueprint(x.shape, x.dtype), requires_grad) if known else x
