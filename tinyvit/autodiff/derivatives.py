"""Derivatives of functions: grad, value_and_grad, vjp, jvp, hvp, hessian, complex_step.

Each takes a function of arrays and returns arrays. Inside one another they return Tensors, so they nest to
any order: ``grad(grad(grad(f)))`` is exact.
"""

from __future__ import annotations

import numpy as np

from tinyvit.autodiff.backward import gradients, identity
from tinyvit.autodiff.tensor import Tensor, raw
from tinyvit.autodiff.watch import watch, watching
from tinyvit.backend import like


def value_and_grad(f, argnums=0):
    """A function that returns ``f``'s value and its derivative in argument(s) ``argnums``.

    f must return a single number. argnums is a position (one derivative) or a tuple (a tuple of them).
    """
    single = isinstance(argnums, int)
    positions = (argnums,) if single else tuple(argnums)

    def value_and_derivative(*xs, **options):
        nested = watch().level > 0
        value, leaves = _trace(f, xs, positions, options)
        derivatives = tuple(gradients(value, leaves, differentiable=nested))
        return (value if nested else value.data), (derivatives[0] if single else derivatives)

    return value_and_derivative


def grad(f, argnums=0):
    """The derivative of a scalar function, as a function: ``grad(f)(x)`` has the shape of ``x``."""
    both = value_and_grad(f, argnums)

    def derivative(*xs, **options):
        return both(*xs, **options)[1]

    return derivative


def vjp(f, *xs):
    """``f(*xs)`` and the function ``u -> uᵀJ``, one array per argument (J: the Jacobian at ``xs``)."""
    nested = watch().level > 0
    value, leaves = _trace(f, xs, range(len(xs)), {})

    def pull(u):
        return tuple(gradients(value, leaves, [u], differentiable=nested))

    return (value if nested else value.data), pull


def jvp(f, xs, vs):
    """``f(*xs)`` and ``J v``: the derivative of ``f`` along ``vs`` (one array per argument).

    uᵀJ is linear in u, and its derivative in u, applied to v, is J v (Townsend's trick): forward mode from
    two reverse sweeps, with no second set of rules.
    """
    _check_directions(xs, vs)
    nested = watch().level > 0
    value, leaves = _trace(f, xs, range(len(xs)), {})
    u = Tensor(np.zeros_like(value.data), requires_grad=True)
    with watching(recording=True):
        pulled = gradients(value, leaves, [u], differentiable=True)
    dependent = [(p, v) for p, v in zip(pulled, vs, strict=True) if p.requires_grad]
    if not dependent:
        return (value, Tensor(u.data)) if nested else (value.data, u.data)
    tangent = gradients([p for p, _ in dependent], u, [v for _, v in dependent], differentiable=nested)[0]
    return (value if nested else value.data), tangent


def hvp(f, xs, vs, method="reverse"):
    """Hessian–vector product ``∇²f(x) v`` of a scalar function, exact.

    xs, vs   an array and a direction of its shape, or a list of each
    method   "reverse": the gradient of ∇f·v, any backend, any order;
             "complex": Im ∇f(x + i h v) / h, a third of the memory; shares nothing with the other but the ops

    Returns an array, or a list of them.
    """
    single = not isinstance(xs, list | tuple)
    xs, vs = ([xs], [vs]) if single else (list(xs), list(vs))
    _check_directions(xs, vs)
    if method == "reverse":
        products = _hvp_reverse(f, xs, vs)
    elif method == "complex":
        products = _hvp_complex(f, xs, vs)
    else:
        raise ValueError(f'method: expected "reverse" or "complex", got {method!r}')
    return products[0] if single else products


def _hvp_reverse(f, xs, vs):
    nested = watch().level > 0
    value, leaves = _trace(f, xs, range(len(xs)), {})
    first = gradients(value, leaves, differentiable=True)
    dependent = [(g, v) for g, v in zip(first, vs, strict=True) if g.requires_grad]
    if not dependent:
        return [np.zeros_like(x.data) for x in leaves]
    return gradients([g for g, _ in dependent], leaves, [v for _, v in dependent], differentiable=nested)


def _hvp_complex(f, xs, vs, h=1e-20):
    _must_be_outermost('hvp with method "complex"', ' (method "reverse" can)')
    stepped = [raw(x) + 1j * h * raw(v) for x, v in zip(xs, vs, strict=True)]
    value, leaves = _trace(f, stepped, range(len(xs)), {})
    return [np.imag(g) / h for g in gradients(value, leaves)]


def hessian(f, x):
    """The full matrix of second derivatives of a scalar function, of shape ``x.shape + x.shape``."""
    nested = watch().level > 0
    value, (leaf,) = _trace(f, [x], [0], {})
    first = gradients(value, leaf, differentiable=True)[0]
    if not first.requires_grad:
        return np.zeros_like(leaf.data, shape=leaf.shape + leaf.shape)
    basis = like(np.eye(leaf.size, dtype=leaf.dtype).reshape(-1, *leaf.shape), leaf.data)
    rows = [gradients(first, leaf, [e], differentiable=nested)[0] for e in basis]
    if not nested:
        return np.reshape(np.stack(rows), leaf.shape + leaf.shape)
    places = np.reshape(basis, (-1, *leaf.shape, *(1,) * leaf.ndim))
    return sum(place * row for place, row in zip(places, rows, strict=True))  # rows put in place, differentiably


def complex_step(f, x, v, h=1e-20):
    """The derivative of ``f`` along ``v`` as ``Im f(x + i h v) / h``: no subtraction, hence no rounding to lose.

    Works because every op is analytic; f is called on a complex array and never differentiated.
    """
    _must_be_outermost("complex_step")
    return np.imag(raw(f(raw(x) + 1j * h * raw(v)))) / h


def _check_directions(xs, vs) -> None:
    if len(xs) != len(vs) or any(np.shape(raw(x)) != np.shape(raw(v)) for x, v in zip(xs, vs, strict=True)):
        raise ValueError("vs: expected one direction per argument, of the argument's shape")


def _must_be_outermost(name: str, instead: str = "") -> None:
    """Raise TypeError inside ``grad`` and its kin: an array comes out, through which no derivative could flow."""
    if watch().level:
        raise TypeError(f"{name} cannot be differentiated; call it outside of grad, jvp and their kin{instead}")


def _trace(f, xs, positions, options):
    """Run ``f`` with the arguments at ``positions`` made into leaves; its value and those leaves."""
    xs = list(xs)
    with watching(recording=True, level=watch().level + 1):
        for i in positions:
            linked = isinstance(xs[i], Tensor) and xs[i].requires_grad
            xs[i] = identity(xs[i]) if linked else Tensor(xs[i], requires_grad=True)
        value = f(*xs, **options)
    if not isinstance(value, Tensor):
        value = Tensor(value)
    return value, [xs[i] for i in positions]
