"""Augmentation: worked numbers, closed forms, Pillow's own operations, seeds, and that nothing given is changed."""

import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageOps

from tinyvit.data import Epochs, digits
from tinyvit.data.augment import (
    DEIT,
    DIGITS,
    Augmented,
    chained,
    deit,
    deit_digits,
    mixup_or_cutmix,
    rand_augment,
    random_crop,
    random_erasing,
    random_flip,
    random_resized_crop,
    repeated,
)
from tinyvit.data.augment.crop import random_frames
from tinyvit.data.augment.erase import random_boxes
from tinyvit.data.augment.mix import mixed, pasted
from tinyvit.data.augment.warp import rotation, warped
from tinyvit.nn.mixing import random_box


def some_images(rng, count=6, size=(9, 12), channels=3):
    images, labels = rng.random((count, *size, channels), dtype=np.float32), rng.integers(0, 10, count)
    images.setflags(write=False)
    labels.setflags(write=False)
    return images, labels


ALL = {
    "flip": random_flip(),
    "crop": random_crop(2),
    "resized crop": random_resized_crop(7),
    "RandAugment": rand_augment(),
    "erasing": random_erasing(1.0),
    "mixing": mixup_or_cutmix(10),
    "deit 8": deit(8, 10),
    "deit 40": deit(40, 10),
}


@pytest.mark.parametrize("name", ALL)
def test_a_seed_tells_everything_and_what_is_given_stays(name, rng):
    images, labels = some_images(rng)
    copy = images.copy()
    (a, la), (b, lb), (c, lc) = (ALL[name](images, labels, np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert np.array_equal(a, b)
    assert np.array_equal(la, lb)
    assert not np.array_equal(a, c) or not np.array_equal(la, lc)
    assert np.array_equal(images, copy)
    assert a.dtype == np.float32
    assert len(a) == len(la) == len(images)


@pytest.mark.parametrize("name", ["flip", "crop", "resized crop", "RandAugment"])
def test_bytes_stay_bytes(name, rng):
    images, labels = (255 * some_images(rng)[0]).astype(np.uint8), np.zeros(6, int)
    assert ALL[name](images, labels, rng)[0].dtype == np.uint8


# frames ------------------------------------------------------------------------------------


def test_half_of_the_images_are_flipped(rng):
    images, labels = some_images(rng, 2000, (2, 3))
    y, _ = random_flip()(images, labels, rng)
    flipped = (y == images[:, :, ::-1]).all(axis=(1, 2, 3))
    assert (flipped | (y == images).all(axis=(1, 2, 3))).all()
    assert abs(flipped.mean() - 0.5) < 0.05


def test_a_crop_moves_and_fills_with_zeros(rng):
    images, labels = some_images(rng, 500, (4, 5), 1)
    y, _ = random_crop(1)(images, labels, rng)
    moves = set()
    for before, after in zip(np.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0))), y, strict=True):
        fits = [(i, j) for i in range(3) for j in range(3) if np.array_equal(before[i : i + 4, j : j + 5], after)]
        assert len(fits) == 1
        moves |= set(fits)
    assert len(moves) == 9


def test_frames_have_the_area_and_ratio_that_were_drawn(rng):
    top, left, h, w = random_frames(rng, 20000, (220, 220), (0.08, 1.0), (3 / 4, 4 / 3))
    assert min(top.min(), left.min()) >= 0
    assert max((top + h).max(), (left + w).max()) <= 220
    share = h * w / 220**2
    assert 0.078 < share.min() < 0.1
    assert share.max() > 0.95
    assert abs(np.log(w / h).mean()) < 0.01
    assert np.abs(np.log(w / h)).max() < np.log(4 / 3) + 0.02
    a = np.linspace(0.08, 1, 10001)[1:-1]
    fits = np.minimum(1, -np.log(a) / np.log(4 / 3))  # large ones fit less often: only if nearly square
    np.testing.assert_allclose(share.mean(), (a * fits).sum() / fits.sum(), atol=0.006)


def test_where_nothing_fits_it_is_the_middle(rng):
    assert random_frames(rng, 2, (10, 100), (0.9, 1.0), (0.75, 4 / 3))[:, 0].tolist() == [0, 43, 10, 13]
    assert random_frames(rng, 2, (100, 10), (0.9, 1.0), (0.75, 4 / 3))[:, 0].tolist() == [43, 0, 13, 10]


def test_a_resized_crop_is_what_pillow_makes_of_the_frame(rng):
    images, labels = 0.3 + 0.4 * some_images(rng, 5, (30, 21), 1)[0], np.zeros(5, int)
    y, _ = random_resized_crop(11)(images, labels, np.random.default_rng(3))
    frames = random_frames(np.random.default_rng(3), 5, (30, 21), (0.08, 1.0), (3 / 4, 4 / 3)).T
    for image, (top, left, h, w), made in zip(images[..., 0], frames, y[..., 0], strict=True):
        part = Image.fromarray(image[top : top + h, left : left + w]).resize((11, 11), Image.Resampling.BICUBIC)
        np.testing.assert_allclose(made, np.asarray(part), rtol=0, atol=1e-6)


# mixing ------------------------------------------------------------------------------------


def test_mixup_of_two_worked_by_hand():
    x = np.array([0.0, 1.0]).reshape(2, 1, 1, 1)
    y, labels = mixed(x, np.eye(3)[[0, 2]], 0.8)
    np.testing.assert_allclose(y.ravel(), [0.2, 0.8])
    np.testing.assert_allclose(labels, [[0.8, 0, 0.2], [0.2, 0, 0.8]])


def test_cutmix_pastes_a_box_and_counts_its_pixels(rng):
    images, labels = some_images(rng, 4, (8, 10), 1)
    y, soft = pasted(images, np.eye(10)[labels], (2, 5, 4, 10))
    from_partner = (y == images[::-1]).all(axis=(0, 3))
    assert from_partner.sum() == 18
    assert from_partner[2:5, 4:].all()
    share = 1 - 18 / 80
    np.testing.assert_allclose(soft, share * np.eye(10)[labels] + (1 - share) * np.eye(10)[labels[::-1]])


@pytest.mark.parametrize(("side", "expected"), [(224, 0.6808), (32, 0.6894), (8, 0.7202)])
def test_the_share_that_stays_has_the_mean_of_the_rule(side, expected, rng):
    """It is 1 - (1/2 - 1/5 + 1/48) = 0.67917 for images without pixels."""
    shares = []
    for share in rng.beta(1, 1, 20000):
        top, bottom, left, right = random_box(rng, (side, side), share)
        shares.append(1 - (bottom - top) * (right - left) / side**2)
    assert abs(np.mean(shares) - expected) < 4 * np.std(shares) / np.sqrt(20000)


def test_mixing_chooses_by_its_probabilities_and_shares_are_beta(rng):
    images = np.stack([np.zeros((6, 6, 1)), np.ones((6, 6, 1))])
    augment = mixup_or_cutmix(2)
    shares, cut = [], 0
    for _ in range(4000):
        y, labels = augment(images, np.array([0, 1]), rng)
        np.testing.assert_allclose(labels.sum(axis=1), 1)
        assert abs(1 - y[0].mean() - labels[0, 0]) < 1e-12, "the label is the share of the pixels"
        if np.ptp(y[0]) == 0 and 0 < labels[0, 0] < 1:
            shares.append(labels[0, 0])
        else:
            cut += 1
    assert abs(cut / 4000 - 0.5) < 0.03
    assert abs(np.mean(shares) - 0.5) < 0.03
    assert abs(np.var(shares) - 0.25 / 2.6) < 0.01
    y, labels = mixup_or_cutmix(2, p=0.0)(images, np.array([0, 1]), rng)
    assert np.array_equal(y, images)
    assert np.array_equal(labels, np.eye(2))
    soft = np.array([[0.3, 0.7], [0.5, 0.5]])
    assert mixup_or_cutmix(2, mixup=0, cutmix=0)(images, soft, rng)[1] is soft


# erasing -----------------------------------------------------------------------------------


def test_boxes_have_the_area_and_aspect_of_the_rule(rng):
    boxes = random_boxes(rng, 3000, (100, 80), (0.02, 1 / 3), 0.3)
    heights, widths = boxes.any(axis=2).sum(axis=1), boxes.any(axis=1).sum(axis=1)
    area = boxes.sum(axis=(1, 2))
    assert np.array_equal(area, heights * widths), "a box is a rectangle"
    assert 0.015 < area.min() / 8000 < 0.03
    assert area.max() / 8000 < 0.34
    assert heights.max() < 100
    assert widths.max() < 80
    assert abs(np.log(heights / widths)[area < 1600].mean()) < 0.05
    small = random_boxes(rng, 3000, (8, 8), (0.02, 1 / 3), 0.3)
    assert small.any(axis=(1, 2)).mean() > 0.99
    assert max(small.any(axis=2).sum(axis=1).max(), small.any(axis=1).sum(axis=1).max()) == 7


def test_erased_pixels_are_noise_of_the_data(rng):
    images, labels = np.full((4000, 8, 8, 2), 0.5), np.zeros(4000, int)
    mean, std = np.array([0.2, 0.8]), np.array([0.1, 0.3])
    y, _ = random_erasing(mean=mean, std=std)(images, labels, rng)
    touched = (y != images).any(axis=3)
    assert abs(touched.any(axis=(1, 2)).mean() - 0.25) < 0.03
    np.testing.assert_allclose(y[touched].mean(axis=0), mean, atol=0.02)
    np.testing.assert_allclose(y[touched].std(axis=0), std, atol=0.02)


# RandAugment -------------------------------------------------------------------------------


def by_pillow(name):
    enhance = {"Color": ImageEnhance.Color, "Contrast": ImageEnhance.Contrast, "Brightness": ImageEnhance.Brightness,
               "Sharpness": ImageEnhance.Sharpness}  # fmt: skip
    affine = {
        "ShearX": lambda a, w, h: (1, a, 0, 0, 1, 0),
        "ShearY": lambda a, w, h: (1, 0, 0, a, 1, 0),
        "TranslateX": lambda a, w, h: (1, 0, a * w, 0, 1, 0),
        "TranslateY": lambda a, w, h: (1, 0, 0, 0, 1, a * h),
    }
    if name in enhance:
        return lambda image, a: enhance[name](image).enhance(a)
    bicubic, grey = Image.Resampling.BICUBIC, {1: 124, 3: (124, 116, 104)}
    if name in affine:
        return lambda image, a: image.transform(image.size, Image.Transform.AFFINE, affine[name](a, *image.size),
                                                bicubic, fillcolor=grey[len(image.getbands())])  # fmt: skip
    return {
        "AutoContrast": lambda image, a: ImageOps.autocontrast(image),
        "Equalize": lambda image, a: ImageOps.equalize(image),
        "Invert": lambda image, a: ImageOps.invert(image),
        "Rotate": lambda image, a: image.rotate(a, bicubic, fillcolor=grey[len(image.getbands())]),
        "Posterize": lambda image, a: ImageOps.posterize(image, int(a)),
        "Solarize": lambda image, a: ImageOps.solarize(image, int(a)),
        "SolarizeAdd": lambda image, a: image.point([min(v + int(a), 255) if v < 128 else v for v in range(256)]
                                                    * len(image.getbands())),
    }[name]  # fmt: skip


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", DEIT)
def test_operations_are_pillow_s(name, channels, rng):
    operation, reference = DEIT[name], by_pillow(name)
    fill = np.array([124, 116, 104])[:channels]
    for trial in range(8):
        x = rng.integers(0, 256, (5, *rng.integers(5, 30, 2), channels)).astype(np.uint8)
        x[0] = 17  # a flat image
        x[1] = x[1] // 3 + 40 * (trial % 3)  # a pale one
        m, sign = rng.uniform(0, 9.99, 5), rng.choice([-1.0, 1.0], 5)
        y = operation(x, m, sign, fill)
        for image, made, amount in zip(x, y, operation.amount(m, sign), strict=True):
            wanted = np.asarray(reference(Image.fromarray(image.squeeze(-1) if channels == 1 else image), amount))
            error = np.abs(wanted.reshape(made.shape).astype(int) - made)
            if name == "Rotate":  # a sine's last digit may decide on which side of a whole number a value falls
                error = np.maximum(error - 1, 0) + (error.sum() > 3)
            assert not error.any(), f"{name} by {amount} is {error.max()} off"


def test_magnitude_nine_worked():
    nine, up, down = np.array([9.0]), np.array([1.0]), np.array([-1.0])
    worked = {"Rotate": (27, -27), "Posterize": (1, 1), "Solarize": (26, 26), "SolarizeAdd": (99, 99),
              "Color": (1.81, 0.19), "ShearX": (0.27, -0.27), "TranslateY": (0.405, -0.405)}  # fmt: skip
    for name, (more, less) in worked.items():
        amount = DEIT[name].amount
        np.testing.assert_allclose([amount(nine, up)[0], amount(nine, down)[0]], [more, less], rtol=1e-12)
    assert len(DEIT) == 15
    ten = np.array([10.0])
    assert DEIT["Posterize"].amount(ten, up)[0] == 0
    assert not DEIT["Posterize"](np.full((1, 2, 2, 1), 255, np.uint8), ten, up, 0).any()
    assert [DIGITS[n].amount(ten, up)[0] for n in ("Rotate", "ShearX", "TranslateX")] == [15, 0.2, 0.125]


def test_a_quarter_turn_is_exact(rng):
    x = rng.integers(0, 256, (2, 7, 7, 3)).astype(np.uint8)
    turned = warped(x, rotation(np.array([90.0, -90.0]), (7, 7)), 0)
    assert np.array_equal(turned[0, 1:-1, 1:-1], np.rot90(x[0])[1:-1, 1:-1]), "the border may fall outside by rounding"
    assert np.array_equal(turned[1, 1:-1, 1:-1], np.rot90(x[1], -1)[1:-1, 1:-1])


def test_operations_are_drawn_evenly_and_done_half_of_the_time(rng):
    seen = []

    class Counting:
        def __init__(self, name):
            self.name = name

        def __call__(self, x, m, sign, fill):
            seen.extend((self.name, *pair) for pair in zip(m, sign, strict=True))
            return x

    images, labels = np.zeros((3000, 1, 1, 1), np.uint8), np.zeros(3000, int)
    rand_augment({name: Counting(name) for name in "abc"})(images, labels, rng)
    names, m, sign = (np.array(column) for column in zip(*seen, strict=True))
    assert abs(len(seen) - 3000) < 150
    assert all(abs((names == name).sum() - 1000) < 100 for name in "abc")
    assert abs(m.astype(float).mean() - 9) < 0.05
    assert 0.4 < m.astype(float).std() < 0.55
    assert m.astype(float).max() <= 10
    assert abs(sign.astype(float).mean()) < 0.08


def test_numbers_become_bytes_and_come_back(rng):
    images = np.array([[0.0, 0.5, 1.0, 2.0, -1.0]]).reshape(1, 1, 5, 1)
    y, _ = rand_augment(count=0)(images, np.zeros(1, int), rng)
    np.testing.assert_allclose(y.ravel(), np.array([0, 128, 255, 255, 0]) / 255)


# batches -----------------------------------------------------------------------------------


def test_a_third_of_the_images_three_times(rng):
    order = repeated(1000, rng)
    assert len(order) == 768
    assert np.array_equal(order[::3], order[1::3])
    assert np.array_equal(order[::3], order[2::3])
    assert len(np.unique(order)) == 256
    assert len(repeated(200, rng)) == 200
    assert not np.array_equal(repeated(1000, rng), order)


def test_several_machines_share_the_versions_of_an_image():
    parts = [repeated(1000, np.random.default_rng(4), rank=rank, ranks=3) for rank in range(3)]
    assert [len(part) for part in parts] == [256] * 3
    assert np.array_equal(parts[0], parts[1])
    assert np.array_equal(parts[0], parts[2])
    assert len(np.unique(parts[0])) == 256
    whole = repeated(1000, np.random.default_rng(4))
    both = [repeated(1000, np.random.default_rng(4), rank=rank, ranks=2) for rank in range(2)]
    assert np.array_equal(np.stack(both, axis=1).ravel(), whole)


def test_epochs_in_an_order_of_one_s_own(rng):
    data = np.arange(600)[:, None], np.arange(600)
    epochs = Epochs(data, 100, 2, rng=rng, order=repeated)
    seen = [labels for _, labels in epochs]
    assert len(epochs) == len(seen) == 10
    assert all(len(np.unique(labels)) in (33, 34, 35) for labels in seen)


def test_augmented_batches_are_as_many_and_have_soft_labels(rng):
    data = digits().train
    batches = Augmented(Epochs(data, 64, 1, rng=rng), deit_digits(), rng=rng)
    for images, labels in batches:
        assert images.shape == (64, 8, 8, 1)
        assert images.dtype == labels.dtype == np.float32
        assert 0 <= images.min() <= images.max() <= 1
        np.testing.assert_allclose(labels.sum(axis=1), 1, rtol=1e-6)
    assert len(batches) == len(data.labels) // 64


def test_the_order_of_a_chain_is_the_order_written(rng):
    double, increase = (lambda x, y, r: (2 * x, y)), (lambda x, y, r: (x + 1, y))
    assert chained(double, increase)(3, 0, rng) == (7, 0)
    assert chained(increase, double)(3, 0, rng) == (8, 0)


IMAGES, CLASSES = np.zeros((2, 8, 8, 3)), np.array([0, 1])


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda r: random_flip(1.5), "p: expected a probability, got 1.5"),
        (lambda r: random_crop(-1), "padding: expected"),
        (lambda r: random_resized_crop(8, scale=(0.5, 0.1)), "expected 0 < scale"),
        (lambda r: random_erasing(area=(0, 1)), "expected 0 < area"),
        (lambda r: mixup_or_cutmix(10, switch=-1), "switch: expected a probability"),
        (lambda r: mixup_or_cutmix(10, mixup=-1), "mixup and cutmix: expected"),
        (lambda r: rand_augment(magnitude=11), "magnitude in 0 … 10"),
        (lambda r: repeated(10, r, rank=2, ranks=2), "rank < ranks"),
        (lambda r: random_flip()(IMAGES[0], CLASSES, r), r"images: expected \(B, H, W, C\), got shape \(8, 8, 3\)"),
        (lambda r: mixup_or_cutmix(2)(IMAGES.astype(np.uint8), CLASSES, r), "images: expected floating-point numbers"),
        (lambda r: random_erasing()(IMAGES.astype(int), CLASSES, r), "images: expected floating-point numbers"),
        (lambda r: rand_augment()(IMAGES.astype(int), CLASSES, r), "images: expected uint8 or floating-point"),
        (lambda r: mixup_or_cutmix(2)(IMAGES, np.array([0, 2]), r), r"classes \(B,\) in 0 … 1 or distributions"),
        (lambda r: mixup_or_cutmix(2)(IMAGES, np.zeros((2, 3)), r), r"distributions \(B, 2\), got float64 of shape"),
        (lambda r: rand_augment({"Color": DEIT["Color"]}, p=1)(np.zeros((1, 4, 4, 2)), CLASSES, r), "1 or 3 channels"),
    ],
)
def test_what_is_wrong_is_named(wrong, message, rng):
    with pytest.raises(ValueError, match=message):
        wrong(rng)
