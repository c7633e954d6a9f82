"""Equations on shapes and memory layouts drawn at random: all laws, and the definition where it is short."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import arrays, fifty, full_shapes, kinked, positive, shapes, sizes

import tinyvit as tv
from tinyvit.autodiff.check import check_op
from tinyvit.autodiff.op import REGISTRY


@pytest.mark.parametrize("name", ["gelu", "gelu_tanh", "sigmoid", "silu", "quick_gelu"])
@fifty
@given(x=arrays())
def test_activations(name, x):
    check_op(REGISTRY[name], x)


@pytest.mark.parametrize("name", ["softmax", "log_softmax"])
@fifty
@given(data=st.data())
def test_softmax_along_any_axis(name, data):
    x = data.draw(arrays(full_shapes))
    axis = data.draw(st.integers(-x.ndim, x.ndim - 1))
    check_op(REGISTRY[name], x, axis=axis)
    e = np.exp(x) / np.exp(x).sum(axis, keepdims=True)
    np.testing.assert_allclose(REGISTRY[name](x, axis=axis), np.log(e) if name == "log_softmax" else e, atol=1e-13)


@fifty
@given(data=st.data())
def test_layer_norm(data):
    x = data.draw(arrays((*data.draw(shapes)[:2], data.draw(st.integers(2, 5)))))
    weight, bias = (data.draw(st.none() | arrays(x.shape[-1:])) for _ in range(2))
    check_op(tv.layer_norm, x, weight, bias, eps=0.1)
    normal = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 0.1)
    expected = normal * (1 if weight is None else weight) + (0 if bias is None else bias)
    np.testing.assert_allclose(tv.layer_norm(x, weight, bias, eps=0.1), expected, atol=1e-13)


@fifty
@given(data=st.data())
def test_batch_norm(data):
    x = data.draw(arrays((data.draw(st.integers(2, 4)), *data.draw(full_shapes))))
    weight, bias, variance = (data.draw(arrays(x.shape[-1:], v)) for v in (positive, positive, positive))
    check_op(tv.batch_norm, x, weight, bias, eps=0.1)
    check_op(tv.batch_norm_inference, x, bias, variance, weight)


@fifty
@given(data=st.data())
def test_attention(data):
    B, H, N, M, d, e = (data.draw(st.integers(low, 4)) for low in (0, 1, 0, 1, 1, 0))
    q, k, v = (data.draw(arrays(s)) for s in ((B, H, N, d), (B, data.draw(st.sampled_from([1, H])), M, d), (H, M, e)))
    bias = data.draw(st.none() | arrays((H, N, M)) | arrays((B, 1, 1, M)))
    keep = data.draw(st.none() | arrays((B, H, N, M), positive))
    scale = data.draw(st.none() | st.floats(0.1, 2.0))
    check_op(tv.scaled_dot_product_attention, q, k, v, bias, keep, scale=scale)


@fifty
@given(data=st.data())
def test_linear(data):
    i, o = data.draw(sizes), data.draw(sizes)
    x = data.draw(arrays((*data.draw(full_shapes)[:2], data.draw(st.integers(0, 3)), i)))
    weight, bias = data.draw(arrays((o, i))), data.draw(st.none() | arrays((o,)))
    check_op(tv.linear, x, weight, bias)


@fifty
@given(data=st.data())
def test_convolution(data):
    """Against its definition, a sum over the kernel's taps."""
    groups, c, o = (data.draw(st.integers(1, 3)) for _ in range(3))
    (k, l), stride, dilation, padding = (
        tuple(data.draw(st.integers(low, 3)) for _ in range(2)) for low in (1, 1, 1, 0)
    )
    extra = [data.draw(st.integers(0, 3)) for _ in range(2)]
    spatial = [max(d * (n - 1) + 1 - 2 * p, 1) + e for n, d, p, e in zip((k, l), dilation, padding, extra, strict=True)]
    x = data.draw(arrays((data.draw(st.integers(0, 3)), *spatial, c * groups)))
    weight, bias = data.draw(arrays((o * groups, c, k, l))), data.draw(st.none() | arrays((o * groups,)))
    options = {"stride": stride, "dilation": dilation, "padding": padding, "groups": groups}
    check_op(tv.conv2d, x, weight, bias, **options)
    padded = np.pad(x, ((0, 0), *((p, p) for p in padding), (0, 0)))
    H, W = ((padded.shape[a + 1] - dilation[a] * (n - 1) - 1) // stride[a] + 1 for a, n in enumerate((k, l)))
    expected = np.zeros((len(x), H, W, o * groups)) + (0 if bias is None else bias)
    for r, s, out in np.ndindex(k, l, o * groups):
        rows = slice(r * dilation[0], r * dilation[0] + stride[0] * (H - 1) + 1, stride[0])
        columns = slice(s * dilation[1], s * dilation[1] + stride[1] * (W - 1) + 1, stride[1])
        channels = slice(out // o * c, (out // o + 1) * c)
        expected[..., out] += padded[:, rows, columns, channels] @ weight[out, :, r, s]
    np.testing.assert_allclose(tv.conv2d(x, weight, bias, **options), expected, atol=1e-12)


@fifty
@given(data=st.data())
def test_pooling(data):
    size, stride = (tuple(data.draw(st.integers(1, 3)) for _ in range(2)) for _ in range(2))
    x = data.draw(arrays((data.draw(st.integers(0, 2)), *(n + data.draw(st.integers(0, 3)) for n in size), 2), kinked))
    padding = tuple(data.draw(st.integers(0, n // 2)) for n in size)
    check_op(tv.max_pool2d, x, size=size, stride=stride, padding=padding)
    check_op(tv.avg_pool2d, x, size=size, stride=stride, padding=padding)


@fifty
@given(data=st.data())
def test_resizing(data):
    x = data.draw(arrays((data.draw(st.integers(0, 2)), data.draw(sizes), data.draw(sizes), data.draw(sizes))))
    mode = data.draw(st.sampled_from(["nearest", "bilinear", "bicubic"]))
    options = {"size": (data.draw(sizes), data.draw(sizes)), "mode": mode,
               "align_corners": data.draw(st.booleans()), "antialias": data.draw(st.booleans())}  # fmt: skip
    check_op(tv.resize, x, **options)
    np.testing.assert_allclose(tv.resize(np.ones(x.shape), **options), 1.0, rtol=1e-13)


@fifty
@given(data=st.data())
def test_losses(data):
    z = data.draw(arrays(full_shapes.filter(lambda s: len(s) > 1)))
    t = data.draw(arrays(z.shape, positive))
    t = t / t.sum(-1, keepdims=True)
    classes = np.random.default_rng(data.draw(st.integers(0, 99))).integers(z.shape[-1], size=z.shape[:-1])
    options = {"reduction": data.draw(st.sampled_from(["mean", "sum", "none"]))}
    smoothing = data.draw(st.sampled_from([0.0, 0.1]))
    check_op(tv.cross_entropy, z, classes, smoothing=smoothing, **options)
    check_op(tv.cross_entropy, z, t, smoothing=smoothing, **options)
    check_op(tv.mse, z, t, **options)
    check_op(tv.kl_divergence, tv.log_softmax(z), t, **options)
    assert tv.kl_divergence(np.log(t), t) == pytest.approx(0, abs=1e-14)
