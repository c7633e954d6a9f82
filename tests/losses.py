"""Small losses whose curvature is known on paper, as models and objectives."""

import numpy as np

import tinyvit as tv
from tinyvit.nn.basic import LayerNorm, Linear
from tinyvit.nn.module import Module, Parameter

NO_DATA = (np.zeros(1),)  # of a loss that is a function of its weights alone


class Weights(Module):
    """Parameters by name."""

    def __init__(self, **arrays):
        for name, array in arrays.items():
            setattr(self, name, Parameter(np.array(array, np.float64)))


def quadratic(eigenvalues):
    """``½ Σ λᵢ wᵢ²`` of the parameter ``w``."""
    return lambda model, batch: 0.5 * (np.asarray(eigenvalues, float) * model.w * model.w).sum()


def rosenbrock(model, batch):
    """``(1 - x)² + 100 (y - x²)²`` of the parameters ``x`` and ``y``, one number each."""
    return ((1 - model.x) ** 2 + 100 * (model.y - model.x**2) ** 2).sum()


def product_of_two(y):
    """``½ (ab - y)²``: one function of ab, however it is factored."""
    return lambda model, batch: 0.5 * ((model.a * model.b - y) ** 2).sum()


class LinearNet(Module):
    """``x W₁ W₂ …``; with one matrix and cross-entropy it is softmax regression."""

    def __init__(self, *matrices):
        self.W = [Parameter(np.array(matrix, np.float64)) for matrix in matrices]

    def forward(self, x):
        for W in self.W:
            x = x @ W
        return x


def half_squares(model, batch):
    """``1/2n ‖model(X) - Y‖²``."""
    x, y = batch
    return 0.5 / len(x) * ((model(x) - y) ** 2).sum()


class Net244(Module):
    """8 → 16 with LayerNorm and GELU → 4 classes: 244 parameters, so that its Hessian can be written out."""

    def __init__(self, rng):
        self.fc1 = Linear(8, 16, rng=rng)
        self.norm = LayerNorm(16, rng=rng)
        self.fc2 = Linear(16, 4, rng=rng)
        for p in self.parameters():
            p.data = rng.normal(size=p.shape) * 0.5

    def forward(self, x):
        return self.fc2(tv.gelu(self.norm(self.fc1(x))))
