"""Curvature of a loss: its Hessian as an operator on one long vector of all parameters.

A Hessian is never written down. ``curvature(...)`` multiplies it with vectors, exactly; the algorithms of
``spectrum`` do the rest.
"""

from __future__ import annotations

import copy

import numpy as np

from tinyvit.analysis.spectrum import Eigen, top_eigenvalues
from tinyvit.autodiff.backward import gradients
from tinyvit.backend import to_numpy
from tinyvit.machine import side_by_side, useful_workers
from tinyvit.nn.module import Module, swapped

METHODS = ("reverse", "complex")


def curvature(objective, model: Module, batch: tuple, *, method: str = "reverse", dtype=np.float64,
              workers: int | None = None):  # fmt: skip
    """The Hessian of ``objective(model, batch)`` in all parameters, as a SciPy LinearOperator (P, P).

    objective  (model, batch) -> loss, as in ``tinyvit.train``
    batch      (images, labels), fixed: every product sees the same loss
    method     "reverse": the gradient's graph is built once, each product is one sweep through it;
               "complex": Im ∇L(w + i h v) / h, a third of the memory, not on a device
    dtype      the precision it is computed in
    workers    threads that several products at once, ``hessian @ vectors`` with a vector in every column, run side by
               side on; the cores there are, unless given, or one for a small model

    It works on a copy of the model, in the mode the model is in: put it in evaluation mode for a loss without noise.
    Of a model on a device products are computed there; the vectors come from the host and go back to it.
    """
    if method not in METHODS:
        raise ValueError(f"method: expected one of {METHODS}, got {method!r}")
    if model.training:
        raise ValueError("model: noise would change the loss from product to product; call model.eval() first")
    from scipy.sparse.linalg import LinearOperator

    images, labels = map(model.bring, batch)
    frozen = copy.deepcopy(model).astype(dtype)
    product = {"reverse": _by_reverse, "complex": _by_complex}[method]
    n = sum(p.size for p in frozen.parameters())
    matvec = product(objective, frozen, (images.astype(dtype), labels))

    def multiply(v):
        return to_numpy(matvec(frozen.bring(np.ravel(v).astype(dtype))))

    def multiply_all(vectors):
        if method == "complex" or frozen.on_device:  # it swaps parameters, or it is parallel by itself
            return np.stack([multiply(v) for v in vectors.T], axis=1)
        return np.stack(side_by_side(multiply, list(vectors.T), workers or useful_workers(n)), axis=1)

    return LinearOperator((n, n), matvec=multiply, matmat=multiply_all, dtype=dtype)


def leading_eigenvalue(objective, model, batch, *, rng: np.random.Generator, tol: float = 1e-2, **options) -> Eigen:
    """λmax of the loss's Hessian (the largest, by sign not by size), its eigenvector and residual ‖Hv - λv‖.

    Compare two models at the same training loss only: as the loss goes to zero, so does the curvature.
    """
    return top_eigenvalues(curvature(objective, model, batch, **options), tol=tol, basis=8, rng=rng)


def _by_reverse(objective, model, batch):
    """∇(∇L · v), with the graph of ∇L kept."""
    parameters = model.parameters()
    first = gradients(objective(model, batch), parameters, differentiable=True)
    dependent = [(g, i) for i, g in enumerate(first) if g.requires_grad]

    def matvec(v):
        parts = unflatten(v, parameters)
        return flatten(gradients([g for g, _ in dependent], parameters, [parts[i] for _, i in dependent]))

    return matvec


def _by_complex(objective, model, batch, h: float = 1e-20):
    """The imaginary part of the gradient a tiny imaginary step away."""
    named = dict(model.named_parameters())

    def matvec(v):
        steps = zip(named.items(), unflatten(v, named.values()), strict=True)
        with swapped(model, {name: p.data + 1j * h * part for (name, p), part in steps}):
            return flatten([np.imag(g) / h for g in gradients(objective(model, batch), named.values())])

    return matvec


def flatten(arrays) -> np.ndarray:
    """Arrays as one vector."""
    return np.concatenate([np.ravel(a) for a in arrays])


def unflatten(vector: np.ndarray, like) -> list[np.ndarray]:
    """A vector cut into arrays of the shapes of ``like``."""
    like = list(like)
    cuts = np.cumsum([x.size for x in like])[:-1].tolist()
    return [part.reshape(x.shape) for part, x in zip(np.split(vector, cuts), like, strict=True)]
