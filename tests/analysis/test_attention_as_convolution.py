"""Self-attention with one head per tap equals convolution."""

import numpy as np
import pytest

import tinyvit
from tinyvit.analysis import AttentionConv
from tinyvit.analysis.attention_as_convolution import (
    fitted_heads,
    least_error,
    missed_weight,
    reach,
    taps,
    taps_found,
    value_maps,
)


@pytest.mark.parametrize(("K", "C", "O"), [(1, 2, 3), (2, 3, 2), (3, 3, 4), (3, 1, 1), (4, 2, 2), (5, 3, 4)])
def test_it_equals_the_convolution(K, C, O, rng):
    from scipy.signal import correlate2d  # here, because it takes a second to import

    images, kernel = rng.normal(size=(2, 7, 9, C)), rng.normal(size=(O, C, K, K))
    layer = AttentionConv.from_kernel(kernel)
    got = layer(images).data
    before, after = reach(K)
    border = (before, after)
    error = np.abs(got - tinyvit.conv2d(images, kernel, padding=(border, border))).max()
    assert error < 1e-10, f"K={K}: {error:.1e} from conv2d"
    padded = np.pad(images, ((0, 0), border, border, (0, 0)))
    scipy = sum(correlate2d(padded[1, :, :, c], kernel[0, c], mode="valid") for c in range(C))
    assert np.abs(got[1, :, :, 0] - scipy).max() < 1e-10, "differs from SciPy's correlation"


def test_the_direction_of_a_tap_is_right(rng):
    """A kernel with a single one below its centre shifts the image up."""
    image = rng.normal(size=(1, 5, 6, 1))
    kernel = np.zeros((1, 1, 3, 3))
    kernel[0, 0, 2, 1] = 1
    got = AttentionConv.from_kernel(kernel)(image).data
    assert np.abs(got[0, :-1] - image[0, 1:]).max() < 1e-12
    assert np.abs(got[0, -1]).max() < 1e-12, "beyond the border there are zeros"


def test_each_head_looks_at_its_tap(rng):
    layer = AttentionConv.from_kernel(rng.normal(size=(2, 3, 3, 3)))
    with tinyvit.capture(layer, "weights") as seen:
        layer(rng.normal(size=(1, 4, 5, 3)))
    weights = seen["weights"].data.reshape(9, 4, 5, 6, 7)  # head, query, padded key
    for head, (a, b) in enumerate(taps(3)):
        assert np.abs(weights[head, 2, 3, 2 + 1 + a, 3 + 1 + b] - 1).max() < 1e-12, f"head {head} misses {(a, b)}"


@pytest.mark.parametrize("alpha", [2.0, 4.0, 8.0])
def test_what_a_soft_head_misses_is_bounded(alpha, rng):
    """Off-target weight is at most τ/(1+τ), τ = (1 + 2Σ e^(-αm²))² - 1, and the error follows from it."""
    images, kernel = rng.normal(size=(1, 8, 8, 2)), rng.normal(size=(3, 2, 3, 3))
    soft = AttentionConv.from_kernel(kernel, alpha=alpha)(images).data
    tau = (1 + 2 * sum(np.exp(-alpha * m * m) for m in range(1, 20))) ** 2 - 1
    assert missed_weight(alpha) == pytest.approx(tau / (1 + tau))
    tokens = np.pad(images[0], ((1, 1), (1, 1), (0, 0))).reshape(-1, 2)
    bound = 0.0
    for a in range(3):
        for b in range(3):
            values = tokens @ kernel[:, :, a, b].T
            bound += tau / (1 + tau) * (values.max(0) - values.min(0))
    error = np.abs(soft - tinyvit.conv2d(images, kernel, padding=1)).max(axis=(0, 1, 2))
    assert np.all(error <= bound)


@pytest.mark.parametrize(("encoding", "sharpness"), [("quadratic", 3.0), ("quadratic", 9.0), ("table", 8.0)])
def test_what_soft_heads_over_patches_miss_is_bounded(encoding, sharpness, rng):
    """Each head misses a share p, and puts something between the least and the largest value in its place."""
    P, images, kernel = 2, rng.normal(size=(1, 8, 12, 2)), rng.normal(size=(3, 2, 3, 3))
    options = {"patch": P, "encoding": encoding}
    soft = AttentionConv.from_kernel(kernel, alpha=sharpness, **options)(images).data
    tokens = np.pad(images[0], ((P, P), (P, P), (0, 0)))
    tokens = tokens.reshape(6, P, 8, P, 2).transpose(0, 2, 1, 3, 4).reshape(48, -1)
    others = 47 * np.exp(-sharpness)
    missed = missed_weight(sharpness) if encoding == "quadratic" else others / (1 + others)
    bound = sum(missed * np.ptp(tokens @ M, axis=0) for M in value_maps(kernel, P))  # (P²O,)
    off = np.abs(soft - same(images, kernel))[0].reshape(4, P, 6, P, 3).transpose(0, 2, 1, 3, 4).reshape(24, -1)
    assert np.all(off.max(axis=0) <= bound)
    assert off.max() > 1e-3 * bound.max(), "such a bound says nothing"


def test_a_kernel_that_is_not_square_is_refused():
    with pytest.raises(ValueError, match=r"kernel: expected shape \(O, C, K, K\)"):
        AttentionConv.from_kernel(np.zeros((1, 1, 3, 2)))


# patches, tables, borders ------------------------------------------------------------------


def same(images, kernel):
    border = reach(kernel.shape[-1])
    return tinyvit.conv2d(images, kernel, padding=(border, border))


@pytest.mark.parametrize("encoding", ["quadratic", "table"])
@pytest.mark.parametrize(("P", "K"), [(1, 4), (2, 1), (2, 2), (2, 5), (2, 7), (3, 4), (4, 9)])
def test_patches_convolve_too(P, K, encoding, rng):
    images, kernel = rng.normal(size=(2, 12, 24, 3)), rng.normal(size=(2, 3, K, K))
    layer = AttentionConv.from_kernel(kernel, patch=P, encoding=encoding, alpha=46.0 if encoding == "quadratic" else 60)
    assert np.abs(layer(images).data - same(images, kernel)).max() < 1e-10


@pytest.mark.parametrize(
    ("P", "K", "heads"),
    [(1, 3, 9), (1, 2, 4), (1, 4, 16), (2, 2, 4), (2, 6, 16), (2, 4, 9), (4, 9, 9), (16, 33, 9), (4, 11, 25)],
)
def test_as_many_heads_as_neighbours_with_a_tap(P, K, heads):
    """Nine for every K up to 2P + 1; for even K fewer than (2⌈(K-1)/2P⌉ + 1)²."""
    assert len(taps(K, P)) == heads


def test_a_patch_s_value_maps_have_the_rank_of_what_they_see(rng):
    """P²·min(C, O) in the middle, and min(C, O)·(P+K-1)² together: how wide heads must be."""
    P, K, C, O = 4, 3, 2, 3
    ranks = [np.linalg.matrix_rank(M) for M in value_maps(rng.normal(size=(O, C, K, K)), P)]
    assert ranks[4] == P * P * C
    assert sum(ranks) == C * (P + K - 1) ** 2


@pytest.mark.parametrize("K", [2, 3, 5])
def test_without_padding_tokens_the_border_is_repeated(K, rng):
    images, kernel = rng.normal(size=(1, 7, 9, 2)), rng.normal(size=(3, 2, K, K))
    border = reach(K)
    repeated = np.pad(images, ((0, 0), border, border, (0, 0)), mode="edge")
    got = AttentionConv.from_kernel(kernel, padding="none", alpha=60.0)(images).data
    assert np.abs(got - tinyvit.conv2d(repeated, kernel)).max() < 1e-10


def test_without_padding_tokens_a_table_looks_at_the_mean(rng):
    """All biases tie where the tap is outside: what is missing is the mean token's."""
    images, kernel = rng.normal(size=(1, 5, 6, 2)), rng.normal(size=(3, 2, 3, 3))
    filled = np.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0)))
    filled[:, [0, -1]] = filled[:, :, [0, -1]] = images.mean(axis=(1, 2), keepdims=True)
    got = AttentionConv.from_kernel(kernel, encoding="table", padding="none", alpha=60.0)(images).data
    assert np.abs(got - tinyvit.conv2d(filled, kernel)).max() < 1e-10


def test_what_a_table_misses_grows_with_the_tokens(rng):
    """(N-1) e^-β / (1 + (N-1) e^-β) of its weight, for N keys."""
    layer = AttentionConv.from_kernel(rng.normal(size=(1, 1, 3, 3)), encoding="table", alpha=8.0)
    with tinyvit.capture(layer, "weights") as seen:
        layer(rng.normal(size=(1, 8, 8, 1)))
    others = 99 * np.exp(-8.0)
    np.testing.assert_allclose(1 - seen["weights"].data.max(-1), others / (1 + others))


@pytest.mark.parametrize(("dtype", "alpha"), [(np.float32, 17.0), (np.float64, 37.0)])
def test_from_this_alpha_on_the_target_has_all_the_weight(dtype, alpha, rng):
    layer = AttentionConv.from_kernel(rng.normal(size=(1, 1, 3, 3)).astype(dtype), alpha=alpha)
    with tinyvit.capture(layer, "weights") as seen:
        layer(rng.normal(size=(1, 4, 4, 1)).astype(dtype))
    off = np.abs(1 - seen["weights"].data.max(-1)).max()
    assert off <= 4 * np.finfo(dtype).eps, "more than what softmax and scores round"


def test_patches_that_do_not_fit_and_unknown_words_are_refused(rng):
    kernel = rng.normal(size=(1, 1, 3, 3))
    with pytest.raises(ValueError, match="whole number of patches of 3"):
        AttentionConv.from_kernel(kernel, patch=3)(np.zeros((1, 6, 8, 1)))
    for option in ("encoding", "padding"):
        with pytest.raises(ValueError, match=f"{option}: expected"):
            AttentionConv(1, 1, 3, **{option: "other"})


# finding the taps --------------------------------------------------------------------------


def test_where_heads_look_is_read_from_their_positions(rng):
    layer = AttentionConv.from_kernel(rng.normal(size=(2, 3, 3, 3)), alpha=5.0)
    centres, alpha = layer.centres()
    np.testing.assert_allclose(centres, taps(3))
    np.testing.assert_allclose(alpha, 5)
    assert taps_found(centres, alpha, 3) == 9
    assert taps_found(centres[[0, 0, 4]], alpha[:3], 3) == 2, "two heads look at the same tap"
    assert taps_found(centres + np.array([0.5, 0]), alpha, 3) == 0, "halfway between two they look at neither"
    assert taps_found(centres + np.array([3, 0]), alpha, 3) == 0, "there are no taps"
    assert taps_found(centres, 0.1 * np.ones(9), 3) == 0, "that is a blur"


def test_a_layer_that_searches_has_no_content_and_gets_none(rng):
    layer = AttentionConv.searching(3, 2, 3, num_heads=5, head_dim=1, rng=rng)
    centres, alpha = layer.centres()
    assert centres.shape == (5, 2)
    assert len(np.unique(centres)) == 10
    np.testing.assert_allclose(alpha, 1)
    images = rng.normal(size=(2, 4, 5, 3)).astype(np.float32)
    y = layer(images)
    assert y.shape == (2, 4, 5, 2)
    (slope,) = tinyvit.gradients((y**2).sum(), layer.qkv.weight)
    assert not slope[:10].any(), "queries and keys would grow"
    assert np.abs(slope[10:]).min() > 0


def test_heads_of_width_one_are_enough_for_taps_of_rank_one(rng):
    """K² heads, each of which reads one pattern of channels and writes one."""
    reads, writes = rng.normal(size=(9, 4)), rng.normal(size=(9, 5))
    kernel = np.einsum("tc,to->oct", reads, writes).reshape(5, 4, 3, 3)
    layer = AttentionConv(4, 5, 3, head_dim=1, rng=rng).astype(np.float64)
    layer.load_state_dict({
        "qkv.weight": np.concatenate([np.zeros((18, 4)), reads]),
        "proj.weight": writes.T,
        "head_positions": AttentionConv.from_kernel(kernel).head_positions.data,
    })  # fmt: skip
    images = rng.normal(size=(2, 5, 6, 4))
    assert np.abs(layer(images).data - same(images, kernel)).max() < 1e-10


# are so many heads necessary? --------------------------------------------------------------


@pytest.mark.parametrize(("P", "K", "C", "O"), [(1, 3, 1, 1), (1, 3, 2, 2), (1, 3, 3, 3), (1, 5, 3, 3), (2, 3, 1, 1),
                                                (2, 7, 1, 1), (2, 7, 2, 3), (4, 5, 1, 1)])  # fmt: skip
def test_as_many_heads_are_necessary_as_the_maps_have_rank(P, K, C, O, rng):
    maps = value_maps(rng.normal(size=(O, C, K, K)), P)
    rank = np.linalg.matrix_rank(maps.reshape(len(maps), -1))
    assert rank == min(len(maps), C * O * (2 * P - 1) ** 2)
    assert least_error(maps, rank) < 1e-7
    assert least_error(maps, rank - 1) > 1e-4


@pytest.mark.parametrize(("P", "K", "C"), [(1, 3, 3), (2, 3, 1)])
def test_heads_that_are_fitted_come_near_the_bound_and_not_below(P, K, C, rng):
    maps = value_maps(rng.normal(size=(C, C, K, K)), P)
    errors = []
    for heads in (1, 2, 4, 9):
        attention, error = fitted_heads(maps, heads, rng=rng, rounds=40)
        np.testing.assert_allclose(attention.sum(axis=1), 1)
        assert attention.min() >= 0
        assert error >= least_error(maps, heads) - 1e-9
        errors.append(error)
    assert errors == sorted(errors, reverse=True)
    assert errors[2] < 1.1 * least_error(maps, 4)
    assert errors[-1] < 1e-6


def test_one_head_is_enough_for_a_box_and_two_for_an_edge(rng):
    """One channel of pixels: rank 1. A kernel of both signs needs a head for either."""
    box, edge = np.ones((1, 1, 3, 3)), np.array([[-1.0, 0, 1]] * 3)[None, None]
    assert fitted_heads(value_maps(box), 1, rng=rng, rounds=5)[1] < 1e-7
    assert fitted_heads(value_maps(edge), 1, rng=rng, rounds=20)[1] > 0.5
    assert fitted_heads(value_maps(edge), 2, rng=rng, rounds=50)[1] < 1e-6


def test_content_does_not_help_against_the_bound(rng):
    """What queries and keys add vanishes for weak images: the slope of MHSA(εX) at 0 is that of the layer without them.

    So the bound on heads holds for them too: a layer that convolves all images has this slope.
    """
    layer = AttentionConv(2, 3, 3, rng=rng).astype(np.float64)
    for parameter in layer.parameters():
        parameter.data = rng.normal(size=parameter.shape)
    images, weak = rng.normal(size=(1, 4, 5, 2)), 1e-4
    slope = (layer(weak * images).data - layer(-weak * images).data) / (2 * weak)
    assert np.abs(layer(images).data - slope).max() > 1, "there is no content in this layer"
    layer.qkv.weight.data[: 2 * 27] = 0  # queries and keys of nine heads of width three
    np.testing.assert_allclose(slope, layer(images).data, atol=1e-4)
