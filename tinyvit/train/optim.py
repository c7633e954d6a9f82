"""Optimisers: SGD, RMSprop, Adam, AdamW.

w are the parameters, g = ∇L(w) the gradient, η the rate, λ the weight decay; every product is element by element.
"""

from __future__ import annotations

import math

import numpy as np

from tinyvit.nn.module import Module
from tinyvit.train.groups import Groups, weights_decay
from tinyvit.train.optimizer import Optimizer, fraction, positive


class SGD(Optimizer):
    """Stochastic gradient descent, with momentum if asked for (Sutskever et al. 2013; the form is PyTorch's).

        g ← g + λ w
        v ← μ v + (1-τ) g, at first v ← g
        w ← w - η v, with Nesterov's look ahead w ← w - η (g + μ v)

    momentum  μ · dampening  τ · nesterov  whether to look ahead
    """

    def __init__(self, model: Module, *, momentum: float = 0.0, dampening: float = 0.0, nesterov: bool = False,
                 weight_decay: float = 0.0, groups: Groups = weights_decay):  # fmt: skip
        fraction("momentum", momentum)
        fraction("dampening", dampening)
        if nesterov and (not momentum or dampening):
            raise ValueError(f"nesterov: expected a momentum and no dampening, got {momentum} and {dampening}")
        self.momentum, self.dampening, self.nesterov = momentum, dampening, nesterov
        self.kept = ("velocity",) if momentum else ()
        super().__init__(model, weight_decay=weight_decay, groups=groups)

    def updated(self, name, w, g, rate):
        if self.decay[name]:
            g = g + self.decay[name] * w
        if not self.momentum:
            return w - rate * g
        v = self.memory["velocity"][name]
        v *= self.momentum
        v += g if self.steps == 1 else (1 - self.dampening) * g
        return w - rate * (g + self.momentum * v if self.nesterov else v)


class RMSprop(Optimizer):
    """The gradient over its own recent size (Hinton 2012, lecture 6e), with momentum: EfficientNet's optimiser.

    g ← g + λ w
    s ← α s + (1-α) g²
    v ← μ v + g/(√s + ε)
    w ← w - η v
    """

    kept = ("square", "velocity")

    def __init__(self, model: Module, *, alpha: float = 0.9, momentum: float = 0.9, eps: float = 1e-3,
                 weight_decay: float = 0.0, groups: Groups = weights_decay):  # fmt: skip
        fraction("alpha", alpha)
        fraction("momentum", momentum)
        positive("eps", eps)
        self.alpha, self.momentum, self.eps = alpha, momentum, eps
        super().__init__(model, weight_decay=weight_decay, groups=groups)

    def updated(self, name, w, g, rate):
        if self.decay[name]:
            g = g + self.decay[name] * w
        s, v = self.memory["square"][name], self.memory["velocity"][name]
        s *= self.alpha
        s += (1 - self.alpha) * (g * g)
        v *= self.momentum
        v += g / (np.sqrt(s) + self.eps)
        return w - rate * v


class Adam(Optimizer):
    """Adam (Kingma & Ba 2015, Alg. 1); its weight decay, if any, is part of the gradient.

        g ← g + λ w
        m ← β₁m + (1-β₁)g        v ← β₂v + (1-β₂)g²
        w ← w - η m̂/(√v̂ + ε)         m̂ = m/(1-β₁ᵗ), v̂ = v/(1-β₂ᵗ)

    amsgrad  v̂ from the largest v so far (Reddi et al. 2018, Alg. 2; bias corrected, as PyTorch does)
    """

    kept = ("first", "second")

    def __init__(self, model: Module, *, weight_decay: float = 0.0, betas: tuple[float, float] = (0.9, 0.999),
                 eps: float = 1e-8, amsgrad: bool = False, groups: Groups = weights_decay):  # fmt: skip
        fraction("betas", *betas)
        positive("eps", eps)
        self.betas, self.eps = betas, eps
        self.kept = (*self.kept, "largest") if amsgrad else self.kept
        super().__init__(model, weight_decay=weight_decay, groups=groups)

    def updated(self, name, w, g, rate):
        if self.decay[name]:
            g = g + self.decay[name] * w
        move = self.move(name, g, rate)
        move += w
        return move

    def move(self, name: str, g: np.ndarray, rate: float) -> np.ndarray:
        """``-η m̂/(√v̂ + ε)``, a new array; the moments move on."""
        beta1, beta2 = self.betas
        m, v = self.memory["first"][name], self.memory["second"][name]
        m *= beta1
        m += (1 - beta1) * g
        v *= beta2
        v += (1 - beta2) * (g * g)
        if "largest" in self.memory:
            v = np.maximum(self.memory["largest"][name], v, out=self.memory["largest"][name])
        correct1, correct2 = 1 - beta1**self.steps, 1 - beta2**self.steps
        move = np.sqrt(v)
        move /= math.sqrt(correct2)
        move += self.eps
        np.divide(m, move, out=move)
        move *= -rate / correct1
        return move


class AdamW(Adam):
    """Adam with decoupled weight decay, which the second moment does not rescale (Loshchilov & Hutter 2019, Alg. 2).

    w ← w - η λ w - η m̂/(√v̂ + ε)
    """

    def __init__(self, model: Module, *, weight_decay: float = 0.05, **options):
        super().__init__(model, weight_decay=weight_decay, **options)

    def updated(self, name, w, g, rate):
        move = self.move(name, g, rate)
        move += (1 - rate * self.decay[name]) * w
        return move
