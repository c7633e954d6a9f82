"""What equations do at infinity, NaN, kinks and far from zero: by kernel and by equation, as they say."""

import math

import numpy as np
import pytest

from tinyvit import (
    Tensor,
    bce_with_logits,
    box_giou,
    box_iou,
    clip,
    cross_entropy,
    elu,
    gradients,
    grid_sample,
    hardswish,
    kl_divergence,
    layer_norm,
    leaky_relu,
    log_softmax,
    max_pool2d,
    relu6,
    scaled_dot_product_attention,
    self_attention,
    sigmoid_focal,
    softmax,
    softplus,
)

INF, NAN = math.inf, math.nan


def both(op):
    """The op with its kernel, and its equation alone."""
    return pytest.mark.parametrize("op", [op, op.function], ids=["kernel", "equation"])


def slopes(f, *xs):
    """The derivative of Σ f in every argument."""
    leaves = [Tensor(np.asarray(x), requires_grad=True) for x in xs]
    out = f(*leaves)
    return gradients(out, leaves, [np.ones(out.shape)])


@both(softmax)
def test_softmax(op):
    x = np.array([[-INF, -INF], [0.0, -INF], [1e4, -1e4], [NAN, 0.0]])
    np.testing.assert_array_equal(op(x), [[0, 0], [1, 0], [1, 0], [NAN, NAN]])
    np.testing.assert_array_equal(slopes(op, x[:3])[0], np.zeros((3, 2)))
    with np.errstate(invalid="ignore"):  # inf - inf
        assert np.isnan(op(np.array([INF, 0.0]))).all()


@both(log_softmax)
def test_log_softmax(op):
    x = np.array([[-INF, -INF], [0.0, -INF], [1e4, -1e4], [NAN, 0.0]])
    np.testing.assert_array_equal(op(x), [[-INF, -INF], [0, -INF], [0, -2e4], [NAN, NAN]])
    (g,) = slopes(lambda x: op(x)[:, 0], x[1:3])
    np.testing.assert_array_equal(g, np.zeros((2, 2)))
    with np.errstate(invalid="ignore"):
        assert np.isnan(op(np.array([INF, 0.0]))).all()


@both(layer_norm)
def test_layer_norm(op):
    bias = np.array([1.0, 2.0, 3.0])
    rows = np.array([[5.0, 5.0, 5.0], [1.0, NAN, 0.0], [1.0, INF, 0.0], [1.0, 0.0, -1.0]])
    with np.errstate(invalid="ignore"):
        y = op(rows, None, bias)
    np.testing.assert_array_equal(y[0], bias)
    assert np.isnan(y[1:3]).all()
    assert np.isfinite(y[3]).all()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_cross_entropy_is_finite_for_large_logits(dtype, smoothing):
    z = np.array([[1e4, -1e4, 0.0], [-1e4, -1e4, -1e4]], dtype)
    for targets in (np.array([1, 2]), np.array([[0, 0.5, 0.5], [1, 0, 0]], dtype)):
        loss = cross_entropy(z, targets, smoothing=smoothing)
        assert loss.dtype == dtype
        assert np.isfinite(loss)
        (g,) = slopes(lambda z, targets=targets: cross_entropy(z, targets, smoothing=smoothing), z)
        assert np.isfinite(g).all()
    np.testing.assert_allclose(cross_entropy(z[:1], np.array([1])), 2e4, rtol=1e-6)


def test_cross_entropy_of_masked_classes():
    z = np.array([[0.0, -INF, 0.0], [1.0, 2.0, -INF]])
    targets = [np.array([2, 0]), np.array([[0.5, 0, 0.5], [1, 0, 0]])]
    for t in targets:
        assert np.isfinite(cross_entropy(z, t, reduction="none")).all()
        assert np.isfinite(slopes(lambda z, t=t: cross_entropy(z, t), z)[0]).all()
    np.testing.assert_array_equal(cross_entropy(z, np.array([1, 2]), reduction="none"), [INF, INF])
    assert np.isinf(cross_entropy(z, targets[0], smoothing=0.1))  # some mass on a class that is impossible
    assert np.isnan(cross_entropy(np.array([[NAN, 0.0]]), np.array([1])))
    assert kl_divergence(log_softmax(z), softmax(z)) == pytest.approx(0, abs=1e-15)


def test_cross_entropy_of_nothing_but_ignored_rows_is_zero():
    z = np.ones((2, 3))
    ignored = np.array([9, 9])
    assert cross_entropy(z, ignored, ignore_index=9) == 0
    np.testing.assert_array_equal(slopes(lambda z: cross_entropy(z, ignored, ignore_index=9), z)[0], np.zeros((2, 3)))


@both(scaled_dot_product_attention)
@pytest.mark.parametrize("mask", [np.array([[True, False], [False, False]]), np.array([[0, -INF], [-INF, -INF]])])
def test_a_query_that_may_attend_to_nothing_gets_zeros(op, mask, rng):
    q, k, v = (rng.normal(size=(2, 3)) for _ in range(3))
    np.testing.assert_allclose(op(q, k, v, mask), [v[0], [0, 0, 0]], rtol=1e-15)
    dq, dk, dv = slopes(lambda q, k, v: op(q, k, v, mask), q, k, v)
    np.testing.assert_array_equal(dq[1], np.zeros(3))
    np.testing.assert_array_equal(dv, [np.ones(3), np.zeros(3)])
    assert np.isfinite(dk).all()


@both(self_attention)
def test_self_attention_takes_booleans_too(op, rng):
    qkv, mask = rng.normal(size=(2, 3, 12)), np.tri(3, dtype=bool)
    expected = op(qkv, np.where(mask, 0.0, -INF), num_heads=2)
    np.testing.assert_array_equal(op(qkv, mask, num_heads=2), expected)
    assert op(np.float32(qkv), mask, num_heads=2).dtype == np.float32


def test_losses_of_certain_logits():
    z, t = np.array([1e4, -1e4, 1e4, -1e4]), np.array([1.0, 0.0, 0.0, 1.0])
    np.testing.assert_array_equal(bce_with_logits(z, t, reduction="none"), [0, 0, 1e4, 1e4])
    assert np.isfinite(slopes(lambda z: bce_with_logits(z, t), z)[0]).all()
    assert np.isfinite(slopes(lambda z: sigmoid_focal(z, t), z)[0]).all()
    np.testing.assert_array_equal(softplus(np.array([-INF, INF, NAN])), [0, INF, NAN])
    assert slopes(softplus, [-1e4, 0.0, 1e4])[0].tolist() == [0, 0.5, 1]


def test_empty_boxes_places_outside_and_pooled_nans():
    empty = np.array([1.0, 1.0, 1.0, 1.0])
    assert box_iou(empty, empty) == box_giou(empty, empty) == 0
    image = np.ones((1, 2, 2, 1))
    sampled = grid_sample(image, np.array([[[[0.0, 0.0], [9.0, 0.0], [NAN, 0.0]]]]))
    np.testing.assert_array_equal(sampled.ravel(), [1, 0, NAN])
    image[0, 0, 1] = NAN
    assert np.isnan(max_pool2d(image, size=2)).all()


@pytest.mark.parametrize(
    ("f", "places", "expected"),
    [
        (relu6, [-1, 0, 3, 6, 7], [0, 0, 1, 0, 0]),
        (hardswish, [-4, -3, 0, 3, 4], [0, 0, 0.5, 1, 1]),
        (elu, [0.0, 1.0], [1, 1]),
        (leaky_relu, [-1.0, 0.0, 1.0], [0.01, 0.01, 1]),
        (lambda x: clip(x, low=0, high=6), [-1, 0, 3, 6, 7], [0, 1, 1, 1, 0]),
    ],
    ids=["relu6", "hardswish", "elu", "leaky_relu", "clip"],
)
def test_derivatives_at_kinks_are_those_of_pytorch(f, places, expected):
    np.testing.assert_allclose(slopes(f, np.array(places, float))[0], expected, rtol=1e-15)
