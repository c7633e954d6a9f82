"""Attention statistics against worked examples and closed forms."""

import numpy as np
import pytest

from tinyvit.analysis.attention_maps import (
    attention_entropy,
    class_attention,
    mean_attention_distance,
    position_similarity,
    rollout,
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
