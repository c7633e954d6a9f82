"""Optimisers: from gradients to new parameters. They act on arrays and know nothing of graphs."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from tinyvit.nn.module import Module

TOKENS_AND_POSITIONS = {"cls_token", "dist_token", "mask_token", "pos_embed", "relative_pos"}


def decays(name: str, array: np.ndarray) -> bool:
    """Whether weight decay is customary: on weights; not on biases, norms, tokens and positions (DeiT, timm)."""
    return array.ndim >= 2 and not TOKENS_AND_POSITIONS & set(name.split("."))


class AdamW:
    """Adam with decoupled weight decay (Loshchilov & Hutter 2019, Alg. 2).

        m ← β₁m + (1-β₁)g        v ← β₂v + (1-β₂)g²
        w ← w - η λ w - η m̂/(√v̂ + ε)         m̂ = m/(1-β₁ᵗ), v̂ = v/(1-β₂ᵗ)

    decays  says by name and array which parameters the decay λ applies to
    """

    def __init__(
        self,
        model: Module,
        *,
        weight_decay: float = 0.05,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        decays: Callable[[str, np.ndarray], bool] = decays,
    ):
        if not (weight_decay >= 0 and eps > 0 and all(0 <= b < 1 for b in betas)):
            raise ValueError(
                f"expected weight_decay >= 0, eps > 0, betas in [0, 1); got {weight_decay}, {eps}, {betas}"
            )
        self.parameters = dict(model.named_parameters())
        self.decay = {n: weight_decay if decays(n, p.data) else 0.0 for n, p in self.parameters.items()}
        self.betas, self.eps, self.steps = betas, eps, 0
        self.first = {name: np.zeros_like(p.data) for name, p in self.parameters.items()}
        self.second = {name: np.zeros_like(p.data) for name, p in self.parameters.items()}

    def step(self, gradients: dict[str, np.ndarray], rate: float) -> None:
        """Move every parameter by one update. Parameters get new arrays; the old ones are left as they were."""
        self.steps += 1
        for name, g in gradients.items():
            self.parameters[name].data = self.updated(name, g, rate)

    def updated(self, name: str, g: np.ndarray, rate: float) -> np.ndarray:
        """The parameter's new value; its moments move on."""
        beta1, beta2 = self.betas
        m, v = self.first[name], self.second[name]
        m *= beta1
        m += (1 - beta1) * g
        v *= beta2
        v += (1 - beta2) * (g * g)
        correct1, correct2 = 1 - beta1**self.steps, 1 - beta2**self.steps
        move = np.sqrt(v)
        move /= math.sqrt(correct2)
        move += self.eps
        np.divide(m, move, out=move)
        move *= -rate / correct1
        move += (1 - rate * self.decay[name]) * self.parameters[name].data
        return move
