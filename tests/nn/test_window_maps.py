"""Lifting: attention in windows as maps between all tokens, against what a block does to one-hot values."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinyvit import capture, no_grad
from tinyvit.nn.lifting import lift_windows
from tinyvit.nn.window import WindowAttention, attend_in_windows


def marking(window, rng, dim=6, num_heads=2):
    """An attention whose queries and keys do not see the last channel; the value, in every head, is that channel."""
    attention = WindowAttention(dim, num_heads, window=window, rng=rng).astype(np.float64)
    for p in attention.parameters():
        p.data = rng.normal(size=p.shape)
    qkv, values = attention.qkv, slice(2 * dim, None)
    qkv.weight.data[:, -1] = qkv.weight.data[values] = qkv.bias.data[values] = 0
    qkv.weight.data[2 * dim :: attention.head_dim, -1] = 1  # the first number of every head's value
    attention.proj.weight.data, attention.proj.bias.data = np.eye(dim), np.zeros(dim)
    return attention


@st.composite
def windows_on_maps(draw):
    """A window, a shift and a map of two or three axes, not always a whole number of windows."""
    window = draw(st.lists(st.integers(1, 3), min_size=2, max_size=3).map(tuple))
    shift = tuple(draw(st.integers(0, m - 1)) for m in window)
    return window, shift, tuple(draw(st.integers(1, 5 if len(window) == 2 else 3)) for _ in window)


@given(windows_on_maps(), st.integers(0, 2**16))
def test_a_lifted_map_says_what_a_block_does_to_one_hot_values(drawn, seed):
    """Column k of the map is what comes out of a copy of the image in which token k alone is marked."""
    window, shift, grid = drawn
    rng = np.random.default_rng(seed)
    attention, N = marking(window, rng), math.prod(grid)
    x = np.repeat(rng.normal(size=(1, *grid, 6)), N, axis=0)
    x[..., -1] = np.eye(N).reshape(N, *grid)
    with no_grad(), capture(attention, "weights") as seen:
        moved = attend_in_windows(x, attention, window, shift).data.reshape(N, N, 2, 3)[..., 0]  # (k, q, head)
    lifted = lift_windows(seen["weights"].data, grid, window, shift)
    assert lifted.shape == (N, 2, N, N)
    for image in lifted:
        np.testing.assert_allclose(image, moved.transpose(2, 1, 0), rtol=1e-12, atol=1e-15)


@given(windows_on_maps(), st.integers(0, 2**16))
def test_maps_of_two_layers_compose_to_what_both_do_to_one_hot_values(drawn, seed):
    """W-MSA, then SW-MSA: the product of their maps, on maps of two and three axes, padded or not."""
    window, shift, grid = drawn
    rng, N, moved = np.random.default_rng(seed), math.prod(grid), np.eye(math.prod(grid))
    maps = []
    for s in ((0,) * len(window), shift):
        attention = marking(window, rng, num_heads=1)
        x = np.repeat(rng.normal(size=(1, *grid, 6)), N, axis=0)
        x[..., -1] = moved.reshape(N, *grid)  # where the marks are now, in each of N copies
        with no_grad(), capture(attention, "weights") as seen:
            moved = attend_in_windows(x, attention, window, s).data.reshape(N, N, 6)[..., 0]
        maps.append(lift_windows(seen["weights"].data, grid, window, s)[0, 0])
    np.testing.assert_allclose(maps[1] @ maps[0], moved.T, rtol=1e-12, atol=1e-15)


def test_what_padding_receives_is_nobodys(rng):
    """Of equal weights, a window of two tokens and two paddings leaves half to the tokens."""
    weights = np.full((1, 1, 4, 4), 0.25)
    lifted = lift_windows(weights, (1, 2), (2, 2), (0, 0))
    assert np.array_equal(lifted, np.full((1, 1, 2, 2), 0.25))


@pytest.mark.parametrize("shape", [(3, 2, 4, 4), (4, 2, 4, 5), (4, 2, 9, 9), (4, 4, 4)])
def test_weights_of_other_windows_are_refused(shape):
    with pytest.raises(ValueError, match=r"weights: expected \(B·4, h, 4, 4\) for windows of \(2, 2\) on \(4, 3\)"):
        lift_windows(np.zeros(shape), (4, 3), (2, 2), (1, 1))
