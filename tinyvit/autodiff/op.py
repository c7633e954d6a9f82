"""Ops: primitives, equations, and the kernels that may stand in front of an equation.

    @primitive     an array fact in NumPy, and its pullback: one line of algebra, itself written in ops
    @equation      a line of a paper, written in ops; its derivative is derived
    @constant      an array fact whose derivative is zero by definition (comparisons, argmax, shapes)

Called on arrays an op returns arrays; called on Tensors it returns a Tensor that remembers. *Positional
arguments are arrays, keyword arguments are static facts.*
"""

from __future__ import annotations

import inspect
import time

from tinyvit.autodiff.tensor import Tensor, raw
from tinyvit.autodiff.watch import watch, watching
from tinyvit.blueprint import Blueprint

REGISTRY: dict[str, Op] = {}  # every op of the package, by name; the tests walk it
COMPLAINTS = (ValueError, TypeError, IndexError, AttributeError)  # what NumPy raises about arguments that do not fit


class Op:
    """A named function of arrays that can be differentiated.

    function   on arrays (primitive), or on anything ops accept (equation)
    rule       ``(g, out, *inputs, **options) -> cotangents``, written in ops; needed by a primitive
    kernel     ``(*arrays, **options) -> value, pullback``; the fast way to compute an equation
    taps       the names that the equation gives to inner values
    """

    def __init__(self, function, *, primitive=False, taps=()):
        self.function = function
        self.name = function.__name__
        self.__name__, self.__doc__, self.__wrapped__ = (
            function.__name__,
            function.__doc__,
            function,
        )
        self.is_primitive, self.taps = primitive, tuple(taps)
        self.rule = self.fast = None
        self.fast_is_analytic = False
        parameters = inspect.signature(function).parameters.values()
        self.defaults = {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY and p.default is not p.empty}
        self.array_names = tuple(p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD)
        self.statics = frozenset(p.name for p in parameters if p.kind is p.KEYWORD_ONLY)

    def pullback(self, rule):
        """Decorator: the op's pullback, ``(g, out, *inputs, **options) -> one cotangent per input``.

        It is written in ops, so on arrays it computes and on Tensors it can be differentiated again. An entry
        may be None (no derivative), or a function of no arguments: it is called only if the cotangent is wanted.
        """
        self.rule = rule
        return rule

    def kernel(self, fast=None, *, analytic=False):
        """Decorator: a fast way to compute the equation, ``(*arrays, **options) -> value, pullback``.

        It sees plain arrays, may keep some for its pullback, and may write only into arrays it made itself.
        """
        if fast is None:
            return lambda fast: self.kernel(fast, analytic=analytic)
        self.fast, self.fast_is_analytic = fast, analytic
        return fast

    def __repr__(self):
        kind = "primitive" if self.is_primitive else "equation with a kernel" if self.fast else "equation"
        return f"<{kind} {self.name}>"

    def __call__(self, *inputs, **options):
        if options and not self.statics.issuperset(options):
            inputs, options = self.bind(inputs, options)
        now = watch()
        if not self.is_primitive and self.runs_open(inputs, now.listeners):
            return self.read(inputs, options)
        if not now.listeners:
            return self.apply(inputs, options, now.recording)
        with watching(listeners=()):  # a kernel that calls ops inside is one call, heard and timed once
            start = time.perf_counter()
            value = self.apply(inputs, options, now.recording)
            seconds = time.perf_counter() - start
        for listener in now.listeners:
            listener.called(self, inputs, options, value, seconds)
        return value

    def runs_open(self, inputs, listeners) -> bool:
        """Whether the call is the equation itself rather than its kernel."""
        if self.fast is None or any(listener.opens(self) for listener in listeners):
            return True
        return any(_needs_equation(raw(x), self.fast_is_analytic) for x in inputs)

    def read(self, inputs, options):
        """The equation itself; the ops that it is written in compute and record."""
        try:
            return self.function(*inputs, **options)
        except COMPLAINTS as error:
            raise self.named(error, inputs, options) from error

    def apply(self, inputs, options, recording: bool):
        """Compute the value; if a Tensor came in, wrap it, and remember how it was made."""
        arrays, tensors, differentiable = [], False, False
        for x in inputs:
            if isinstance(x, Tensor):
                tensors, differentiable = True, differentiable or x.requires_grad
                arrays.append(x.data)
            else:
                arrays.append(x)
        value, residual = self.evaluate(arrays, options)
        if not tensors:
            return value
        out = Tensor(value)
        if recording and differentiable:
            out.requires_grad = True
            out.op, out.inputs, out.residual = self, inputs, residual
            out.options = {**self.defaults, **options}  # so that a rule meets every option
        return out

    def evaluate(self, arrays, options):
        """Value and, from a kernel, the pullback."""
        try:
            return self.fast(*arrays, **options) if self.fast else (self.function(*arrays, **options), None)
        except COMPLAINTS as error:
            raise self.named(error, arrays, options) from error

    def named(self, error, inputs, options):
        """A complaint with the op's name before it and, where it first arose, the arguments after it."""
        given = "" if getattr(error, "named_by_op", False) else self.describe(inputs, options)
        kind = next(kind for kind in COMPLAINTS if isinstance(error, kind))  # NumPy's own kinds take no plain text
        named = kind(f"{self.name}: {error}" + (f" — given {given}" if given else ""))
        named.named_by_op = True
        return named

    def describe(self, arrays, options) -> str:
        """The arguments of a call in one line: names, shapes, dtypes, options."""
        names = [*self.array_names, *("" for _ in arrays)]
        told = [f"{name} {x.shape} {x.dtype}" if hasattr(x, "shape") else f"{name} {x!r}"
                for name, x in zip(names, arrays, strict=False)]  # fmt: skip
        told = [text.lstrip() for text in told]  # an operand of many has no name
        return ", ".join(told + [f"{name}={value!r}" for name, value in options.items()])

    def bind(self, inputs, options):
        """Put arrays that were passed by keyword into their positions."""
        by_name = {name: value for name, value in options.items() if name not in self.statics}
        unknown = [name for name in by_name if name not in self.array_names[len(inputs) :]]
        if unknown:
            raise TypeError(f"{self.name}: unexpected argument {unknown[0]!r}; it takes {inspect.signature(self)}")
        bound = inspect.signature(self.function).bind(*inputs, **options)
        bound.apply_defaults()
        return bound.args, {name: value for name, value in options.items() if name in self.statics}


def _needs_equation(x, kernel_is_analytic: bool) -> bool:
    """A kernel is for numbers: shapes alone (Blueprint) and, unless it is analytic, complex step it by."""
    if isinstance(x, Blueprint):
        return True
    return not kernel_is_analytic and hasattr(x, "dtype") and x.dtype.kind == "c"


def primitive(function):
    """Decorator: an array fact. Give it a ``.pullback``."""
    return _register(Op(function, primitive=True))


def equation(function=None, *, taps=()):
    """Decorator: a composition of ops. Its derivative is derived; a ``.kernel`` may compute it faster."""
    if function is None:
        return lambda function: equation(function, taps=taps)
    return _register(Op(function, taps=taps))


def constant(function):
    """Decorator: a function of arrays whose derivative is zero by definition; on Tensors it returns arrays."""

    def of_arrays(*inputs, **options):
        return function(*(raw(x) for x in inputs), **options)

    of_arrays.__name__, of_arrays.__doc__, of_arrays.__wrapped__ = (
        function.__name__,
        function.__doc__,
        function,
    )
    return of_arrays


def _register(op: Op) -> Op:
    if (op.function.__module__ or "").startswith("tinyvit."):
        REGISTRY[op.name] = op
    return op
