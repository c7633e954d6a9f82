"""Every op of the package keeps every law, and refuses what it cannot do in words that name it."""

import numpy as np
import pytest
from examples import EXAMPLES, REFUSALS, REFUSED, ROWS

import tinyvit.models.catalogue  # everything that registers an op
from tinyvit.autodiff.check import check_op
from tinyvit.autodiff.cost import macs_of
from tinyvit.autodiff.op import REGISTRY
from tinyvit.autodiff.tensor import Tensor
from tinyvit.autodiff.watch import Listener, listening
from tinyvit.blueprint import Blueprint

SLACK = {"fold": 1e-11}


def ids(rows):
    return [f"{name} {one}" for name, one in rows]


def test_every_op_has_a_row_and_every_row_an_op():
    assert sorted(EXAMPLES) == sorted(REGISTRY)
    assert sorted(REFUSED) == sorted(REGISTRY)


def test_every_equation_is_public():
    equations = [op for op in REGISTRY.values() if op.function.__module__.startswith("tinyvit.equations")]
    assert [op.name for op in equations if getattr(tinyvit, op.name, None) is not op] == []


@pytest.mark.parametrize(("name", "example"), ROWS, ids=ids(ROWS))
def test_laws(name, example, rng):
    check_op(REGISTRY[name], *example.inputs(rng), rng=rng, **example.options)


@pytest.mark.parametrize(("name", "bad"), REFUSALS, ids=ids(REFUSALS))
def test_bad_arguments_are_refused_by_name(name, bad, rng):
    inputs = bad.call.inputs(rng)
    for given in (inputs, [Tensor(x) if isinstance(x, np.ndarray) else x for x in inputs]):
        with pytest.raises(bad.error) as refusal:
            REGISTRY[name](*given, **bad.call.options)
        assert str(refusal.value).startswith(f"{name}: ")
        assert bad.fragment in str(refusal.value)


@pytest.mark.parametrize(("name", "example"), ROWS, ids=ids(ROWS))
def test_a_blueprint_has_the_shape_and_precision_of_the_real_thing(name, example, rng):
    inputs = example.inputs(rng)
    real = REGISTRY[name](*inputs, **example.options)
    shapes = [Blueprint(x.shape, x.dtype) if hasattr(x, "dtype") and x.dtype.kind == "f" else x for x in inputs]
    planned = REGISTRY[name](*shapes, **example.options)
    assert isinstance(planned, Blueprint)
    assert (planned.shape, planned.dtype) == (real.shape, real.dtype)


class Taps(Listener):
    """Opens every equation and writes down the names it meets."""

    def __init__(self):
        self.names = set()

    def opens(self, op):
        return True

    def tapped(self, name, value):
        self.names.add(name)
        return value


@pytest.mark.parametrize(("name", "example"), ROWS, ids=ids(ROWS))
def test_an_equation_taps_what_it_declares(name, example, rng):
    taps = Taps()
    with listening(taps):
        REGISTRY[name](*example.inputs(rng), **example.options)
    assert taps.names == set(REGISTRY[name].taps)


def macs(name, *shapes, **options):
    op, arrays = REGISTRY[name], [np.zeros(shape) for shape in shapes]
    return macs_of(op, arrays, options, op(*arrays, **options))


def test_multiply_accumulates_by_hand():
    B, N, D, E, h = 2, 5, 6, 7, 3
    assert macs("matmul", (B, h, N, D), (D, E)) == B * h * N * D * E
    assert macs("einsum", (B, N, D), (B, D, E), spec="bij,bjk->bik") == B * N * D * E
    assert macs("einsum", (B, N, D), spec="bij->b") == 0
    assert macs("linear", (B, N, D), (E, D), (E,)) == B * N * D * E
    attention = ((B, h, N, D), (B, h, 4, D), (B, h, 4, E))
    assert macs("scaled_dot_product_attention", *attention) == B * h * N * 4 * (D + E)
    # every output of a convolution is a sum over k·l·C/groups products
    assert macs("conv2d", (B, 9, 8, 4), (6, 4, 3, 2), padding=1) == B * (9 * 9) * 6 * (3 * 2 * 4)
    assert macs("conv2d", (B, 9, 8, 4), (6, 2, 3, 2), groups=2, stride=2) == B * (4 * 4) * 6 * (3 * 2 * 2)
    assert macs("conv1d", (B, 9, 4), (6, 2, 3), groups=2, stride=2) == B * 4 * 6 * (3 * 2)
    assert macs("conv3d", (B, 3, 5, 4, 2), (6, 2, 2, 3, 1)) == B * (2 * 3 * 4) * 6 * (2 * 3 * 1 * 2)
    # a transposed convolution multiplies as often as the convolution that it is the transpose of
    assert macs("conv_transpose2d", (B, 4, 5, 3), (3, 6, 2, 2), stride=2) == B * (4 * 5) * 6 * (2 * 2 * 3)
    assert macs("layer_norm", (B, N, D), (D,), (D,)) == 0
    assert macs("resize", (B, 4, 5, 3), size=(6, 7)) == B * 3 * (6 * 4 * 5 + 7 * 5 * 6)
