"""Ops themselves: how arguments find their places, when an equation runs open, what an op tells about itself."""

import numpy as np
import pytest
from examples import ROWS

import tinyvit as tv
from tinyvit import Tensor, equation, gradients, primitive
from tinyvit.autodiff.op import REGISTRY
from tinyvit.autodiff.watch import Listener, listening

WITH_KERNELS = [(name, one) for name, one in ROWS if REGISTRY[name].fast is not None]


class Open(Listener):
    """Opens every equation."""

    def opens(self, op):
        return True


class Heard(Listener):
    """Writes down which ops ran."""

    def __init__(self):
        self.names = []

    def called(self, op, inputs, options, value, seconds):
        self.names.append(op.name)
        assert seconds >= 0


def test_arrays_may_be_passed_by_name(rng):
    q, k, v, bias = (rng.normal(size=s) for s in ((2, 4, 3), (2, 5, 3), (2, 5, 6), (4, 5)))
    expected = tv.scaled_dot_product_attention(q, k, v, bias, scale=0.3)
    np.testing.assert_array_equal(tv.scaled_dot_product_attention(q, scale=0.3, bias=bias, v=v, k=k), expected)
    keep = np.ones((4, 5))
    np.testing.assert_array_equal(
        tv.scaled_dot_product_attention(q, k, v, keep=keep), tv.scaled_dot_product_attention(q, k, v)
    )
    x, weight = Tensor(rng.normal(size=(2, 3)), requires_grad=True), Tensor(rng.normal(size=(5, 3)), requires_grad=True)
    by_name = gradients(tv.linear(weight=weight, x=x).sum(), [x, weight])
    for a, b in zip(by_name, gradients(tv.linear(x, weight).sum(), [x, weight]), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(
    "mistake",
    [
        lambda x: tv.linear(x, x, weights=x),  # no such argument
        lambda x: tv.linear(x, x, weight=x),  # given twice
        lambda x: tv.softmax(x, dim=1),
        lambda x: tv.einsum(x, spec="ij->ji", optimize=True),
    ],
)
def test_an_argument_that_has_no_place_is_named_with_those_that_have(mistake):
    with pytest.raises(TypeError, match=r"unexpected argument '.*'; it takes \("):
        mistake(np.ones((2, 2)))


@pytest.mark.parametrize(("name", "example"), WITH_KERNELS, ids=[f"{name} {one}" for name, one in WITH_KERNELS])
def test_a_kernel_and_its_open_equation_are_one_function(name, example, rng):
    """Value and gradients, to the last digits: what a capture opens is what training runs."""
    inputs = example.inputs(rng)

    def run():
        tensors = [Tensor(x, True) if getattr(x, "dtype", np.dtype(int)).kind == "f" else x for x in inputs]
        out = REGISTRY[name](*tensors, **example.options)
        leaves = [x for x in tensors if isinstance(x, Tensor)]
        return out, gradients(out, leaves, [np.cos(np.arange(out.size)).reshape(out.shape)])

    closed, fast = run()
    with listening(Open()):
        opened, derived = run()
    assert closed.op is REGISTRY[name]
    assert opened.op is not REGISTRY[name]
    for a, b in zip([closed.data, *fast], [opened.data, *derived], strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-13, atol=1e-14 * max(1, np.abs(b).max()))


def test_a_kernel_is_heard_as_one_call_and_an_equation_as_those_it_is_made_of():
    x = Tensor(np.ones((2, 3)))
    with listening(Heard()) as heard:
        tv.softmax(x)
        tv.silu(x)
    assert heard.names == ["softmax", "multiply", "tanh", "add", "multiply", "multiply"]


def test_complex_numbers_go_by_the_equation_unless_the_kernel_is_analytic():
    calls = []

    def twice(analytic):
        @equation
        def double(x):
            return x + x

        @double.kernel(analytic=analytic)
        def _(x):
            calls.append(x.dtype)
            return 2 * x, lambda g: (2 * g,)

        return double

    x = np.array([1 + 2j])
    np.testing.assert_array_equal(twice(False)(x), 2 * x)
    assert calls == []
    np.testing.assert_array_equal(twice(True)(x), 2 * x)
    assert calls == [np.dtype(complex)]


def test_a_cotangent_nobody_asked_for_is_not_computed():
    asked = []

    @primitive
    def product(x, y):
        return x * y

    @product.pullback
    def _(g, out, x, y):
        return lambda: asked.append("x") or g * y, lambda: asked.append("y") or g * x

    x, y = Tensor(np.ones(2), requires_grad=True), Tensor(np.ones(2), requires_grad=True)
    gradients(product(x, y).sum(), y)
    gradients(product(np.ones(2), y).sum(), y)
    assert asked == ["y", "y"]


def test_students_ops_stay_out_of_the_packages_registry_and_say_what_they_are():
    before = dict(REGISTRY)

    @primitive
    def mine(x):
        """My own."""
        return x

    assert before == REGISTRY
    assert (repr(mine), mine.__doc__, mine.__name__) == ("<primitive mine>", "My own.", "mine")
    assert repr(tv.silu) == "<equation silu>"
    assert repr(tv.softmax) == "<equation with a kernel softmax>"


def test_every_op_is_documented():
    assert [name for name, op in REGISTRY.items() if not (op.__doc__ or "").strip()] == []
