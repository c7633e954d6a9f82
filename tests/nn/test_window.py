"""Attention in windows: on maps of one, two and three axes, against attention between all tokens and against loops."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinyvit import Tensor, capture, gradients, no_grad, swapped
from tinyvit.nn.attention import offset_index
from tinyvit.nn.window import (
    WindowAttention,
    attend_in_windows,
    pad_to_whole,
    region_mask,
    shift_that_matters,
    window_partition,
    window_regions,
    window_reverse,
)

windows = st.lists(st.integers(1, 4), min_size=1, max_size=3).map(tuple)


@st.composite
def cut_maps(draw):
    """A window, and a map that is a whole number of them."""
    window = draw(windows)
    counts = [draw(st.integers(1, 3)) for _ in window]
    return window, tuple(n * m for n, m in zip(counts, window, strict=True))


@st.composite
def uneven_maps(draw):
    """A window, a shift smaller than it, and a map that need not be a whole number of them."""
    window = draw(st.lists(st.integers(1, 3), min_size=1, max_size=3).map(tuple))
    shift = tuple(draw(st.integers(0, m - 1)) for m in window)
    return window, shift, tuple(draw(st.integers(1, 7 if len(window) < 3 else 4)) for _ in window)


# cutting -----------------------------------------------------------------------------------


@given(cut_maps(), st.integers(0, 2), st.integers(1, 3))
def test_reverse_undoes_partition(cut, batch, channels):
    window, size = cut
    x = np.arange(batch * math.prod(size) * channels).reshape(batch, *size, channels)
    tokens = window_partition(x, window)
    assert tokens.shape == (batch * math.prod(size) // math.prod(window), math.prod(window), channels)
    assert np.array_equal(window_reverse(tokens, window, size), x)


@given(cut_maps())
def test_windows_and_their_tokens_come_in_raster_order(cut):
    window, size = cut
    x = np.arange(2 * math.prod(size)).reshape(2, *size, 1)
    tokens = iter(window_partition(x, window))
    for image in x:
        for corner in np.ndindex(*(n // m for n, m in zip(size, window, strict=True))):
            part = image[tuple(slice(c * m, (c + 1) * m) for c, m in zip(corner, window, strict=True))]
            assert np.array_equal(next(tokens), part.reshape(-1, 1))
    assert next(tokens, None) is None


@pytest.mark.parametrize(("size", "window"), [((6, 8), (3, 3)), ((4, 4, 4), (2, 2)), ((4, 4), (2, 2, 2))])
def test_a_map_that_is_not_whole_windows_is_refused(size, window):
    with pytest.raises(ValueError, match="is not a whole number of windows of"):
        window_partition(np.zeros((1, *size, 2)), window)
    with pytest.raises(ValueError, match="is not a whole number of windows of"):
        window_reverse(np.zeros((4, math.prod(window), 2)), window, size)


def test_padding_stands_after_the_end(rng):
    x = rng.normal(size=(2, 5, 6, 3))
    y = pad_to_whole(x, (4, 3))
    assert y.shape == (2, 8, 6, 3)
    assert np.array_equal(y[:, :5], x)
    assert not y[:, 5:].any()
    assert pad_to_whole(x, (5, 2)) is x, "there is nothing to pad"


# offsets and masks --------------------------------------------------------------------------


@pytest.mark.parametrize("M", [1, 2, 3, 7])
def test_the_index_is_the_papers_formula(M):
    places = [(y, x) for y in range(M) for x in range(M)]
    wanted = [[(ya - yb + M - 1) * (2 * M - 1) + (xa - xb + M - 1) for yb, xb in places] for ya, xa in places]
    assert offset_index((M, M)).tolist() == wanted


@given(windows)
def test_every_offset_has_a_row_in_order(window):
    index, places = offset_index(window), list(np.ndindex(*window))
    rows = {}
    for a, p in enumerate(places):
        for b, q in enumerate(places):
            rows.setdefault(tuple(np.subtract(p, q).tolist()), set()).add(int(index[a, b]))
    assert [rows[offset] for offset in sorted(rows)] == [{i} for i in range(math.prod(2 * m - 1 for m in window))]


@given(uneven_maps())
def test_the_mask_lets_together_what_was_together_before_the_roll(drawn):
    """Of two places in a window: their distance in the rolled map is their distance in the map itself."""
    window, shift, size = drawn
    whole = tuple(n + -n % m for n, m in zip(size, window, strict=True))
    mask = region_mask(window_regions(whole, window, shift))
    rolled = window_partition(np.moveaxis(np.indices(whole), 0, -1)[None], window)  # (W, M, axes)
    original = (rolled + shift) % whole
    for w, a, b in np.ndindex(*mask.shape):
        together = np.array_equal(rolled[w, a] - rolled[w, b], original[w, a] - original[w, b])
        assert mask[w, a, b] == (0 if together else -100), (w, a, b)


def test_the_mask_of_figure_4():
    """Two windows on a side: the upper left keeps its tokens, the lower right falls into four groups of four."""
    mask = region_mask(window_regions((8, 8), (4, 4), (2, 2)))
    groups = [{tuple(np.flatnonzero(row == 0)) for row in of_window} for of_window in mask]
    assert [len(g) for g in groups] == [1, 2, 2, 4]
    assert groups[3] == {(0, 1, 4, 5), (2, 3, 6, 7), (8, 9, 12, 13), (10, 11, 14, 15)}


@pytest.mark.parametrize(
    ("window", "shift", "size"), [((4, 4), (2, 2), (8, 12)), ((2, 5), (1, 2), (6, 10)), ((3, 1), (1, 0), (9, 4)),
                                  ((2, 3, 2), (1, 1, 1), (4, 6, 4)), ((2, 3, 3), (0, 1, 1), (2, 6, 6))])  # fmt: skip
def test_the_mask_is_that_of_the_papers_code(window, shift, size):
    """There a counter numbers three slices per axis; in a window, as many regions differ as here."""
    places = [(slice(-m), slice(-m, -s), slice(-s, None)) for m, s in zip(window, shift, strict=True)]
    numbers = np.zeros((1, *size, 1))
    for count, index in enumerate(itertools.product(*places)):
        numbers[(0, *index)] = count
    labels = window_partition(numbers, window)[..., 0]
    wanted = np.where(labels[:, None, :] - labels[:, :, None] != 0, -100.0, 0.0)
    mask = region_mask(window_regions(size, window, shift))
    assert mask.dtype == np.float32
    assert np.array_equal(mask, wanted)


@pytest.mark.parametrize(("size", "wanted"), [((9, 8), (2, 2)), ((4, 8), (0, 2)), ((3, 5), (0, 2)), ((2, 2), (0, 0))])
def test_an_axis_of_one_window_is_not_shifted(size, wanted):
    assert shift_that_matters((2, 2), size, (4, 4)) == wanted


# attention ---------------------------------------------------------------------------------


def restless(window, rng, dim=6, num_heads=2, **options):
    """An attention in float64 whose weights are far from uniform."""
    attention = WindowAttention(dim, num_heads, window=window, rng=rng, **options).astype(np.float64)
    for p in attention.parameters():
        p.data = rng.normal(0, 0.5, p.shape)
    return attention


def between_all_tokens(x, attention, window, shift):
    """Without cutting or rolling: two tokens attend to each other if ⌊(y - s) / m⌋ is the same on every axis."""
    size, h = x.shape[1:-1], attention.num_heads
    shift = [s if n > m else 0 for s, n, m in zip(shift, size, window, strict=True)]
    x = np.pad(x, [(0, 0), *((0, -n % m) for n, m in zip(size, window, strict=True)), (0, 0)])
    B, *whole, D = x.shape
    places = np.moveaxis(np.indices(whole), 0, -1).reshape(-1, len(whole))
    of_window = (places - shift) // window
    together = (of_window[:, None] == of_window[None]).all(axis=-1)
    table = attention.relative_position_bias_table.data.reshape(*(2 * m - 1 for m in window), h)
    offsets = np.moveaxis(np.where(together[..., None], places[:, None] - places[None] + window, 1), -1, 0) - 1
    bias = np.moveaxis(table[tuple(offsets)], -1, 0)  # (h, N, N)
    qkv = x.reshape(B, -1, D) @ attention.qkv.weight.data.T + attention.qkv.bias.data
    q, k, v = np.moveaxis(qkv.reshape(B, -1, 3, h, D // h), 2, 0).swapaxes(2, 3)
    scores = np.exp(q @ k.swapaxes(-1, -2) / math.sqrt(D // h) + bias) * together
    y = (scores / scores.sum(axis=-1, keepdims=True)) @ v
    y = y.swapaxes(1, 2).reshape(x.shape) @ attention.proj.weight.data.T + attention.proj.bias.data
    return y[(slice(None), *map(slice, size))]


@given(uneven_maps(), st.integers(1, 3), st.integers(0, 2**16))
def test_attention_in_windows_is_attention_between_tokens_that_share_one(drawn, batch, seed):
    window, shift, size = drawn
    rng = np.random.default_rng(seed)
    attention, x = restless(window, rng), rng.normal(size=(batch, *size, 6))
    y = attend_in_windows(x, attention, window, shift).data
    np.testing.assert_allclose(y, between_all_tokens(x, attention, window, shift), rtol=1e-9, atol=1e-9)


def test_moving_the_map_by_whole_windows_moves_what_comes_out(rng):
    attention, x = restless((2, 3), rng), rng.normal(size=(2, 6, 9, 6))
    moved = np.roll(x, (4, 3), (1, 2))
    still = attend_in_windows(x, attention, (2, 3), (0, 0)).data
    np.testing.assert_allclose(attend_in_windows(moved, attention, (2, 3), (0, 0)).data,
                               np.roll(still, (4, 3), (1, 2)), rtol=1e-12)  # fmt: skip


def test_where_nothing_comes_round_a_shift_is_another_cut(rng):
    """Inside the map, shifted windows are unshifted ones of the map without its first rows and columns."""
    attention, x = restless((2, 4), rng), rng.normal(size=(2, 6, 12, 6))
    shifted = attend_in_windows(x, attention, (2, 4), (1, 3)).data
    inside = attend_in_windows(x[:, 1:-1, 3:-1], attention, (2, 4), (0, 0)).data
    np.testing.assert_allclose(shifted[:, 1:-1, 3:-1], inside, rtol=1e-12)


@pytest.mark.parametrize("shape", [(2, 4, 6, 6), (3, 4, 4, 6, 6)])
def test_weights_can_be_captured_window_by_window(shape, rng):
    window = (2,) * (len(shape) - 2)
    attention, x = restless(window, rng), rng.normal(size=shape)
    with no_grad(), capture(attention, "weights") as seen:
        opened = attend_in_windows(x, attention, window, (1,) * len(window)).data
    W, M = math.prod(shape[1:-1]) // 2 ** len(window), 2 ** len(window)
    weights = seen["weights"].data
    assert weights.shape == (shape[0] * W, 2, M, M)
    np.testing.assert_allclose(weights.sum(axis=-1), 1, rtol=1e-12)
    np.testing.assert_allclose(opened, attend_in_windows(x, attention, window, (1,) * len(window)).data, rtol=1e-12)
    apart = region_mask(window_regions(shape[1:-1], window, (1,) * len(window)))[-1] < 0  # of an image's last window
    assert weights[W - 1 :: W, :, apart].max() < 1e-30 < weights[W - 1 :: W, :, ~apart].min()


def test_fewer_tokens_than_a_window_use_the_first_offsets(rng):
    """Video Swin on a clip shorter than its window: the index is cut, not worked out anew."""
    attention, x = restless((4, 2, 2), rng), rng.normal(size=(3, 2 * 2 * 2, 6))
    shorter = restless((2, 2, 2), rng)
    table = attention.relative_position_bias_table.data.reshape(7, 3, 3, 2)
    for name, p in shorter.named_parameters():
        p.data = attention.state_dict()[name]
    shorter.relative_position_bias_table.data = table[2:5].reshape(-1, 2)
    np.testing.assert_allclose(attention(x).data, shorter(x).data, rtol=1e-12)
    places = list(np.ndindex(2, 2, 3))[:8]  # narrower too: then they are not the offsets of what is there
    attention = restless((2, 2, 3), rng)
    table = attention.relative_position_bias_table.data.reshape(3, 3, 5, 2)
    wanted = [[table[tuple(np.subtract(p, q) + np.array([1, 1, 2]))] for q in places] for p in places]
    assert np.array_equal(attention.position_bias(np.zeros((1, 8, 18))).data[0], np.moveaxis(wanted, -1, 0))


def test_an_empty_batch(rng):
    attention = restless((2, 2), rng)
    assert attend_in_windows(np.zeros((0, 4, 6, 6)), attention, (2, 2), (1, 1)).shape == (0, 4, 6, 6)


@pytest.mark.parametrize(("size", "window", "shift"), [((4, 7), (2, 3), (1, 2)), ((2, 4, 5), (2, 2, 3), (1, 1, 1))])
def test_the_derivative_is_the_complex_steps(size, window, shift, rng):
    attention = restless(window, rng, attn_drop=0.3)
    leaves = dict(attention.named_parameters())
    x, u = Tensor(rng.normal(size=(2, *size, 6)), requires_grad=True), rng.normal(size=(2, *size, 6))
    v = {name: rng.normal(size=p.shape) for name, p in leaves.items()}
    dx = rng.normal(size=x.shape)

    def run(x):
        return attend_in_windows(x, attention.train(np.random.default_rng(3)), window, shift)

    found = gradients(run(x), [x, *leaves.values()], [u])
    with swapped(attention, {name: p.data + 1e-20j * v[name] for name, p in leaves.items()}), no_grad():
        stepped = np.sum(run(x.data + 1e-20j * dx).data.imag * u) / 1e-20
    assert all(g.any() for g in found)
    assert np.isclose(sum(np.vdot(g, d) for g, d in zip(found, [dx, *v.values()], strict=True)), stepped, rtol=1e-11)


def test_the_bias_serves_every_image_without_being_repeated(rng):
    """What is added to the scores has one entry per window of an image, however many images there are."""
    attention, x = restless((2, 2), rng), rng.normal(size=(5, 4, 6, 6))
    node = attend_in_windows(Tensor(x, requires_grad=True), attention, (2, 2), (1, 1))
    while node.op.name != "self_attention":
        node = node.inputs[0]
    assert [array.shape for array in node.inputs[:2]] == [(5 * 6, 4, 18), (6, 2, 4, 4)]
