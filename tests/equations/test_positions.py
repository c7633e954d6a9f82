"""Position tables at another resolution, against timm, DeiT's bicubic, SciPy's zoom (the JAX original) and Swin's."""

import numpy as np
import pytest
from reference import fixture

from tinyvit import Tensor, gradients, resize
from tinyvit.equations.resize import resize_matrix
from tinyvit.nn.embed import resample_positions
from tinyvit.nn.window import resize_bias_table

STORED = fixture("shared-op-posembed")
GRID = (4, 4)
SIZES = [(6, 6), (5, 8), (3, 3)]
CLOSE = {"rtol": 1e-10, "atol": 1e-10}


def named(prefix, size):
    return STORED[f"{prefix}_{size[0]}x{size[1]}"]


METHODS = [("timm", "bicubic_aa"), ("deit", "bicubic_noaa"), ("jax", "scipy_zoom_order1")]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(("method", "prefix"), METHODS)
def test_resampled_positions(method, prefix, size):
    table = Tensor(STORED["pos"], requires_grad=True)
    got = resample_positions(table, GRID, size, method=method)
    np.testing.assert_allclose(got.data, named(prefix, size), **CLOSE)
    (g,) = gradients(got.sum(), table)  # every row of weights sums to one: what arrives is what was sent
    assert g.sum() == pytest.approx(got.size)


@pytest.mark.parametrize("size", SIZES)
def test_timms_own_function(size):
    """It works in float32 whatever it is given, so it agrees to float32's digits."""
    got = resample_positions(STORED["pos"], GRID, size, method="timm")
    np.testing.assert_allclose(got, named("timm", size), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("mode", ["bicubic", "bilinear"])
@pytest.mark.parametrize("antialias", [True, False])
def test_resized_grids(mode, antialias, size):
    image = STORED["pos"][:, 1:].reshape(1, *GRID, -1)
    expected = named(f"{mode}_{'aa' if antialias else 'noaa'}", size)
    got = resize(image, size=size, mode=mode, antialias=antialias)
    np.testing.assert_allclose(got.reshape(1, size[0] * size[1], -1), expected[:, 1:], **CLOSE)
    np.testing.assert_array_equal(expected[:, :1], STORED["pos"][:, :1])


def test_swins_table_of_relative_positions():
    """(2·4 - 1)² rows for windows of 4 become (2·6 - 1)² for windows of 6: bicubic, half-pixel centres."""
    got = resize_bias_table(STORED["swin_table"], (6, 6))
    np.testing.assert_allclose(got, STORED["swin_table_resized_6"], **CLOSE)
    with pytest.raises(ValueError, match=r"table: expected \(2M - 1\)² rows for a square window, got 15"):
        resize_bias_table(np.zeros((3 * 5, 2)), (4, 4))


def test_every_stored_array_is_used():
    used = {"pos", "swin_table", "swin_table_resized_6", "meta"}
    prefixes = ["timm", "scipy_zoom_order1", *(f"{m}_{a}" for m in ("bicubic", "bilinear") for a in ("aa", "noaa"))]
    used |= {f"{prefix}_{h}x{w}" for prefix in prefixes for h, w in SIZES}
    assert set(STORED) == used


def test_a_table_for_the_same_grid_is_itself_and_none_needs_a_class_token(rng):
    table = rng.normal(size=(1, 6, 5))
    assert resample_positions(table, (2, 3), (2, 3), prefix=0) is table
    assert resample_positions(table, (2, 3), (4, 2), prefix=0).shape == (1, 8, 5)


def test_tables_that_do_not_fit_are_refused(rng):
    with pytest.raises(ValueError, match=r"expected 1 \+ 2·3 rows, got 6"):
        resample_positions(rng.normal(size=(1, 6, 5)), (2, 3), (4, 4))
    with pytest.raises(ValueError, match="method: expected one of"):
        resample_positions(rng.normal(size=(1, 7, 5)), (2, 3), (4, 4), method="nearest")


@pytest.mark.parametrize("mode", ["nearest", "bilinear", "bicubic"])
@pytest.mark.parametrize("antialias", [False, True])
@pytest.mark.parametrize("align_corners", [False, True])
def test_rows_of_weights_sum_to_one_and_the_same_size_is_the_identity(mode, antialias, align_corners):
    for n_in, n_out in [(7, 3), (3, 7), (1, 4), (4, 1), (1, 1), (5, 5)]:
        matrix = resize_matrix(n_in, n_out, mode, align_corners, antialias)
        np.testing.assert_allclose(matrix.sum(1), 1, rtol=1e-14)
    np.testing.assert_allclose(resize_matrix(5, 5, mode, align_corners, antialias), np.eye(5), atol=1e-15)
