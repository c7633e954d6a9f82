"""Noise for training: dropout and stochastic depth.

A mask is drawn from the module's generator and enters the graph as an *input array*, so kernel, equation and
every derivative of one forward see the same draw.
"""

from __future__ import annotations

import numpy as np

from tinyvit.autodiff.tensor import raw
from tinyvit.autodiff.watch import watch
from tinyvit.backend import like
from tinyvit.nn.module import Module


def source(rng: np.random.Generator) -> np.random.Generator:
    """The generator to draw from: a micro-batch's own if one is running (see ``train.threaded``), else ``rng``."""
    return watch().noise or rng


def keep_mask(rng: np.random.Generator, shape, rate: float, x):
    """Zeros with probability ``rate``, else 1/(1 - rate): the mean stays 1. In x's library and precision."""
    kept = source(rng).random(shape) >= rate
    return like((kept / (1 - rate)).astype(np.real(raw(x)).dtype), raw(x))


def probability(p: float, name: str = "p") -> float:
    """``p`` itself. Raises ValueError unless it is at least 0 and below 1 (at 1 nothing would be left to scale up)."""
    if not 0 <= p < 1:
        raise ValueError(f"{name}: expected a probability of at least 0 and below 1, got {p}")
    return p


class Dropout(Module):
    """In training, drop every number with probability ``p`` (Srivastava et al. 2014)."""

    def __init__(self, p: float = 0.0):
        self.p = probability(p)

    def forward(self, x):
        return x * keep_mask(self.rng, x.shape, self.p, x) if self.training and self.p else x


class DropPath(Module):
    """In training, drop a whole sample's branch with probability ``p`` (stochastic depth, Huang et al. 2016)."""

    def __init__(self, p: float = 0.0):
        self.p = probability(p)

    def forward(self, x):
        one_per_sample = (x.shape[0], *(1,) * (len(x.shape) - 1))
        return x * keep_mask(self.rng, one_per_sample, self.p, x) if self.training and self.p else x


def drop_path_rates(rate: float, depth: int) -> list[float]:
    """Stochastic depth's rates: from 0 at the first block, linearly, to ``rate`` at the last."""
    return [rate * i / max(depth - 1, 1) for i in range(depth)]
