"""Sharpness-aware minimisation: not where the loss is low, but where it stays low nearby.

    min_w max_‖ε‖≤ρ L(w + ε)                                            (Foret et al. 2021, Eq. 1)
    ε̂ = ρ ∇L(w)/‖∇L(w)‖₂,   g = ∇L(w + ε̂)                              (Eqs. 2-3)

Two gradients a step; the optimiser then moves w, not w + ε̂, and applies its weight decay at w. How it composes:

- ``clipped`` may stand inside or outside: a shorter gradient of the same direction has the same ε̂.
- ``sharpness_aware(threaded(…))`` and ``sharpness_aware(accumulated(…))`` climb once for the whole batch.
- ``accumulated(sharpness_aware(…), parts=n)`` climbs anew for every part: m-sharpness (Foret et al., Sec. 4.1), what
  Chen et al. 2022 had, whose every chip climbed by itself.
- ``threaded(sharpness_aware(…))`` is refused: it would move weights that other threads are reading.
"""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy

import numpy as np

from tinyvit.autodiff.watch import watch, watching
from tinyvit.nn.module import Buffer, swapped
from tinyvit.nn.noise import source
from tinyvit.train.gradient import Gradient, global_norm

Arrays = dict[str, np.ndarray]


def sharpness_aware(gradient: Gradient, *, rho: float = 0.05) -> Gradient:
    """SAM: the gradient at the worst point of a ball of radius ``rho`` around w, found in one step up.

    The loss is that at w. Both gradients see the same noise; running statistics are those of the first.
    """
    _radius(rho)

    def ascent(w: Arrays, g: Arrays) -> Arrays:
        scale = rho / (global_norm(g) + 1e-12)
        return {name: scale * array for name, array in g.items()}

    return _ascended(gradient, ascent)


def adaptive_sharpness_aware(gradient: Gradient, *, rho: float = 0.5, eta: float = 0.01) -> Gradient:
    """Adaptive SAM: weights that are large may move further (Kwon et al. 2021, Alg. 1).

        ε̂ = ρ T² ∇L(w)/‖T ∇L(w)‖₂,   T = |w| + η

    So rescaling weights without changing the function changes nothing.
    """
    _radius(rho)
    if not eta >= 0:
        raise ValueError(f"eta: expected a number of at least 0, got {eta}")

    def ascent(w: Arrays, g: Arrays) -> Arrays:
        reach = {name: np.abs(w[name]) + eta for name in g}
        uphill = {name: reach[name] * array for name, array in g.items()}
        scale = rho / (global_norm(uphill) + 1e-12)
        return {name: scale * reach[name] * array for name, array in uphill.items()}

    return _ascended(gradient, ascent)


def _ascended(gradient: Gradient, ascent: Callable[[Arrays, Arrays], Arrays]) -> Gradient:
    """The gradient at w + ``ascent(w, ∇L(w))``."""

    def gradient_ascended(model, batch):
        if watch().shared:
            raise ValueError(
                "threaded(sharpness_aware(…)) would move weights that other threads read: write "
                "sharpness_aware(threaded(…)), or accumulated(sharpness_aware(…)) for m-sharpness"
            )
        replay = deepcopy(source(model.rng)) if model.training else None
        loss, g = gradient(model, batch)
        w = {name: p.data for name, p in model.named_parameters()}
        climbed = {name: w[name] + step for name, step in ascent(w, g).items()}
        statistics = {name: x.data for name, x in model.named_state() if isinstance(x, Buffer)}
        with swapped(model, climbed | statistics), watching(noise=replay):
            _, g = gradient(model, batch)
        return loss, g

    return gradient_ascended


def _radius(rho: float) -> None:
    if not rho >= 0:
        raise ValueError(f"rho: expected a number of at least 0, got {rho}")
