"""Curvature of a loss, as an operator on one long vector of parameters.

    H = ∇²L                                            ``curvature``         the Hessian
    G = 1/N Σᵢ Jᵢᵀ (∇²ℓᵢ) Jᵢ                           ``gauss_newton``      H without the curvature of the network
    F = 1/N Σᵢ gᵢ gᵢᵀ,   gᵢ = ∇ℓᵢ = Jᵢᵀ ∂ℓᵢ/∂zᵢ        ``empirical_fisher``

(L = 1/N Σ ℓᵢ over samples, z the model's outputs, J their Jacobian.) None of them is ever written down: an operator
multiplies with vectors, exactly, and the algorithms of ``spectrum`` do the rest. Where a few parameters are looked at,
``dense(operator)`` is the matrix. A product with H costs 1.8 to 2.9 gradients, with G or F 1.0 to 1.8 (measured);
``operator @ vectors`` shares the columns out over the cores, which saves a model of a million parameters a fifth to a
third on two of them.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial

import numpy as np

from tinyvit.analysis.spectrum import top_eigenvalues
from tinyvit.analysis.surface import Protocol, Surface, flatten
from tinyvit.autodiff.backward import gradients
from tinyvit.autodiff.tensor import Tensor
from tinyvit.autodiff.watch import watch
from tinyvit.backend import to_numpy
from tinyvit.machine import side_by_side, useful_workers
from tinyvit.nn.module import Module, swapped

METHODS = ("reverse", "complex")


# the operators ------------------------------------------------------------------------------------


def curvature(
    objective, model: Module, batch: tuple, *, method: str = "reverse", workers: int | None = None, **options
):
    """The Hessian of ``objective(model, batch)``, as a SciPy LinearOperator (P, P).

    objective  (model, batch) -> loss, as in ``tinyvit.train``
    batch      (images, labels), fixed: every product sees the same loss
    method     "reverse": the gradient's graph is built once, each product is one sweep through it (Pearlmutter 1994);
               "complex": Im ∇L(w + i h v) / h, a third of the memory, not on a device
    workers    threads that several products at once, ``hessian @ vectors`` with a vector in every column, run side by
               side on; the cores there are, unless given, or one for a small model
    options    of ``Surface``: names, a pattern of the parameters that are moved; chunk, how many samples' graph is in
               memory at a time (it is then built again for every product); dtype, the precision, float64 unless given

    It works on a copy of the model, in the mode the model is in: put it in evaluation mode for a loss without noise.
    Of a model on a device products are computed there; the vectors come from the host and go back to it. The operator's
    ``protocol()`` says what was measured.
    """
    if method not in METHODS:
        raise ValueError(f"method: expected one of {METHODS}, got {method!r}")
    surface = Surface(objective, model, batch, **options)
    if method == "complex":  # it swaps parameters: one product at a time
        return _operator(surface, "hessian", _by_complex, workers=1)
    return _operator(surface, "hessian", _by_reverse, workers)


def gauss_newton(objective, model: Module, batch: tuple, *, workers: int | None = None, **options):
    """``G = 1/N Σ Jᵀ (∇²ℓ) J``: positive semi-definite, near a minimum almost H (Schraudolph 2002).

    For cross-entropy ∇²ℓ = diag p - ppᵀ, and G is the Fisher matrix, with labels drawn from the model. Arguments as of
    ``curvature``; the objective must be a function of ``model(images)``, one array whose first axis is the samples.
    """
    return _operator(Surface(objective, model, batch, **options), "gauss-newton", partial(_by_outputs, _bend), workers)


def empirical_fisher(objective, model: Module, batch: tuple, *, workers: int | None = None, **options):
    """``F = 1/N Σ gᵢ gᵢᵀ``, gᵢ the gradient of sample i's loss at its own label (Kunstner et al. 2019).

    Arguments as of ``gauss_newton``. It is not the Fisher matrix, whose labels are drawn from the model.
    """
    return _operator(Surface(objective, model, batch, **options), "fisher", partial(_by_outputs, _outer), workers)


def dense(operator) -> np.ndarray:
    """The matrix of an operator (P, P), from P products. For a few thousand parameters."""
    return operator @ np.eye(operator.shape[0])


def _operator(surface: Surface, matrix: str, make, workers):
    """The LinearOperator whose products are the mean of those that ``make(surface, part)`` gives for every part."""
    from scipy.sparse.linalg import LinearOperator

    threads = 1 if surface.model.on_device else workers or useful_workers(surface.model.num_parameters())
    kept = make(surface, surface.parts[0]) if len(surface.parts) == 1 else None

    def multiplied(product, vectors):
        def multiply(v):
            return to_numpy(flatten(product(surface.split(v))))

        return np.stack(side_by_side(multiply, list(vectors.T), 1 if watch().listeners else threads), axis=1)

    def multiply_all(vectors):
        return sum(part.share * multiplied(kept or make(surface, part), vectors) for part in surface.parts)

    def multiply_one(v):
        return multiply_all(np.reshape(v, (-1, 1)))[:, 0]

    symmetric = {"matvec": multiply_one, "rmatvec": multiply_one, "matmat": multiply_all}
    operator = LinearOperator((surface.size,) * 2, **symmetric, dtype=surface.dtype)
    operator.protocol = partial(surface.protocol, matrix)
    return operator


def _by_reverse(surface: Surface, part):
    """∇(∇L · v), with the graph of ∇L kept."""
    first = gradients(surface.part_loss(part), surface.parameters, differentiable=True)
    return _pulled(first, surface.parameters)


def _by_complex(surface: Surface, part, h: float = 1e-20):
    """The imaginary part of the gradient a tiny imaginary step away."""

    def product(vectors):
        steps = zip(surface.named.items(), vectors, strict=True)
        with swapped(surface.model, {name: p.data + 1j * h * v for (name, p), v in steps}):
            return [np.imag(g) / h for g in gradients(surface.part_loss(part), surface.parameters)]

    return product


def _by_outputs(middle, surface: Surface, part):
    """Jᵀ M J, with M = ``middle(loss, z)`` a matrix on the outputs; J v is the derivative of Jᵀu in u, applied to v."""
    with surface.noise(part):
        outputs = surface.model(part.batch[0])
    if not isinstance(outputs, Tensor):
        raise TypeError(f"model: expected one array of outputs, got a {type(outputs).__name__}")
    u = Tensor(np.zeros_like(outputs.data), requires_grad=True)
    forward = _pulled(gradients(outputs, surface.parameters, [u], differentiable=True), [u])
    z = Tensor(outputs.data, requires_grad=True)
    try:
        loss = surface.objective(lambda *_: z, part.batch)
    except AttributeError as error:
        raise TypeError(f"objective: expected one that asks only for model(images): {error}") from error
    times = middle(loss, z)
    return lambda vectors: gradients(outputs, surface.parameters, [times(forward(vectors)[0])])


def _bend(loss, z):
    """The loss's Hessian in the outputs."""
    times = _pulled(gradients(loss, [z], differentiable=True), [z])
    return lambda t: times([t])[0]


def _outer(loss, z):
    """1/N Σ sᵢ sᵢᵀ, with sᵢ the derivative of sample i's loss in its outputs."""
    s = len(z) * gradients(loss, z)[0]
    return lambda t: s * np.sum(s * t, axis=tuple(range(1, s.ndim)), keepdims=True) / len(s)


def _pulled(outputs: list, inputs: list):
    """The derivative of Σ outputs · v in the inputs, as a function of v."""
    dependent = [(y, i) for i, y in enumerate(outputs) if y.requires_grad]
    if not dependent:
        return lambda v: [np.zeros_like(x.data) for x in inputs]
    return lambda v: gradients([y for y, _ in dependent], inputs, [v[i] for _, i in dependent])


# eigenvalues with their protocol ------------------------------------------------------------------


@dataclass(frozen=True)
class Leading:
    """An eigenvalue at one end of the spectrum, and how it was measured.

    residual  ‖Hv - λv‖: some eigenvalue lies within it of ``value``
    vector    (P,), of length 1
    """

    value: float
    residual: float
    protocol: Protocol
    vector: np.ndarray = field(repr=False)


class UnmatchedProtocol(UserWarning):
    """Two curvatures are compared that were measured under different conditions."""


def leading(operator, *, which: str = "LA", tol: float = 1e-2, rng: np.random.Generator) -> Leading:
    """λmax of an operator of this file: the largest by sign, not by size. With ``which="SA"`` λmin, the most negative.

    Compare two models at the same training loss only (``compare``): as the loss goes to zero, so does the curvature.
    """
    found = top_eigenvalues(operator, which=which, tol=tol, basis=min(8, operator.shape[0]), rng=rng)
    return Leading(float(found.values[0]), float(found.residuals[0]), operator.protocol(), found.vectors[:, 0])


def leading_eigenvalue(objective, model: Module, batch: tuple, *, rng: np.random.Generator, which: str = "LA",
                       tol: float = 1e-2, operator=curvature, **options) -> Leading:  # fmt: skip
    """``leading`` of the loss's Hessian, or of another ``operator`` of this file, which has the further options."""
    return leading(operator(objective, model, batch, **options), which=which, tol=tol, rng=rng)


def block_eigenvalues(objective, model: Module, batch: tuple, blocks: Mapping | None = None, *,
                      rng: np.random.Generator, **options) -> dict[str, Leading]:  # fmt: skip
    """λmax of every diagonal block of the Hessian: how sharp the loss is when one module alone moves.

    blocks  name -> pattern of parameters; by ``modules_of`` unless given. None of them exceeds the λmax of the whole.
    """
    blocks = modules_of(model) if blocks is None else blocks
    return {name: leading_eigenvalue(objective, model, batch, names=pattern, rng=rng, **options)
            for name, pattern in blocks.items()}  # fmt: skip


def modules_of(model: Module) -> dict[str, tuple[str, ...]]:
    """The model's own children with parameters, members of its lists one by one: name -> patterns of parameters."""
    found: dict[str, tuple[str, ...]] = {}
    for name, _ in model.named_parameters():
        first, second, *_ = [*name.split("."), ""]
        child = f"{first}.{second}" if second.isdecimal() else first
        found[child] = (child, f"{child}.*")
    return found


def compare(first: Leading, second: Leading, *, within: float = 0.1) -> float:
    """How many times sharper the first is than the second.

    Warns of UnmatchedProtocol where the ratio says little: the losses differ by more than the share ``within``, or the
    modes, matrices or precisions differ.
    """
    one, other = first.protocol, second.protocol
    unlike = [name for name in ("matrix", "mode", "dtype", "samples", "data") if
              getattr(one, name) != getattr(other, name)]  # fmt: skip
    if abs(one.loss - other.loss) > within * max(abs(one.loss), abs(other.loss)):
        unlike.insert(0, "loss")
    if unlike:
        told = ", ".join(f"{name} {getattr(one, name)!s:.8} and {getattr(other, name)!s:.8}" for name in unlike)
        warnings.warn(f"curvatures measured under different conditions: {told}", UnmatchedProtocol, stacklevel=2)
    return first.value / second.value
