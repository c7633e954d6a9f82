"""Attention statistics against worked examples and closed forms."""

import numpy as np
import pytest

import tinyvit
from tinyvit.analysis.attention_maps import (
    attention_entropy,
    attention_maps,
    class_attention,
    head_similarity,
    layer_similarity,
    mean_attention_distance,
    position_correlation,
    position_similarity,
    relevance,
    relevance_maps,
    rollout,
    token_grid,
)

FIRST = np.array([[0.5, 0.5], [0.0, 1.0]])[None, None]  # one image, one head, two tokens
SECOND = np.array([[1.0, 0.0], [0.5, 0.5]])[None, None]


def random_maps(rng, *shape):
    """Positive rows that sum to 1."""
    logits = np.exp(rng.normal(size=shape))
    return logits / logits.sum(axis=-1, keepdims=True)


def uniform(tokens):
    return np.full((1, 1, tokens, tokens), 1 / tokens)


# ---- rollout -------------------------------------------------------------------------------------


def test_rollout_of_a_worked_example():
    np.testing.assert_allclose(rollout([FIRST, SECOND])[0], [[0.75, 0.25], [0.1875, 0.8125]])


def test_rollout_multiplies_later_layers_on_the_left():
    wrong = [[0.8125, 0.1875], [0.25, 0.75]]
    np.testing.assert_allclose(rollout([SECOND, FIRST])[0], wrong)
    assert not np.allclose(rollout([FIRST, SECOND])[0], wrong)


def test_rollout_keeps_rows_that_sum_to_one(rng):
    layers = [random_maps(rng, 2, 3, 5, 5) for _ in range(4)]
    for fusion in ("mean", "max", "min"):
        for discard in (0.0, 0.5):
            result = rollout(layers, head_fusion=fusion, discard=discard)
            assert result.shape == (2, 5, 5)
            np.testing.assert_allclose(result.sum(axis=-1), 1)


def test_rollout_of_one_layer_is_half_attention_and_half_residual(rng):
    maps = random_maps(rng, 2, 3, 5, 5)
    np.testing.assert_allclose(rollout([maps]), (maps.mean(axis=1) + np.eye(5)) / 2)


def test_rollout_of_layers_that_do_not_mix_is_the_identity():
    identity = np.eye(4)[None, None]
    np.testing.assert_array_equal(rollout([identity] * 3)[0], np.eye(4))


def test_head_fusion_takes_the_largest_or_smallest_head():
    heads = np.concatenate([FIRST, SECOND], axis=1)
    largest = np.array([[1.0, 0.5], [0.5, 1.0]]) + np.eye(2)
    smallest = np.array([[0.5, 0.0], [0.0, 0.5]]) + np.eye(2)
    np.testing.assert_allclose(rollout([heads], head_fusion="max")[0], largest / largest.sum(1, keepdims=True))
    np.testing.assert_allclose(rollout([heads], head_fusion="min")[0], smallest / smallest.sum(1, keepdims=True))


def test_discard_drops_the_smallest_entries_of_each_image():
    maps = np.array([[0.1, 0.9], [0.6, 0.4]])[None, None]
    kept = np.array([[0.0, 0.9], [0.6, 0.0]]) + np.eye(2)
    expected = kept / kept.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(rollout([maps], discard=0.5)[0], expected)


def test_rollout_keeps_the_precision_and_the_maps(rng):
    maps = random_maps(rng, 2, 3, 5, 5).astype(np.float32)
    before = maps.copy()
    assert rollout([maps, maps], discard=0.3).dtype == np.float32
    np.testing.assert_array_equal(maps, before)


def test_rollout_errors_name_the_argument(rng):
    maps = random_maps(rng, 2, 3, 5, 5)
    with pytest.raises(ValueError, match="maps: expected at least one layer"):
        rollout([])
    with pytest.raises(ValueError, match=r"maps\[1\]: expected attention of shape"):
        rollout([maps, maps[0]])
    with pytest.raises(ValueError, match=r"maps\[1\]: expected 2 images of 5 tokens"):
        rollout([maps, maps[:, :, :4, :4]])
    with pytest.raises(ValueError, match=r"head_fusion: .*'median'"):
        rollout([maps], head_fusion="median")
    with pytest.raises(ValueError, match="discard"):
        rollout([maps], discard=1.0)


# ---- distance ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("side", "patch", "expected"),
    [(14, 16, 116.4922), (7, 32, 115.5029), (4, 2, 4.0160), (8, 1, 4.1365)],
)
def test_distance_of_uniform_attention(side, patch, expected):
    maps = uniform(side * side)
    distance = mean_attention_distance(maps, (side, side), patch, prefix_tokens=0)
    np.testing.assert_allclose(distance, [expected], atol=5e-5)


def test_distance_of_attention_to_oneself_is_zero():
    maps = np.eye(17)[None, None]
    np.testing.assert_array_equal(mean_attention_distance(maps, (4, 4), 2), [0.0])


def test_distance_of_opposite_corners_is_the_diagonal():
    maps = np.zeros((1, 1, 16, 16))
    maps[..., 0, 15] = 1  # the other rows hold no weight and do not count
    distance = mean_attention_distance(maps, (4, 4), 2, prefix_tokens=0)
    np.testing.assert_allclose(distance, [np.hypot(6, 6)])


def test_distance_ignores_the_class_token_and_its_share(rng):
    patches = random_maps(rng, 2, 3, 6, 6)
    maps = np.zeros((2, 3, 7, 7))
    maps[..., 0, :] = 1 / 7
    maps[..., 1:, 0] = 0.75
    maps[..., 1:, 1:] = 0.25 * patches
    np.testing.assert_allclose(
        mean_attention_distance(maps, (2, 3), 4),
        mean_attention_distance(patches, (2, 3), 4, prefix_tokens=0),
    )


def test_distance_uses_rows_before_columns_of_an_oblong_grid():
    maps = np.zeros((1, 1, 6, 6))
    maps[..., 0, 3] = 1  # in a grid of 2 rows and 3 columns: straight down
    np.testing.assert_allclose(mean_attention_distance(maps, (2, 3), 5, prefix_tokens=0), [5.0])


def test_distance_of_a_head_that_sees_only_the_class_token_is_nan():
    maps = np.zeros((1, 2, 5, 5))
    maps[:, 0, :, 0] = 1
    maps[:, 1] = 1 / 5
    distance = mean_attention_distance(maps, (2, 2), 1)
    assert np.isnan(distance[0])
    np.testing.assert_allclose(distance[1], (0 + 1 + 1 + np.sqrt(2)) / 4)


def test_wrong_numbers_of_tokens_are_explained(rng):
    maps = random_maps(rng, 1, 2, 16, 16)
    with pytest.raises(ValueError, match=r"maps: expected 1 prefix tokens .*= 17 tokens, got 16"):
        mean_attention_distance(maps, (4, 4), 2)
    with pytest.raises(ValueError, match="grid"):
        mean_attention_distance(maps, 4, 2)
    with pytest.raises(ValueError, match="prefix_tokens"):
        mean_attention_distance(maps, (4, 4), 2, prefix_tokens=-1)


# ---- entropy -------------------------------------------------------------------------------------


def test_entropy_lies_between_one_token_and_all_tokens():
    maps = np.concatenate([np.eye(9)[None, None], uniform(9)], axis=1)
    np.testing.assert_allclose(attention_entropy(maps), [0, np.log(9)])
    np.testing.assert_allclose(attention_entropy(maps, normalised=True), [0, 1])


def test_entropy_of_half_and_half_is_one_bit():
    maps = np.array([[0.5, 0.5], [0.5, 0.5]])[None, None]
    np.testing.assert_allclose(attention_entropy(maps), [np.log(2)])


# ---- one query over the patches ------------------------------------------------------------------


def test_class_attention_lays_the_first_row_over_the_grid(rng):
    maps = random_maps(rng, 2, 3, 7, 7)
    pictures = class_attention(maps, (2, 3))
    assert pictures.shape == (2, 3, 2, 3)
    np.testing.assert_array_equal(pictures.reshape(2, 3, 6), maps[:, :, 0, 1:])


def test_class_attention_of_a_patch_in_a_rollout(rng):
    flow = rollout([random_maps(rng, 2, 3, 8, 8)])
    picture = class_attention(flow, (2, 3), query=2 + 4, prefix_tokens=2)  # row 1, column 1
    assert picture.shape == (2, 2, 3)
    np.testing.assert_array_equal(picture[:, 1, 2], flow[:, 6, 7])


def test_class_attention_refuses_a_query_outside(rng):
    with pytest.raises(IndexError, match="query: expected a token of 0 to 4, got 5"):
        class_attention(random_maps(rng, 1, 1, 5, 5), (2, 2), query=5)
    with pytest.raises(ValueError, match="maps"):
        class_attention(np.ones((2, 5)), (2, 2))


# ---- positions -----------------------------------------------------------------------------------


def sin_cos_table(side, width):
    """The 2-D sin-cos table: half of the width for the column, half for the row."""
    frequency = 10000.0 ** (-np.arange(width // 4) / (width // 4))
    row, column = np.indices((side, side)).reshape(2, -1, 1)
    return np.concatenate([f(x * frequency) for x in (column, row) for f in (np.sin, np.cos)], 1)


def test_similarity_of_sin_cos_positions():
    similarity = position_similarity(sin_cos_table(4, 32), (4, 4), prefix_tokens=0)
    np.testing.assert_allclose(similarity[0, 0, 0], [1, 0.9678, 0.8980, 0.8464], atol=5e-5)
    np.testing.assert_allclose(similarity[0, 0, :, 0], similarity[0, 0, 0])
    place = np.indices((4, 4)).reshape(2, -1).T
    distance = np.linalg.norm(place[:, None] - place, axis=-1)
    correlation = np.corrcoef(similarity.ravel(), -distance.ravel())
    assert correlation[0, 1] == pytest.approx(0.9725, abs=5e-5)
    apart = distance > 0
    expected = np.corrcoef(similarity.reshape(16, 16)[apart], -distance[apart])[0, 1]
    assert position_correlation(similarity) == pytest.approx(expected)


def test_positions_that_grow_apart_with_distance_correlate_wholly():
    place = np.indices((3, 4)).reshape(2, -1).T
    distance = np.linalg.norm(place[:, None] - place, axis=-1)
    assert position_correlation((1 - 0.1 * distance).reshape(3, 4, 3, 4)) == pytest.approx(1)
    assert position_correlation((0.1 * distance).reshape(3, 4, 3, 4)) == pytest.approx(-1)


@pytest.mark.parametrize(
    ("tokens", "size", "prefix", "grid"),
    [(197, (224, 224), 1, (14, 14)), (18, (8, 8), 2, (4, 4)), (25, (8, 12), 1, (4, 6)), (6, (8, 12), 0, (2, 3)),
     (2, (10, 20), 0, (1, 2)), (64, (57, 57), 0, (8, 8)), (3, (8, 8), 2, (1, 1))],
)  # fmt: skip
def test_the_grid_of_tokens_has_the_proportions_of_the_images(tokens, size, prefix, grid):
    assert token_grid(tokens, size) == (prefix, grid)


def test_no_tokens_are_no_grid():
    with pytest.raises(ValueError, match="tokens: 0 are no grid of patches of images of 4×6"):
        token_grid(0, (4, 6))


def test_weights_between_other_things_than_tokens_are_left_out(rng):
    """ResNeSt's are between the splits of a convolution."""
    model = tinyvit.create_model("resnest_digits", rng=rng).eval()
    assert not attention_maps(model, rng.normal(size=(1, 8, 8, 1)).astype(np.float32))


def test_similarity_is_symmetric_and_one_with_oneself(rng):
    table = rng.normal(size=(1, 7, 5))
    similarity = position_similarity(table, (2, 3)).reshape(6, 6)
    np.testing.assert_allclose(similarity, similarity.T)
    np.testing.assert_allclose(np.diag(similarity), 1)


def test_similarity_ignores_the_class_token_and_the_lengths(rng):
    table = rng.normal(size=(7, 5))
    other = table * rng.uniform(0.5, 2, size=(7, 1))
    other[0] = 0
    np.testing.assert_allclose(position_similarity(table, (2, 3)), position_similarity(other, (2, 3)))


def test_similarity_errors_name_the_table(rng):
    table = rng.normal(size=(7, 5))
    with pytest.raises(ValueError, match="table: expected 0 prefix tokens"):
        position_similarity(table, (2, 3), prefix_tokens=0)
    with pytest.raises(ValueError, match="table: expected shape"):
        position_similarity(table[0], (2, 3))
    table[4] = 0
    with pytest.raises(ValueError, match="embedding of patch 3 is zero"):
        position_similarity(table, (2, 3))


# ---- relevance -----------------------------------------------------------------------------------


def moved(model, rng):
    """The model in float64, off its initial values: heads that start at zero have no gradient."""
    model.astype(np.float64)
    for p in model.parameters():
        p.data = p.data + rng.normal(0, 0.2, p.shape)
    return model


def test_relevance_adds_what_later_layers_pass_on(rng):
    first, second = rng.normal(size=(2, 1, 3, 4, 4))
    expected = (np.eye(4) + second[0].mean(0)) @ (np.eye(4) + first[0].mean(0))
    np.testing.assert_allclose(relevance([first, second])[0], expected)


@pytest.mark.parametrize(("name", "layer"), [("vit_digits", 0), ("cait_digits", 3)])
def test_relevance_maps_are_slope_times_weight_where_that_speaks_for_the_class(name, layer, rng):
    model, images = moved(tinyvit.create_model(name, rng=rng), rng), rng.normal(size=(2, 8, 8, 1))
    tap = list(attention_maps(model, images))[layer]
    with tinyvit.capture(model, tap) as seen:
        model(images)
    weights = seen[tap].data
    got = relevance_maps(model, images, [7, 7])[tap]
    for entry in [(0, 1, 0, 3), (1, 2, 0, 2), (0, 0, 0, 4), (1, 0, 0, 0)]:
        nudge = np.zeros_like(weights)
        nudge[entry] = 1e-6
        logits = []
        for sign in (1, -1):
            with tinyvit.capture(model, edit={tap: lambda a, nudge=sign * nudge: a + nudge}):
                logits.append(model(images).data[:, 7].sum())
        expected = max(0.0, (logits[0] - logits[1]) / 2e-6 * weights[entry])
        assert got[entry] == pytest.approx(expected, abs=1e-8), f"{tap} at {entry}"
    if weights.shape[2] == 1:
        assert not got[:, :, 1:].any(), "rows of patches, which a class token's layer does not change"


def test_relevance_asks_about_the_class_that_the_model_would_choose(rng):
    model, images = moved(tinyvit.create_model("vit_digits", rng=rng), rng), rng.normal(size=(3, 8, 8, 1))
    chosen = model(images).data.argmax(-1)
    own, asked, other = (relevance_maps(model, images, c) for c in (None, chosen, (chosen + 1) % 10))
    for name in own:
        np.testing.assert_array_equal(own[name], asked[name])
        assert not np.allclose(own[name], other[name])


# ---- similarity ----------------------------------------------------------------------------------


def test_layers_that_are_uniform_are_alike_and_have_nothing_in_common():
    """Identity against uniform: 1/√T. Uniform against uniform: 1, and 0 once the mean is gone."""
    layers = [np.eye(65)[None, None], uniform(65), uniform(65)]
    np.testing.assert_allclose(layer_similarity(layers)[0], [1, 65**-0.5, 65**-0.5])
    np.testing.assert_allclose(layer_similarity(layers)[1, 2], 1)
    np.testing.assert_allclose(layer_similarity(layers, centred=True), np.diag([1, 0, 0]), atol=1e-12)


@pytest.mark.parametrize("deviation", [0.1, 0.5])
def test_layers_of_independent_logits_are_as_alike_as_their_logits_are_small(deviation, rng):
    """e^(-s²): a cosine near 1 is there without any training."""
    layers = np.exp(rng.normal(0, deviation, (2, 4, 4, 65, 65)))
    layers = list(layers / layers.sum(-1, keepdims=True))
    assert layer_similarity(layers)[0, 1] == pytest.approx(np.exp(-(deviation**2)), abs=0.02)
    assert layer_similarity(layers, centred=True)[0, 1] == pytest.approx(0, abs=0.01)


def test_similarity_looks_at_columns_of_the_same_head():
    """Two heads that have changed places have nothing in common, though each row of every map is the same."""
    a, b = np.tile(np.eye(3)[0], (3, 1)), np.tile(np.eye(3)[1], (3, 1))
    one, other = np.stack([a, b])[None], np.stack([b, a])[None]
    assert layer_similarity([one, other])[0, 1] == 0
    np.testing.assert_allclose(head_similarity(one), np.eye(2))


def test_a_head_that_repeats_another_is_found(rng):
    maps = random_maps(rng, 3, 3, 5, 5)
    maps[:, 2] = maps[:, 0]
    similarity = head_similarity(maps)
    assert similarity[0, 2] == pytest.approx(1)
    flat = maps.reshape(3, 3, -1)
    cosines = [x[0] @ x[1] / np.linalg.norm(x[0]) / np.linalg.norm(x[1]) for x in flat]
    assert similarity[0, 1] == pytest.approx(np.mean(cosines))


def test_layers_of_other_tokens_are_not_compared(rng):
    with pytest.raises(ValueError, match="layers of one shape"):
        layer_similarity([uniform(4), uniform(5)])
