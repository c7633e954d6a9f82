"""check_op: the laws of an op, executable.

    check_op(swish, rng.normal(size=(3, 4)), beta=1.5)

Eight laws, in the order in which a mistake is easiest to understand: what the op computes first, its derivatives next,
its manners last. The first one broken raises OpError, which says what was expected and what came instead.
The complex step is the judge of derivatives: it needs nothing but the op's values, and it is exact.
"""

from __future__ import annotations

import inspect
import warnings
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from tinyvit.autodiff.backward import gradients
from tinyvit.autodiff.op import Op
from tinyvit.autodiff.standin import DeviceArray
from tinyvit.autodiff.tensor import Tensor, raw
from tinyvit.backend import to_numpy

STEP = 1e-20  # of the complex step: nothing is subtracted, so it may be as small as it likes
DETAIL = 2000  # a wrong derivative is traced to its element for arguments of up to so many numbers


class OpError(AssertionError):
    """An op that breaks a law; the text says which, where, and by how much."""


@dataclass(frozen=True)
class Case:
    """One op and one set of arguments.

    op         an Op, or any function of arrays written in ops
    inputs     the arguments: arrays of reals are variables, everything else (integers, booleans, None) is constant
    options    the keyword arguments
    tolerance  the largest relative difference that counts as rounding
    seed       where this check's random cotangents and directions come from; every law draws the same ones
    """

    op: object
    inputs: tuple
    options: dict
    tolerance: float
    seed: int

    @property
    def name(self) -> str:
        name = getattr(self.op, "name", None) or getattr(self.op, "__name__", "<lambda>")
        return "the function" if name == "<lambda>" else name

    @cached_property
    def variables(self) -> list[int]:
        """Positions of the arguments that have derivatives."""
        return [i for i, x in enumerate(self.inputs) if _kind(x) == "f"]

    def argument(self, i: int) -> str:
        """``argument 2 ("weight")``."""
        function = self.op.function if isinstance(self.op, Op) else self.op
        names = [p.name for p in inspect.signature(function).parameters.values() if p.kind is p.POSITIONAL_OR_KEYWORD]
        return f"argument {i + 1}" + (f' ("{names[i]}")' if i < len(names) else "")

    def fail(self, text: str):
        """Raise OpError, with the op's name before the text and the arguments after it."""
        given = ", ".join(f"{x.shape} {x.dtype}" if hasattr(x, "shape") else repr(x) for x in self.inputs)
        told = "".join(f", {key}={value!r}" for key, value in self.options.items())
        raise OpError(f"{self.name}: {text}\n  (checked on {given}{told})")

    # running it -----------------------------------------------------------------------------

    def filled(self, variables) -> list:
        """The arguments with other values in the variables' places."""
        inputs = list(self.inputs)
        for i, x in zip(self.variables, variables, strict=True):
            inputs[i] = x
        return inputs

    def value(self, *variables):
        """The op on plain arrays."""
        return raw(self.op(*self.filled(variables), **self.options))

    def equation(self, *variables):
        """The op by its equation, no kernel in front."""
        return self.op.function(*self.filled(variables), **self.options)

    def traced(self, variables, op=None):
        """The output as a Tensor, and the leaves it was made from."""
        leaves = [Tensor(x, requires_grad=True) for x in variables]
        out = (op or self.op)(*self.filled(leaves), **self.options)
        return out if isinstance(out, Tensor) else Tensor(out), leaves

    def gradient(self, variables, u, op=None) -> list:
        """The cotangents of the variables, given the output's."""
        out, leaves = self.traced(variables, op)
        return gradients(out, leaves, [u])

    @cached_property
    def arrays(self) -> list:
        """The variables' values."""
        return [self.inputs[i] for i in self.variables]

    # random numbers -------------------------------------------------------------------------

    @cached_property
    def cotangent(self):
        """A random cotangent: ones would not notice an error in a direction that they happen to be blind to."""
        shape = np.shape(self.value(*self.arrays))
        return _frozen(np.random.default_rng([self.seed, 1]).normal(size=shape))

    @cached_property
    def directions(self) -> list:
        """A random direction per variable, with no entry near zero: an error in any element shows."""
        rng = np.random.default_rng([self.seed, 2])
        return [rng.uniform(0.5, 1.5, x.shape) * rng.choice([-1.0, 1.0], x.shape) for x in self.arrays]


def check_op(op, *inputs, rng=None, tolerance=None, **options) -> None:
    """Check an op's laws on these arguments; raise OpError, in words, for the first that does not hold.

    op         a @primitive, an @equation (with or without a kernel), or any function written in ops
    inputs     arrays of reals (variables), of integers or booleans (constants), numbers, None
    rng        draws the random cotangents and directions; the same ones on every call, if left out
    tolerance  the largest relative difference that counts as rounding, 1e-12 if left out
    options    the op's keyword arguments

    The laws: (1) pure: inputs are not written to, twice the same is twice the same; (2) the kernel's value is the
    equation's; (3) cotangents have their arguments' shapes; (4) the kernel's pullback is the derived one; (5) the
    pullback is the complex step; (6) so is the second derivative; (7) float32 stays float32; (8) on a device, nothing
    leaves it. Choose uneven shapes and random gains: a square array hides a transpose, a gain of one an omission.
    """
    seed = 0 if rng is None else int(rng.integers(2**32))
    case = Case(op, tuple(map(_float64, inputs)), options, tolerance or 1e-12, seed)
    for law in LAWS:
        law(case)


# the laws ------------------------------------------------------------------------------------


def is_pure(case: Case) -> None:
    """Inputs are only read, and the same arguments give the same value."""
    before = [np.copy(x) if _kind(x) else x for x in case.inputs]
    try:
        first, second = case.value(*case.arrays), case.value(*case.arrays)
    except ValueError as error:
        if "read-only" in str(error):
            _fail_from(case, "wrote into its input; an op may write only into arrays it made itself", error)
        raise
    for i, (x, old) in enumerate(zip(case.inputs, before, strict=True)):
        if _kind(x) and not np.array_equal(x, old, equal_nan=True):
            case.fail(f"changed the values of {case.argument(i)}; an op may write only into arrays it made itself")
    if not hasattr(first, "shape"):
        case.fail(f"returned a {type(first).__name__}; an op returns one array")
    if not np.array_equal(first, second, equal_nan=True):
        case.fail("gave two values for the same arguments; noise must come in as an argument")


def kernel_computes_the_equation(case: Case) -> None:
    """The fast value is the slow one: looked at before any derivative, since a wrong value explains those too."""
    if getattr(case.op, "fast", None) is not None:
        _compare(case, "value wrong: the kernel's differs from the equation's", case.equation(*case.arrays),
                 case.value(*case.arrays))  # fmt: skip


def cotangents_have_shapes(case: Case) -> None:
    """The pullback gives a tuple with one cotangent per argument, each of its argument's shape or broadcast from it."""
    cotangents = _own_cotangents(case, case.arrays, case.cotangent)
    for i, c in cotangents.items():
        shape = case.inputs[i].shape
        if c is not None and not _broadcasts(shape, np.shape(c)):
            case.fail(f"pullback wrong for {case.argument(i)}: its shape is {shape}, the cotangent's is {np.shape(c)}")
    for i, again in _own_cotangents(case, case.arrays, case.cotangent, calls=2).items():
        if again is not None and not np.array_equal(cotangents[i], again, equal_nan=True):
            case.fail(f"pullback called twice gives two answers for {case.argument(i)}; it overwrote what it kept")


def kernel_pullback_is_the_derived_one(case: Case) -> None:
    """The pullback written by hand agrees with the one that follows from the equation, argument by argument."""
    if getattr(case.op, "fast", None) is None:
        return
    derived = case.gradient(case.arrays, case.cotangent, case.op.function)
    by_hand = case.gradient(case.arrays, case.cotangent)
    for i, expected, got in zip(case.variables, derived, by_hand, strict=True):
        _compare(case, f"pullback wrong for {case.argument(i)}", expected, got)


def pullback_is_the_complex_step(case: Case) -> None:
    """``u · (derivative of the value along v)`` is ``pullback(u) · v``, for random u and v, argument by argument."""
    pulled = case.gradient(case.arrays, case.cotangent)
    for k, got in enumerate(pulled):
        v = case.directions[k]
        expected, slack = _along(case, lambda *xs: np.sum(case.value(*xs) * case.cotangent), {k: v})
        size = np.sum(abs(got)) + 1  # what the sum was made of: its rounding is relative to this
        if not abs(np.sum(got * v) - expected) <= slack * size:
            _explain(case, k, got)


def second_derivative_is_exact(case: Case) -> None:
    """The gradient's derivative along a direction: reverse over reverse, against the complex step."""
    out, leaves = case.traced(case.arrays)
    u = Tensor(case.cotangent, requires_grad=out.requires_grad)
    first = gradients(out, leaves, [u], differentiable=True) if leaves else []
    for i, x, got in zip(case.variables, case.gradient(case.arrays, case.cotangent), first, strict=True):
        _compare(case, f"differentiable pullback wrong for {case.argument(i)}", x, got.data)
    dependent = [(g, v) for g, v in zip(first, case.directions, strict=True) if g.requires_grad]
    if not dependent:
        return
    second = gradients([g for g, _ in dependent], [u, *leaves], [v for _, v in dependent])
    everything = dict(enumerate(case.directions))
    tangent, slack = _along(case, case.value, everything)
    _compare(case, "the pullback is not linear in its cotangent", tangent, second[0], slack)
    for k, (i, got) in enumerate(zip(case.variables, second[1:], strict=True)):
        expected, slack = _along(case, lambda *xs, k=k: case.gradient(xs, case.cotangent)[k], everything)
        _compare(case, f"second derivative wrong for {case.argument(i)}", expected, got, slack)


def float32_stays_float32(case: Case) -> None:
    """float32 in, float32 out, values and cotangents both, and close to float64's."""
    if "dtype" in case.options or not case.variables:
        return  # an op that is told its precision
    small = [x.astype(np.float32) for x in case.arrays]
    exact = [x.astype(np.float64) for x in small]
    got, u = case.value(*small), case.cotangent.astype(np.float32)
    if got.dtype != np.float32:
        case.fail(f"float32 became {got.dtype} in the value; take constants from math, and arrays as arguments")
    _compare(case, "float32 value far from float64's", case.value(*exact), got, 1e-4)
    for i, c in _own_cotangents(case, small, u).items():
        if c is not None and c.dtype != np.float32:
            case.fail(f"float32 became {c.dtype} in the pullback of {case.argument(i)}")
    for i, a, b in zip(case.variables, case.gradient(exact, u.astype(float)), case.gradient(small, u), strict=True):
        _compare(case, f"float32 pullback far from float64's for {case.argument(i)}", a, b, 1e-3)


def stays_on_the_device(case: Case) -> None:
    """Arrays of a device give arrays of the device: the value, the gradient, and the gradient's gradient."""
    away = replace(case, inputs=tuple(DeviceArray(x) if _kind(x) else x for x in case.inputs))
    try:
        value = away.value(*away.arrays)
        found = {"its value": [value]}
        if away.variables:
            out, leaves = away.traced(away.arrays)
            found["its pullback"] = gradients(out, leaves, [DeviceArray(case.cotangent)])
            first = gradients(out, leaves, [DeviceArray(case.cotangent)], differentiable=True)
            again = [g for g in first if g.requires_grad]
            found["its second derivative"] = gradients(again, leaves, [DeviceArray(np.ones(g.shape)) for g in again])
    except (TypeError, AttributeError) as error:
        _fail_from(case, f"left the device: {error}", error)
    for what, arrays in found.items():
        if wrong := [x for x in arrays if not isinstance(x, DeviceArray)]:
            case.fail(f"left the device: {what} became a {type(wrong[0]).__name__}")
    _compare(case, "value on the device differs from the host's", case.value(*case.arrays), to_numpy(value))


LAWS = (
    is_pure,
    kernel_computes_the_equation,
    cotangents_have_shapes,
    kernel_pullback_is_the_derived_one,
    pullback_is_the_complex_step,
    second_derivative_is_exact,
    float32_stays_float32,
    stays_on_the_device,
)


# what the laws are made of -------------------------------------------------------------------


def _own_cotangents(case: Case, variables, u, calls=1) -> dict:
    """What the op's own pullback answers, before the engine tidies it; nothing for a plain function."""
    op = case.op
    if not isinstance(op, Op) or not case.variables or (op.fast is None and op.rule is None):
        return {}
    inputs = case.filled(variables)
    try:
        _, pullback = _kernel_or_rule(op, inputs, case.options)
        for _ in range(calls):
            answers = pullback(_frozen(u))
    except ValueError as error:
        if "read-only" in str(error):
            _fail_from(case, "its pullback wrote into an array that is not its own (an input or the cotangent)", error)
        raise
    if not isinstance(answers, tuple | list):
        case.fail("its pullback must return a tuple with a cotangent per argument; a comma is missing, perhaps")
    if len(answers) < len(inputs):
        case.fail(f"its pullback gave {len(answers)} cotangents for {len(inputs)} arguments")
    return {i: answers[i]() if callable(answers[i]) else answers[i] for i in case.variables}


def _kernel_or_rule(op: Op, inputs, options):
    """The value and the op's own pullback as a function of the cotangent."""
    if op.fast is not None:
        return op.fast(*inputs, **options)
    value = op.function(*inputs, **options)
    options = {**op.defaults, **options}
    return value, lambda u: op.rule(u, value, *inputs, **options)


def _along(case: Case, f, directions: dict):
    """The derivative of ``f`` of the variables along directions (variable number -> array), and how exact it is.

    By complex step; by central differences where the op does not take complex numbers.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", np.exceptions.ComplexWarning)
            return np.imag(f(*_moved(case, directions, 1j * STEP))) / STEP, case.tolerance
    except (TypeError, np.exceptions.ComplexWarning):
        return _difference(case, f, directions), max(1e-6, case.tolerance)


def _difference(case: Case, f, directions: dict, h=1e-5):
    """The same derivative by central differences, to about six digits."""
    return (f(*_moved(case, directions, h)) - f(*_moved(case, directions, -h))) / (2 * h)


def _moved(case: Case, directions: dict, step) -> list:
    """The variables, some of them a step along their direction."""
    return [x + step * directions[k] if k in directions else x for k, x in enumerate(case.arrays)]


def _explain(case: Case, k: int, got) -> None:
    """A pullback that is wrong: where, by how much, and whether it is the complex step that is to blame."""
    argument, v = case.argument(case.variables[k]), case.directions[k]

    def projected(*xs):
        return np.sum(case.value(*xs) * case.cotangent)

    honest, along = _difference(case, projected, {k: v}), np.sum(got * v)
    if abs(honest - along) <= 1e-6 * (np.sum(abs(got)) + 1):
        case.fail(f"not analytic in {argument}: its pullback is right for real numbers, but its value drops or mixes "
                  "imaginary parts; decide on x.real and avoid np.abs, np.conj, np.var and np.linalg.norm")  # fmt: skip
    if got.size <= DETAIL:
        expected = np.zeros(got.shape)
        for at in np.ndindex(*got.shape):  # slow, and only to tell where it is wrong
            one = np.zeros(got.shape)
            one[at] = 1
            expected[at] = _along(case, projected, {k: one})[0]
        _compare(case, f"pullback wrong for {argument}", expected, got)
    case.fail(f"pullback wrong for {argument}: along a random direction expected {honest:.6g}, got {along:.6g}")


def _compare(case: Case, text: str, expected, got, tolerance=None) -> None:
    """Fail, naming the worst element, where two arrays differ by more than rounding."""
    expected, got = np.asarray(expected), np.asarray(got)
    if expected.shape != got.shape:
        case.fail(f"{text}: expected shape {expected.shape}, got {got.shape}")
    with np.errstate(invalid="ignore"):
        apart = np.where(expected == got, 0, abs(expected - got))
    finite = abs(expected[np.isfinite(expected)])
    size = max(1.0, finite.max(initial=0))
    if np.all(apart <= (tolerance or case.tolerance) * size):  # false for NaN too
        return
    at = np.unravel_index(np.argmax(np.where(np.isnan(apart), np.inf, apart)), apart.shape)
    relative = apart[at] / max(finite.max(initial=0), np.finfo(float).tiny)
    case.fail(f"{text}: expected {expected[at]:.6g}, got {got[at]:.6g} at [{', '.join(map(str, at))}]; "
              f"relative {relative:.2g}")  # fmt: skip


def _fail_from(case: Case, text: str, error) -> None:
    """Fail because of an error, keeping it as the cause."""
    try:
        case.fail(text)
    except OpError as told:
        raise told from error


def _broadcasts(small: tuple, large: tuple) -> bool:
    """Whether an array of shape ``small`` broadcasts to ``large``."""
    return len(small) <= len(large) and all(m in (1, n) for m, n in zip(small[::-1], large[::-1], strict=False))


def _kind(x) -> str:
    """The kind of an array's numbers, as NumPy's letter; nothing for what is no array."""
    return x.dtype.kind if hasattr(x, "__array_function__") else ""


def _float64(x):
    """An argument ready for checking: reals in float64, arrays read-only (a view, so that strides are kept)."""
    if not _kind(raw(x)):
        return x
    x = to_numpy(raw(x))
    return _frozen(x.astype(np.float64) if x.dtype.kind == "f" and x.dtype != np.float64 else x)


def _frozen(x):
    """A read-only view."""
    view = x.view() if isinstance(x, np.ndarray) else np.asarray(x)
    if isinstance(view, np.ndarray):
        view.flags.writeable = False
    return view
