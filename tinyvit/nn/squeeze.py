"""Squeeze-and-excitation: "Squeeze-and-Excitation Networks" (Hu et al. 2018, arXiv 1709.01507).

    z = mean of x over its map          (Eq. 2, squeeze)
    s = σ(W₂ δ(W₁ z))                   (Eq. 3, excitation)
    x̃ = s ⊙ x                           (Eq. 4, scale)

δ is the activation of the network around it: ReLU in the paper and in RegNet, SiLU in EfficientNet.
"""

from __future__ import annotations

from tinyvit.autodiff.watch import tap
from tinyvit.equations.activation import sigmoid
from tinyvit.nn.basic import Conv2d
from tinyvit.nn.module import Module
from tinyvit.primitives.elementwise import relu
from tinyvit.primitives.reduce import mean


class SqueezeExcite(Module):
    """Weigh every channel by what the whole map says.   (B, H, W, C) -> (B, H, W, C)

    hidden  the width between W₁ and W₂, which are 1×1 convolutions with biases
    act     δ
    names   what W₁ and W₂ are called: timm has two ways

    ``capture(model, "*.gate")`` finds s, (B, 1, 1, C). Raises ValueError for a hidden width below 1.
    """

    def __init__(self, dim: int, hidden: int, *, act=relu, names: tuple[str, str] = ("fc1", "fc2"), rng):
        if hidden < 1:
            raise ValueError(f"hidden: squeeze-and-excitation needs at least one channel between, got {hidden}")
        self.act, self.names = act, names
        for name, (i, o) in zip(names, ((dim, hidden), (hidden, dim)), strict=True):
            setattr(self, name, Conv2d(i, o, 1, init="kaiming", rng=rng))

    def forward(self, x):
        fc1, fc2 = (getattr(self, name) for name in self.names)
        z = mean(x, axis=(1, 2), keepdims=True)
        return tap("gate", sigmoid(fc2(self.act(fc1(z))))) * x
