"""A layer that is to find the taps of a convolution: what is measured, and what the verdict makes of it."""

import numpy as np
import pytest

from tinyvit.analysis import AttentionConv
from tinyvit.equations.convolution import conv2d
from tinyvit.results.shifts import CHANNELS, EXPERIMENT, FOUND, NARROW, WIDE, imitate, measure
from tinyvit.results.table import Table


def test_a_head_finds_a_lone_tap():
    """A convolution with one tap, below to the right: all heads go there, or say nothing."""
    rng = np.random.default_rng(0)
    kernel = np.zeros((CHANNELS, CHANNELS, 3, 3), np.float32)
    kernel[:, :, 2, 2] = rng.normal(size=(CHANNELS, CHANNELS))
    layer = AttentionConv.searching(CHANNELS, CHANNELS, 3, num_heads=1, rng=rng)
    layer.head_positions.data = np.array([[-1, 0.6, 0.4]], np.float32)
    way = imitate(layer, lambda images: conv2d(images, kernel, padding=1), updates=120, rng=rng)
    np.testing.assert_allclose(way[0], [[0.3, 0.2]], rtol=1e-6)
    np.testing.assert_allclose(way[-1], [[1, 1]], atol=0.15)


def test_a_run_measures_taps_error_and_the_way():
    trial = EXPERIMENT.trials(updates=6)["12 heads", NARROW]
    found = measure(trial, 0)[""]
    assert 0 <= found["taps"] <= 9
    assert 0.5 < found["error"] < 2
    assert np.shape(found["centres"]) == (7, 12, 2), "a moment for every update, and the end"
    assert found == measure(trial, 0)[""]


def table(spare, tight, wide):
    cells = {("9 heads", NARROW): tight, ("12 heads", NARROW): spare, ("12 heads", WIDE): wide}
    return Table({key: [{"taps": n, "error": 0.1} for n in taps] for key, taps in cells.items()}, FOUND)


def test_the_verdict():
    assert EXPERIMENT.verdict(table([9, 9, 8], [6, 7, 8], [3, 4, 5])) == (
        "It appears here: of 9 taps, 12 narrow heads find 8.7, as many heads as taps 7.0 (some end where another is "
        "already); their outputs are off by 10 % and 10 %. Wide heads imitate to 10.0 % with 4.0 taps: blurs do as "
        "well there."
    )
    assert EXPERIMENT.verdict(table([5, 6, 7], [6, 7, 8], [3, 4, 5])).startswith("It does NOT appear here")


@pytest.mark.slow
def test_narrow_heads_to_spare_find_nearly_all_taps():
    found = measure(EXPERIMENT.trials(updates=1500)["12 heads", NARROW], 0)[""]
    assert found["taps"] >= 7
    assert found["error"] < 0.2
