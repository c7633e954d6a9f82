"""Occlusion, shuffling, attacks, cues and segments against closed forms."""

import numpy as np
import pytest

import tinyvit
from tinyvit.analysis.robustness import (
    adversarial_patch,
    fgsm,
    heaviest_cells,
    jaccard,
    occluded,
    pasted,
    pgd,
    random_cells,
    random_places,
    salient_cells,
    segmentation_jaccard,
    shape_bias,
    shifted,
    shuffled,
)
from tinyvit.train import AdamW, classification, gradient_of, predict, training, warmup_cosine

FREE = (-np.inf, np.inf)

# occlusion, shuffling, shifts --------------------------------------------------------------


def test_hidden_cells_are_filled_and_others_are_left(rng):
    images = rng.normal(size=(2, 4, 6, 3))
    hidden = np.array([[[1, 0, 0], [0, 0, 1]], [[0, 1, 0], [0, 0, 0]]], bool)
    got = occluded(images, hidden, images.mean((0, 1, 2)))
    for b, r, c in np.ndindex(2, 4, 6):
        expected = images.mean((0, 1, 2)) if hidden[b, r // 2, c // 2] else images[b, r, c]
        np.testing.assert_array_equal(got[b, r, c], expected)
    assert not occluded(images, np.ones((2, 3), bool)).any()
    with pytest.raises(ValueError, match=r"\(3, 3\) cells tile"):
        occluded(images, np.ones((3, 3), bool))


def test_random_cells_are_different_ones(rng):
    chosen = [random_cells((4, 4), 6, rng) for _ in range(300)]
    assert all(cells.sum() == 6 for cells in chosen)
    assert np.abs(np.mean(chosen, axis=0) - 6 / 16).max() < 0.12


def test_salient_cells_are_those_of_largest_score(rng):
    scores = rng.permuted(np.arange(12.0).reshape(1, 12).repeat(2, 0), axis=1).reshape(2, 3, 4)
    np.testing.assert_array_equal(salient_cells(scores, 5), scores >= 7)
    np.testing.assert_array_equal(salient_cells(-scores, 5), scores < 5)


def test_cells_change_places(rng):
    images = rng.normal(size=(2, 4, 6, 2))
    np.testing.assert_array_equal(shuffled(images, (1, 1), [0]), images)
    got = shuffled(images, (2, 3), [5, 1, 2, 3, 4, 0])
    np.testing.assert_array_equal(got[:, :2, :2], images[:, 2:, 4:])
    np.testing.assert_array_equal(got[:, :2, 2:], images[:, :2, 2:])
    order = rng.permutation(6)
    np.testing.assert_array_equal(shuffled(shuffled(images, (2, 3), order), (2, 3), np.argsort(order)), images)


def test_without_positions_a_vit_does_not_see_the_order_of_its_patches(rng):
    model = tinyvit.create_model("vit_digits", rng=rng).astype(np.float64).eval()
    model.head.weight.data = rng.normal(size=model.head.weight.shape)
    images = rng.uniform(size=(2, 8, 8, 1))
    other = shuffled(images, (4, 4), rng.permutation(16))
    assert np.abs(model(images).data - model(other).data).max() > 1e-6
    model.pos_embed.data = np.zeros_like(model.pos_embed.data)
    assert np.abs(model(images).data - model(other).data).max() < 1e-12


def test_shifts_move_down_and_right():
    image = np.arange(1.0, 7).reshape(1, 2, 3, 1)
    np.testing.assert_array_equal(shifted(image, 1, 0)[0, ..., 0], [[0, 0, 0], [1, 2, 3]])
    np.testing.assert_array_equal(shifted(image, 0, -1, fill=9)[0, ..., 0], [[2, 3, 9], [5, 6, 9]])
    np.testing.assert_array_equal(shifted(image, 0, 0), image)
    np.testing.assert_array_equal(shifted(image, -5, 0), 0 * image)


# attacks -----------------------------------------------------------------------------------


@pytest.fixture
def linear(rng):
    """A loss ⟨g, x⟩, its slope g, and images."""
    slope, images = rng.normal(size=(2, 3, 4, 2)), rng.uniform(size=(2, 3, 4, 2))
    return lambda x: (x * slope).sum(), slope, images


def test_fgsm_raises_a_linear_loss_by_eps_times_the_1_norm(linear):
    loss, slope, images = linear
    raised = loss(fgsm(loss, images, 0.1, bounds=FREE)) - loss(images)
    assert raised == pytest.approx(0.1 * np.abs(slope).sum())


@pytest.mark.parametrize("start", [False, True])
def test_pgd_reaches_the_best_of_a_linear_loss(start, linear, rng):
    """ε‖g‖₁ in the maximum norm, ε‖g‖₂ of each image in the Euclidean one: Hölder's bounds."""
    loss, slope, images = linear
    for norm, dual in (("inf", np.abs(slope).sum()), ("2", np.sqrt((slope**2).sum((1, 2, 3))).sum())):
        found = pgd(loss, images, 0.3, steps=60, step=0.3, norm=norm, rng=rng if start else None, bounds=FREE)
        assert loss(found) - loss(images) == pytest.approx(0.3 * dual, rel=1e-6), norm
        away = (found - images).reshape(2, -1)
        length = np.abs(away).max(1) if norm == "inf" else np.linalg.norm(away, axis=1)
        assert np.all(length <= 0.3 + 1e-9), norm


def test_attacks_stay_images(linear):
    loss, _, images = linear
    for found in (fgsm(loss, images, 0.5), pgd(loss, images, 0.5), pgd(loss, images, 3.0, norm="2")):
        assert found.min() >= 0
        assert found.max() <= 1
    with pytest.raises(ValueError, match="norm"):
        pgd(loss, images, 0.1, norm="1")


def test_a_curved_loss_is_climbed_further_in_more_steps(rng):
    model = tinyvit.create_model("resnet_digits", rng=rng).astype(np.float64).eval()
    images, labels = rng.uniform(size=(4, 8, 8, 1)), np.arange(4)

    def loss(x):
        return tinyvit.cross_entropy(model(x), labels, reduction="sum")

    clean, one, ten = (loss(x).item() for x in (images, fgsm(loss, images, 0.1), pgd(loss, images, 0.1, steps=10)))
    assert clean < one <= ten


def test_a_patch_takes_the_colour_that_hurts(rng):
    """Where the loss is the sum of the first channel minus the second, the patch ends at (1, 0)."""
    images, labels = rng.uniform(size=(5, 6, 6, 2)), np.zeros(5, int)
    patch = adversarial_patch(lambda x, y: (x * np.array([1.0, -1.0])).sum(), images, labels, 3, rng=rng, steps=40)
    np.testing.assert_allclose(patch, np.broadcast_to([1.0, 0.0], (3, 3, 2)), atol=1e-12)


def test_a_patch_with_a_target_makes_the_images_that_class(rng):
    """Class k is told by the sum of channel k: the patch ends full in the target's channel and empty in the others."""
    images, labels = rng.uniform(size=(6, 5, 5, 3)), rng.integers(0, 3, 6)

    def loss(x, y):
        assert np.all(y == 1), "the loss is asked of other labels than the target's"
        return tinyvit.cross_entropy(x.sum(axis=(1, 2)) / 25, y, reduction="sum")

    patch = adversarial_patch(loss, images, labels, 2, rng=rng, target=1, steps=40, batch=4)
    np.testing.assert_allclose(patch, np.broadcast_to([0.0, 1.0, 0.0], (2, 2, 3)), atol=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["vit_digits", "resnet_digits"])
def test_a_patch_fools_a_trained_model_more_than_noise_does(name):
    splits = tinyvit.data.digits(seed=0)
    rng = np.random.default_rng(0)
    model = tinyvit.create_model(name, rng=rng)
    epochs = tinyvit.data.Epochs(splits.train, 32, 8, rng=rng)
    schedule = warmup_cosine(4e-3, warmup=32, total=len(epochs))
    for _ in training(model, epochs, gradient_of(classification()), AdamW(model), schedule, rng=rng):
        pass
    model.eval()

    def loss(x, y):
        return tinyvit.cross_entropy(model(x), y, reduction="sum")

    def says(patch):
        places = random_places(splits.test.images, 4, np.random.default_rng(1))
        return predict(model, pasted(splits.test.images, patch, places)).argmax(-1)

    labels, others = splits.test.labels, splits.test.labels != 0
    noise = [says(rng.uniform(size=(4, 4, 1)).astype(np.float32)) for _ in range(5)]
    fooled = says(adversarial_patch(loss, *splits.validation, 4, rng=rng)) != labels
    aimed = says(adversarial_patch(loss, *splits.validation, 4, rng=rng, target=0))[others] == 0
    assert fooled.mean() > 0.05 + np.mean([said != labels for said in noise])
    assert aimed.mean() > 0.03 + np.mean([said[others] == 0 for said in noise])


def test_a_patch_is_pasted_whole_and_anywhere(rng):
    images = np.zeros((200, 5, 7, 1))
    places = random_places(images, 2, rng)
    assert places.min(0).tolist() == [0, 0]
    assert places.max(0).tolist() == [3, 5]
    covered = pasted(images, np.arange(1.0, 5).reshape(2, 2, 1), places)
    assert not images.any()
    for image, (r, c) in zip(covered, places, strict=True):
        np.testing.assert_array_equal(image[r : r + 2, c : c + 2, 0], [[1, 2], [3, 4]])
        assert image.sum() == 10


# cues and segments -------------------------------------------------------------------------


def test_shape_bias_counts_conflicts_alone():
    shapes, textures = np.array([0, 1, 2, 3, 0]), np.array([1, 0, 0, 0, 0])
    assert shape_bias(np.array([0, 1, 0, 2, 0]), shapes, textures) == pytest.approx(2 / 3)
    assert np.isnan(shape_bias(np.array([2, 2, 3, 1, 0]), shapes, textures))


def test_the_heaviest_cells_of_a_worked_example():
    attention = np.array([[0.4, 0.05, 0.05], [0.3, 0.1, 0.1]])
    np.testing.assert_array_equal(heaviest_cells(attention, 0.6), [[1, 0, 0], [1, 0, 0]])
    np.testing.assert_array_equal(heaviest_cells(7 * attention, 0.6), [[1, 0, 0], [1, 0, 0]])
    assert heaviest_cells(attention, 1.0).all()


def test_jaccard_counts_pixels():
    a, b = np.array([[1, 1], [0, 0]], bool), np.array([[0, 1], [0, 1]], bool)
    assert jaccard(a, b) == pytest.approx(1 / 3)
    assert jaccard(a, a) == 1
    assert jaccard(~a & a, ~a & a) == 0


def test_the_best_head_outlines_each_object():
    """Two objects, of which two heads each see one whole; a third head looks everywhere."""
    left, right = np.zeros((2, 4, 4), bool)
    left[:, :2], right[:2, 2:] = True, True
    heads = np.stack([left[::2, ::2], right[::2, ::2], np.ones((2, 2), bool)]).astype(float)[None]
    assert segmentation_jaccard(heads, [np.stack([left, right])]) == 1
    assert segmentation_jaccard(heads[:, 2:], [np.stack([left, right])]) == pytest.approx((1 / 2 + 1 / 4) / 2)
    assert segmentation_jaccard(np.repeat(heads, 2, 0), [left[None], np.zeros((0, 4, 4), bool)]) == 1
