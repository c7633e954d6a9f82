"""Objectives: DeiT's worked numbers, and what each of them is a mean of."""

import numpy as np
import pytest

import tinyvit as tv
from tinyvit.nn.mixing import share_kept
from tinyvit.nn.module import Module
from tinyvit.train import accumulated, classification, distilled_from, gradient_of, threaded, token_labelling
from tinyvit.train import objective as objectives
from tinyvit.train.objective import mixed_labels, mixing_box


class Says(Module):
    """A model that always gives the same outputs."""

    def __init__(self, *outputs):
        self.outputs = tuple(np.array(output, np.float64) for output in outputs)

    def forward(self, images):
        return self.outputs if len(self.outputs) > 1 else self.outputs[0]


IMAGES, CLASS_0 = np.zeros((1, 2, 2, 1)), np.array([0])
STUDENT, TEACHER = [[2.0, 1.0, 0.0]], [[0.0, 0.0, 3.0]]


@pytest.mark.parametrize(
    ("objective", "expected"),
    [
        (classification(), 0.407606),
        (classification(smoothing=0.1), 0.507606),
        (distilled_from(Says(TEACHER), tau=3.0, lam=0.1), 0.620084),
        (distilled_from(Says(TEACHER)), (0.407606 + 2.407606) / 2),
        (distilled_from(Says(TEACHER), smoothing=0.1), (0.507606 + 2.407606) / 2),
        (distilled_from(Says(TEACHER), tau=3.0, lam=0.1, smoothing=0.1), 0.620084 + 0.9 * 0.1),
    ],
)
def test_worked_numbers(objective, expected):
    assert objective(Says(STUDENT), (IMAGES, CLASS_0)) == pytest.approx(expected, abs=2e-6)


def test_a_distillation_token_learns_from_the_teacher_in_the_class_token_s_place():
    both = Says(STUDENT, [[0.0, 0.0, 1.0]])
    hard = distilled_from(Says(TEACHER))(both, (IMAGES, CLASS_0))
    assert hard == pytest.approx((0.407606 + np.log(2 + np.e) - 1) / 2, abs=1e-6)


def test_labels_that_mixup_made_are_smoothed_by_the_objective(rng):
    """Smoothing is linear, so before or after mixing is the same."""
    logits, share, K = rng.normal(size=(4, 5)), 0.3, 5
    hot = np.eye(K)[[0, 3, 1, 1]]
    smooth = 0.9 * hot + 0.1 / K
    mixed = share * hot + (1 - share) * hot[::-1]
    before = tv.cross_entropy(logits, share * smooth + (1 - share) * smooth[::-1])
    after = classification(smoothing=0.1)(Says(logits), (IMAGES, mixed))
    assert abs(before - after) < 1e-14


# token labelling ---------------------------------------------------------------------------


@pytest.fixture
def volo(rng):
    return tv.create_model("volo_digits", rng=rng).astype(np.float64)


def test_every_patch_has_a_label(volo, rng):
    images, labels = rng.random((3, 8, 8, 1)), rng.integers(0, 10, 3)
    logits, patches = (x.data for x in volo.labelled(images))
    of_patches = rng.dirichlet(np.ones(10), patches.shape[:2])

    def entropy(z, p):
        return -(p * (z - np.log(np.exp(z).sum(-1, keepdims=True)))).sum(-1).mean()

    found = token_labelling(weight=0.3)(volo, (images, labels, of_patches)).item()
    expected = entropy(logits, np.eye(10)[labels]) + 0.3 * entropy(patches, of_patches)
    assert abs(found - expected) < 1e-12


def test_without_labels_of_their_own_patches_have_the_image_s(volo, rng):
    images, labels = rng.random((3, 8, 8, 1)), rng.integers(0, 10, 3)
    count = volo.labelled(images)[1].shape[1]
    repeated = np.repeat(labels[:, None], count, axis=1)
    plain = token_labelling()(volo, (images, labels)).item()
    assert plain == token_labelling()(volo, (images, labels, repeated)).item()
    soft = token_labelling()(volo, (images, np.eye(10)[labels])).item()
    assert abs(plain - soft) < 1e-12


class Mixes(Module):
    """A model of two patches side by side, which says the same of any images, and notes where it was to mix."""

    grid = (1, 2)

    def __init__(self, logits, patch_logits):
        self.logits, self.patch_logits = tv.Tensor(np.array(logits)), tv.Tensor(np.array(patch_logits))

    def labelled(self, images, box=None):
        self.box = box
        return self.logits, self.patch_logits


def test_mixed_tokens_have_mixed_labels(rng, monkeypatch):
    """Two images of classes 0 and 1, right patches exchanged: ln(1 + e²) - 1 for the images, half of them wrong."""
    model = Mixes([[2.0, 0.0], [0.0, 2.0]], [[[3.0, 0.0], [0.0, 3.0]], [[0.0, 3.0], [3.0, 0.0]]])
    right_half, labels = (0, 1, 1, 2), np.array([0, 1])
    y, of_patches = mixed_labels(labels, np.array([[0, 0], [1, 1]]), right_half, model.grid, model.logits)
    np.testing.assert_array_equal(y, [[0.5, 0.5], [0.5, 0.5]])
    np.testing.assert_array_equal(of_patches.argmax(-1), [[0, 1], [1, 0]])
    loss = tv.cross_entropy(model.logits, y) + 0.5 * tv.cross_entropy(model.patch_logits, of_patches)
    assert abs(loss.item() - (1.126928 + 0.5 * 0.048587)) < 1e-6

    batch, objective = (np.zeros((2, 2, 4, 1)), labels), token_labelling(mix=1.0)
    monkeypatch.setattr(objectives, "mixing_box", lambda model, alpha: right_half)
    assert abs(objective(model.train(rng), batch).item() - (1.126928 + 0.5 * 0.048587)) < 1e-6
    assert model.box == right_half
    right = objective(model.eval(), batch).item()  # nothing is mixed: the right patches are wrong
    assert abs(right - (0.126928 + 0.5 * (0.048587 + 3.048587) / 2)) < 1e-6
    assert model.box is None


def test_where_tokens_are_mixed_is_drawn_by_the_model(volo, rng):
    boxes = [mixing_box(volo.train(np.random.default_rng(seed)), 1.0) for seed in (1, 1, *range(200))]
    assert boxes[0] == boxes[1]
    rows, columns = volo.grid
    assert all(0 <= top <= bottom <= rows and 0 <= left <= right <= columns for top, bottom, left, right in boxes)
    kept = np.mean([share_kept(box, volo.grid) for box in boxes])
    assert 0.5 < kept < 0.95, "λ is even, but boxes are rounded down and cut off"


def test_mixed_labels_may_be_distributions(rng):
    of_images, of_patches = rng.dirichlet(np.ones(4), 3), rng.dirichlet(np.ones(4), (3, 6))
    box, grid = (0, 2, 1, 2), (2, 3)
    y, patches = mixed_labels(of_images, of_patches, box, grid, rng.normal(size=(3, 4)))
    np.testing.assert_allclose(y, (2 * of_images + of_images[::-1]) / 3)
    inside = [1, 4]
    np.testing.assert_array_equal(patches[:, inside], of_patches[::-1][:, inside])
    outside = [0, 2, 3, 5]
    np.testing.assert_array_equal(patches[:, outside], of_patches[:, outside])


def test_token_labelling_can_be_cut(volo, rng):
    batch = rng.random((5, 8, 8, 1)), rng.integers(0, 10, 5), rng.integers(0, 10, (5, 4))
    plain = gradient_of(token_labelling())
    loss, g = plain(volo, batch)
    for cut in (threaded(plain, workers=2, chunk=2), accumulated(plain, parts=2)):
        loss_cut, g_cut = cut(volo, batch)
        assert abs(loss - loss_cut) < 1e-12
        assert all(np.abs(g[name] - g_cut[name]).max() < 1e-12 for name in g)


def test_a_model_without_patch_logits_cannot_be_labelled(rng):
    model = tv.create_model("volo_digits", rng=rng, use_aux_head=False)
    with pytest.raises(ValueError, match="use_aux_head"):
        token_labelling()(model, (rng.random((2, 8, 8, 1)), np.array([0, 1])))
