"""The reverse sweep: what arrives where, what is shared with whom, what lives how long, and what is refused."""

import gc
import threading
import weakref

import numpy as np
import pytest

from tinyvit import (
    Tensor,
    exp,
    gradients,
    layer_norm,
    linear,
    log,
    no_grad,
    primitive,
    scaled_dot_product_attention,
    sin,
    softmax,
)
from tinyvit.autodiff.backward import identity
from tinyvit.autodiff.broadcast import broadcast_to
from tinyvit.autodiff.standin import DeviceArray
from tinyvit.autodiff.watch import watch
from tinyvit.primitives.shape import reshape

TIGHT = {"rtol": 1e-13, "atol": 1e-13}


def leaf(values, dtype=float):
    return Tensor(np.array(values, dtype=dtype), requires_grad=True)


# what arrives -------------------------------------------------------------------------------


def test_gradients_of_inner_values_and_of_leaves_at_once():
    x = leaf([1.0, 2.0, 3.0])
    inner = x * x
    loss = (sin(inner) * 2).sum()
    d_inner, d_x = gradients(loss, [inner, x])
    np.testing.assert_allclose(d_inner, 2 * np.cos(x.data**2), **TIGHT)
    np.testing.assert_allclose(d_x, d_inner * 2 * x.data, **TIGHT)


def test_an_input_that_nothing_depends_on_gets_zeros_of_its_own_shape_and_precision():
    x, unused = leaf([1.0, 2.0]), leaf(np.ones((3, 1)), np.float32)
    (d,) = gradients((x * x).sum(), [unused])
    np.testing.assert_array_equal(d, np.zeros((3, 1), np.float32))
    assert d.dtype == np.float32
    (d,) = gradients((x * x).sum(), unused, differentiable=True)
    assert isinstance(d, Tensor)
    assert d.shape == (3, 1)


def test_the_derivative_of_an_output_in_itself_is_its_cotangent():
    x = leaf([1.0, 2.0])
    y = exp(x)
    d_y, d_x = gradients(y, [y, x], [np.array([3.0, 5.0])])
    np.testing.assert_array_equal(d_y, [3.0, 5.0])
    np.testing.assert_allclose(d_x, [3.0, 5.0] * np.exp(x.data), **TIGHT)


def test_several_outputs_share_one_sweep():
    x = leaf([1.0, 2.0])
    a, b = x * x, sin(x)
    (d,) = gradients([a, b, a], x, [np.array([1.0, 0.0]), np.array([0.0, 2.0]), np.array([0.5, 0.0])])
    np.testing.assert_allclose(d, [3.0, 2 * np.cos(2.0)], **TIGHT)


def test_diamonds_and_reuse():
    x = leaf([0.3, -1.2])
    y = x * x  # x used twice by one op
    z = y * sin(y) + y  # y reached on three paths
    (d,) = gradients(z.sum(), x)
    s = x.data**2
    np.testing.assert_allclose(d, (np.sin(s) + s * np.cos(s) + 1) * 2 * x.data, **TIGHT)


def test_broadcasting_is_undone_once():
    x, y = leaf(np.ones((3, 1))), leaf(np.ones(4))
    u = np.arange(24.0).reshape(2, 3, 4)
    total = broadcast_to(x + y, shape=(2, 3, 4))
    d_x, d_y = gradients(total, [x, y], [u])
    np.testing.assert_array_equal(d_x, u.sum((0, 2))[:, None])
    np.testing.assert_array_equal(d_y, u.sum((0, 1)))


def test_many_paths_into_one_leaf_do_not_disturb_the_others(rng):
    """The engine adds in place into what it allocated, and never into what somebody else holds too."""
    x, y = leaf(rng.normal(size=(3, 4))), leaf(rng.normal(size=(3, 4)))
    u, v, w = rng.normal(size=(3, 3, 4))
    loss = ((x + y) * u).sum() + (x * v).sum() + (x * w).sum() + (x - y).sum()  # x + y hands both the same array
    d_x, d_y = gradients(loss, [x, y])
    np.testing.assert_allclose(d_x, u + v + w + 1, **TIGHT)
    np.testing.assert_allclose(d_y, u - 1, **TIGHT)


def test_third_derivative_through_attention_with_one_array_in_all_three_places(rng):
    x, v, c = rng.normal(size=(3, 2, 4, 3))

    def third(x):
        """The derivative of vᵀHv, from three reverse sweeps."""
        t = Tensor(x, requires_grad=True)
        loss = (scaled_dot_product_attention(t, t, t) * c).sum()
        for _ in range(2):
            loss = (gradients(loss, t, differentiable=True)[0] * v).sum()
        return gradients(loss, t)[0]

    def curvature(x):
        """H v, from two reverse sweeps."""
        t = Tensor(x, requires_grad=True)
        (g,) = gradients((scaled_dot_product_attention(t, t, t) * c).sum(), t, differentiable=True)
        return gradients((g * v).sum(), t)[0]

    expected = np.imag(curvature(x + 1e-20j * v)) / 1e-20
    np.testing.assert_allclose(third(x), expected, rtol=1e-11, atol=1e-12 * abs(expected).max())


def test_every_order_of_a_polynomial_and_of_an_exponential():
    x = leaf([0.7])
    y, expected = x**5, 1.0
    for n in range(5):
        (y,) = gradients(y, x, [np.ones(1)], differentiable=True)
        expected *= 5 - n
    assert y.data == pytest.approx(expected, rel=1e-14)
    (y,) = gradients(y, x, [np.ones(1)], differentiable=True)
    assert y.data == 0
    y = exp(2 * x)
    for n in range(8):
        np.testing.assert_allclose(y.data, 2**n * np.exp(1.4), rtol=1e-13)
        (y,) = gradients(y, x, [np.ones(1)], differentiable=True)


# precision and place --------------------------------------------------------------------------


@pytest.mark.parametrize("cotangent", [np.ones(2), np.ones(2, int), [1.0, 1.0], np.ones(2, np.float32)])
def test_a_cotangent_takes_the_precision_of_its_output(cotangent):
    for dtype in (np.float32, np.float64):
        x = leaf([1.0, 2.0], dtype)
        for differentiable in (False, True):
            (d,) = gradients(x + x, x, [cotangent], differentiable=differentiable)
            assert d.dtype == dtype
            np.testing.assert_array_equal(getattr(d, "data", d) if differentiable else d, [2, 2])


def test_a_number_will_do_as_the_cotangent_of_a_number():
    x = leaf([1.0, 2.0])
    np.testing.assert_array_equal(gradients((x * x).sum(), x, [3.0])[0], [6, 12])


def test_complex_leaves_keep_their_imaginary_derivative():
    x = Tensor(np.array([1 + 2j, 3j]), requires_grad=True)
    np.testing.assert_allclose(gradients((x * x).sum(), x)[0], 2 * x.data, **TIGHT)


# sharing ------------------------------------------------------------------------------------


def aliases(x, y):
    return [lambda: gradients(x + y, [x, y], [np.ones(3)]), lambda: gradients((x * y).sum(), [x, x]),
            lambda: gradients(identity(x) + identity(y), [x, y], [np.ones(3)]),
            lambda: gradients(reshape(x + y, shape=(3, 1)), [x, y], [np.ones((3, 1))])]  # fmt: skip


@pytest.mark.parametrize("case", range(4))
def test_returned_arrays_are_the_callers_own(case):
    x, y = leaf([1.0, 2.0, 3.0]), leaf([4.0, 5.0, 6.0])
    a, b = aliases(x, y)[case]()
    assert not np.shares_memory(a, b)
    assert not any(np.shares_memory(d, t.data) for d in (a, b) for t in (x, y))
    a += 1000.0
    np.testing.assert_array_equal(aliases(x, y)[case]()[1], b)


def test_a_cotangent_is_read_only_in_effect():
    x, u = leaf([1.0, 2.0]), np.array([3.0, 5.0])
    u.flags.writeable = False
    (d,) = gradients(identity(x), x, [u])
    assert not np.shares_memory(d, u)
    (d,) = gradients(x + x + x, x, [u])  # added to in place, on the way
    np.testing.assert_array_equal(u, [3, 5])
    np.testing.assert_array_equal(d, 3 * u)


# backward, no_grad ----------------------------------------------------------------------------


def test_backward_sets_grad_of_every_leaf_and_adds_nothing_up():
    x, y, z = leaf([1.0, 2.0]), leaf([3.0, 4.0]), Tensor(np.ones(2))
    loss = (x * y * z).sum()
    for _ in range(2):
        loss.backward()
        np.testing.assert_array_equal(x.grad, y.data)
        np.testing.assert_array_equal(y.grad, x.data)
    assert z.grad is None
    assert loss.grad is None


def test_no_grad_records_nothing_and_ends_with_its_block_however_it_ends():
    x = leaf([1.0])
    with no_grad():
        assert not (x * x).requires_grad
        with no_grad():
            pass
        assert not (x * x).requires_grad
    assert (x * x).requires_grad

    def fail():
        with no_grad():
            raise KeyError("on purpose")

    with pytest.raises(KeyError):
        fail()
    assert (x * x).requires_grad
    assert watch().recording


def test_ops_on_arrays_give_arrays_and_on_tensors_without_gradients_remember_nothing():
    assert isinstance(softmax(np.ones((2, 3))), np.ndarray)
    y = softmax(Tensor(np.ones((2, 3))))
    assert isinstance(y, Tensor)
    assert (y.op, y.inputs, y.requires_grad) == (None, (), False)


# errors that teach ----------------------------------------------------------------------------

X = leaf([1.0, 2.0])
Y = X * X


@pytest.mark.parametrize(
    ("mistake", "error", "words"),
    [
        (lambda: gradients(Y.sum(), Tensor(np.ones(2))), TypeError, r"inputs\[0\].*requires_grad=True"),
        (lambda: gradients(Y.sum(), [X, np.ones(2)]), TypeError, "inputs: expected a Tensor.*ndarray"),
        (lambda: gradients(np.ones(2), X), TypeError, "outputs: expected a Tensor"),
        (lambda: gradients(Y, X), ValueError, r"needed for an output of shape \(2,\)"),
        (lambda: gradients(Y, X, [np.ones(3)]), ValueError, r"cotangents\[0\]: expected shape \(2,\), got \(3,\)"),
        (lambda: gradients([Y, Y], X, [np.ones(2)]), ValueError, r"one per output \(2\), got 1"),
        (lambda: Tensor(np.arange(3), requires_grad=True), TypeError, "int64.*astype"),
        (lambda: X.__setitem__(0, 1.0), TypeError, "never assigned into; use where"),
        (lambda: np.exp(X), TypeError, "use tinyvit.exp, or tensor.data"),
        (lambda: np.concatenate([X, X]), TypeError, "use tinyvit.concatenate"),
        (lambda: np.asarray(X), TypeError, r"tensor\.data"),
        (lambda: X**X, TypeError, r"exp\(y \* log\(x\)\)"),
        (lambda: bool(X), ValueError, "ambiguous"),
        (lambda: list(Tensor(1.0)), TypeError, "without axes"),
        (lambda: log(X, X), TypeError, "log: "),
        (lambda: linear(X, weights=X), TypeError, r"linear: unexpected argument 'weights'; it takes \(x, weight"),
    ],
)
def test_mistakes_are_met_with_advice(mistake, error, words):
    with pytest.raises(error, match=words):
        mistake()


def test_a_pullback_without_its_comma_or_with_too_few_answers_is_named():
    @primitive
    def double(x):
        return 2 * x

    @double.pullback
    def _(g, out, x):
        return 2 * g

    with pytest.raises(TypeError, match=r"double: its pullback must return a tuple.*comma"):
        gradients(double(X), X, [np.ones(2)])

    @primitive
    def product(x, y):
        return x * y

    @product.pullback
    def _(g, out, x, y):
        return (g * y,)

    with pytest.raises(ValueError, match="product: its pullback gave 1 cotangents for 2 inputs"):
        gradients(product(X, X), X, [np.ones(2)])


# Tensor as an array -------------------------------------------------------------------------


def test_a_tensor_has_no_attribute_that_an_array_lacks():
    """This is what lets one equation run on arrays and on Tensors."""

    class Plain:
        """What Python gives to any class."""

        __slots__ = ("__weakref__",)

    own = set(dir(Tensor)) - set(dir(np.ndarray)) - set(dir(Plain))
    assert own == {"backward", "birth", "grad", "inputs", "op", "options", "requires_grad", "residual"}


def test_operators_mean_the_ops_on_either_side():
    a, x = np.array([[1.0, 2.0], [3.0, 4.0]]), leaf([[5.0, 6.0], [7.0, 8.0]])
    for made in (a + x, x + a, a - x, x - a, a * x, x / a, a / x, a @ x, x @ a, 2 + x, 2 - x, 2 / x, np.float64(2) * x):
        assert isinstance(made, Tensor)
        assert made.requires_grad
    np.testing.assert_array_equal((a - x).data, a - x.data)
    np.testing.assert_array_equal((a @ x).data, a @ x.data)
    for decided, expected in [(x > 6, x.data > 6), (x >= 6, x.data >= 6), (a < x, a < x.data), (x <= a, x.data <= a),
                              (x == 6, x.data == 6), (x != 6, x.data != 6), (a != x, a != x.data)]:  # fmt: skip
        np.testing.assert_array_equal(decided, expected)
    assert len({x, leaf([1.0]), x}) == 2  # == compares elements, and sets compare Tensors


# life and death -----------------------------------------------------------------------------


def test_the_graph_of_a_step_dies_with_the_step(rng):
    """No cycles: nothing waits for the garbage collector."""
    x, w = rng.normal(size=(2, 5, 4)), leaf(rng.normal(size=(4, 4)))

    def step():
        h = layer_norm(linear(Tensor(x), w))
        h = scaled_dot_product_attention(h, h, h)
        loss = (h * h).sum()
        (g,) = gradients(loss, w, differentiable=True)
        return weakref.ref(h), weakref.ref(loss), weakref.ref(g), gradients((g * g).sum(), w)[0]

    gc.collect()
    gc.disable()
    try:
        *watched, _ = step()
        assert [ref() for ref in watched] == [None] * 3
    finally:
        gc.enable()


def test_a_failed_op_leaves_no_cycle_either(rng):
    gc.collect()
    gc.disable()
    try:
        x = leaf(rng.normal(size=(2, 3)))
        ref = weakref.ref(x)
        with pytest.raises(ValueError, match="linear"):
            linear(x, np.ones((4, 5)))
        assert ref() is x
    finally:
        gc.enable()


def test_twenty_thousand_ops_in_a_row():
    """Neither the sweep nor the freeing of the graph may recurse."""
    x = leaf([1.0, 2.0])
    y = x
    for _ in range(20_000):
        y = y * 1.0001 + 0.0
    (d,) = gradients(y.sum(), x)
    np.testing.assert_allclose(d, 1.0001**20_000, rtol=1e-9)
    (d,) = gradients(y.sum(), x, differentiable=True)
    del y, d
    z = x
    for _ in range(5_000):
        z = softmax(z)  # a kernel keeps a closure
    del z


def test_every_thread_has_its_own_watch(rng):
    """Four threads at once, one of them not recording, each with numbers of its own."""
    arrays, answers, started = rng.normal(size=(4, 6, 5)), {}, threading.Barrier(4)

    def work(i):
        x = Tensor(arrays[i], requires_grad=True)
        started.wait()
        for _ in range(50):
            if i == 0:
                with no_grad():
                    answers[i] = softmax(x).requires_grad
            else:
                answers[i] = gradients((softmax(x) * arrays[i]).sum(), x)[0]

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers[0] is False
    for i in (1, 2, 3):
        x = Tensor(arrays[i], requires_grad=True)
        np.testing.assert_array_equal(answers[i], gradients((softmax(x) * arrays[i]).sum(), x)[0])


def test_sweeps_stay_on_the_device():
    x = Tensor(DeviceArray([1.0, 2.0]), requires_grad=True)
    unused = Tensor(DeviceArray([1.0]), requires_grad=True)
    d, zeros = gradients((x * x).sum(), [x, unused])
    assert isinstance(d, DeviceArray)
    assert isinstance(zeros, DeviceArray)
    np.testing.assert_array_equal(d.get(), [2, 4])
