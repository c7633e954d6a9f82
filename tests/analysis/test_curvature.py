"""Hessian, Gauss–Newton and Fisher as operators: closed forms, small ones written out, two ways, a reference's.

Tolerances, of the largest entry: 1e-12 against closed forms in float64, 1e-6 against central differences, 1e-3 in
float32.
"""

import warnings

import numpy as np
import pytest
from losses import NO_DATA, LinearNet, Net244, Weights, half_squares, product_of_two, quadratic, rosenbrock
from reference import fixture

import tinyvit
from tinyvit.analysis import (
    Surface,
    UnmatchedProtocol,
    block_eigenvalues,
    compare,
    curvature,
    dense,
    empirical_fisher,
    gauss_newton,
    leading_eigenvalue,
    modules_of,
    smoothed,
    spectral_density,
    trace,
)
from tinyvit.analysis.spectrum import Density
from tinyvit.nn.module import Module, Parameter
from tinyvit.train import AdamW, classification, gradient_of

OPERATORS = {"hessian": curvature, "gauss-newton": gauss_newton, "fisher": empirical_fisher}


class TinyNet(Module):
    """tanh(X W₁ᵀ + b₁) W₂ᵀ, the 40-parameter network of the reference's Hessian."""

    def __init__(self, flat):
        self.W1 = Parameter(flat[:20].reshape(5, 4))
        self.b1 = Parameter(flat[20:25])
        self.W2 = Parameter(flat[25:].reshape(3, 5))

    def forward(self, x):
        return tinyvit.tanh(tinyvit.linear(x, self.W1, self.b1)) @ self.W2.T


def assert_close(found, expected, tolerance=1e-12):
    error = np.abs(found - expected).max() / np.abs(expected).max()
    assert error <= tolerance, f"off by {error:.1e} of the largest entry"


def test_the_reference_hessian():
    z = fixture("shared-op-optim")
    X, Y = z["sam/X"], z["sam/Y"]
    net = TinyNet(z["hessian/flat"])
    for method in ("reverse", "complex"):
        operator = curvature(classification(), net, (X, Y), method=method)
        assert np.abs(dense(operator) - z["hessian/matrix"]).max() < 1e-12, method
        assert np.abs(operator @ z["hessian/vec"] - z["hessian/hvp"]).max() < 1e-12, method
    eigen = leading_eigenvalue(classification(), net, (X, Y), rng=np.random.default_rng(0), tol=1e-10)
    assert abs(eigen.value - z["hessian/eigenvalues"].max()) < 1e-9


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


# closed forms ------------------------------------------------------------------------------


def test_a_quadratic_s_eigenvalues(rng):
    eigenvalues = rng.normal(size=30)
    operator = curvature(quadratic(eigenvalues), Weights(w=rng.normal(size=30)), NO_DATA)
    assert_close(dense(operator), np.diag(eigenvalues))
    for which, value in (("LA", eigenvalues.max()), ("SA", eigenvalues.min())):
        found = leading_eigenvalue(quadratic(eigenvalues), Weights(w=np.ones(30)), NO_DATA, which=which, rng=rng)
        assert abs(found.value - value) <= found.residual + 1e-12, which


@pytest.mark.parametrize(
    ("x", "y", "eigenvalues"),
    [(1.0, 1.0, [0.3993607674876216, 1001.6006392325124]), (-1.2, 1.0, [23.633019, 1506.366981])],
)
def test_rosenbrock(x, y, eigenvalues):
    matrix = dense(curvature(rosenbrock, Weights(x=[x], y=[y]), NO_DATA))
    assert_close(matrix, np.array([[2 - 400 * y + 1200 * x**2, -400 * x], [-400 * x, 200]]), 1e-14)
    np.testing.assert_allclose(np.linalg.eigvalsh(matrix), eigenvalues, rtol=1e-7)


@pytest.mark.parametrize(
    ("a", "b", "y", "eigenvalues"),
    [(2, 3, 6, [0, 13]), (6, 1, 6, [0, 37]), (2, 3, 5, [-0.933034, 13.933034])],
)
def test_one_function_factored_in_two_ways_is_not_equally_sharp(a, b, y, eigenvalues, rng):
    matrix = dense(curvature(product_of_two(y), Weights(a=[a], b=[b]), NO_DATA))
    np.testing.assert_allclose(np.linalg.eigvalsh(matrix), eigenvalues, atol=1e-6)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_softmax_regression(smoothing, rng):
    """H = G = 1/n Σ xxᵀ ⊗ (diag p - ppᵀ), F = 1/n Σ xxᵀ ⊗ (p - y)(p - y)ᵀ; d zero modes; λmax ≤ ½ λmax(XᵀX/n)."""
    n, d, c = 23, 5, 4
    X, labels, W = rng.normal(size=(n, d)), rng.integers(0, c, n), rng.normal(size=(d, c))
    z = X @ W
    p = np.exp(z) / np.exp(z).sum(1, keepdims=True)
    s = p - ((1 - smoothing) * np.eye(c)[labels] + smoothing / c)
    middles = {"hessian": [np.diag(q) - np.outer(q, q) for q in p], "fisher": [np.outer(q, q) for q in s]}
    middles["gauss-newton"] = middles["hessian"]
    for name, make in OPERATORS.items():
        expected = np.mean([np.kron(np.outer(x, x), m) for x, m in zip(X, middles[name], strict=True)], axis=0)
        matrix = dense(make(classification(smoothing=smoothing), LinearNet(W), (X, labels)))
        assert_close(matrix, expected)
    values = np.linalg.eigvalsh(dense(curvature(classification(), LinearNet(W), (X, labels))))
    assert np.sum(np.abs(values) < 1e-12) == d
    assert values[-1] <= np.linalg.eigvalsh(X.T @ X / n)[-1] / 2


def test_a_linear_net_of_two_layers(rng):
    """E = XW₁W₂ - Y, dE = X(V₁W₂ + W₁V₂): HV₁ = (XᵀdE W₂ᵀ + XᵀE V₂ᵀ)/n, HV₂ likewise; in G the terms in E are gone."""
    n = 11
    X, Y, W1, W2 = (rng.normal(size=shape) for shape in ((n, 4), (n, 2), (4, 3), (3, 2)))
    V1, V2 = rng.normal(size=(4, 3)), rng.normal(size=(3, 2))
    E, dE = X @ W1 @ W2 - Y, X @ (V1 @ W2 + W1 @ V2)
    G = np.concatenate([(X.T @ dE @ W2.T).ravel(), (W1.T @ X.T @ dE).ravel()]) / n
    H = G + np.concatenate([(X.T @ E @ V2.T).ravel(), (V1.T @ X.T @ E).ravel()]) / n
    v = np.concatenate([V1.ravel(), V2.ravel()])
    assert_close(curvature(half_squares, LinearNet(W1, W2), (X, Y)) @ v, H)
    assert_close(gauss_newton(half_squares, LinearNet(W1, W2), (X, Y)) @ v, G)


def test_a_layer_s_block_is_its_input_times_the_curvature_behind_it(rng):
    """For one sample λmax(∂²L/∂W²) = ‖a‖² λmax(∂²L/∂h²), h = Wa (Botev et al. 2017)."""
    a, W, V = rng.normal(size=(1, 4)), rng.normal(size=(4, 6)), rng.normal(size=(6, 3))

    class Net(LinearNet):
        def forward(self, x):
            return tinyvit.tanh(x @ self.W[0]) @ self.W[1]

    label = np.array([2])
    behind = tinyvit.hessian(lambda h: tinyvit.cross_entropy(tinyvit.tanh(h) @ V, label), a @ W)[0, :, 0]
    found = leading_eigenvalue(classification(), Net(W, V), (a, label), names="W.0", rng=rng, tol=1e-10)
    assert abs(found.value / (np.sum(a**2) * np.linalg.eigvalsh(behind)[-1]) - 1) < 1e-10


# a network of 244 parameters ---------------------------------------------------------------


@pytest.fixture
def net(rng):
    return Net244(rng), (rng.normal(size=(30, 8)), rng.integers(0, 4, 30))


def test_the_full_hessian_of_a_network(net, rng):
    model, data = net
    surface = Surface(classification(), model, data)
    assert surface.size == 244
    w, h = surface.w, 1e-5
    columns = [(surface.gradient(w + h * e)[1] - surface.gradient(w - h * e)[1]) / (2 * h) for e in np.eye(244)]
    H = dense(curvature(classification(), model, data))
    assert_close(H, np.stack(columns, axis=1), 1e-6)
    assert_close(H, H.T)
    assert_close(dense(curvature(classification(), model, data, method="complex")), H)
    values = np.linalg.eigvalsh(H)
    assert values[0] < -0.01 * values[-1], "no negative curvature at random weights?"
    for which, value in (("LA", values[-1]), ("SA", values[0])):
        found = leading_eigenvalue(classification(), model, data, which=which, tol=1e-8, rng=rng)
        assert abs(found.value - value) < 1e-6 * abs(value)
        assert abs(np.linalg.norm(H @ found.vector - found.value * found.vector) - found.residual) < 1e-10
    estimate = trace(curvature(classification(), model, data), samples=100, rng=rng)
    assert abs(estimate.value - np.trace(H)) < 4 * np.sqrt(2 * (np.sum(H**2) - np.sum(np.diag(H) ** 2)) / 100)


def test_the_density_of_a_network_s_hessian(net, rng):
    """40 steps, 20 starts: mean and mean square to four standard errors, the smoothed density to 5 % of its area."""
    operator = curvature(classification(), *net)
    H = dense(operator)
    values = np.linalg.eigvalsh(H)
    density = spectral_density(operator, steps=40, starts=20, rng=rng)
    for power, matrix in ((1, H), (2, H @ H)):
        error = np.sqrt(2 * (np.sum(matrix**2) - np.sum(np.diag(matrix) ** 2)) / 20) / 244
        assert abs(density.weights @ density.nodes**power - np.mean(values**power)) < 4 * error
    width = 0.02 * np.ptp(values)
    grid, found = smoothed(density, width=width)
    _, exact = smoothed(Density(values, np.full(244, 1 / 244)), width=width, grid=grid)
    assert np.trapezoid(np.abs(found - exact), grid) < 0.05


def test_gauss_newton_is_the_jacobian_s_and_so_is_fisher(net):
    model, (x, labels) = net
    surface = Surface(classification(), model, (x, labels))
    z = surface.model(x)
    J = np.stack([np.concatenate([g.ravel() for g in tinyvit.gradients(z[i, k], surface.parameters)])
                  for i in range(30) for k in range(4)]).reshape(30, 4, 244)  # fmt: skip
    p = np.exp(z.data) / np.exp(z.data).sum(1, keepdims=True)
    bend = np.einsum("ik,kl->ikl", p, np.eye(4)) - np.einsum("ik,il->ikl", p, p)
    G = dense(gauss_newton(classification(), model, (x, labels)))
    assert_close(G, np.einsum("ikp,ikl,ilq->pq", J, bend, J) / 30)
    assert np.linalg.matrix_rank(G, tol=1e-10 * np.abs(G).max()) <= 30 * 3
    each = np.einsum("ik,ikp->ip", p - np.eye(4)[labels], J)
    assert_close(dense(empirical_fisher(classification(), model, (x, labels))), each.T @ each / 30)


def test_near_a_minimum_gauss_newton_is_almost_the_hessian(net):
    model, data = net

    def apart():
        H, G = dense(curvature(classification(), model, data)), dense(gauss_newton(classification(), model, data))
        return np.linalg.norm(H - G) / np.linalg.norm(H), np.linalg.eigvalsh(G)[-1] / np.linalg.eigvalsh(H)[-1]

    far, _ = apart()
    optimizer, gradient = AdamW(model, weight_decay=0.0), gradient_of(classification())
    for _ in range(150):
        optimizer.step(gradient(model, data)[1], 0.03)
    near, ratio = apart()
    assert near < 0.2 < 0.4 < far
    assert abs(ratio - 1) < 0.1


# parts, names, precision, mode -------------------------------------------------------------


@pytest.mark.parametrize("name", OPERATORS)
def test_a_data_set_in_parts_has_the_same_matrix(name, net, rng):
    vectors = rng.normal(size=(244, 2))
    whole = OPERATORS[name](classification(), *net) @ vectors
    for chunk in (7, 30, 100):
        assert_close(OPERATORS[name](classification(), *net, chunk=chunk) @ vectors, whole)
    surface, parts = Surface(classification(), *net), Surface(classification(), *net, chunk=7)
    assert abs(surface.loss() - parts.loss()) < 1e-14
    assert_close(parts.gradient()[1], surface.gradient()[1])


@pytest.mark.parametrize("name", OPERATORS)
def test_named_parameters_are_a_block_of_the_matrix(name, net):
    whole = dense(OPERATORS[name](classification(), *net))
    assert_close(dense(OPERATORS[name](classification(), *net, names="norm.*")), whole[144:176, 144:176])
    both = dense(OPERATORS[name](classification(), *net, names=["fc1.bias", "fc2.weight"]))
    at = np.r_[128:144, 176:240]
    assert_close(both, whole[np.ix_(at, at)])


def test_every_module_s_largest_eigenvalue(net, rng):
    model, data = net
    H = dense(curvature(classification(), model, data))
    found = block_eigenvalues(classification(), model, data, rng=rng, tol=1e-8)
    places = {"fc1": slice(0, 144), "norm": slice(144, 176), "fc2": slice(176, 244)}
    assert list(found) == list(places)
    for name, at in places.items():
        assert abs(found[name].value / np.linalg.eigvalsh(H[at, at])[-1] - 1) < 1e-6, name
        assert found[name].value <= np.linalg.eigvalsh(H)[-1]
    one = block_eigenvalues(classification(), model, data, {"a bias": "fc2.bias"}, rng=rng)
    assert one["a bias"].protocol.n_params == 4


def test_modules_are_the_children_and_what_is_in_their_lists(rng):
    found = modules_of(tinyvit.create_model("vit_digits", rng=rng))
    assert list(found)[:4] == ["cls_token", "pos_embed", "patch_embed", "blocks.0"]
    model = tinyvit.create_model("resnet_digits", rng=rng)
    sizes = [Surface(classification(), model, NO_DATA, names=p).size for p in modules_of(model).values()]
    assert sum(sizes) == model.num_parameters()


@pytest.mark.parametrize("name", OPERATORS)
def test_single_precision(name, net, rng):
    options = {"operator": OPERATORS[name], "tol": 1e-4}
    double = leading_eigenvalue(classification(), *net, rng=rng, **options)
    single = leading_eigenvalue(classification(), *net, rng=rng, dtype=np.float32, **options)
    assert OPERATORS[name](classification(), *net, dtype=np.float32).dtype == np.float32
    assert single.value == pytest.approx(double.value, rel=1e-3)


@pytest.mark.parametrize("chunk", [None, 4])
@pytest.mark.parametrize("name", ["resnet_digits", "vit_digits"])
def test_in_training_mode_the_noise_is_drawn_once(name, chunk, rng):
    rates = {"drop_rate": 0.3} if name == "vit_digits" else {}
    model = tinyvit.create_model(name, rng=rng, **rates)
    batch = rng.random((8, 8, 8, 1), dtype=np.float32), rng.integers(0, 10, 8)
    calm = curvature(classification(), model, batch, chunk=chunk)
    v = rng.normal(size=calm.shape[0])
    model.train(np.random.default_rng(3))
    operators = {method: curvature(classification(), model, batch, chunk=chunk, method=method)
                 for method in ("reverse", "complex")}  # fmt: skip
    Hv = operators["reverse"] @ v
    assert_close(operators["reverse"] @ v, Hv, 0)
    assert_close(operators["complex"] @ v, Hv)
    assert np.linalg.norm(calm @ v - Hv) > 1e-3 * np.linalg.norm(Hv)
    assert model.rng.random() == np.random.default_rng(3).random(), "the model's own generator was drawn from"
    assert operators["reverse"].protocol().mode == ("training" if chunk is None else "training, 4 at a time")


def test_several_products_at_once_are_those_products(net, rng):
    vectors = rng.normal(size=(244, 3))
    for make in OPERATORS.values():
        operator = make(classification(), *net, workers=2)
        assert_close(operator @ vectors, np.stack([operator @ v for v in vectors.T], axis=1))
        assert_close(operator.T @ vectors[:, 0], operator @ vectors[:, 0])


# protocol ----------------------------------------------------------------------------------


def test_the_protocol_says_what_was_measured(net, rng):
    model, data = net
    found = leading_eigenvalue(classification(), model, data, names="fc1.*", operator=gauss_newton, rng=rng)
    protocol = found.protocol
    assert abs(protocol.loss - classification()(model, data).item()) < 1e-14
    assert (protocol.matrix, protocol.mode, protocol.samples) == ("gauss-newton", "evaluation", 30)
    assert (protocol.parameters, protocol.n_params, protocol.dtype) == ("fc1.*", 144, "float64")
    other = leading_eigenvalue(classification(), model, (data[0] + 1e-9, data[1]), rng=rng).protocol
    assert other.data != protocol.data


def test_comparing_at_another_loss_warns(net, rng):
    model, data = net
    first = leading_eigenvalue(classification(), model, data, rng=rng)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert compare(first, first) == 1
    model.fc2.weight.data = model.fc2.weight.data * 3
    second = leading_eigenvalue(classification(), model, data, rng=rng)
    with pytest.warns(UnmatchedProtocol, match=f"loss {first.protocol.loss!s:.8} and {second.protocol.loss!s:.8}$"):
        ratio = compare(first, second)
    assert ratio == first.value / second.value
    third = leading_eigenvalue(classification(), model, data, rng=rng, dtype=np.float32, operator=gauss_newton)
    with pytest.warns(UnmatchedProtocol, match="matrix hessian and gauss-ne, dtype float64 and float32"):
        compare(second, third)


def test_bad_arguments_are_named(rng):
    model = tinyvit.create_model("vit_digits", rng=rng)
    batch = np.zeros((2, 8, 8, 1), np.float32), np.array([0, 1])
    with pytest.raises(ValueError, match="method"):
        curvature(classification(), model, batch, method="magic")
    with pytest.raises(ValueError, match=r"names: no parameter is called block\.\*; there is cls_token"):
        curvature(classification(), model, batch, names="block.*")
    with pytest.raises(ValueError, match="chunk: expected at least 1, got 0"):
        empirical_fisher(classification(), model, batch, chunk=0)
    with pytest.raises(TypeError, match=r"objective: expected one that asks only for model\(images\)"):
        gauss_newton(lambda model, batch: model.labelled(batch[0]), model, batch)
