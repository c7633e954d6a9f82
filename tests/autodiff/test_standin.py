"""The stand-in for CuPy refuses what a GPU library refuses, and computes what NumPy computes."""

import numpy as np
import pytest
from scipy import special

from tinyvit.autodiff.standin import MISSING, DeviceArray
from tinyvit.backend import is_array, like, to_numpy

HOST = np.arange(6.0).reshape(2, 3)


def device():
    return DeviceArray(HOST)


@pytest.mark.parametrize(
    ("misuse", "words"),
    [
        (lambda x: np.asarray(x), "copied to the host"),
        (lambda x: np.array([x, x]), "copied to the host"),
        (lambda x: float(x[0, 0]), "wait for the device"),
        (lambda x: int(x[0, 0]), "wait for the device"),
        (lambda x: [1, 2, 3][x[0, 1]], "wait for the device"),
        (lambda x: x + HOST, r"np.add: a host array \(2, 3\) float64 met a device array"),
        (lambda x: HOST * x, "np.multiply: a host array"),
        (lambda x: HOST @ x.T, "np.matmul: a host array"),
        (lambda x: HOST.__iadd__(x), "written into a host array"),
        (lambda x: x.__iadd__(HOST), "np.add: a host array"),
        (lambda x: np.exp(x, out=HOST.copy()), "written into a host array"),
        (lambda x: np.where(HOST > 1, x, x), "np.where: a host array"),
        (lambda x: np.concatenate([x, HOST]), "np.concatenate: a host array"),
        (lambda x: np.einsum("ij,ij->i", x, HOST), "np.einsum: a host array"),
        (lambda x: x[np.array([0, 1])], "an index: a host array"),
        (lambda x: x[:, np.array([True, False, True])], "an index: a host array"),
        (lambda x: x.__setitem__(0, HOST[0]), "an assignment: a host array"),
        (lambda x: np.add.at(x, np.array([0]), 1.0), "np.add: a host array"),
        (lambda x: np.add.at(x, (DeviceArray([0]), 1), 1.0), "not with a tuple"),
        (lambda x: np.add.at(x * 1j, DeviceArray([0]), 1.0), "real numbers only"),
        (lambda x: special.erf(x * 1j), "np.erf: CuPy has it for real numbers only"),
        (lambda x: np.max(x, initial=0), "does not take initial="),
        (lambda x: x.sum(where=x > 1), "does not take where="),
        (lambda x: np.add(x, 1, where=x > 1), "does not take where="),
        (lambda x: np.zeros_like(x, shape=()), "shape of the other array"),
        (lambda x: x + np.array(1.0), r"np.add: a host array \(\) float64"),
        (lambda x: np.take_along_axis(x, np.array([[0], [1]]), 1), "np.take_along_axis: a host array"),
        (lambda x: np.vecdot(x, x), "CuPy has no such function"),
        (lambda x: x.clip(HOST), ".clip: a host array"),
    ],
)
def test_misuses_that_a_gpu_would_refuse(misuse, words):
    with pytest.raises(TypeError, match=words):
        misuse(device())


def test_what_is_missing_in_cupy_is_refused():
    assert {"insert", "nanquantile"} <= MISSING
    for tempted in (lambda x: np.insert(x, 0, 1.0), lambda x: np.nanquantile(x, 0.5)):
        with pytest.raises(TypeError, match="CuPy has no such function"):
            tempted(device())


@pytest.mark.parametrize(
    "f",
    [
        lambda x: np.exp(x), lambda x: 2 * x - np.float32(1) / (x + 1), lambda x: x @ x.T, lambda x: special.erf(x),
        lambda x: np.sum(x, axis=0), lambda x: x.sum(), lambda x: x[0, 0], lambda x: np.max(x), lambda x: x > 2,
        lambda x: np.where(x > 2, x, 0), lambda x: np.concatenate([x, x], 1), lambda x: np.pad(x, ((1, 0), (0, 2))),
        lambda x: np.lib.stride_tricks.sliding_window_view(x, (2, 2)), lambda x: np.einsum("ij,kj->ik", x, x),
        lambda x: np.zeros_like(x, shape=(4,)), lambda x: np.ones_like(x, dtype=np.float32), lambda x: np.real(1j * x),
        lambda x: x[:, [2, 0]], lambda x: x[..., None], lambda x: x.astype(np.float32), lambda x: x.copy(),
        lambda x: x.reshape(3, -1).transpose(1, 0), lambda x: x.T.real, lambda x: np.moveaxis(x, 0, 1),
        lambda x: np.asarray(HOST[:1], like=x), lambda x: np.eye(2, like=x), lambda x: next(iter(x)), lambda x: -x,
        lambda x: np.take_along_axis(x, np.argmax(x, 1, keepdims=True), 1), lambda x: np.roll(x, (1, 2), (0, 1)),
    ],
)  # fmt: skip
def test_it_computes_what_numpy_computes(f):
    got, expected = f(device()), f(HOST)
    assert isinstance(got, DeviceArray)
    assert (got.shape, got.dtype, got.ndim, got.size) == (
        np.shape(expected), expected.dtype, np.ndim(expected), np.size(expected))  # fmt: skip
    np.testing.assert_array_equal(got.get(), expected)


def test_views_and_writes_are_as_on_the_host():
    x = device()
    row = x[0]
    row[...] = 7
    row += 1
    np.add.at(x[1], DeviceArray([0, 0]), 1.0)
    np.testing.assert_array_equal(x.get(), [[8, 8, 8], [5, 4, 5]])
    assert row.base is not None
    assert x.copy().base is None
    assert HOST[0, 0] == 0  # the host's array was copied to the device


def test_it_is_what_the_package_calls_an_array():
    x = device()
    assert is_array(x)
    np.testing.assert_array_equal(to_numpy(x), HOST)
    assert isinstance(like(HOST, x), DeviceArray)
    assert isinstance(like([1.0, 2.0], x), DeviceArray)
    assert np.shape(x) == (2, 3)
    assert len(x) == 2
    assert x.nbytes == 48
    assert x[0, 1].item() == 1.0
    assert bool(x.any())
    assert repr(x) == "DeviceArray(shape=(2, 3), dtype=float64)"
