"""Primitives on shapes and memory layouts drawn at random: all laws, and NumPy's value."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import basic_indices, broadcastable_shapes, mutually_broadcastable_shapes, valid_tuple_axes
from strategies import arrays, full_shapes, kinked, normal, positive, shapes, sizes

import tinyvit as tv
from tinyvit.autodiff.check import check_op
from tinyvit.autodiff.op import REGISTRY
from tinyvit.primitives.shape import take_along_axis

UNARY = {"exp": np.exp, "expm1": np.expm1, "sin": np.sin, "cos": np.cos, "tanh": np.tanh, "negative": np.negative,
         "erf": None, "identity": np.positive}  # fmt: skip
POSITIVE = {"log": np.log, "log1p": np.log1p, "sqrt": np.sqrt}
KINKED = {"absolute": np.abs, "relu": lambda x: np.maximum(x, 0)}
BINARY = {"add": np.add, "subtract": np.subtract, "multiply": np.multiply, "divide": np.divide}
CHOICES = {"maximum": np.maximum, "minimum": np.minimum}


def check(op, *inputs, value=None, **options):
    """All laws of the op, and NumPy's value."""
    check_op(op, *inputs, **options)
    if value is not None:
        np.testing.assert_array_equal(op(*inputs, **options), value, strict=False)


@pytest.mark.parametrize("name", [*UNARY, *POSITIVE, *KINKED])
@given(data=st.data())
def test_functions_of_one_number(name, data):
    values = positive if name in POSITIVE else kinked if name in KINKED else normal
    x = data.draw(arrays(values=values))
    reference = (UNARY | POSITIVE | KINKED)[name]
    check(REGISTRY[name], x, value=reference(x) if reference else None)


@pytest.mark.parametrize("exponent", [0, 1, 2, 3, -1, 0.5, -0.5, 1.7])
@given(x=arrays(values=positive))
def test_powers(exponent, x):
    check(REGISTRY["power"], x, exponent=exponent)
    np.testing.assert_allclose(REGISTRY["power"](x, exponent=exponent), x**exponent, rtol=1e-14)


@given(x=arrays(values=kinked), low=st.sampled_from([-np.inf, -0.105, 0.015]), high=st.sampled_from([0.055, np.inf]))
def test_clip(x, low, high):
    check(tv.clip, x, low=low, high=high, value=np.clip(x, low, high))


def two_shapes():
    return mutually_broadcastable_shapes(num_shapes=2, max_dims=3, min_side=0, max_side=4)


@pytest.mark.parametrize("name", [*BINARY, *CHOICES])
@given(data=st.data())
def test_functions_of_two_numbers_broadcast(name, data):
    a, b = data.draw(two_shapes()).input_shapes
    if name in CHOICES:
        x, y = data.draw(arrays(a, kinked)), data.draw(arrays(b, lambda rng, s: np.full(s, 0.005)))
    else:
        x, y = data.draw(arrays(a)), data.draw(arrays(b, positive))
    check(REGISTRY[name], x, y, value=(BINARY | CHOICES)[name](x, y))


@given(data=st.data())
def test_where(data):
    a, b, c = data.draw(mutually_broadcastable_shapes(num_shapes=3, max_dims=3, min_side=0, max_side=4)).input_shapes
    condition = data.draw(arrays(a)) > 0
    x, y = data.draw(arrays(b)), data.draw(arrays(c))
    check(tv.where, condition, x, y, value=np.where(condition, x, y))


@given(data=st.data())
def test_broadcast_to_and_sum_to_are_each_others_transpose(data):
    large = data.draw(shapes)
    small = data.draw(broadcastable_shapes(large, max_dims=len(large), max_side=4).filter(
        lambda s: np.broadcast_shapes(s, large) == large))  # fmt: skip
    x, y = data.draw(arrays(small)), data.draw(arrays(large))
    check(REGISTRY["broadcast_to"], x, shape=large, value=np.broadcast_to(x, large))
    check(REGISTRY["sum_to"], y, shape=small)
    there, back = REGISTRY["broadcast_to"](x, shape=large), REGISTRY["sum_to"](y, shape=small)
    np.testing.assert_allclose(np.sum(there * y), np.sum(x * back), atol=1e-12)


@pytest.mark.parametrize("name", ["sum", "mean", "var"])
@given(data=st.data())
def test_reductions(name, data):
    x = data.draw(arrays(shapes if name == "sum" else full_shapes))
    axis = data.draw(st.none() | valid_tuple_axes(x.ndim, min_size=0 if name == "sum" else min(1, x.ndim)))
    keepdims = data.draw(st.booleans())
    op, reference = getattr(tv, name), getattr(np, name)
    check_op(lambda x: op(x, axis=axis, keepdims=keepdims), x)
    got, expected = op(x, axis=axis, keepdims=keepdims), reference(x, axis=axis, keepdims=keepdims)
    np.testing.assert_allclose(got, expected, rtol=1e-12, atol=1e-13)
    assert np.shape(got) == np.shape(expected)


@given(data=st.data())
def test_max(data):
    x = data.draw(arrays(full_shapes, kinked))
    axis, keepdims = data.draw(st.integers(-x.ndim, x.ndim - 1)), data.draw(st.booleans())
    check_op(lambda x: tv.max(x, axis=axis, keepdims=keepdims), x)
    np.testing.assert_array_equal(tv.max(x, axis=axis, keepdims=keepdims), np.max(x, axis, keepdims=keepdims))


@given(data=st.data())
def test_axes_in_another_order(data):
    x = data.draw(arrays())
    axes = tuple(data.draw(st.permutations(range(x.ndim))))
    axes = tuple(i - x.ndim if data.draw(st.booleans()) else i for i in axes)
    check(tv.transpose, x, axes=axes, value=np.transpose(x, axes))
    check(tv.transpose, x, value=x.T)
    check(tv.reshape, x, shape=(x.size,), value=x.reshape(-1))
    if x.ndim:
        i, j = (data.draw(st.integers(-x.ndim, x.ndim - 1)) for _ in range(2))
        check(tv.swapaxes, x, axis1=i, axis2=j, value=np.swapaxes(x, i, j))


@given(data=st.data())
def test_any_basic_index(data):
    x = data.draw(arrays())
    index = data.draw(basic_indices(x.shape, allow_newaxis=True))
    check(REGISTRY["getitem"], x, index=index, value=x[index])
    part = data.draw(arrays(np.shape(x[index])))
    check(REGISTRY["scatter"], part, index=index, shape=x.shape)


@given(data=st.data())
def test_any_integer_or_boolean_index(data):
    x = data.draw(arrays(full_shapes))
    rows = data.draw(st.lists(st.integers(-len(x), len(x) - 1), max_size=5))
    mask = data.draw(arrays((len(x),))) > 0
    for index in (np.array(rows, int), rows or [0], mask, (mask, ...)):
        check(REGISTRY["getitem"], x, index=index, value=x[index])
        check(REGISTRY["scatter"], np.array(x[index]), index=index, shape=x.shape)


@given(data=st.data())
def test_along_an_axis(data):
    x = data.draw(arrays(full_shapes))
    axis = data.draw(st.integers(-x.ndim, x.ndim - 1))
    length = data.draw(st.integers(0, 4))
    shape = tuple(length if i == axis % x.ndim else n for i, n in enumerate(x.shape))
    indices = np.random.default_rng(data.draw(st.integers(0, 99))).integers(x.shape[axis], size=shape)
    check(take_along_axis, x, indices, axis=axis, value=np.take_along_axis(x, indices, axis))
    check(REGISTRY["put_along_axis"], data.draw(arrays(shape)), indices, axis=axis, shape=x.shape)


@given(data=st.data())
def test_roll_pad_and_concatenate(data):
    x = data.draw(arrays(shapes.filter(len)))
    axis = data.draw(st.integers(-x.ndim, x.ndim - 1))
    shift = data.draw(st.integers(-5, 5))
    check(tv.roll, x, shift=shift, axis=axis, value=np.roll(x, shift, axis))
    widths = tuple((data.draw(st.integers(0, 2)), data.draw(st.integers(0, 2))) for _ in x.shape)
    check(tv.pad, x, widths=widths, value=None)
    np.testing.assert_array_equal(tv.pad(x, widths=widths, value=2.5), np.pad(x, widths, constant_values=2.5))
    lengths = data.draw(st.lists(st.integers(0, 3), min_size=1, max_size=3))
    others = [data.draw(arrays((*x.shape[: axis % x.ndim], n, *x.shape[axis % x.ndim + 1 :]))) for n in lengths]
    check(tv.concatenate, x, *others, axis=axis, value=np.concatenate([x, *others], axis))


@given(data=st.data())
def test_stack_split_and_flatten(data):
    x = data.draw(arrays(full_shapes))
    axis = data.draw(st.integers(-x.ndim - 1, x.ndim))
    check_op(lambda *xs: tv.stack(*xs, axis=axis), x, x + 1)
    np.testing.assert_array_equal(tv.stack(x, x + 1, axis=axis), np.stack([x, x + 1], axis))
    doubled = np.concatenate([x, x + 1], -1)
    check_op(lambda x: tv.split(x, 2)[1] * 2 + tv.split(x, 2)[0], doubled)
    np.testing.assert_array_equal(tv.split(doubled, 2)[1], x + 1)
    check_op(lambda x: tv.flatten(x, 1), x)


@given(data=st.data())
def test_matmul_broadcasts(data):
    drawn = data.draw(mutually_broadcastable_shapes(signature="(n,k),(k,m)->(n,m)", max_dims=2, min_side=0, max_side=4))
    x, y = (data.draw(arrays(s)) for s in drawn.input_shapes)
    check_op(tv.matmul, x, y)
    np.testing.assert_allclose(tv.matmul(x, y), x @ y, atol=1e-14)


@pytest.mark.parametrize("spec", ["ij,jk->ik", "ij,jk->ki", "bij,bjk->bik", "ij->ji", "ij->", "ij->j", "ij,ij->",
                                  "i,j->ij", "bij,jk,kl->bli", "ij,k->kj"])  # fmt: skip
@given(data=st.data())
def test_einsum(spec, data):
    lengths = {axis: data.draw(st.integers(0, 4)) for axis in "bijkl"}
    xs = [data.draw(arrays(tuple(lengths[a] for a in term))) for term in spec.split("->")[0].split(",")]
    check_op(tv.einsum, *xs, spec=spec)
    np.testing.assert_allclose(tv.einsum(*xs, spec=spec), np.einsum(spec, *xs), atol=1e-13)


@given(data=st.data())
def test_windows_there_and_back(data):
    """``fold`` is the transpose of ``unfold``, for one to three spatial axes."""
    n = data.draw(st.integers(1, 3))
    size, stride, dilation = (tuple(data.draw(st.integers(1, 3)) for _ in range(n)) for _ in range(3))
    reach = [d * (k - 1) + 1 for k, d in zip(size, dilation, strict=True)]
    spatial = [r + data.draw(st.integers(0, 3)) for r in reach]
    x = data.draw(arrays((data.draw(st.integers(0, 2)), *spatial, data.draw(sizes))))
    options = {"stride": stride, "dilation": dilation}
    windows = tv.unfold(x, size=size, **options)
    w = data.draw(arrays(windows.shape))
    check_op(tv.unfold, x, size=size, **options)
    check_op(tv.fold, w, shape=x.shape, **options)
    np.testing.assert_allclose(np.sum(windows * w), np.sum(x * tv.fold(w, shape=x.shape, **options)), atol=1e-11)
