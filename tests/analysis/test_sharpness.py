"""Sharpness measures on losses where the answer is known on paper."""

import numpy as np
import pytest
from losses import NO_DATA, LinearNet, Net244, Weights, half_squares, product_of_two, quadratic
from scipy.linalg import eigh

import tinyvit as tv
from tinyvit.analysis import (
    Surface,
    adaptive_sharpness,
    average_sharpness,
    curvature,
    dense,
    epsilon_sharpness,
    m_sharpness,
    trace,
)
from tinyvit.train import classification, gradient_of, sharpness_aware

LOSS = quadratic([1.0, 10.0])


def weights(*w):
    return Weights(w=w)


# the box of Keskar et al. ------------------------------------------------------------------


@pytest.mark.parametrize("epsilon", [1e-3, 5e-4])
def test_in_a_box_around_a_minimum_every_corner_is_the_worst(epsilon, rng):
    """At 0 the sides are ε, so φ = 100 · ½ ε² (1 + 10)."""
    found = epsilon_sharpness(LOSS, weights(0, 0), NO_DATA, epsilon=epsilon, rng=rng)
    assert found == pytest.approx(100 * 0.5 * epsilon**2 * 11, rel=1e-9)


def test_the_box_grows_with_the_weights(rng):
    w, eps = np.array([3.0, -2.0]), 1e-2
    side = eps * (np.abs(w) + 1)
    worst = 0.5 * np.sum([1, 10] * (np.abs(w) + side) ** 2)
    at = 0.5 * np.sum([1, 10] * w**2)
    found = epsilon_sharpness(LOSS, weights(*w), NO_DATA, epsilon=eps, rng=rng)
    assert found == pytest.approx(100 * (worst - at) / (1 + at), rel=1e-9)


def test_in_a_subspace_of_the_weights(rng):
    """Along one random direction a, |z| ≤ ε(|a⁺w| + 1), the loss is a parabola."""
    w, eps = np.array([3.0, -2.0]), 1e-2
    a = np.random.default_rng(8).standard_normal((2, 1))[:, 0]
    side = eps * (abs(a @ w / (a @ a)) + 1)

    def loss(w):
        return 0.5 * np.sum([1, 10] * w**2)

    worst = max(loss(w + side * a), loss(w - side * a))
    found = epsilon_sharpness(LOSS, weights(*w), NO_DATA, epsilon=eps, subspace=1, rng=np.random.default_rng(8))
    assert found == pytest.approx(100 * (worst - loss(w)) / (1 + loss(w)), rel=1e-8)


def test_in_the_box_of_a_network_it_is_worse_than_the_corner_uphill(rng):
    """Whatever the scale of the loss: L-BFGS-B must not stop at its first tiny step."""
    model, data = Net244(rng), (rng.normal(size=(20, 8)), rng.integers(0, 4, 20))
    surface = Surface(classification(), model, data)
    loss, g = surface.gradient()
    corner = surface.loss(surface.w + 1e-3 * (np.abs(surface.w) + 1) * np.sign(g))
    for scale in (1e-6, 1.0):

        def scaled(m, batch, scale=scale):
            return scale * classification()(m, batch)

        found = epsilon_sharpness(scaled, model, data, rng=rng) * (1 + scale * loss) / scale
        assert found > 100 * (corner - loss) * 0.999


# the ball of SAM ---------------------------------------------------------------------------


def test_one_step_on_a_quadratic():
    """ρ‖g‖ + ρ² gᵀHg/2‖g‖²."""
    g, rho = np.array([1.0, 10.0]), 0.1
    expected = rho * np.linalg.norm(g) + rho**2 * (g @ (g * [1, 10])) / (2 * g @ g)
    assert m_sharpness(LOSS, weights(1, 1), NO_DATA, rho=rho) == pytest.approx(expected, rel=1e-12)


def test_at_a_minimum_one_step_sees_nothing_and_ascent_sees_the_largest_eigenvalue(rng):
    assert m_sharpness(LOSS, weights(0, 0), NO_DATA, rho=0.3) == 0
    found = m_sharpness(LOSS, weights(0, 0), NO_DATA, rho=0.3, steps=20, rng=rng)
    assert found == pytest.approx(0.3**2 * 10 / 2, rel=1e-6)


def test_ascent_finds_the_maximum_of_a_quadratic_on_a_sphere(rng):
    """(H + g/…): at the maximum (μI - H) δ = g with ‖δ‖ = ρ; μ found by bisection."""
    H, w, rho = np.diag([1.0, 10.0, -3.0]), np.array([1.0, 0.2, 0.5]), 0.5
    g = H @ w
    low, high = 10 + 1e-12, 1e4
    for _ in range(200):
        mu = (low + high) / 2
        low, high = (mu, high) if np.linalg.norm(g / (mu - np.diag(H))) > rho else (low, mu)
    step = g / (mu - np.diag(H))
    expected = g @ step + step @ H @ step / 2
    found = m_sharpness(quadratic(np.diag(H)), weights(*w), NO_DATA, rho=rho, steps=60, rng=rng)
    assert found == pytest.approx(expected, rel=1e-6)
    assert m_sharpness(quadratic(np.diag(H)), weights(*w), NO_DATA, rho=rho) < expected


def test_parts_climb_by_themselves(rng):
    W, X, Y = rng.normal(size=(3, 2)), rng.normal(size=(10, 3)), rng.normal(size=(10, 2))
    each = [m_sharpness(half_squares, LinearNet(W), (X[i : i + 4], Y[i : i + 4]), rho=0.2) for i in (0, 4, 8)]
    found = m_sharpness(half_squares, LinearNet(W), (X, Y), rho=0.2, m=4)
    assert found == pytest.approx((4 * each[0] + 4 * each[1] + 2 * each[2]) / 10, rel=1e-12)
    assert found > m_sharpness(half_squares, LinearNet(W), (X, Y), rho=0.2)


def test_it_is_the_point_that_sam_goes_to(rng):
    model, data = Net244(rng), (rng.normal(size=(9, 8)), rng.integers(0, 4, 9))
    seen = []

    def watched(m, batch):
        loss = classification()(m, batch)
        seen.append(loss.item())
        return loss

    sharpness_aware(gradient_of(watched), rho=0.1)(model, data)
    assert m_sharpness(classification(), model, data, rho=0.1) == pytest.approx(seen[1] - seen[0], rel=1e-10)


# adaptive ----------------------------------------------------------------------------------


@pytest.mark.parametrize("p", [2, np.inf])
@pytest.mark.parametrize("steps", [1, 20])
def test_adaptive_sharpness_does_not_see_how_a_product_is_factored(p, steps):
    found = [
        adaptive_sharpness(product_of_two(5.0), Weights(a=[a], b=[b]), NO_DATA, rho=0.1, eta=0, p=p, steps=steps,
                           rng=np.random.default_rng(0))
        for a, b in ((2, 3), (6, 1), (1, 6))
    ]  # fmt: skip
    np.testing.assert_allclose(found, found[0], rtol=1e-10)
    plain = [m_sharpness(product_of_two(5.0), Weights(a=[a], b=[b]), NO_DATA, rho=0.1) for a, b in ((2, 3), (6, 1))]
    assert plain[1] > plain[0] + 0.1


def test_one_adaptive_step():
    w, eta, rho = np.array([2.0, -0.5]), 0.1, 0.3
    T, g = np.abs(w) + eta, w * [1, 10]

    def rise(step):
        return 0.5 * np.sum([1, 10] * ((w + step) ** 2 - w**2))

    found = adaptive_sharpness(LOSS, weights(*w), NO_DATA, rho=rho, eta=eta)
    assert found == pytest.approx(rise(rho * T**2 * g / np.linalg.norm(T * g)), rel=1e-12)
    found = adaptive_sharpness(LOSS, weights(*w), NO_DATA, rho=rho, eta=eta, p=np.inf)
    assert found == pytest.approx(rise(rho * T * np.sign(g)), rel=1e-12)


def test_adaptive_ascent_at_a_minimum_finds_the_largest_scaled_eigenvalue(rng):
    """½ρ² λmax(THT)."""
    A = rng.normal(size=(4, 4))
    H, w = A @ A.T, rng.normal(size=4)

    def loss(model, batch):
        d = (model.w - w)[None]
        return 0.5 * ((d @ H) * d).sum()

    T = np.diag(np.abs(w) + 0.01)
    expected = 0.1**2 / 2 * eigh(T @ H @ T, eigvals_only=True)[-1]
    found = adaptive_sharpness(loss, weights(*w), NO_DATA, rho=0.1, steps=100, rng=rng)
    assert found == pytest.approx(expected, rel=1e-6)


# average -----------------------------------------------------------------------------------


def test_the_average_rise_of_a_quadratic_is_its_trace(rng):
    found = average_sharpness(LOSS, weights(0, 0), NO_DATA, sigma=0.3, samples=2000, rng=rng)
    assert abs(found.value - 0.3**2 / 2 * 11) < 4 * found.error
    assert found.error == pytest.approx(0.3**2 / 2 * np.sqrt(2 * (1 + 100) / 2000), rel=0.1)


def test_the_average_rise_of_a_network_is_about_its_trace(rng):
    model, data = Net244(rng), (rng.normal(size=(20, 8)), rng.integers(0, 4, 20))
    found = average_sharpness(classification(), model, data, sigma=0.02, samples=300, rng=rng)
    half_trace = 0.02**2 / 2 * np.trace(dense(curvature(classification(), model, data)))
    assert abs(found.value - half_trace) < 4 * found.error + 0.05 * half_trace
    assert trace(curvature(classification(), model, data), rng=rng).value > 0


# manners -----------------------------------------------------------------------------------

MEASURES = [
    lambda *a, rng, **o: epsilon_sharpness(*a, iterations=1, rng=rng, **o),
    lambda *a, rng, **o: m_sharpness(*a, steps=3, rng=rng, m=4, **o),
    lambda *a, rng, **o: adaptive_sharpness(*a, **o),
    lambda *a, rng, **o: average_sharpness(*a, samples=3, rng=rng, **o).value,
]


@pytest.mark.parametrize("measure", MEASURES)
@pytest.mark.parametrize("name", ["vit_digits", "resnet_digits"])
def test_the_model_is_left_as_it_was(name, measure, rng):
    model = tv.create_model(name, rng=rng)
    before = {key: (x, x.copy()) for key, x in model.state_dict().items()}
    batch = rng.random((5, 8, 8, 1), dtype=np.float32), rng.integers(0, 10, 5)
    one, other = (measure(classification(), model, batch, rng=np.random.default_rng(1)) for _ in range(2))
    assert one == other, "one seed, one answer"
    assert all(x is before[key][0] and np.array_equal(x, before[key][1]) for key, x in model.state_dict().items())
    part = measure(classification(), model, batch, rng=np.random.default_rng(1), names="*.bias", chunk=3)
    assert part != one


@pytest.mark.parametrize(
    ("wrong", "name"),
    [
        (lambda *a, **o: m_sharpness(*a, rho=0), "rho"),
        (lambda *a, **o: m_sharpness(*a, m=0), "m and steps"),
        (lambda *a, **o: adaptive_sharpness(*a, eta=-1), "eta"),
        (lambda *a, **o: adaptive_sharpness(*a, p=1), "p"),
        (lambda *a, rng: average_sharpness(*a, sigma=-1, rng=rng), "sigma"),
        (lambda *a, rng: average_sharpness(*a, samples=1, rng=rng), "samples"),
        (lambda *a, rng: epsilon_sharpness(*a, epsilon=float("nan"), rng=rng), "epsilon"),
    ],
)
def test_impossible_settings_are_refused(wrong, name, rng):
    with pytest.raises(ValueError, match=f"^{name}: expected"):
        wrong(LOSS, weights(1, 1), NO_DATA, rng=rng)


def test_an_ascent_of_several_steps_needs_a_generator():
    with pytest.raises(TypeError, match="rng: more than one step"):
        m_sharpness(LOSS, weights(1, 1), NO_DATA, steps=2)
