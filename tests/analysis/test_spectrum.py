"""Spectral algorithms on matrices whose spectrum is chosen, so that every answer is known."""

import inspect

import numpy as np
import pytest
from scipy.sparse.linalg import LinearOperator, eigsh

from tinyvit.analysis.spectrum import (
    Density,
    hutch_plus_plus,
    lanczos,
    power_iteration,
    smoothed,
    spectral_density,
    top_eigenvalues,
    trace,
)

EIGSH_TAKES_A_GENERATOR = "rng" in inspect.signature(eigsh).parameters


def symmetric(eigenvalues, seed=0):
    """A symmetric matrix with these eigenvalues and random eigenvectors."""
    eigenvalues = np.asarray(eigenvalues, dtype=float)
    rng = np.random.default_rng(seed)
    rotation, _ = np.linalg.qr(rng.normal(size=(eigenvalues.size, eigenvalues.size)))
    matrix = (rotation * eigenvalues) @ rotation.T
    return (matrix + matrix.T) / 2


def generator(seed=1):
    return np.random.default_rng(seed)


class Counting(LinearOperator):
    """A matrix that counts the products it was asked for."""

    def __init__(self, matrix):
        self.matrix, self.products = matrix, 0
        super().__init__(matrix.dtype, matrix.shape)

    def _matvec(self, vector):
        self.products += 1
        return self.matrix @ vector.ravel()


SPECTRUM = np.concatenate([np.linspace(-1, 1, 57), [3.0, 5.0, 8.0]])
NEGATIVE = np.concatenate([np.linspace(-1, 1, 57), [-9.0, 2.0, 5.0]])


# ---- leading eigenvalues -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("which", "expected"),
    [("LA", [5.0, 2.0, 1.0]), ("SA", [-9.0, -1.0, -27 / 28]), ("LM", [-9.0, 5.0, 2.0])],
)
def test_top_eigenvalues_at_each_end(which, expected):
    found = top_eigenvalues(symmetric(NEGATIVE), 3, which=which, tol=1e-10, rng=generator())
    np.testing.assert_allclose(found.values, expected, rtol=1e-9)
    assert found.vectors.shape == (60, 3)
    np.testing.assert_allclose(found.vectors.T @ found.vectors, np.eye(3), atol=1e-9)


def test_the_largest_is_found_where_a_negative_one_is_larger_in_modulus():
    found = top_eigenvalues(symmetric(NEGATIVE), rng=generator())
    np.testing.assert_allclose(found.values, [5.0], rtol=1e-3)


def test_residuals_are_those_of_the_pairs_and_bound_the_error():
    matrix = symmetric(SPECTRUM)
    found = top_eigenvalues(matrix, 2, tol=1e-2, rng=generator())
    residuals = np.linalg.norm(matrix @ found.vectors - found.values * found.vectors, axis=0)
    np.testing.assert_allclose(found.residuals, residuals, atol=1e-12)
    assert np.all(np.abs(found.values - [8.0, 5.0]) <= found.residuals + 1e-12)


def test_few_products_suffice():
    operator = Counting(symmetric(SPECTRUM))
    found = top_eigenvalues(operator, tol=1e-2, rng=generator())
    np.testing.assert_allclose(found.values, [8.0], rtol=1e-2)
    assert operator.products <= 30


def test_single_precision_operators():
    matrix = symmetric(SPECTRUM).astype(np.float32)
    np.testing.assert_allclose(top_eigenvalues(matrix, rng=generator()).values, [8], rtol=1e-3)
    np.testing.assert_allclose(power_iteration(matrix, rng=generator()).values, [8], rtol=1e-3)
    density = spectral_density(matrix, steps=20, starts=2, rng=generator())
    assert density.nodes.max() == pytest.approx(8, rel=1e-3)


# ---- power iteration -----------------------------------------------------------------------------


def test_power_iteration_finds_the_largest_modulus_even_if_negative():
    matrix = symmetric(NEGATIVE)
    found = power_iteration(matrix, tol=1e-6, rng=generator())
    np.testing.assert_allclose(found.values, [-9.0], rtol=1e-6)
    assert found.vectors.shape == (60, 1)
    np.testing.assert_allclose(matrix @ found.vectors, -9 * found.vectors, atol=1e-5)


@pytest.mark.parametrize("tol", [1e-1, 1e-3, 1e-6])
def test_power_iteration_stops_on_the_residual(tol):
    matrix = symmetric(SPECTRUM)
    found = power_iteration(matrix, tol=tol, rng=generator())
    vector = found.vectors[:, 0]
    residual = np.linalg.norm(matrix @ vector - found.values[0] * vector)
    assert found.residuals[0] == pytest.approx(residual, rel=1e-6)
    assert residual <= tol * found.values[0]


def test_power_iteration_says_when_it_did_not_arrive():
    with pytest.raises(RuntimeError, match="after 50 steps"):
        power_iteration(np.diag([1.0, -1.0, 0.5]), max_steps=50, rng=generator())


def test_power_iteration_on_the_zero_operator():
    assert power_iteration(np.zeros((3, 3)), rng=generator()).values == [0]


# ---- Lanczos -------------------------------------------------------------------------------------


def test_lanczos_keeps_an_orthonormal_basis_and_projects_the_operator():
    matrix = symmetric(SPECTRUM)
    start = generator().normal(size=60)
    seen = lanczos(matrix, start, 25)
    tridiagonal = np.diag(seen.diagonal)
    tridiagonal += np.diag(seen.off_diagonal, 1) + np.diag(seen.off_diagonal, -1)
    np.testing.assert_allclose(seen.basis.T @ seen.basis, np.eye(25), atol=1e-14)
    np.testing.assert_allclose(seen.basis.T @ matrix @ seen.basis, tridiagonal, atol=1e-13)
    np.testing.assert_allclose(seen.basis[:, 0], start / np.linalg.norm(start))


def test_lanczos_of_all_steps_has_the_spectrum_itself():
    seen = lanczos(symmetric(SPECTRUM), generator().normal(size=60), 60)
    tridiagonal = np.diag(seen.diagonal)
    tridiagonal += np.diag(seen.off_diagonal, 1) + np.diag(seen.off_diagonal, -1)
    np.testing.assert_allclose(np.linalg.eigvalsh(tridiagonal), np.sort(SPECTRUM), atol=1e-12)


@pytest.mark.parametrize("distinct", [[7.0], [0.0], [4.0, -2.0], [4.0, 3.0, -2.0]])
def test_lanczos_stops_where_the_krylov_space_ends(distinct):
    seen = lanczos(symmetric(np.repeat(distinct, 20)), generator().normal(size=20 * len(distinct)), 50)
    tridiagonal = np.diag(seen.diagonal)
    tridiagonal += np.diag(seen.off_diagonal, 1) + np.diag(seen.off_diagonal, -1)
    assert seen.basis.shape == (20 * len(distinct), len(distinct))
    np.testing.assert_allclose(np.linalg.eigvalsh(tridiagonal), np.sort(distinct), atol=1e-12)


def test_lanczos_leaves_the_start_alone():
    start = np.array([1.0, 2.0, 3.0])
    lanczos(np.diag([1.0, 2.0, 3.0]), start, 2)
    np.testing.assert_array_equal(start, [1, 2, 3])


# ---- spectral density ----------------------------------------------------------------------------


def test_moments_are_exact_up_to_degree_2m_minus_1_for_each_start():
    # On a diagonal matrix every sign vector weighs all eigenvalues alike, so the exact moments are
    # known without knowing the start.
    eigenvalues = np.linspace(-1, 1.5, 40)
    steps = 6
    density = spectral_density(np.diag(eigenvalues), steps=steps, starts=1, rng=generator())
    for degree in range(2 * steps):
        moment = np.sum(density.weights * density.nodes**degree)
        assert moment == pytest.approx(np.mean(eigenvalues**degree), rel=1e-12, abs=1e-13)
    beyond = np.sum(density.weights * density.nodes ** (2 * steps))
    assert beyond != pytest.approx(np.mean(eigenvalues ** (2 * steps)), rel=1e-6)


@pytest.mark.parametrize("linear", [None, 0.5])
def test_density_of_a_known_spectrum(linear):
    density = spectral_density(symmetric(SPECTRUM), steps=30, starts=200, rng=generator())
    assert density.weights.sum() == pytest.approx(1)
    grid, values = smoothed(density, linear=linear)
    exact = Density(SPECTRUM, np.full(60, 1 / 60))
    width = 0.02 * np.ptp(density.nodes) if linear is None else None
    _, expected = smoothed(exact, linear=linear, grid=grid, width=width)
    assert np.trapezoid(values, grid) == pytest.approx(1, rel=1e-3)
    assert np.trapezoid(np.abs(values - expected), grid) < 0.05


def test_density_of_a_single_eigenvalue():
    density = spectral_density(2 * np.eye(4), rng=generator())
    np.testing.assert_allclose(density.nodes, 2)
    grid, values = smoothed(density)
    assert grid[np.argmax(values)] == pytest.approx(2, abs=1e-3)
    zero = spectral_density(np.zeros((3, 3)), rng=generator())
    np.testing.assert_allclose(zero.nodes, 0)
    assert np.all(np.isfinite(smoothed(zero)[1]))


def test_smoothing_on_a_grid_of_ones_own():
    grid = np.array([-1.0, 0.0, 1.0, 8.0])
    density = Density(np.array([0.0, 8.0]), np.array([0.75, 0.25]))

    def bell(x, sigma):
        return np.exp(-((x / sigma) ** 2) / 2) / (sigma * np.sqrt(2 * np.pi))

    same, values = smoothed(density, width=0.5, grid=grid)
    np.testing.assert_array_equal(same, grid)
    np.testing.assert_allclose(values, 0.75 * bell(grid, 0.5) + 0.25 * bell(grid - 8, 0.5))
    _, values = smoothed(density, width=0.5, linear=2.0, grid=grid)  # σ = 1 at 0, and 4 at 8
    np.testing.assert_allclose(values, 0.75 * bell(grid, 1.0) + 0.25 * bell(grid - 8, 4.0))


# ---- trace ---------------------------------------------------------------------------------------


def test_trace_of_a_diagonal_matrix_is_exact_from_one_sample():
    estimate = trace(np.diag(np.arange(1.0, 11)), samples=1, rng=generator())
    assert estimate.value == 55
    assert np.isnan(estimate.error)
    assert trace(np.diag(np.arange(1.0, 11)), samples=5, rng=generator()).error == 0


def test_trace_is_unbiased_and_its_error_honest():
    matrix = symmetric(SPECTRUM)
    estimate = trace(matrix, samples=2000, rng=generator())
    off_diagonal = np.sum(matrix**2) - np.sum(np.diag(matrix) ** 2)
    assert estimate.error == pytest.approx(np.sqrt(2 * off_diagonal / 2000), rel=0.1)
    assert abs(estimate.value - np.trace(matrix)) < 4 * estimate.error


def test_the_standard_error_of_two_samples():
    rng, matrix = generator(3), symmetric(SPECTRUM)
    first, second = (trace(matrix, samples=1, rng=rng).value for _ in range(2))
    both = trace(matrix, samples=2, rng=generator(3))
    assert both.value == pytest.approx((first + second) / 2)
    assert both.error == pytest.approx(abs(first - second) / 2)


def test_hutch_plus_plus_is_exact_where_few_eigenvalues_are_not_zero():
    low = symmetric(np.r_[np.zeros(50), [1.0, -2.0, 5.0]])
    assert hutch_plus_plus(low, products=30, rng=generator()).value == pytest.approx(4, rel=1e-10)
    assert np.isnan(hutch_plus_plus(low, products=5, rng=generator()).error)
    whole = hutch_plus_plus(symmetric(SPECTRUM), products=600, rng=generator())
    assert whole.value == pytest.approx(SPECTRUM.sum(), rel=1e-10)


def test_hutch_plus_plus_is_precise_where_the_spectrum_falls_off():
    """n = 200, λᵢ = i⁻², 30 products each: at least ten times as precise; its error is honest."""
    matrix, rng = symmetric(np.arange(1.0, 201) ** -2), generator()
    plain = np.array([trace(matrix, samples=30, rng=rng).value for _ in range(60)]) - np.trace(matrix)
    better = [hutch_plus_plus(matrix, products=30, rng=rng) for _ in range(60)]
    errors = np.array([estimate.value for estimate in better]) - np.trace(matrix)
    assert 10 * np.sqrt(np.mean(errors**2)) < np.sqrt(np.mean(plain**2))
    assert np.sqrt(np.mean([e.error**2 for e in better])) == pytest.approx(np.sqrt(np.mean(errors**2)), rel=0.3)


def test_all_eigenvalues_and_those_of_a_few_rows():
    matrix = symmetric(SPECTRUM)
    everything = top_eigenvalues(matrix, 60, rng=generator())
    np.testing.assert_allclose(everything.values, np.sort(SPECTRUM)[::-1], atol=1e-12)
    two = top_eigenvalues(np.array([[2.0, 1.0], [1.0, 2.0]]), which="SA", rng=generator())
    np.testing.assert_allclose([two.values[0], two.residuals[0]], [1, 0], atol=1e-14)


# ---- everywhere ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "algorithm",
    [
        lambda rng: top_eigenvalues(symmetric(SPECTRUM), 2, rng=rng),
        pytest.param(
            lambda rng: top_eigenvalues(np.eye(60), 2, rng=rng),  # restarts from a random vector
            marks=pytest.mark.skipif(not EIGSH_TAKES_A_GENERATOR, reason="SciPy too old"),
        ),
        lambda rng: power_iteration(symmetric(SPECTRUM), rng=rng),
        lambda rng: spectral_density(symmetric(SPECTRUM), steps=8, starts=3, rng=rng),
        lambda rng: trace(symmetric(SPECTRUM), samples=3, rng=rng),
        lambda rng: hutch_plus_plus(symmetric(SPECTRUM), products=9, rng=rng),
    ],
)
def test_one_seed_one_answer(algorithm):
    for first, second in zip(algorithm(generator(5)), algorithm(generator(5)), strict=True):
        np.testing.assert_array_equal(first, second)


def test_errors_name_the_argument():
    matrix = np.eye(4)
    with pytest.raises(ValueError, match=r"operator: expected shape \(n, n\), got \(3, 4\)"):
        trace(np.ones((3, 4)), rng=generator())
    with pytest.raises(ValueError, match="operator: expected real numbers"):
        trace(1j * matrix, rng=generator())
    with pytest.raises(TypeError, match=r"rng: expected a numpy.random.Generator, got int"):
        trace(matrix, rng=0)
    with pytest.raises(ValueError, match="products: expected at least three, got 2"):
        hutch_plus_plus(matrix, products=2, rng=generator())
    with pytest.raises(ValueError, match="samples"):
        trace(matrix, samples=0, rng=generator())
    with pytest.raises(ValueError, match="k: expected 1 <= k <= 4"):
        top_eigenvalues(matrix, 5, rng=generator())
    with pytest.raises(ValueError, match=r"which: expected one of .*'BE'"):
        top_eigenvalues(matrix, which="BE", rng=generator())
    with pytest.raises(ValueError, match="start: expected a non-zero vector"):
        lanczos(matrix, np.zeros(4), 2)
    with pytest.raises(ValueError, match="steps"):
        lanczos(matrix, np.ones(4), 0)
    with pytest.raises(ValueError, match="starts"):
        spectral_density(matrix, starts=0, rng=generator())
    with pytest.raises(ValueError, match="width"):
        smoothed(Density(np.zeros(1), np.ones(1)), width=0)
    with pytest.raises(ValueError, match="linear"):
        smoothed(Density(np.zeros(1), np.ones(1)), linear=0)
