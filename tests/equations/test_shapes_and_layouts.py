"""Equations on shapes and memory layouts drawn at random: all laws, and the definition where it is short."""

import math
from unittest import mock

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import arrays, full_shapes, kinked, positive, shapes, sizes

import tinyvit as tv
from tinyvit.autodiff.check import check_op
from tinyvit.autodiff.op import REGISTRY
from tinyvit.equations import correlation, normalize

ACTIVATIONS = ["gelu", "gelu_slope", "gelu_tanh", "sigmoid", "silu", "quick_gelu", "softplus", "log_sigmoid", "elu",
               "leaky_relu", "relu6", "hardswish"]  # fmt: skip


@st.composite
def boxes(draw, shape):
    """Boxes (*shape, 4) of some width and height, around zero."""
    corner, size = draw(arrays((*shape, 2))), draw(arrays((*shape, 2), positive))
    return np.concatenate([corner, corner + 2 * size], -1)


@pytest.mark.parametrize("name", ACTIVATIONS)
@given(x=arrays())
def test_activations(name, x):
    check_op(REGISTRY[name], x)
    check_op(REGISTRY[name], np.asarray(4 * x))


@pytest.mark.parametrize("name", ["softmax", "log_softmax"])
@given(data=st.data())
def test_softmax_along_any_axis(name, data):
    x = data.draw(arrays(full_shapes))
    axis = data.draw(st.integers(-x.ndim, x.ndim - 1))
    check_op(REGISTRY[name], x, axis=axis)
    e = np.exp(x) / np.exp(x).sum(axis, keepdims=True)
    np.testing.assert_allclose(REGISTRY[name](x, axis=axis), np.log(e) if name == "log_softmax" else e, atol=1e-13)


@given(data=st.data())
def test_layer_norm(data):
    x = data.draw(arrays((*data.draw(shapes)[:2], data.draw(st.integers(2, 5)))))
    weight, bias = (data.draw(st.none() | arrays(x.shape[-1:])) for _ in range(2))
    check_op(tv.layer_norm, x, weight, bias, eps=0.1)
    normal = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 0.1)
    expected = normal * (1 if weight is None else weight) + (0 if bias is None else bias)
    np.testing.assert_allclose(tv.layer_norm(x, weight, bias, eps=0.1), expected, atol=1e-13)


@given(data=st.data())
def test_batch_norm(data):
    x = data.draw(arrays((data.draw(st.integers(2, 4)), *data.draw(full_shapes))))
    weight, bias, variance = (data.draw(arrays(x.shape[-1:], v)) for v in (positive, positive, positive))
    with mock.patch.object(normalize, "BLOCK", data.draw(st.sampled_from([1, 7, normalize.BLOCK]))):
        check_op(tv.batch_norm, x, weight, bias, eps=0.1)
        check_op(tv.batch_norm_inference, x, bias, variance, weight)


@given(data=st.data())
def test_group_and_instance_norm(data):
    groups, B, c = data.draw(st.integers(1, 3)), data.draw(st.integers(0, 3)), data.draw(st.integers(1, 3))
    x = data.draw(arrays((B, *data.draw(full_shapes)[:2], groups * c)))
    weight, bias = (data.draw(st.none() | arrays(x.shape[-1:])) for _ in range(2))
    with mock.patch.object(normalize, "BLOCK", data.draw(st.sampled_from([1, 7, normalize.BLOCK]))):
        check_op(tv.group_norm, x, weight, bias, groups=groups, eps=0.1)
        check_op(tv.instance_norm, x, weight, bias, eps=0.1)
    for i in range(groups):
        part = x[..., i * c : (i + 1) * c]
        axes = tuple(range(1, x.ndim))
        expected = (part - part.mean(axes, keepdims=True)) / np.sqrt(part.var(axes, keepdims=True) + 0.1)
        got = tv.group_norm(x, groups=groups, eps=0.1)[..., i * c : (i + 1) * c]
        np.testing.assert_allclose(got, expected, atol=1e-13)


@given(data=st.data())
def test_root_mean_square_norm_and_standardised_weights(data):
    x = data.draw(arrays((*data.draw(shapes)[:2], data.draw(st.integers(2, 5)))))
    weight = data.draw(st.none() | arrays(x.shape[-1:]))
    check_op(tv.rms_norm, x, weight, eps=0.1)
    expected = x / np.sqrt((x**2).mean(-1, keepdims=True) + 0.1) * (1 if weight is None else weight)
    np.testing.assert_allclose(tv.rms_norm(x, weight, eps=0.1), expected, atol=1e-13)
    filters = data.draw(arrays((data.draw(sizes), *data.draw(full_shapes))))
    check_op(tv.weight_standardise, filters, eps=0.1)
    flat = tv.weight_standardise(filters, eps=0.0 if filters[0].size > 1 else 0.1).reshape(len(filters), -1)
    np.testing.assert_allclose(flat.mean(1), 0, atol=1e-12)
    np.testing.assert_allclose(flat.var(1), 1 if filters[0].size > 1 else 0, atol=1e-9)


@given(data=st.data())
def test_attention(data):
    B, H, N, M, d, e = (data.draw(st.integers(low, 4)) for low in (0, 1, 0, 1, 1, 0))
    q, k, v = (data.draw(arrays(s)) for s in ((B, H, N, d), (B, data.draw(st.sampled_from([1, H])), M, d), (H, M, e)))
    bias = data.draw(st.none() | arrays((H, N, M)) | arrays((B, 1, 1, M)))
    keep = data.draw(st.none() | arrays((B, H, N, M), positive))
    scale = data.draw(st.none() | st.floats(0.1, 2.0))
    check_op(tv.scaled_dot_product_attention, q, k, v, bias, keep, scale=scale)
    mask = data.draw(arrays((N, M))) > 0
    check_op(tv.scaled_dot_product_attention, q, k, v, mask, keep, scale=scale)
    as_numbers = tv.scaled_dot_product_attention(q, k, v, np.where(mask, 0.0, -np.inf))
    np.testing.assert_array_equal(tv.scaled_dot_product_attention(q, k, v, mask), as_numbers)


@given(data=st.data())
def test_multi_head_attention(data):
    """One head with the identity for all projections is attention itself; and the laws, for any number of heads."""
    B, N, M, d, h = (data.draw(st.integers(low, 3)) for low in (1, 0, 1, 1, 1))
    D = h * d
    q, k, v = (data.draw(arrays((B, n, D))) for n in (N, M, M))
    weights = [data.draw(arrays(s)) for s in ((3 * D, D), (3 * D,), (D, D), (D,))]
    mask = data.draw(arrays((B, 1, 1, M))) > 0
    check_op(tv.multi_head_attention, q, k, v, *weights, mask, num_heads=h)
    got = tv.multi_head_attention(q, k, v, np.tile(np.eye(D), (3, 1)), None, np.eye(D), None, num_heads=1)
    np.testing.assert_allclose(got, tv.scaled_dot_product_attention(q, k, v), atol=1e-14)


@given(data=st.data())
def test_linear(data):
    i, o = data.draw(sizes), data.draw(sizes)
    x = data.draw(arrays((*data.draw(full_shapes)[:2], data.draw(st.integers(0, 3)), i)))
    weight, bias = data.draw(arrays((o, i))), data.draw(st.none() | arrays((o,)))
    check_op(tv.linear, x, weight, bias)


@pytest.mark.parametrize(("n", "op"), [(1, tv.conv1d), (2, tv.conv2d), (3, tv.conv3d)], ids=str)
@given(data=st.data())
def test_convolution(n, op, data):
    """Against its definition, a sum over the kernel's taps."""
    groups, c, o = (data.draw(st.integers(1, 3)) for _ in range(3))
    size, stride, dilation, padding = (
        tuple(data.draw(st.integers(low, 3 if n < 3 else 2)) for _ in range(n)) for low in (1, 1, 1, 0)
    )
    extra = [data.draw(st.integers(0, 3)) for _ in range(n)]
    spatial = [max(d * (k - 1) + 1 - 2 * p, 1) + e for k, d, p, e in zip(size, dilation, padding, extra, strict=True)]
    x = data.draw(arrays((data.draw(st.integers(0, 3)), *spatial, c * groups)))
    weight, bias = data.draw(arrays((o * groups, c, *size))), data.draw(st.none() | arrays((o * groups,)))
    options = {"stride": stride, "dilation": dilation, "padding": padding, "groups": groups}
    with mock.patch.object(correlation, "BLOCK", data.draw(st.sampled_from([1, 40, correlation.BLOCK]))):
        check_op(op, x, weight, bias, **options)
    padded = np.pad(x, ((0, 0), *((p, p) for p in padding), (0, 0)))
    places = [(padded.shape[a + 1] - dilation[a] * (k - 1) - 1) // stride[a] + 1 for a, k in enumerate(size)]
    expected = np.zeros((len(x), *places, o * groups)) + (0 if bias is None else bias)
    for *tap, out in np.ndindex(*size, o * groups):
        starts = [t * d for t, d in zip(tap, dilation, strict=True)]
        seen = [slice(a, a + s * (m - 1) + 1, s) for a, s, m in zip(starts, stride, places, strict=True)]
        channels = slice(out // o * c, (out // o + 1) * c)
        expected[..., out] += padded[(slice(None), *seen, channels)] @ weight[(out, slice(None), *tap)]
    np.testing.assert_allclose(op(x, weight, bias, **options), expected, atol=1e-12)


@given(data=st.data())
def test_transposed_convolution(data):
    """``<conv2d(y), x> = <y, conv_transpose2d(x)>`` for all x and y: what a transpose is."""
    groups, c, o = (data.draw(st.integers(1, 2)) for _ in range(3))
    size, stride, dilation = (tuple(data.draw(st.integers(1, 3)) for _ in range(2)) for _ in range(3))
    reach = [d * (k - 1) + 1 for k, d in zip(size, dilation, strict=True)]
    padding = tuple(data.draw(st.integers(0, (r - 1) // 2)) for r in reach)
    extra = tuple(data.draw(st.integers(0, s - 1)) for s in stride)
    x = data.draw(arrays((data.draw(st.integers(0, 2)), data.draw(sizes), data.draw(sizes), c * groups)))
    weight = data.draw(arrays((c * groups, o, *size)))
    bias = data.draw(st.none() | arrays((o * groups,)))
    shared = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
    check_op(tv.conv_transpose2d, x, weight, bias, output_padding=extra, **shared)
    there = tv.conv_transpose2d(x, weight, output_padding=extra, **shared)
    y = np.random.default_rng(0).normal(size=there.shape)
    np.testing.assert_allclose(np.sum(there * y), np.sum(x * tv.conv2d(y, weight, **shared)), atol=1e-10)


@given(data=st.data())
def test_the_largest_of_windows_with_equal_numbers(data):
    """A tie's derivative goes to the first, and so does a NaN's; by the kernel as by the equation."""
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    x = tv.Tensor(rng.choice([-np.inf, 0.0, 1.0, np.nan], (2, 5, 6, 2)), requires_grad=True)
    size, stride = (tuple(data.draw(st.integers(1, 3)) for _ in range(2)) for _ in range(2))
    options = {"size": size, "stride": stride, "padding": tuple(n // 2 for n in size)}
    fast, slow = tv.max_pool2d(x, **options), tv.max_pool2d.function(x, **options)
    np.testing.assert_array_equal(fast.data, slow.data)
    u = rng.normal(size=fast.shape)
    np.testing.assert_allclose(*(tv.gradients(y, [x], [u])[0] for y in (fast, slow)), atol=1e-14)


def pooled(x, reduce, rows, columns):
    """The definition: ``reduce`` of every window, given the windows' (start, end) along both axes."""
    parts = [[reduce(x[:, a:b, c:d]) for c, d in columns] for a, b in rows]
    return np.moveaxis(np.array(parts), 2, 0)


def window_ends(n, k, s, p, ceil):
    """Where PyTorch's windows start and end, the border included."""
    count = (n + 2 * p - k + (s - 1 if ceil else 0)) // s + 1
    count -= ceil and (count - 1) * s >= n + p
    return [(i * s - p, min(i * s - p + k, n + p)) for i in range(count)]


@given(data=st.data())
def test_pooling(data):
    size, stride = (tuple(data.draw(st.integers(1, 3)) for _ in range(2)) for _ in range(2))
    x = data.draw(arrays((data.draw(st.integers(1, 2)), *(n + data.draw(st.integers(0, 3)) for n in size), 2), kinked))
    padding = tuple(data.draw(st.integers(0, n // 2)) for n in size)
    ceil, with_border = data.draw(st.booleans()), data.draw(st.booleans())
    options = {"size": size, "stride": stride, "padding": padding, "ceil_mode": ceil}
    check_op(tv.max_pool2d, x, **options)
    check_op(tv.avg_pool2d, x, **options, count_include_pad=with_border)
    ends = [window_ends(*along, ceil) for along in zip(x.shape[1:3], size, stride, padding, strict=True)]
    inside = [[(max(a, 0), min(b, n)) for a, b in pairs] for pairs, n in zip(ends, x.shape[1:3], strict=True)]
    np.testing.assert_array_equal(tv.max_pool2d(x, **options), pooled(x, lambda w: w.max((1, 2)), *inside))
    totals = pooled(x, lambda w: w.sum((1, 2)), *inside)
    rows, columns = ([b - a for a, b in pairs] for pairs in (ends if with_border else inside))
    expected = totals / np.multiply.outer(rows, columns)[..., None]
    np.testing.assert_allclose(tv.avg_pool2d(x, **options, count_include_pad=with_border), expected, atol=1e-13)


@given(data=st.data())
def test_pooling_to_a_size(data):
    x = data.draw(arrays((data.draw(st.integers(1, 2)), data.draw(sizes), data.draw(sizes), 2), kinked))
    size = tuple(data.draw(st.integers(1, 6)) for _ in range(2))
    check_op(tv.adaptive_avg_pool2d, x, size=size)
    check_op(tv.adaptive_max_pool2d, x, size=size)
    ends = [[(i * n // m, -(-(i + 1) * n // m)) for i in range(m)] for n, m in zip(x.shape[1:3], size, strict=True)]
    np.testing.assert_array_equal(tv.adaptive_max_pool2d(x, size=size), pooled(x, lambda w: w.max((1, 2)), *ends))
    means = pooled(x, lambda w: w.mean((1, 2)), *ends)
    np.testing.assert_allclose(tv.adaptive_avg_pool2d(x, size=size), means, atol=1e-13)


@given(data=st.data())
def test_resizing(data):
    x = data.draw(arrays((data.draw(st.integers(0, 2)), data.draw(sizes), data.draw(sizes), data.draw(sizes))))
    mode = data.draw(st.sampled_from(["nearest", "bilinear", "bicubic"]))
    options = {"size": (data.draw(sizes), data.draw(sizes)), "mode": mode,
               "align_corners": data.draw(st.booleans()), "antialias": data.draw(st.booleans())}  # fmt: skip
    check_op(tv.resize, x, **options)
    np.testing.assert_allclose(tv.resize(np.ones(x.shape), **options), 1.0, rtol=1e-13)


@given(data=st.data())
def test_resizing_by_a_scale(data):
    """A whole number of times larger is the same as that size."""
    x = data.draw(arrays((data.draw(st.integers(0, 2)), data.draw(sizes), data.draw(sizes), data.draw(sizes))))
    mode = data.draw(st.sampled_from(["nearest", "bilinear", "bicubic"]))
    check_op(tv.resize, x, scale=(data.draw(st.floats(1, 3)), data.draw(st.floats(1, 3))), mode=mode)
    times = data.draw(st.integers(1, 3))
    size = (x.shape[1] * times, x.shape[2] * times)
    expected = tv.resize(x, size=size, mode=mode)
    np.testing.assert_allclose(tv.resize(x, scale=times, mode=mode), expected, atol=1e-13)


@given(data=st.data())
def test_channels_become_pixels(data):
    r, c = data.draw(st.integers(1, 3)), data.draw(sizes)
    x = data.draw(arrays((data.draw(st.integers(0, 2)), data.draw(sizes), data.draw(sizes), c * r * r)))
    check_op(tv.pixel_shuffle, x, factor=r)
    y = tv.pixel_shuffle(x, factor=r)
    for i, j in np.ndindex(r, r):
        np.testing.assert_array_equal(y[:, i::r, j::r], x[..., i * r + j :: r * r])


@given(data=st.data())
def test_rows_of_a_table(data):
    weight = data.draw(arrays((data.draw(sizes), data.draw(st.integers(0, 3)))))
    indices = np.random.default_rng(data.draw(st.integers(0, 99))).integers(len(weight), size=data.draw(shapes))
    check_op(tv.embedding, indices, weight)
    np.testing.assert_array_equal(tv.embedding(indices, weight), weight[indices])


@given(data=st.data())
def test_sampling_an_image(data):
    """The laws at any places, and at the centres of pixels the pixels."""
    B, H, W = data.draw(st.integers(0, 2)), data.draw(sizes), data.draw(sizes)
    x, grid = data.draw(arrays((B, H, W, 2))), data.draw(arrays((B, data.draw(sizes), data.draw(sizes), 2)))
    check_op(tv.grid_sample, x, grid, align_corners=data.draw(st.booleans()))
    at_y, at_x = ((2 * np.arange(n) + 1) / n - 1 for n in (H, W))
    centres = np.broadcast_to(np.stack(np.meshgrid(at_x, at_y), -1), (B, H, W, 2))
    np.testing.assert_allclose(tv.grid_sample(x, centres), x, atol=1e-13)


@given(data=st.data())
def test_losses_of_numbers(data):
    x = data.draw(arrays(full_shapes, kinked))
    y = np.zeros(x.shape[-1:])
    options = {"reduction": data.draw(st.sampled_from(["mean", "sum", "none"]))}
    delta = data.draw(st.sampled_from([0.015, 0.105, 9.0]))
    check_op(tv.l1, x, y, **options)
    check_op(tv.huber, x, y, delta=delta, **options)
    check_op(tv.smooth_l1, x, y, beta=delta, **options)
    size = np.abs(x)
    expected = np.where(size < delta, x * x / 2, delta * (size - delta / 2))
    np.testing.assert_allclose(tv.huber(x, y, delta=delta, reduction="none"), expected, atol=1e-14)
    np.testing.assert_allclose(tv.smooth_l1(x, y, beta=delta, reduction="none"), expected / delta, atol=1e-13)


@given(data=st.data())
def test_losses_of_yes_or_no(data):
    z = data.draw(arrays(full_shapes))
    t = (data.draw(arrays(z.shape)) > 0).astype(float)
    options = {"reduction": data.draw(st.sampled_from(["mean", "sum", "none"]))}
    alpha, gamma = data.draw(st.none() | st.floats(0, 1)), data.draw(st.sampled_from([0.0, 1.0, 2.0, 2.5]))
    check_op(tv.bce_with_logits, z, t, **options)
    check_op(tv.sigmoid_focal, z, t, alpha=alpha, gamma=gamma, **options)
    check_op(tv.dice, 1 / (1 + np.exp(-z)), t, **options)
    p = np.where(t == 1, 1, -1) * z
    p = 1 / (1 + np.exp(-p))
    np.testing.assert_allclose(tv.bce_with_logits(z, t, reduction="none"), -np.log(p), atol=1e-13)
    balance = 1 if alpha is None else np.where(t == 1, alpha, 1 - alpha)
    expected = -balance * (1 - p) ** gamma * np.log(p)
    np.testing.assert_allclose(tv.sigmoid_focal(z, t, alpha=alpha, gamma=gamma, reduction="none"), expected, atol=1e-13)


@given(data=st.data())
def test_weighted_losses_of_classes(data):
    """Rows that are ignored might as well not be there; and the mean is of the weights used."""
    z = data.draw(arrays(full_shapes.filter(lambda s: len(s) > 1)))
    weight = data.draw(arrays(z.shape[-1:], positive))
    classes = np.random.default_rng(data.draw(st.integers(0, 99))).integers(-1, z.shape[-1], size=z.shape[:-1])
    options = {"ignore_index": -1, "reduction": data.draw(st.sampled_from(["mean", "sum", "none"]))}
    smoothing = data.draw(st.sampled_from([0.0, 0.1]))
    check_op(tv.cross_entropy, z, classes, weight, smoothing=smoothing, **options)
    check_op(tv.nll, tv.log_softmax(z), classes, weight, **options)
    used = classes >= 0
    if used.any():
        without = -tv.log_softmax(z)[used][np.arange(used.sum()), classes[used]] * weight[classes[used]]
        mean = tv.cross_entropy(z, classes, weight, ignore_index=-1)
        np.testing.assert_allclose(mean, without.sum() / weight[classes[used]].sum(), rtol=1e-12)


@given(data=st.data())
def test_distillation(data):
    shape = (data.draw(sizes), data.draw(sizes))
    student, teacher = data.draw(arrays(shape)), data.draw(arrays(shape))
    classes = np.random.default_rng(data.draw(st.integers(0, 99))).integers(shape[1], size=shape[0])
    tau, lam = data.draw(st.sampled_from([1.0, 3.0])), data.draw(st.floats(0, 1))
    options = {"tau": tau, "reduction": data.draw(st.sampled_from(["mean", "elements", "sum"]))}
    check_op(tv.distillation, student, teacher, **options)
    check_op(tv.soft_distillation, student, teacher, classes, lam=lam, **options)
    check_op(tv.hard_distillation, student, teacher, classes)
    assert tv.distillation(student, student + 1, **options) == pytest.approx(0, abs=1e-12)
    agreed = tv.hard_distillation(student, teacher, teacher.argmax(-1))
    np.testing.assert_allclose(agreed, tv.cross_entropy(student, teacher.argmax(-1)), rtol=1e-12)


@given(data=st.data())
def test_overlap_of_boxes(data):
    x, y = data.draw(boxes((data.draw(sizes), 1))), data.draw(boxes((data.draw(st.integers(0, 3)),)))
    y = y + np.array([0.011, 0.013, 0.017, 0.019])  # no corners in common, where max and min have a kink
    check_op(tv.box_iou, x, y)
    check_op(tv.box_giou, x, y)
    if y.size:
        check_op(tv.giou_loss, x, y, reduction=data.draw(st.sampled_from(["mean", "sum", "none"])))
    iou, giou = tv.box_iou(x, y), tv.box_giou(x, y)
    assert ((iou >= 0) & (iou <= 1) & (giou >= -1) & (giou <= iou + 1e-15)).all()
    np.testing.assert_allclose(tv.box_iou(x, x), 1, rtol=1e-14)


@given(data=st.data())
def test_coding_boxes_there_and_back(data):
    x, anchors = data.draw(boxes((data.draw(sizes), 1))), data.draw(boxes((data.draw(st.integers(0, 3)),)))
    weights = tuple(data.draw(st.sampled_from([1.0, 5.0, 10.0])) for _ in range(4))
    check_op(tv.encode_boxes, x, anchors, weights=weights)
    deltas = tv.encode_boxes(x, anchors, weights=weights)
    check_op(tv.decode_boxes, deltas, anchors, weights=weights)
    back = tv.decode_boxes(deltas, anchors, weights=weights, limit=9.0)
    np.testing.assert_allclose(back, np.broadcast_to(x, back.shape), atol=1e-12)


@given(data=st.data())
def test_what_an_image_holds_inside_of_boxes(data):
    """Against its definition: sample by sample."""
    H, W = data.draw(sizes), data.draw(sizes)
    x, found = data.draw(arrays((2, H, W, 2))), data.draw(boxes((data.draw(st.integers(0, 3)),)))
    image = np.random.default_rng(data.draw(st.integers(0, 99))).integers(2, size=len(found))
    options = {"size": (data.draw(sizes), data.draw(sizes)), "scale": data.draw(st.sampled_from([0.5, 1.0, 1.7])),
               "sampling": data.draw(st.integers(0, 2)), "aligned": data.draw(st.booleans()),
               "zero_outside": data.draw(st.booleans())}  # fmt: skip
    check_op(tv.roi_align, x, found, image, **options)
    expected = [roi_by_samples(x[i], box, **options) for i, box in zip(image, found, strict=True)]
    got = tv.roi_align(x, found, image, **options)
    np.testing.assert_allclose(got, np.reshape(expected, got.shape), atol=1e-12)


def roi_by_samples(x, box, size, scale, sampling, aligned, zero_outside):
    """One box, one output after the other."""
    left, top, right, bottom = box * scale - (0.5 if aligned else 0)
    steps = [(end - start if aligned else max(end - start, 1)) / m
             for start, end, m in zip((top, left), (bottom, right), size, strict=True)]  # fmt: skip
    counts = [sampling or math.ceil(step) for step in steps]
    out = np.zeros((*size, x.shape[-1]))
    for p, q, i, j in np.ndindex(*size, *counts):
        row = top + (p + (i + 0.5) / counts[0]) * steps[0]
        column = left + (q + (j + 0.5) / counts[1]) * steps[1]
        if not zero_outside or (-1 <= row <= x.shape[0] and -1 <= column <= x.shape[1]):
            out[p, q] += interpolated(x, row, column) / math.prod(counts)
    return out


def interpolated(x, row, column):
    """Linear between pixels, the border's beyond it."""
    row, column = (min(max(place, 0), n - 1) for place, n in zip((row, column), x.shape[:2], strict=True))
    rows, columns = (
        np.maximum(0, 1 - abs(np.arange(n) - at)) for at, n in zip((row, column), x.shape[:2], strict=True)
    )
    return np.einsum("h,w,hwc->c", rows, columns, x)


@given(data=st.data())
def test_non_maximum_suppression(data):
    """No two that are kept overlap by more than the threshold, and who is left out is covered by a better one kept."""
    found, threshold = data.draw(boxes((data.draw(st.integers(0, 6)),))), data.draw(st.sampled_from([0.1, 0.3, 0.5]))
    scores = np.random.default_rng(data.draw(st.integers(0, 99))).integers(4, size=len(found)) / 4.0
    kept = tv.nms(found, scores, threshold=threshold)
    overlap = tv.box_iou(found[:, None], found)
    assert kept.dtype == np.intp
    assert [(-scores[i], i) for i in kept] == sorted(
        (-scores[i], i) for i in kept
    )  # the best first; the first, at a tie
    for i in range(len(found)):
        better = [j for j in kept if (-scores[j], j) < (-scores[i], i)]
        assert (i in kept) == (not (overlap[i, better] > threshold).any())


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
