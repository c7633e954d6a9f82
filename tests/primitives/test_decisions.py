"""Where a primitive decides: at ties and kinks, by real parts, at infinity; and what precision comes out."""

import numpy as np
import pytest

from tinyvit import Tensor, absolute, argmax, grad, gradients, maximum, minimum, relu, where
from tinyvit import max as largest
from tinyvit.primitives.elementwise import equal, greater, greater_equal, not_equal
from tinyvit.primitives.reduce import peak
from tinyvit.primitives.shape import astype


def slopes(f, *xs):
    """The derivative of Σ f in every argument."""
    leaves = [Tensor(np.array(x, float), requires_grad=True) for x in xs]
    return [g.tolist() for g in gradients(f(*leaves).sum(), leaves)]


def test_a_tie_gives_each_half_and_a_kink_gives_nothing():
    assert slopes(maximum, [1, 2, 3], [3, 2, 1]) == [[0, 0.5, 1], [1, 0.5, 0]]
    assert slopes(minimum, [1, 2, 3], [3, 2, 1]) == [[1, 0.5, 0], [0, 0.5, 1]]
    assert slopes(relu, [-1, 0, 1]) == [[0, 0, 1]]
    assert slopes(absolute, [-1, 0, 1]) == [[-1, 0, 1]]
    assert slopes(lambda x: largest(x, axis=0), [2, 5, 5]) == [[0, 1, 0]]  # to the first that reaches it


def test_second_derivatives_of_straight_pieces_are_zero():
    for f in (relu, absolute, lambda x: maximum(x, 0.0), lambda x: where(x > 0, x, -x)):
        np.testing.assert_array_equal(
            grad(lambda x, f=f: grad(lambda y: f(y).sum())(x).sum())(np.array([-1.0, 2.0])), 0
        )


def test_decisions_look_at_real_parts():
    """A complex step must not change which way was taken."""
    up, down = np.array([1 + 2j, 3.0]), np.array([1 - 2j, 4j])
    np.testing.assert_array_equal(greater(up, down), [False, True])
    np.testing.assert_array_equal(greater_equal(up, down), [True, True])
    np.testing.assert_array_equal(greater_equal(down, up), [True, False])
    np.testing.assert_array_equal(maximum(up, down), [1 + 2j, 3])
    np.testing.assert_array_equal(minimum(up, down), [1 + 2j, 4j])
    np.testing.assert_array_equal(absolute(np.array([-1 + 2j, 1 - 2j])), [1 - 2j, 1 - 2j])
    np.testing.assert_array_equal(relu(np.array([-1 + 2j, 1 - 2j])), [0, 1 - 2j])
    assert argmax(np.array([1 + 9j, 2.0])) == 1
    assert peak(np.array([1 + 9j, 2.0])) == [2.0]


def test_constants_give_arrays_even_for_tensors():
    x = Tensor(np.array([1.0, 2.0]), requires_grad=True)
    for made in (greater(x, 1), equal(x, 1.0), not_equal(x, 1.0), argmax(x), peak(x), x > 1, x == x):
        assert not isinstance(made, Tensor)


def test_infinities():
    inf = np.inf
    np.testing.assert_array_equal(relu(np.array([-inf, inf, np.nan])), [0, inf, np.nan])
    assert relu(np.array([-3, 3])).dtype.kind == "i"
    np.testing.assert_array_equal(absolute(np.array([-inf, inf])), [inf, inf])
    assert slopes(maximum, [-inf, 1.0], [-inf, -inf]) == [[0.5, 1], [0.5, 0]]
    np.testing.assert_array_equal(peak(np.array([[-inf, -inf], [-inf, 3.0]])), [[0], [3]])


def test_a_change_of_precision_is_undone_on_the_way_back():
    x = Tensor(np.array([1.0, 2.0]), requires_grad=True)
    y = x.astype(np.float32)
    assert y.dtype == np.float32
    (g,) = gradients((y * y).sum(), x)
    assert g.dtype == np.float64
    np.testing.assert_array_equal(g, [2, 4])
    z = astype(np.array([1 + 1e-20j]), dtype=np.float32)
    assert z.dtype == np.complex64
    assert z.imag == pytest.approx(1e-20)


@pytest.mark.parametrize("f", [relu, absolute, lambda x: maximum(x, 0), lambda x: where(x > 0, x, 0)])
def test_float32_stays_float32_at_a_decision(f):
    x = Tensor(np.float32([-1, 2]), requires_grad=True)
    y = f(x)
    assert y.dtype == np.float32
    assert gradients(y.sum(), x)[0].dtype == np.float32
