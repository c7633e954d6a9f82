"""How much the loss can rise, or does on average, near the weights w.

Every measure takes an objective, a model and fixed data, as ``curvature`` does, with its options (``names``, ``chunk``,
``dtype``), and leaves the model alone. Unlike an eigenvalue none is a property of the Hessian alone: each has a radius.
"""

from __future__ import annotations

import numpy as np

from tinyvit.analysis.spectrum import Estimate
from tinyvit.analysis.surface import Surface
from tinyvit.nn.module import Module


def epsilon_sharpness(objective, model: Module, batch: tuple, *, epsilon: float = 1e-3, subspace: int | None = None,
                      iterations: int = 10, rng: np.random.Generator, **options) -> float:  # fmt: skip
    """``φ = 100 (max_{z∈C} L(w + Az) - L(w))/(1 + L(w))``, C = {z: |zᵢ| ≤ ε(|(A⁺w)ᵢ| + 1)}.

    A is the identity or, with ``subspace`` = p, a random Gaussian P × p. The maximum is sought by L-BFGS-B, from a
    random point of the box (at a minimum the gradient is zero). What is returned is therefore a lower bound.

    Source: Keskar et al. 2017, Metric 2.1, who use ε = 1e-3 and 5e-4, p = 100 and ten iterations.
    """
    from scipy.optimize import minimize

    _positive("epsilon", epsilon)
    surface = Surface(objective, model, batch, **options)
    w, at_w = surface.w, surface.loss()
    A = None if subspace is None else rng.standard_normal((surface.size, subspace))
    z_of_w = w if A is None else np.linalg.lstsq(A, w, rcond=None)[0]
    half = epsilon * (np.abs(z_of_w) + 1)  # of the box's sides; L-BFGS-B sees the box as [-1, 1]ᵖ

    def fall(u, unit=1.0):
        loss, g = surface.gradient(w + (half * u if A is None else A @ (half * u)))
        return (at_w - loss) / unit, -half * (g if A is None else A.T @ g) / unit

    start = rng.uniform(-1, 1, half.size)
    unit = float(np.mean(np.abs(fall(start)[1]))) or 1.0  # a step along the gradient then crosses the box
    found = minimize(fall, start, (unit,), jac=True, method="L-BFGS-B", bounds=[(-1, 1)] * half.size,
                     options={"maxiter": iterations, "ftol": 0.0, "gtol": 0.0})  # fmt: skip
    return 100 * max(-float(found.fun) * unit, 0.0) / (1 + at_w)


def m_sharpness(objective, model: Module, batch: tuple, *, rho: float = 0.05, m: int | None = None, steps: int = 1,
                rng: np.random.Generator | None = None, **options) -> float:  # fmt: skip
    """``1/n Σ_S max_{‖δ‖₂≤ρ} L_S(w + δ) - L_S(w)`` over the parts S of m samples each; all at once unless given.

    steps  1: δ = ρ ∇L/‖∇L‖, the point that SAM goes to; more: projected ascent, δ ← Π_ρ(δ + ρ ∇L/‖∇L‖), from a random
           δ of ρ/1000 (it needs ``rng``), and the best point it met. Exactly at a minimum one step says nothing.

    Source: Foret et al. 2021, Eq. 1-2 and Sec. 4.1 (m-sharpness).
    """
    return _worst(objective, model, batch, lambda w: np.ones_like(w), _euclidean, rho, m, steps, rng, options)


def adaptive_sharpness(objective, model: Module, batch: tuple, *, rho: float = 0.5, eta: float = 0.01, p: float = 2,
                       m: int | None = None, steps: int = 1, rng: np.random.Generator | None = None,
                       **options) -> float:  # fmt: skip
    """``max_{‖T⁻¹δ‖ₚ≤ρ} L(w + δ) - L(w)``, T = diag(|w| + η): the same function of weights has the same value.

    p  2: in one step δ = ρ T²g/‖Tg‖; infinity: δ = ρ T sign g. The other arguments are those of ``m_sharpness``.

    Source: Kwon et al. 2021.
    """
    if p not in (2, np.inf):
        raise ValueError(f"p: expected 2 or infinity, got {p}")
    if not eta >= 0:
        raise ValueError(f"eta: expected a number of at least 0, got {eta}")
    ball = _euclidean if p == 2 else _box
    return _worst(objective, model, batch, lambda w: np.abs(w) + eta, ball, rho, m, steps, rng, options)


def average_sharpness(objective, model: Module, batch: tuple, *, sigma: float = 0.01, samples: int = 100,
                      rng: np.random.Generator, **options) -> Estimate:  # fmt: skip
    """``E_{δ~N(0,σ²I)} L(w + δ) - L(w) ≈ σ²/2 tr H``, the mean of ``samples`` draws and its standard error.

    Source: Chen et al. 2022 (the Gaussian-perturbed training error).
    """
    _positive("sigma", sigma)
    if samples < 2:
        raise ValueError(f"samples: expected at least two, got {samples}")
    surface = Surface(objective, model, batch, **options)
    w, at_w = surface.w, surface.loss()
    rises = [surface.loss(w + sigma * rng.standard_normal(w.size)) - at_w for _ in range(samples)]
    return Estimate(float(np.mean(rises)), float(np.std(rises, ddof=1) / np.sqrt(samples)))


# the ascent ---------------------------------------------------------------------------------------


def _worst(objective, model, batch, reach, ball, rho, m, steps, rng, options) -> float:
    """The mean over parts of m samples of the largest rise in the ball around w."""
    _positive("rho", rho)
    size = len(batch[0]) if m is None else m
    if size < 1 or steps < 1:
        raise ValueError(f"m and steps: expected at least 1, got {m} and {steps}")
    if steps > 1 and rng is None:
        raise TypeError("rng: more than one step starts from a random point; pass np.random.default_rng(seed)")
    total = 0.0
    for start in range(0, len(batch[0]), size):
        part = tuple(x[start : start + size] for x in batch)
        total += len(part[0]) * _rise(Surface(objective, model, part, **options), reach, ball, rho, steps, rng)
    return total / len(batch[0])


def _rise(surface: Surface, reach, ball, rho: float, steps: int, rng) -> float:
    """The largest L(w + Te) - L(w) that projected ascent in e meets, ‖e‖ ≤ ρ."""
    w = surface.w
    T = reach(w)
    uphill, project = ball
    start = surface.loss()
    e = np.zeros_like(w) if steps == 1 else rho / 1000 * uphill(rng.standard_normal(w.size))
    best = 0.0 if steps > 1 else -np.inf
    for _ in range(steps):
        _, g = surface.gradient(w + T * e)
        e = project(e + rho * uphill(T * g), rho)
        best = max(best, surface.loss(w + T * e) - start)
    return best


def _unit(g: np.ndarray) -> np.ndarray:
    return g / (np.linalg.norm(g) + 1e-12)


def _within(e: np.ndarray, rho: float) -> np.ndarray:
    return e * min(1.0, rho / (np.linalg.norm(e) + 1e-300))


_euclidean = (_unit, _within)  # the steepest direction of a unit ball, and the projection into one of radius ρ
_box = (np.sign, lambda e, rho: np.clip(e, -rho, rho))


def _positive(name: str, value: float) -> None:
    if not value > 0:
        raise ValueError(f"{name}: expected a positive number, got {value}")
