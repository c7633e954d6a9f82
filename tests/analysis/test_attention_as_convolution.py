"""Self-attention with one head per tap equals convolution."""

import numpy as np
import pytest
from scipy.signal import correlate2d

import tinyvit
from tinyvit.analysis import AttentionConv
from tinyvit.analysis.attention_as_convolution import reach, taps


@pytest.mark.parametrize(("K", "C", "O"), [(1, 2, 3), (2, 3, 2), (3, 3, 4), (3, 1, 1), (4, 2, 2), (5, 3, 4)])
def test_it_equals_the_convolution(K, C, O, rng):
    images, kernel = rng.normal(size=(2, 7, 9, C)), rng.normal(size=(O, C, K, K))
    layer = AttentionConv.from_kernel(kernel)
    got = layer(images).data
    before, after = reach(K)
    border = (before, after)
    error = np.abs(got - tinyvit.conv2d(images, kernel, padding=(border, border))).max()
    assert error < 1e-10, f"K={K}: {error:.1e} from conv2d"
    padded = np.pad(images, ((0, 0), border, border, (0, 0)))
    scipy = sum(correlate2d(padded[1, :, :, c], kernel[0, c], mode="valid") for c in range(C))
    assert np.abs(got[1, :, :, 0] - scipy).max() < 1e-10, "differs from SciPy's correlation"


def test_the_direction_of_a_tap_is_right(rng):
    """A kernel with a single one below its centre shifts the image up."""
    image = rng.normal(size=(1, 5, 6, 1))
    kernel = np.zeros((1, 1, 3, 3))
    kernel[0, 0, 2, 1] = 1
    got = AttentionConv.from_kernel(kernel)(image).data
    assert np.abs(got[0, :-1] - image[0, 1:]).max() < 1e-12
    assert np.abs(got[0, -1]).max() < 1e-12, "beyond the border there are zeros"


def test_each_head_looks_at_its_tap(rng):
    layer = AttentionConv.from_kernel(rng.normal(size=(2, 3, 3, 3)))
    with tinyvit.capture(layer, "weights") as seen:
        layer(rng.normal(size=(1, 4, 5, 3)))
    weights = seen["weights"].data.reshape(9, 4, 5, 6, 7)  # head, query, padded key
    for head, (a, b) in enumerate(taps(3)):
        assert np.abs(weights[head, 2, 3, 2 + 1 + a, 3 + 1 + b] - 1).max() < 1e-12, f"head {head} misses {(a, b)}"


@pytest.mark.parametrize("alpha", [2.0, 4.0, 8.0])
def test_what_a_soft_head_misses_is_bounded(alpha, rng):
    """Off-target weight is at most τ/(1+τ), τ = (1 + 2Σ e^(-αm²))² - 1, and the error follows from it."""
    images, kernel = rng.normal(size=(1, 8, 8, 2)), rng.normal(size=(3, 2, 3, 3))
    soft = AttentionConv.from_kernel(kernel, alpha=alpha)(images).data
    tau = (1 + 2 * sum(np.exp(-alpha * m * m) for m in range(1, 20))) ** 2 - 1
    tokens = np.pad(images[0], ((1, 1), (1, 1), (0, 0))).reshape(-1, 2)
    bound = 0.0
    for a in range(3):
        for b in range(3):
            values = tokens @ kernel[:, :, a, b].T
            bound += tau / (1 + tau) * (values.max(0) - values.min(0))
    error = np.abs(soft - tinyvit.conv2d(images, kernel, padding=1)).max(axis=(0, 1, 2))
    assert np.all(error <= bound)


def test_a_kernel_that_is_not_square_is_refused():
    with pytest.raises(ValueError, match=r"kernel: expected shape \(O, C, K, K\)"):
        AttentionConv.from_kernel(np.zeros((1, 1, 3, 2)))
