"""The Hessian as an operator: two ways, small ones written out, and a reference's."""

import numpy as np
import pytest
from reference import fixture

import tinyvit
from tinyvit.analysis import curvature, leading_eigenvalue
from tinyvit.nn.module import Module, Parameter
from tinyvit.train import classification


class TinyNet(Module):
    """tanh(X W₁ᵀ + b₁) W₂ᵀ, the 40-parameter network of the reference's Hessian."""

    def __init__(self, flat):
        self.W1 = Parameter(flat[:20].reshape(5, 4))
        self.b1 = Parameter(flat[20:25])
        self.W2 = Parameter(flat[25:].reshape(3, 5))

    def forward(self, x):
        return tinyvit.tanh(tinyvit.linear(x, self.W1, self.b1)) @ self.W2.T


def dense(operator):
    return np.stack([operator @ e for e in np.eye(operator.shape[0])])


def test_the_reference_hessian():
    z = fixture("shared-op-optim")
    X, Y = z["sam/X"], z["sam/Y"]
    net = TinyNet(z["hessian/flat"])
    for method in ("reverse", "complex"):
        operator = curvature(classification(), net, (X, Y), method=method)
        assert np.abs(dense(operator) - z["hessian/matrix"]).max() < 1e-12, method
        assert np.abs(operator @ z["hessian/vec"] - z["hessian/hvp"]).max() < 1e-12, method
    eigen = leading_eigenvalue(classification(), net, (X, Y), rng=np.random.default_rng(0), tol=1e-10)
    assert abs(eigen.values[0] - z["hessian/eigenvalues"].max()) < 1e-9


@pytest.mark.parametrize("name", ["vit_digits", "resnet_digits", "simple_vit_digits"])
def test_two_ways_to_a_product_agree_and_the_hessian_is_symmetric(name, rng):
    model = tinyvit.create_model(name, rng=rng)
    batch = rng.random((6, 8, 8, 1), dtype=np.float32), rng.integers(0, 10, 6)
    reverse = curvature(classification(), model, batch)
    complex_ = curvature(classification(), model, batch, method="complex")
    u, v = rng.normal(size=(2, reverse.shape[0]))
    Hv = reverse @ v
    error = np.abs(Hv - complex_ @ v).max() / np.abs(Hv).max()
    assert error < 1e-12, f"{name}: the two ways differ by {error:.1e}"
    assert abs(u @ Hv - v @ (reverse @ u)) < 1e-10 * np.linalg.norm(u) * np.linalg.norm(Hv)


def test_the_model_is_left_as_it_was(rng):
    model = tinyvit.create_model("vit_digits", rng=rng)
    before = {name: x.copy() for name, x in model.state_dict().items()}
    batch = rng.random((3, 8, 8, 1), dtype=np.float32), rng.integers(0, 10, 3)
    for method in ("reverse", "complex"):
        curvature(classification(), model, batch, method=method) @ rng.normal(size=model.num_parameters())
    after = model.state_dict()
    assert all(after[name].dtype == x.dtype and np.array_equal(after[name], x) for name, x in before.items())


def test_a_scale_that_cancels_has_a_known_product(rng):
    """If L(cw) = L(w) then H w = -∇L(w): differentiate w·∇L(cw) = 0 in c."""
    x = rng.normal(size=(6, 5))
    t = rng.integers(0, 3, 6)
    head = rng.normal(size=(3, 4))

    def loss(w):
        return tinyvit.cross_entropy(tinyvit.layer_norm(x @ w, eps=0.0) @ head.T, t)

    w = rng.normal(size=(5, 4))
    g = tinyvit.grad(loss)(w)
    for method in ("reverse", "complex"):
        assert np.abs(tinyvit.hvp(loss, w, w, method=method) + g).max() < 1e-12 * np.abs(g).max()


def test_bad_arguments_are_named(rng):
    model = tinyvit.create_model("vit_digits", rng=rng)
    batch = np.zeros((2, 8, 8, 1), np.float32), np.array([0, 1])
    with pytest.raises(ValueError, match="method"):
        curvature(classification(), model, batch, method="magic")
    with pytest.raises(ValueError, match=r"model\.eval\(\)"):
        curvature(classification(), model.train(rng), batch)
