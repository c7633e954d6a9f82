"""The spectrum of a symmetric operator that can only be multiplied with vectors.

Nothing here knows a network. An operator H is a real, symmetric SciPy `LinearOperator` of shape
(n, n), or anything SciPy can make one of (a matrix will do). The Hessian of a million parameters is
such an operator: its products with vectors are cheap, its entries are never formed. All randomness
comes from the generator that the caller hands in.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

# SciPy is imported in the functions: it would double the time that `import tinyvit` takes.
if TYPE_CHECKING:
    from scipy.sparse.linalg import LinearOperator


class Eigen(NamedTuple):
    """Eigenpairs and how well they fit.

    values: (k,), vectors: (n, k), residuals: (k,) with ‖H v − θ v‖ for each pair. Some eigenvalue
    of a symmetric H lies within the residual of θ: it is an error bound, not an estimate.
    """

    values: np.ndarray
    vectors: np.ndarray
    residuals: np.ndarray


class Tridiagonal(NamedTuple):
    """What Lanczos found: H seen from a Krylov space, T = QᵀHQ.

    diagonal: (m,), off_diagonal: (m−1,), basis: (n, m), the orthonormal columns of Q.
    """

    diagonal: np.ndarray
    off_diagonal: np.ndarray
    basis: np.ndarray


class Density(NamedTuple):
    """A distribution of eigenvalues as points: nodes (r,) and weights (r,) that sum to 1."""

    nodes: np.ndarray
    weights: np.ndarray


class Estimate(NamedTuple):
    """A mean of random samples and its standard error (NaN for a single sample)."""

    value: float
    error: float


SIDE_BY_SIDE = 16  # vectors that are multiplied at once, and so are in memory together

# Which end of the spectrum comes first, for each of SciPy's names for it.
_FIRST = {"LA": np.negative, "SA": np.positive, "LM": lambda values: -np.abs(values)}


def top_eigenvalues(
    operator: LinearOperator,
    k: int = 1,
    *,
    which: str = "LA",
    tol: float = 1e-3,
    basis: int | None = None,
    rng: np.random.Generator,
) -> Eigen:
    """The k eigenvalues at one end of the spectrum, by implicitly restarted Lanczos.

    `which` is "LA" for the largest (λmax), "SA" for the smallest (most negative), "LM" for the
    largest in modulus; the first in that order comes first. `tol` is relative to the eigenvalue.
    `basis` is how many Lanczos vectors it keeps between restarts: max(2k + 1, 20) unless given, and
    at least so many products with H are taken, plus k for the residuals. Fewer are enough for a λmax
    that stands apart.

    Source: Lehoucq, Sorensen and Yang 1998 (ARPACK), through `scipy.sparse.linalg.eigsh`.

    An operator of at most 20 rows, or of which all eigenvalues are wanted, is written out instead.

    Raises ValueError for k outside [1, n] or an unknown `which`; SciPy's ArpackNoConvergence.
    """
    from scipy.sparse.linalg import eigsh

    operator = _operator(operator)
    size = operator.shape[0]
    if not 1 <= k <= size:
        raise ValueError(f"k: expected 1 <= k <= {size} (the size of the operator), got {k}")
    if which not in _FIRST:
        raise ValueError(f"which: expected one of {sorted(_FIRST)}, got {which!r}")
    start = _generator(rng).standard_normal(size)
    if size <= 20 or k == size:
        matrix = operator.matmat(np.eye(size))
        values, vectors = np.linalg.eigh((matrix + matrix.T) / 2)
        order = np.argsort(_FIRST[which](values), kind="stable")[:k]
        return Eigen(values[order], vectors[:, order], _residuals(operator, values[order], vectors[:, order]))
    # ARPACK draws again when it meets an invariant subspace. Newer SciPy lets us say from where; with
    # older ones the vectors of a repeated eigenvalue can differ from call to call.
    seeded = {"rng": rng} if "rng" in inspect.signature(eigsh).parameters else {}
    values, vectors = eigsh(operator, k, which=which, tol=tol, ncv=basis, v0=start, **seeded)
    order = np.argsort(_FIRST[which](values), kind="stable")
    values, vectors = values[order], vectors[:, order]
    return Eigen(values, vectors, _residuals(operator, values, vectors))


def power_iteration(
    operator: LinearOperator,
    *,
    tol: float = 1e-3,
    max_steps: int = 1000,
    rng: np.random.Generator,
) -> Eigen:
    """The eigenvalue of largest *modulus*, by v ← H v / ‖H v‖.

    It may be a negative one: for the largest use `top_eigenvalues`. The error of θ = vᵀHv shrinks
    by (λ₂/λ₁)² a step. Stops when ‖H v − θ v‖ <= tol |θ|, because a small change of θ proves
    nothing: θ can rest for many steps on a wrong eigenvalue. Returns one pair: values (1,), vectors
    (n, 1).

    Raises RuntimeError when `max_steps` products did not get there (two eigenvalues of nearly the
    same modulus, such as ±λ), ValueError for fewer than one step.
    """
    if max_steps < 1:
        raise ValueError(f"max_steps: expected at least one, got {max_steps}")
    operator = _operator(operator)
    vector = _generator(rng).standard_normal(operator.shape[0])
    vector /= np.linalg.norm(vector)
    for _ in range(max_steps):
        image = operator.matvec(vector)
        value = vector @ image
        residual = np.linalg.norm(image - value * vector)
        if residual <= tol * abs(value):
            return Eigen(np.array([value]), vector[:, None], np.array([residual]))
        vector = image / np.linalg.norm(image)
    raise RuntimeError(
        f"power iteration: residual {residual:.3g} at eigenvalue {value:.6g} after {max_steps} "
        f"steps, expected at most {tol * abs(value):.3g}; top_eigenvalues converges faster"
    )


def lanczos(operator: LinearOperator, start: np.ndarray, steps: int) -> Tridiagonal:
    """Lanczos with full re-orthogonalisation: T = QᵀHQ from at most `steps` products with H.

    start: (n,), the first column of Q up to its length. In exact arithmetic H q_j only reaches
    q_(j−1), q_j and q_(j+1); rounding lets the others back in, so they are all projected out, and
    twice, which is enough (Parlett 1998). Returns fewer steps when the Krylov space of `start` is
    exhausted: the eigenvalues of T are then eigenvalues of H.

    Raises ValueError for a zero or mis-shaped start, or fewer than one step.
    """
    operator = _operator(operator)
    size = operator.shape[0]
    vector = np.asarray(start)
    length = np.linalg.norm(vector)
    if vector.shape != (size,) or not length > 0:
        raise ValueError(f"start: expected a non-zero vector of shape ({size},), got {start!r}")
    if steps < 1:
        raise ValueError(f"steps: expected at least one, got {steps}")
    rounding = (10 + np.sqrt(size)) * np.finfo(np.result_type(operator.dtype, np.float32)).eps
    basis, diagonal, off_diagonal, scale = [vector / length], [], [], 0.0
    while True:
        image = operator.matvec(basis[-1])
        scale = max(scale, np.linalg.norm(image))
        diagonal.append(basis[-1] @ image)
        known = np.stack(basis)
        for _ in range(2):
            image = image - known.T @ (known @ image)
        length = np.linalg.norm(image)
        if len(basis) == min(steps, size) or length <= rounding * scale:
            return Tridiagonal(np.array(diagonal), np.array(off_diagonal), known.T)
        off_diagonal.append(length)
        basis.append(image / length)


def spectral_density(
    operator: LinearOperator, *, steps: int = 40, starts: int = 10, rng: np.random.Generator
) -> Density:
    """How many eigenvalues lie where, by stochastic Lanczos quadrature.

    Each of the `starts` random sign vectors gives m = `steps` nodes Θ (the eigenvalues of its T)
    and weights S₀² (the first components of T's eigenvectors, squared): a Gauss quadrature of the
    start's spectral measure, exact for polynomials of degree up to 2m − 1. Their mean estimates
    the distribution of the eigenvalues, in which each counts 1/n. Draw it with `smoothed`.

    Source: Lin, Saad and Yang 2016; for networks Ghorbani et al. 2019, Yao et al. 2020.

    Raises ValueError for fewer than one start.
    """
    operator = _operator(operator)
    if starts < 1:
        raise ValueError(f"starts: expected at least one, got {starts}")
    rules = [_quadrature(lanczos(operator, _signs(operator, rng), steps)) for _ in range(starts)]
    nodes, weights = map(np.concatenate, zip(*rules, strict=True))
    return Density(nodes, weights / starts)


def smoothed(
    density: Density,
    *,
    width: float | None = None,
    linear: float | None = None,
    grid: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """A density as a curve, Σ w N(t; Θ, σ²): every node becomes a Gaussian.

    density: nodes and weights (r,)  ->  grid (g,), values (g,)

    As it is usually drawn, σ = `width` is the same everywhere (default: 2 % of the range of the
    nodes). That hides the bulk of a Hessian's spectrum, which is far narrower than 2 % of λmax.
    With `linear`, σ = width · max(linear, |Θ|) instead (width default: 0.1), about the same
    everywhere on an axis that is linear up to `linear` and logarithmic beyond. The default grid has
    1000 points, evenly spaced on the axis meant, and reaches 4 σ beyond the nodes.

    Raises ValueError for a `width` or `linear` that is not positive.
    """
    nodes, weights = density
    low, high = nodes.min(), nodes.max()
    if width is None:  # a single eigenvalue has no range
        width = 0.1 if linear else 0.02 * (high - low) or 0.02 * abs(high) or 1.0
    for name, value in (("width", width), ("linear", 1.0 if linear is None else linear)):
        if not value > 0:
            raise ValueError(f"{name}: expected a positive number, got {value}")
    sigma = np.broadcast_to(width, nodes.shape)
    if linear is not None:
        sigma = width * np.maximum(linear, np.abs(nodes))
    if grid is None:
        ends = np.min(nodes - 4 * sigma), np.max(nodes + 4 * sigma)
        grid = np.linspace(*ends, 1000)
        if linear is not None:
            grid = linear * np.sinh(np.linspace(*np.arcsinh(np.divide(ends, linear)), 1000))
    grid = np.asarray(grid)
    z = (grid[:, None] - nodes) / sigma  # (g, r)
    return grid, np.exp(-(z**2) / 2) @ (weights / (sigma * np.sqrt(2 * np.pi)))


def trace(operator: LinearOperator, *, samples: int = 100, rng: np.random.Generator) -> Estimate:
    """The trace, estimated by the mean of zᵀHz over random sign vectors z, with its standard error.

    Unbiased; the variance of one sample is 2 (‖H‖_F² − Σ H_ii²), so a diagonal H needs only one.

    Source: Hutchinson 1990 (random signs are also called Rademacher variables).

    Raises ValueError for fewer than one sample.
    """
    operator = _operator(operator)
    if samples < 1:
        raise ValueError(f"samples: expected at least one, got {samples}")
    return _mean(np.concatenate([_forms(operator, z) for z in _blocks_of_signs(operator, samples, rng)]))


def hutch_plus_plus(operator: LinearOperator, *, products: int = 30, rng: np.random.Generator) -> Estimate:
    """The trace from m = `products`: exactly where H is large, by random signs on the rest.

        tr H ≈ tr(QᵀHQ) + 3/m tr(GᵀPHPG),   Q = orth(HS),   P = I − QQᵀ

    S and G are m/3 random sign vectors each. For a spectrum that falls off fast (like that of a trained network) far
    more precise than `trace`: its error falls like 1/m, not 1/√m, for a positive semi-definite H. The standard error is
    that of the random part.

    Source: Meyer, Musco, Musco and Woodruff 2021, Algorithm 1.

    Raises ValueError for fewer than three products.
    """
    operator = _operator(operator)
    each = min(products // 3, operator.shape[0])
    if each < 1:
        raise ValueError(f"products: expected at least three, got {products}")
    sketch, probes = (np.stack([_signs(operator, rng) for _ in range(each)], axis=1) for _ in range(2))
    basis, _ = np.linalg.qr(operator.matmat(sketch))
    probes = probes - basis @ (basis.T @ probes)
    rest = _mean(_forms(operator, probes))
    return Estimate(float(np.sum(_forms(operator, basis))) + rest.value, rest.error)


@contextmanager
def ticking(operator: LinearOperator, name: str | None) -> Iterator[LinearOperator]:
    """The same operator, with a progress bar that counts its products under a name; silent without one.

    `products` of what it yields is how many there were.
    """
    from scipy.sparse.linalg import LinearOperator
    from tqdm import tqdm

    with tqdm(desc=name, disable=None if name else True, unit="product", leave=False, dynamic_ncols=True) as bar:

        def multiply(vectors):
            product = operator @ vectors
            columns = vectors.size // operator.shape[0]
            counted.products += columns
            bar.update(columns)
            return product

        counted = LinearOperator(operator.shape, matvec=multiply, matmat=multiply, dtype=operator.dtype)
        counted.products = 0
        if hasattr(operator, "protocol"):
            counted.protocol = operator.protocol
        yield counted


# --------------------------------------------------------------------------------------------------
# Parts
# --------------------------------------------------------------------------------------------------


def _residuals(operator: LinearOperator, values: np.ndarray, vectors: np.ndarray) -> np.ndarray:
    return np.linalg.norm(operator.matmat(vectors) - values * vectors, axis=0)


def _forms(operator: LinearOperator, vectors: np.ndarray) -> np.ndarray:
    """vᵀHv for every column v."""
    return np.einsum("ij,ij->j", vectors, operator.matmat(vectors))


def _mean(samples: np.ndarray) -> Estimate:
    error = np.std(samples, ddof=1) / np.sqrt(len(samples)) if len(samples) > 1 else np.nan
    return Estimate(float(np.mean(samples)), float(error))


def _blocks_of_signs(operator: LinearOperator, samples: int, rng: np.random.Generator):
    """Random sign vectors as the columns of a few at a time: they may be multiplied side by side."""
    for start in range(0, samples, SIDE_BY_SIDE):
        yield np.stack([_signs(operator, rng) for _ in range(start, min(start + SIDE_BY_SIDE, samples))], axis=1)


def _quadrature(seen: Tridiagonal) -> tuple[np.ndarray, np.ndarray]:
    """Nodes and weights of the Gauss rule of a tridiagonal matrix (Golub and Welsch 1969)."""
    from scipy.linalg import eigh_tridiagonal

    nodes, vectors = eigh_tridiagonal(seen.diagonal, seen.off_diagonal)
    return nodes, vectors[0] ** 2


def _signs(operator: LinearOperator, rng: np.random.Generator) -> np.ndarray:
    return _generator(rng).choice([-1.0, 1.0], size=operator.shape[0])


def _operator(operator: LinearOperator) -> LinearOperator:
    from scipy.sparse.linalg import aslinearoperator

    operator = aslinearoperator(operator)
    if operator.shape[0] != operator.shape[1]:
        raise ValueError(f"operator: expected shape (n, n), got {operator.shape}")
    if np.issubdtype(operator.dtype, np.complexfloating):
        raise ValueError(f"operator: expected real numbers, got {operator.dtype}")
    return operator


def _generator(rng: np.random.Generator) -> np.random.Generator:
    if not isinstance(rng, np.random.Generator):
        raise TypeError(f"rng: expected a numpy.random.Generator, got {type(rng).__name__}")
    return rng
