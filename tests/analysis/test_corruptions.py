"""Corruptions by what they must leave and change; the corruption error of worked numbers."""

import numpy as np
import pytest
from PIL import Image

from tinyvit.analysis.corruptions import CORRUPTIONS, _plasma, corrupted, corruption_errors, corruptions_for

SIZES = {"digits": (3, 8, 8, 1), "colour": (2, 32, 32, 3), "oblong": (2, 24, 18, 1)}


@pytest.mark.parametrize("size", SIZES)
def test_severity_grows_and_images_stay_images(size, rng):
    """The distance from the image grows with severity, for any kind."""
    from scipy.ndimage import gaussian_filter

    images = gaussian_filter(rng.uniform(size=SIZES[size]), (0, 1, 1, 0))
    images = ((images - images.min()) / np.ptp(images)).astype(np.float32)
    for name in corruptions_for(images):
        before = images.copy()
        changed = [corrupted(images, name, s, rng=np.random.default_rng(1)) for s in (1, 2, 3, 4, 5)]
        far = [float(np.sqrt(np.mean((x - images) ** 2))) for x in changed]
        assert all(x.shape == images.shape and x.dtype == np.float32 for x in changed), name
        assert all(x.min() >= 0 and x.max() <= 1 for x in changed), name
        assert 0 < far[0] < far[2] < far[4], f"{name}: {far}"
        np.testing.assert_array_equal(images, before)


def grey(*shape, value=0.4):
    return np.full(shape, value)


@pytest.mark.parametrize("name", ["gaussian_blur", "defocus_blur", "zoom_blur", "contrast", "pixelate"])
def test_an_even_image_stays_even(name, rng):
    np.testing.assert_allclose(corrupted(grey(1, 32, 32, 3), name, 5, rng=rng), 0.4)


@pytest.mark.parametrize(
    ("name", "deviation"),
    [("gaussian_noise", 0.06), ("shot_noise", np.sqrt(0.4 / 250)), ("speckle_noise", 0.4 * 0.1)],
)
def test_noise_has_the_stated_deviation(name, deviation, rng):
    noisy = corrupted(grey(20, 32, 32, 1), name, 2, rng=rng)
    assert noisy.mean() == pytest.approx(0.4, abs=3e-3)
    assert noisy.std() == pytest.approx(deviation, rel=0.05)


def test_impulses_are_salt_and_pepper_in_equal_parts(rng):
    noisy = corrupted(grey(40, 32, 32, 1), "impulse_noise", 5, rng=rng)
    assert set(np.unique(noisy)) == {0.0, 0.4, 1.0}
    assert np.mean(noisy == 0) == pytest.approx(0.035, abs=0.004)
    assert np.mean(noisy == 1) == pytest.approx(0.035, abs=0.004)


def test_brightness_keeps_hue_and_saturation(rng):
    images = rng.uniform(0.1, 0.6, (2, 32, 32, 3))
    bright = corrupted(images, "brightness", 5, rng=rng)
    np.testing.assert_allclose(bright.max(-1), images.max(-1) + 0.3)
    np.testing.assert_allclose(bright / bright.max(-1, keepdims=True), images / images.max(-1, keepdims=True))


def test_contrast_is_about_each_image_s_mean(rng):
    images = rng.uniform(size=(3, 8, 8, 1))
    flat = corrupted(images, "contrast", 3, rng=rng)
    np.testing.assert_allclose(flat - flat.mean((1, 2, 3), keepdims=True),
                               0.4 * (images - images.mean((1, 2, 3), keepdims=True)), atol=1e-12)  # fmt: skip


@pytest.mark.parametrize("severity", [1, 3, 5])
def test_pixels_are_pillow_s_boxes(severity, rng):
    images = rng.uniform(size=(1, 32, 32, 1)).astype(np.float32)
    few = int(32 * CORRUPTIONS["pixelate"].amounts[severity - 1])
    picture = Image.fromarray(images[0, ..., 0])
    expected = np.asarray(picture.resize((few, few), Image.Resampling.BOX).resize((32, 32), Image.Resampling.BOX))
    got = corrupted(images, "pixelate", severity, rng=rng)[0, ..., 0]
    np.testing.assert_allclose(got, expected, atol=1e-6)


@pytest.mark.parametrize("severity", [1, 5])
def test_jpeg_is_pillow_s_without_its_rounding(severity, rng, tmp_path):
    from scipy.ndimage import gaussian_filter

    image = np.round(255 * gaussian_filter(rng.uniform(size=(32, 32)), 1)).astype(np.uint8)
    quality = CORRUPTIONS["jpeg"].amounts[severity - 1]
    Image.fromarray(image).save(tmp_path / "x.jpg", quality=quality)
    expected = np.asarray(Image.open(tmp_path / "x.jpg"), float)
    got = 255 * corrupted(image[None, ..., None] / 255, "jpeg", severity, rng=rng)[0, ..., 0]
    off = np.abs(got - expected)  # pillow rounds to whole levels, and its cosines are whole numbers
    assert np.median(off) < 0.5
    assert off.mean() < 0.5, "few coefficients fall to the other side of a half"


def test_jpeg_in_colour_is_near_pillow_s_without_subsampling(rng, tmp_path):
    from scipy.ndimage import gaussian_filter

    image = np.round(255 * gaussian_filter(rng.uniform(size=(32, 32, 3)), (2, 2, 0))).astype(np.uint8)
    Image.fromarray(image).save(tmp_path / "x.jpg", quality=65, subsampling=0)
    expected = np.asarray(Image.open(tmp_path / "x.jpg"), float)
    got = 255 * corrupted(image[None] / 255, "jpeg", 2, rng=rng)[0]
    assert np.abs(got - expected).mean() < 1.0


def test_clouds_go_from_0_to_1_and_are_rougher_with_less_decay(rng):
    smooth, rough = (_plasma(20, 16, decay, rng) for decay in (3.0, 1.1))
    for clouds in (smooth, rough):
        np.testing.assert_array_equal(clouds.min((1, 2)), 0)
        np.testing.assert_allclose(clouds.max((1, 2)), 1)
    steps = [np.abs(np.diff(clouds, axis=1)).mean() for clouds in (smooth, rough)]
    assert steps[0] < steps[1]


def test_errors_of_worked_numbers():
    errors, reference = np.array([[0.3, 0.4], [0.5, 0.6]]), np.array([[0.6, 0.7], [0.7, 0.8]])
    np.testing.assert_allclose(corruption_errors(errors, reference), [53.85, 73.33], atol=0.01)
    assert corruption_errors(errors, reference).mean() == pytest.approx(63.59, abs=0.01)
    np.testing.assert_allclose(corruption_errors(reference, reference), 100)
    relative = corruption_errors(errors, reference, clean=(0.2, 0.4))
    np.testing.assert_allclose(relative, [60, 100])
    assert relative.mean() == pytest.approx(80)


def test_what_makes_no_sense_is_refused(rng):
    for name, severity, word in (("rain", 1, "expected one of"), ("fog", 6, "severity"), ("zoom_blur", 1, "no sense")):
        with pytest.raises(ValueError, match=word):
            corrupted(grey(1, 8, 8, 1), name, severity, rng=rng)
