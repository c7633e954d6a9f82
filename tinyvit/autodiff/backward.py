"""The reverse sweep: cotangents flow from the outputs to the inputs, youngest Tensor first."""

from __future__ import annotations

import time

import numpy as np

from tinyvit.autodiff.broadcast import sum_to
from tinyvit.autodiff.op import primitive
from tinyvit.autodiff.tensor import Tensor, raw
from tinyvit.autodiff.watch import watch, watching
from tinyvit.backend import is_array, like


@primitive
def identity(x):
    """``x`` itself, as a Tensor of its own: f(x, x) then has two inputs with a cotangent each."""
    return x


@identity.pullback
def _(g, out, x):
    return (g,)


def gradients(outputs, inputs, cotangents=None, *, differentiable=False) -> list:
    """Derivatives of ``Σ outputs · cotangents`` with respect to ``inputs``.

    outputs         a Tensor or a list of them
    inputs          a Tensor or a list of them, leaves or inner values
    cotangents      one array per output, of its shape; may be left out for outputs of one number (ones)
    differentiable  return Tensors that can be differentiated again, instead of arrays

    Returns a list with one derivative per input, of the input's shape; zeros where nothing depends on it.
    Raises TypeError for inputs that record no derivatives, ValueError for missing or mis-shaped cotangents.
    """
    outputs, inputs = _tensors(outputs, "outputs"), _tensors(inputs, "inputs")
    for i, x in enumerate(inputs):
        if not x.requires_grad:
            raise TypeError(f"inputs[{i}] does not require gradients; make it with Tensor(x, requires_grad=True)")
    seeds = _seeds(outputs, cotangents, differentiable)
    arrived = _sweep(outputs, seeds, {id(x) for x in inputs}, differentiable)
    results = [arrived.get(id(x)) for x in inputs]
    if differentiable:
        return [Tensor(np.zeros_like(x.data)) if c is None else c for x, c in zip(inputs, results, strict=True)]
    given: set = set()
    return [np.zeros_like(x.data) if c is None else _unshared(c, given) for x, c in zip(inputs, results, strict=True)]


def _sweep(outputs, seeds, wanted: set, differentiable: bool) -> dict:
    """Cotangents by the identity of the Tensor they arrived at, for the Tensors in ``wanted``."""
    path = _path(outputs, wanted)
    arrived: dict = {}
    ours: set = set()  # Tensors whose cotangent we allocated ourselves, and so may add into
    for out, seed in zip(outputs, seeds, strict=True):
        _arrive(arrived, ours, out, seed, differentiable)
    listeners = watch().listeners
    with watching(recording=differentiable, listeners=()):
        for key, node in reversed(path.items()):
            g = arrived.get(key) if key in wanted else arrived.pop(key, None)
            if g is None or node.op is None:
                continue
            start = time.perf_counter()
            for x, c in zip(node.inputs, _pull(node, g, differentiable), strict=False):
                if c is not None and id(x) in path:
                    _arrive(arrived, ours, x, c() if callable(c) else c, differentiable)
            seconds = time.perf_counter() - start
            for listener in listeners:
                listener.pulled(node, seconds)
    return arrived


def _path(outputs, wanted: set) -> dict:
    """The Tensors between the outputs and the wanted inputs, oldest first, by identity."""
    path: dict = {}
    for node in ancestors(outputs):
        if id(node) in wanted or any(id(x) in path for x in node.inputs):
            path[id(node)] = node
    return path


def ancestors(outputs) -> list:
    """Every Tensor that the outputs were made from and that records derivatives, oldest first.

    A Tensor is younger than what it was made from, so sorting by birth *is* the topological order.
    """
    seen: dict = {}
    stack = list(outputs)
    while stack:
        node = stack.pop()
        if id(node) not in seen and node.requires_grad:
            seen[id(node)] = node
            stack.extend(x for x in node.inputs if isinstance(x, Tensor))
    return sorted(seen.values(), key=lambda node: node.birth)


def _pull(node, g, differentiable: bool):
    """Cotangents of a node's inputs, given its own.

    On arrays: the kernel's own pullback, or the op's rule. On Tensors: the op's rule, or else the equation is
    read again and *that* is differentiated; what a kernel kept never enters a second derivative.
    """
    op = node.op
    if op.rule is not None and differentiable:
        cotangents = op.rule(g, node, *node.inputs, **node.options)
    elif differentiable:
        cotangents = _reread(node, g)
    elif node.residual is not None:
        cotangents = node.residual(g)
    else:
        cotangents = op.rule(g, node.data, *(raw(x) for x in node.inputs), **node.options)
    if not isinstance(cotangents, tuple | list):
        raise TypeError(f"{op.name}: its pullback must return a tuple, one cotangent per input: a comma is missing?")
    # a kernel may answer for optional inputs that were not given, never for fewer than were
    if len(cotangents) < len(node.inputs):
        raise ValueError(f"{op.name}: its pullback gave {len(cotangents)} cotangents for {len(node.inputs)} inputs")
    return cotangents


def _reread(node, g):
    """The derivative of a node's equation, derived by reading it again on fresh inputs."""
    op = node.op
    fresh = [identity(x) if isinstance(x, Tensor) else x for x in node.inputs]
    again = op.function(*fresh, **node.options)
    asked = [x for x in fresh if isinstance(x, Tensor) and x.requires_grad]
    derived = dict(zip(map(id, asked), gradients(again, asked, [g], differentiable=True), strict=True))
    return [derived.get(id(x)) for x in fresh]


def _arrive(arrived: dict, ours: set, x: Tensor, c, differentiable: bool) -> None:
    """Add a cotangent to what has arrived at ``x``, undoing broadcasting and keeping x's precision."""
    if c.shape != x.shape:
        c = sum_to(c, shape=x.shape)
    if c.dtype != x.dtype and c.dtype.kind == "f" == x.dtype.kind:
        c = c.astype(x.dtype)
    key, before = id(x), arrived.get(id(x))
    if before is None:
        arrived[key] = c
    elif not differentiable and key in ours and before.dtype == c.dtype and c.shape:
        np.add(before, c, out=before)
    else:
        arrived[key] = before + c
        ours.add(key)


def _unshared(c, given: set):
    """The caller may write into what it is given, so a view, or an array that is given twice, is copied."""
    if getattr(c, "base", None) is not None or id(c) in given:
        return c.copy()
    given.add(id(c))
    return c


def _tensors(xs, name: str) -> list:
    """One Tensor or several, as a list."""
    xs = [xs] if isinstance(xs, Tensor) else list(xs)
    if wrong := [type(x).__name__ for x in xs if not isinstance(x, Tensor)]:
        raise TypeError(f"{name}: expected a Tensor or a list of Tensors, found {wrong[0]}")
    return xs


def _seeds(outputs, cotangents, differentiable: bool) -> list:
    """The cotangents to start from, one per output, checked."""
    if cotangents is None:
        if wrong := [out.shape for out in outputs if out.size != 1]:
            raise ValueError(
                f"cotangents: needed for an output of shape {wrong[0]}; only a single number can do without"
            )
        seeds = [np.ones_like(out.data) for out in outputs]
    else:
        seeds = [cotangents] if isinstance(cotangents, Tensor) or hasattr(cotangents, "shape") else list(cotangents)
    if len(seeds) != len(outputs):
        raise ValueError(f"cotangents: expected one per output ({len(outputs)}), got {len(seeds)}")
    for i, (out, seed) in enumerate(zip(outputs, seeds, strict=True)):
        if np.shape(raw(seed)) != out.shape:
            raise ValueError(f"cotangents[{i}]: expected shape {out.shape}, got {np.shape(raw(seed))}")
    if differentiable:
        return [seed if isinstance(seed, Tensor) else Tensor(_seed(seed, out.data))
                for seed, out in zip(seeds, outputs, strict=True)]  # fmt: skip
    return [_seed(raw(seed), out.data) for seed, out in zip(seeds, outputs, strict=True)]


def _seed(seed, like_out):
    """A cotangent in its output's library and precision: a copy, never sharing memory with what was given."""
    seed = seed * 1 if is_array(seed) else like(seed, like_out)
    return seed if seed.dtype.kind == "c" else seed.astype(like_out.dtype, copy=False)


def backward(loss: Tensor) -> None:
    """Leave the gradient of ``loss`` in ``.grad`` of every leaf it depends on.

    Sugar for readers who come from PyTorch. It *sets* ``.grad`` (there is nothing to zero); ``gradients`` is
    the function underneath.
    """
    leaves = [x for x in ancestors([loss]) if x.op is None]
    for leaf, g in zip(leaves, gradients(loss, leaves), strict=True):
        leaf.grad = g


Tensor.backward = backward
