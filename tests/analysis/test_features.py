"""Receptive fields, filters and similarity of features against closed forms."""

import numpy as np
import pytest

import tinyvit
from tinyvit import Module, Parameter, Sequential
from tinyvit.analysis import cka_matrix, effective_receptive_field, linear_cka, principal_filters, representations
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
