"""Receptive fields, filters and similarity of features against closed forms."""

import numpy as np
import pytest

import tinyvit
from tinyvit import Module, Parameter, Sequential
from tinyvit.analysis import (
    cka_matrix,
    effective_receptive_field,
    field_size,
    layers_of,
    linear_cka,
    principal_filters,
    representations,
)
from tinyvit.nn.basic import Conv2d


def box_network(depth, rng):
    """3×3 convolutions of ones, one after the other."""
    model = Sequential(*(Conv2d(1, 1, 3, padding=1, bias=False, rng=rng) for _ in range(depth)))
    for conv in model:
        conv.weight = Parameter(np.ones((1, 1, 3, 3)))
    return model


# receptive fields --------------------------------------------------------------------------


def test_the_field_of_box_filters_is_the_box_with_itself(rng):
    """Three boxes: 1 3 6 7 6 3 1 along each axis (Luo et al. 2016: it tends to a Gaussian)."""
    field = effective_receptive_field(box_network(3, rng), rng.normal(size=(2, 9, 9, 1)), "2")
    side = np.convolve(np.convolve([1, 1, 1], [1, 1, 1]), [1, 1, 1])
    expected = np.pad(np.outer(side, side) / 49, 1)
    np.testing.assert_allclose(field, expected, atol=1e-12)


def test_the_field_of_another_place_moves_with_it(rng):
    field = effective_receptive_field(box_network(1, rng), rng.normal(size=(1, 6, 7, 1)), "0", at=(1, 5))
    expected = np.zeros((6, 7))
    expected[:3, 4:] = 1
    np.testing.assert_array_equal(field, expected)
    with pytest.raises(ValueError, match="at: expected a place in a map of 6×7"):
        effective_receptive_field(box_network(1, rng), rng.normal(size=(1, 6, 7, 1)), "0", at=(6, 0))


@pytest.mark.parametrize(
    ("model", "name", "sees"),
    [
        ("vit_digits", "patch_embed", np.s_[4:6, 4:6]),
        ("vit_digits", "blocks.0", np.s_[:, :]),
        ("swin_digits", "layers.0.blocks.0", np.s_[4:, 4:]),  # its window of 2×2 patches
        ("swin_digits", "layers.0.blocks.1", np.s_[:, :]),  # shifted: four of those
        ("resnet_digits", "layer1.0", np.s_[1:8, 1:8]),  # three convolutions of 3×3
    ],
)
def test_fields_end_where_the_architecture_ends_them(model, name, sees, rng):
    model = tinyvit.create_model(model, rng=rng).eval()
    seen = effective_receptive_field(model, rng.normal(size=(2, 8, 8, 1)).astype(np.float32), name) > 0
    expected = np.zeros((8, 8), bool)
    expected[sees] = True
    np.testing.assert_array_equal(seen, expected)


def test_a_module_without_places_is_refused(rng):
    with pytest.raises(ValueError, match="a module that makes a map"):
        effective_receptive_field(tinyvit.create_model("vit_digits", rng=rng), rng.normal(size=(1, 8, 8, 1)), "head")


def test_an_oblong_image_s_tokens_are_an_oblong_grid(rng):
    model = tinyvit.create_model("vit_digits", img_size=(8, 12), rng=rng).eval()
    images = rng.normal(size=(1, 8, 12, 1)).astype(np.float32)
    seen = effective_receptive_field(model, images, "patch_embed", at=(1, 5)) > 0
    expected = np.zeros((8, 12), bool)
    expected[2:4, 10:] = True
    np.testing.assert_array_equal(seen, expected)


def test_the_size_of_a_field_is_that_of_a_square(rng):
    field = np.zeros((9, 9))
    field[2:5, 1:4] = 1
    field[0, 0] = 0.0454
    assert field_size(field) == 3
    field[0, :7] = 0.0456
    assert field_size(10 * field) == 4


@pytest.mark.parametrize(
    ("model", "layers"),
    [
        ("vit_digits", ["blocks.0", "blocks.1", "blocks.2"]),
        ("swin_digits", [f"layers.{i}.blocks.{j}" for i in (0, 1) for j in (0, 1)]),
        ("resnet_digits", ["layer1.0", "layer2.0"]),
        ("vgg_digits", ["features.0", "features.3", "features.7", "features.10"]),
    ],
)
def test_the_layers_of_a_model_are_its_blocks(model, layers):
    assert layers_of(tinyvit.create_model(model)) == layers


# similarity --------------------------------------------------------------------------------


def test_cka_does_not_see_rotations_scales_and_shifts(rng):
    x = rng.normal(size=(30, 6))
    turn, _ = np.linalg.qr(rng.normal(size=(6, 6)))
    assert linear_cka(x, 3 * x @ turn + rng.normal(size=6)) == pytest.approx(1)
    assert linear_cka(x, x * [9, 1, 1, 1, 1, 1]) < 0.9, "but it does see one axis being stretched"


def test_cka_is_the_paper_s_ratio_by_features(rng):
    x, y = rng.normal(size=(12, 5)), rng.normal(size=(12, 3))
    a, b = x - x.mean(0), y - y.mean(0)
    expected = np.sum((b.T @ a) ** 2) / np.linalg.norm(a.T @ a) / np.linalg.norm(b.T @ b)
    assert linear_cka(x, y) == pytest.approx(expected)
    np.testing.assert_allclose(cka_matrix({"x": x, "y": y}, {"y": y}), [[expected], [1]])


def test_debiased_cka_is_zero_for_features_that_have_nothing_in_common(rng):
    """Of 40 images with 200 features of noise the paper's ratio says 0.8; unbiased estimates say 0, on average."""
    pairs = [rng.normal(size=(2, 40, 200)) for _ in range(30)]
    biased, debiased = ([linear_cka(x, y, debiased=how) for x, y in pairs] for how in (False, True))
    assert np.mean(biased) > 0.7
    assert abs(np.mean(debiased)) < 3 * np.std(debiased) / np.sqrt(30) + 0.01
    x = rng.normal(size=(9, 4))
    assert linear_cka(x, 2 * x[:, ::-1] + 1, debiased=True) == pytest.approx(1)
    with pytest.raises(ValueError, match="at least four images"):
        linear_cka(x[:3], x[:3], debiased=True)


def test_debiased_cka_is_made_of_the_unbiased_estimates(rng):
    """Song et al. 2012, Eq. 5: [tr(K̃L̃) + 1ᵀK̃1 1ᵀL̃1 / (n-1)(n-2) - 2 · 1ᵀK̃L̃1 / (n-2)] / n(n-3), K̃ without diagonal."""
    x, y = rng.normal(size=(7, 3)), rng.normal(size=(7, 5))

    def hsic(a, b):
        n, K, L = len(a), a @ a.T, b @ b.T
        K, L = K - np.diag(np.diag(K)), L - np.diag(np.diag(L))
        return np.trace(K @ L) + K.sum() * L.sum() / (n - 1) / (n - 2) - 2 * (K @ L).sum() / (n - 2)

    expected = hsic(x, y) / np.sqrt(hsic(x, x) * hsic(y, y))
    assert linear_cka(x, y, debiased=True) == pytest.approx(expected)
    np.testing.assert_allclose(cka_matrix({"x": x}, {"y": y}, debiased=True), [[expected]])


def test_cka_of_features_at_right_angles_is_zero():
    x = np.kron([[1.0], [-1.0]], np.ones((2, 1)))
    y = np.kron(np.ones((2, 1)), [[1.0], [-1.0]])
    assert linear_cka(x, y) == pytest.approx(0)


def test_cka_refuses_other_images_and_constant_features(rng):
    with pytest.raises(ValueError, match="the same images"):
        linear_cka(np.ones((3, 2)), np.ones((4, 2)))
    with pytest.raises(ValueError, match="y: the features are the same for every image"):
        linear_cka(rng.normal(size=(4, 2)), np.full((4, 2), 0.1))


def test_representations_are_what_modules_put_out(rng):
    class Twice(Module):
        def __init__(self):
            self.first, self.second = Conv2d(1, 2, 1, rng=rng), Conv2d(2, 3, 1, rng=rng)

        def forward(self, x):
            return self.second(self.first(x))

    model, images = Twice(), rng.normal(size=(4, 2, 5, 1)).astype(np.float32)
    seen = representations(model, images, "first", "second")
    assert list(seen) == ["first", "second"]
    np.testing.assert_array_equal(seen["second"], model(images).data.reshape(4, -1))


# filters -----------------------------------------------------------------------------------


def test_a_planted_filter_is_found(rng):
    planted = rng.normal(size=(4, 4, 3))
    amounts = rng.normal(size=(20, 1, 1, 1))
    weight = amounts * planted.transpose(2, 0, 1) + 1e-3 * rng.normal(size=(20, 3, 4, 4))
    filters, shares = principal_filters(weight, 5)
    assert filters.shape == (5, 4, 4, 3)
    assert shares[0] > 0.999
    assert abs(np.sum(filters[0] * planted)) / np.linalg.norm(planted) > 0.999
    np.testing.assert_allclose(np.einsum("nijc,mijc->nm", filters, filters), np.eye(5), atol=1e-12)
    assert principal_filters(weight)[1].sum() == pytest.approx(1)
