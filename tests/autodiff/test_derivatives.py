"""Derivatives of functions: against closed forms, against each other, and inside one another."""

import numpy as np
import pytest

from tinyvit import (
    Tensor,
    complex_step,
    cross_entropy,
    exp,
    grad,
    gradients,
    hessian,
    hvp,
    jvp,
    layer_norm,
    linear,
    log,
    matmul,
    mean,
    no_grad,
    scaled_dot_product_attention,
    sin,
    softmax,
    sum,
    value_and_grad,
    vjp,
)
from tinyvit.autodiff.standin import DeviceArray


def relative(got, expected):
    return np.abs(got - expected).max() / np.abs(expected).max()


def rosenbrock(w):
    x, y = w[0], w[1]
    return (1 - x) ** 2 + 100 * (y - x * x) ** 2


# functions whose derivatives are known ---------------------------------------------------------


@pytest.mark.parametrize(
    ("point", "matrix", "eigenvalues"),
    [
        ((1.0, 1.0), [[802, -400], [-400, 200]], (0.3993608, 1001.6006392)),
        ((-1.2, 1.0), [[1330, 480], [480, 200]], (23.633019, 1506.366981)),
    ],
)
def test_rosenbrock(point, matrix, eigenvalues):
    x, y = point
    np.testing.assert_allclose(
        grad(rosenbrock)(np.array(point)), [-2 * (1 - x) - 400 * x * (y - x * x), 200 * (y - x * x)], atol=1e-11
    )
    H = hessian(rosenbrock, np.array(point))
    np.testing.assert_allclose(H, matrix, rtol=1e-13)
    np.testing.assert_allclose(np.linalg.eigvalsh(H), eigenvalues, rtol=1e-7)


def test_a_quadratic_has_its_matrix_for_a_hessian(rng):
    A, b, w, v = rng.normal(size=(4, 4)), rng.normal(size=4), rng.normal(size=4), rng.normal(size=4)
    A = A + A.T

    def f(w):
        return 0.5 * (w * (A @ w.reshape(4, 1)).reshape(4)).sum() + (w * b).sum()

    for method in ("reverse", "complex"):
        assert relative(hvp(f, w, v, method=method), A @ v) < 1e-14
    assert relative(hessian(f, w), A) < 1e-14
    assert relative(grad(f)(w), A @ w + b) < 1e-14


def test_softmax_regression(rng):
    """H V = Xᵀ R / n with U = X V, R = P∘U - P∘rowsum(P∘U); d zero modes: a constant for all classes is not felt."""
    n, d, c = 30, 4, 3
    X, y, W, V = rng.normal(size=(n, d)), rng.integers(c, size=n), rng.normal(size=(d, c)), rng.normal(size=(d, c))

    def loss(W):
        return cross_entropy(matmul(X, W), y)

    P = softmax(X @ W)
    assert relative(grad(loss)(W), X.T @ (P - np.eye(c)[y]) / n) < 1e-13
    U = X @ V
    expected = X.T @ (P * U - P * (P * U).sum(1, keepdims=True)) / n
    assert relative(hvp(loss, W, V), expected) < 1e-12
    assert relative(hvp(loss, W, V, method="complex"), expected) < 1e-12
    H = hessian(loss, W).reshape(d * c, d * c)
    np.testing.assert_allclose(H, H.T, atol=1e-16)
    eigenvalues = np.linalg.eigvalsh(H)
    assert (abs(eigenvalues) < 1e-15).sum() == d
    assert eigenvalues[-1] <= np.linalg.eigvalsh(X.T @ X / n)[-1] / 2


def test_two_layer_linear_net(rng):
    n, d, h, c = 7, 3, 4, 2
    X, Y = rng.normal(size=(n, d)), rng.normal(size=(n, c))
    W1, V1, W2, V2 = (rng.normal(size=s) for s in ((d, h), (d, h), (h, c), (h, c)))

    def loss(W1, W2):
        error = X @ W1 @ W2 - Y
        return (error * error).sum() / (2 * n)

    E, dE = X @ W1 @ W2 - Y, X @ V1 @ W2 + X @ W1 @ V2
    expected = (X.T @ dE @ W2.T + X.T @ E @ V2.T) / n, (W1.T @ X.T @ dE + V1.T @ X.T @ E) / n
    for method in ("reverse", "complex"):
        for got, want in zip(hvp(loss, [W1, W2], [V1, V2], method=method), expected, strict=True):
            assert relative(got, want) < 1e-13


def test_a_two_weight_linear_net_is_flat_or_indefinite_as_it_should_be():
    """The loss ½(abx - y)² at a = 2, b = 3, x = 1: at its minimum (y = 6), and beside it (y = 5)."""
    for y, eigenvalues in ((6.0, (0.0, 13.0)), (5.0, (-0.9330344, 13.9330344))):
        H = hessian(lambda w, y=y: 0.5 * (w[0] * w[1] - y) ** 2, np.array([2.0, 3.0]))
        np.testing.assert_allclose(np.linalg.eigvalsh(H), eigenvalues, atol=1e-6)


def test_scale_invariance_makes_hw_equal_minus_g(rng):
    """A loss that does not feel the size of w has wᵀ∇L(cw) = 0; its derivative in c says H w = -∇L."""
    x, w, u = rng.normal(size=(5, 3)), rng.normal(size=(4, 3)), rng.normal(size=(5, 4))

    def loss(w):
        return (layer_norm(linear(x, w), eps=0.0) * u).sum()

    g = grad(loss)(w)
    assert abs((g * w).sum()) < 1e-13 * np.abs(g).max()
    assert relative(hvp(loss, w, w), -g) < 1e-12
    assert relative(hvp(loss, w, w, method="complex"), -g) < 1e-12


# two ways that share only the ops ---------------------------------------------------------------


def block(x, w, gain):
    """A small encoder block with a scalar at its end."""
    h = layer_norm(x, gain)
    h = x + scaled_dot_product_attention(linear(h, w), h, sin(h))
    return mean(log(1 + exp(h)) * h)


def test_hessian_vector_products_agree_and_are_symmetric_and_linear(rng):
    xs = [rng.normal(size=s) for s in ((2, 5, 4), (4, 4), (4,))]
    us, vs = ([rng.normal(size=x.shape) for x in xs] for _ in range(2))
    Hv, Hu = hvp(block, xs, vs), hvp(block, xs, us)
    for a, b in zip(Hv, hvp(block, xs, vs, method="complex"), strict=True):
        assert relative(a, b) < 1e-12

    def dot(a, b):
        return np.sum([np.sum(x * y) for x, y in zip(a, b, strict=True)])

    assert abs(dot(us, Hv) - dot(vs, Hu)) < 1e-13 * max(1, abs(dot(us, Hv)))
    H2 = hvp(block, xs, [2 * v - u for u, v in zip(us, vs, strict=True)])
    for a, b, c in zip(H2, Hv, Hu, strict=True):
        assert relative(a, 2 * b - c) < 1e-12


def test_hessian_vector_products_are_columns_of_the_hessian(rng):
    x, rest = rng.normal(size=(2, 3, 4)), (rng.normal(size=(4, 4)), rng.normal(size=4))

    def f(x):
        return block(x, *rest)

    H = hessian(f, x)
    assert H.shape == (2, 3, 4, 2, 3, 4)
    for at in [(0, 0, 0), (1, 2, 3), (0, 1, 2)]:
        one = np.zeros_like(x)
        one[at] = 1
        assert relative(hvp(f, x, one), H[at]) < 1e-12


def test_jvp_vjp_and_the_complex_step_describe_one_jacobian(rng):
    xs, vs = ([rng.normal(size=s) for s in ((2, 5, 4), (3, 4))] for _ in range(2))
    u = rng.normal(size=(2, 5, 3))

    def f(x, w):
        return softmax(linear(x, w) * sin(x).sum(-1, keepdims=True))

    value, tangent = jvp(f, xs, vs)
    again, pull = vjp(f, *xs)
    np.testing.assert_array_equal(value, f(*xs))
    np.testing.assert_array_equal(again, value)
    along = np.imag(f(*(x + 1e-20j * v for x, v in zip(xs, vs, strict=True)))) / 1e-20
    assert relative(tangent, along) < 1e-13
    pulled = pull(u)
    assert (u * tangent).sum() == pytest.approx(np.sum([np.sum(p * v) for p, v in zip(pulled, vs, strict=True)]), 1e-13)
    np.testing.assert_array_equal(pull(u)[0], pulled[0])  # a pull can be had as often as one likes


# inside one another -----------------------------------------------------------------------------


def cube(x):
    return (x * x * x * x).sum()


def summed(f):
    return lambda x: f(x).sum()


def test_grad_of_grad_of_grad():
    x = np.array([2.0])
    f = cube
    for expected in (32.0, 48.0, 48.0, 24.0, 0.0):
        f = summed(grad(f))
        assert f(x) == pytest.approx(expected)


def test_nested_with_closures_does_not_confuse_the_two_variables():
    inner = grad(lambda x: x * grad(lambda y: x + y)(1.0))
    assert inner(1.0) == 1.0
    assert grad(lambda x: x * grad(lambda y: x * y * y)(3.0))(2.0) == 2 * 2.0 * 2 * 3.0


def test_every_derivative_can_be_differentiated(rng):
    """d/dx of something made with jvp, vjp, hvp, hessian, value_and_grad: against the complex step of the same."""
    x, v = rng.normal(size=3), rng.normal(size=3)

    def f(x):
        return (sin(x) * x * x).sum()

    nested = {
        "jvp": lambda x: jvp(f, [x], [v])[1] * 1,
        "vjp": lambda x: (vjp(sin, x)[1](v)[0] * v).sum(),
        "hvp": lambda x: (hvp(f, x, v) * v).sum(),
        "hessian": lambda x: (hessian(f, x) * np.outer(v, v)).sum(),
        "value_and_grad": lambda x: value_and_grad(f)(x)[0] + (value_and_grad(f)(x)[1] * v).sum(),
    }
    for name, g in nested.items():
        direct = complex_step(g, x, v)
        assert (grad(g)(x) * v).sum() == pytest.approx(direct, rel=1e-12), name


def test_complex_step_of_a_gradient_and_with_a_closure(rng):
    x, v, w = rng.normal(size=(2, 3)), rng.normal(size=(2, 3)), Tensor(rng.normal(size=(2, 3)), requires_grad=True)

    def f(x):
        return (sin(x * w) * x).sum()

    assert relative(complex_step(grad(f), x, v), hvp(f, x, v)) < 1e-12
    assert complex_step(f, x, v) == pytest.approx((grad(f)(x) * v).sum(), rel=1e-13)


@pytest.mark.parametrize(
    "inner", [lambda x: complex_step(cube, x, x), lambda x: hvp(cube, x, x, method="complex").sum()]
)
def test_the_complex_step_inside_grad_is_refused_rather_than_silently_constant(inner):
    with pytest.raises(TypeError, match="cannot be differentiated"):
        grad(inner)(np.array([1.0, 2.0]))


# forms ------------------------------------------------------------------------------------------


def test_argnums_and_options(rng):
    a, b = rng.normal(size=3), rng.normal(size=3)

    def f(a, b, *, scale=1.0):
        return scale * (a * a * b).sum()

    np.testing.assert_allclose(grad(f)(a, b), 2 * a * b)
    np.testing.assert_allclose(grad(f, 1)(a, b, scale=3.0), 3 * a * a)
    value, (d_b, d_a) = value_and_grad(f, (1, 0))(a, b)
    assert value == pytest.approx((a * a * b).sum())
    assert not isinstance(value, Tensor)
    np.testing.assert_allclose(d_a, 2 * a * b)
    np.testing.assert_allclose(d_b, a * a)


def test_functions_that_do_not_depend_on_their_argument():
    x = np.ones(2)
    for f in (lambda x: 3.0, lambda x: (x * 0).sum(), lambda x: sum(x)):
        np.testing.assert_array_equal(hvp(f, x, x), [0, 0])
        np.testing.assert_array_equal(hessian(f, x), np.zeros((2, 2)))
    np.testing.assert_array_equal(grad(lambda x: 3.0)(x), [0, 0])
    np.testing.assert_array_equal(jvp(lambda x: np.ones(3), [x], [x])[1], np.zeros(3))


def test_derivatives_are_taken_even_where_nothing_is_recorded():
    with no_grad():
        assert grad(cube)(np.array([2.0])) == 32.0
        assert hvp(cube, np.array([2.0]), np.array([1.0])) == 48.0


def test_float32_stays_float32():
    x = np.array([1.0, 2.0], np.float32)
    made = [grad(cube)(x), *value_and_grad(cube)(x), hvp(cube, x, x), hessian(cube, x), jvp(sin, [x], [x])[1]]
    assert {m.dtype for m in made} == {np.dtype(np.float32)}


def test_derivatives_stay_on_the_device():
    x = DeviceArray([1.0, 2.0])
    made = [grad(cube)(x), *value_and_grad(cube)(x), hvp(cube, x, x), hessian(cube, x), *jvp(sin, [x], [x]),
            complex_step(sin, x, x), hvp(cube, x, x, method="complex"), *vjp(sin, x)[1](x)]  # fmt: skip
    assert all(isinstance(m, DeviceArray) for m in made)
    np.testing.assert_allclose(hessian(cube, x).get(), np.diag([12.0, 48.0]))


@pytest.mark.parametrize(
    ("mistake", "error", "words"),
    [
        (lambda: grad(sin)(np.ones(3)), ValueError, r"needed for an output of shape \(3,\)"),
        (lambda: grad(cube)(np.arange(3)), TypeError, "int64.*astype"),
        (lambda: hvp(cube, np.ones(3), np.ones(2)), ValueError, "one direction per argument"),
        (lambda: hvp(cube, [np.ones(3)], [np.ones(3)] * 2), ValueError, "one direction per argument"),
        (lambda: hvp(cube, np.ones(3), np.ones(3), method="forward"), ValueError, 'method: expected "reverse" or'),
        (lambda: vjp(sin, np.ones(3))[1](np.ones(2)), ValueError, r"cotangents\[0\]: expected shape \(3,\)"),
        (lambda: jvp(sin, [np.ones(3)], [np.ones(2)]), ValueError, "of the argument's shape"),
        (lambda: jvp(sin, [np.ones(3)], []), ValueError, "one direction per argument"),
    ],
)
def test_mistakes_are_met_with_advice(mistake, error, words):
    with pytest.raises(error, match=words):
        mistake()


def test_gradients_function_and_grad_agree(rng):
    x = rng.normal(size=(2, 3))
    t = Tensor(x, requires_grad=True)
    np.testing.assert_array_equal(gradients(cube(t), t)[0], grad(cube)(x))
