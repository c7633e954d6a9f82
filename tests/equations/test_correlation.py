"""How the kernels of convolution cut their work up, which nobody should see."""

import math
from threading import Thread

import numpy as np
import pytest

import tinyvit as tv
from tinyvit import machine
from tinyvit.equations import correlation
from tinyvit.equations.blocks import blocks
from tinyvit.equations.convolution import conv2d

CASES = {
    "dense": ((5, 9, 8, 3), (4, 3, 3, 2), {"padding": 1}),
    "groups": ((5, 9, 8, 4), (6, 2, 2, 3), {"groups": 2, "stride": (1, 2)}),
    "depthwise": ((5, 9, 8, 3), (3, 1, 3, 3), {"groups": 3, "padding": 1}),
    "strided depthwise": ((5, 9, 8, 3), (3, 1, 3, 3), {"groups": 3, "padding": 1, "stride": 2}),
}


def of_all(case, seed=0):
    """The value, and the cotangents of x and weight, in float32."""
    shape, weight, options = CASES[case]
    rng = np.random.default_rng(seed)
    x, weight = (rng.normal(size=s).astype(np.float32) for s in (shape, weight))
    y, pullback = conv2d.fast(x, weight, **options)
    dx, dweight, _ = pullback(rng.normal(size=y.shape).astype(np.float32))
    return y, dx(), dweight()


@pytest.mark.parametrize("case", CASES)
def test_blocks_do_not_change_the_result(case, monkeypatch):
    whole = of_all(case)
    for block in (1, 100, 400, 1000):
        monkeypatch.setattr(correlation, "BLOCK", block)
        for expected, got in zip(whole, of_all(case), strict=True):
            np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5)


def test_blocks_cover_everything_once():
    for budget in (1, 7, 40, 100, 10**6):
        for places in ((7, 5, 3), (1, 11, 3), (0, 5, 3), (4, 0, 3), (3, 5)):
            times = np.zeros(places, int)
            for at in blocks(places, numbers=2, budget=budget):
                times[at] += 1
                assert times[at].size * 2 <= max(budget, 2 * math.prod(places[2:]))
            assert (times == 1).all(), (budget, places)


@pytest.mark.parametrize("case", CASES)
def test_threads_do_not_change_the_bits(case, monkeypatch):
    """Neither the kernel's own threads nor those of four users at once; and BLAS has its number back afterwards."""
    monkeypatch.setattr(correlation, "BLOCK", 100)
    serial = of_all(case)
    for way in (correlation.Products, correlation.Taps):
        monkeypatch.setattr(way, "worth", 0)
    monkeypatch.setattr(machine, "_blas_thread_count", lambda: 3)
    results = [None] * 4

    def user(i):
        results[i] = of_all(case)

    users = [Thread(target=user, args=(i,)) for i in range(4)]
    for thread in users:
        thread.start()
    for thread in users:
        thread.join()
    for result in results:
        for expected, got in zip(serial, result, strict=True):
            np.testing.assert_array_equal(got, expected)
    assert not machine._guarded


def test_small_work_starts_no_thread(monkeypatch):
    monkeypatch.setattr(machine, "ThreadPoolExecutor", None)
    monkeypatch.setattr(machine, "_blas_thread_count", lambda: 3)
    monkeypatch.setattr(correlation, "BLOCK", 100)
    for case, way in (("dense", correlation.Products), ("depthwise", correlation.Taps)):
        of_all(case)
        monkeypatch.setattr(way, "worth", 0)
        with pytest.raises(TypeError):  # it would have been started here
            of_all(case)


def test_where_a_filter_is_larger_than_the_image():
    """With a border it fits; without, the error names op and arguments."""
    x, weight = np.ones((2, 3, 2, 4)), np.ones((4, 1, 5, 5))
    assert tv.conv2d(x, weight, padding=2, groups=4).max() == 6
    with pytest.raises(ValueError, match=r"conv2d: .*larger.*x \(2, 3, 2, 4\)"):
        tv.conv2d(x, weight, groups=4)


def test_one_pixel_reaches_no_further_than_its_filter():
    """An infinite number makes its own outputs infinite, and none of the others NaN."""
    rng = np.random.default_rng(0)
    x, weight = rng.normal(size=(2, 20, 20, 3)), rng.uniform(1, 2, size=(3, 1, 3, 3))
    x[1, 10, 10, 2] = np.inf
    y = tv.conv2d(x, weight, padding=1, groups=3)
    assert np.isposinf(y[1, 9:12, 9:12, 2]).all()
    assert np.isfinite(y).sum() == y.size - 9
