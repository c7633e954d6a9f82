"""Moving digits: the direction is in the motion, and in no frame."""

import numpy as np
import pytest

from tinyvit.data import digits, moving_digits
from tinyvit.data.moving import DIRECTIONS

STEPS = list(DIRECTIONS.values())


@pytest.fixture(scope="module")
def splits():
    return moving_digits(seed=3)


def test_a_clip_is_a_digit_that_moves_on(splits):
    for clips, of_digits in zip(splits, digits(seed=3), strict=True):
        assert clips.images.shape == (len(of_digits.images), 8, 16, 16, 1)
        assert (clips.images.dtype, clips.labels.dtype) == (np.float32, np.int64)
        for clip, label, digit in zip(clips.images[:20], clips.labels, of_digits.images, strict=False):
            assert np.array_equal(clip[1:], np.roll(clip[:-1], STEPS[label], axis=(1, 2)))
            places = [np.roll(clip[0], (-r, -c), (0, 1)) for r, c in np.ndindex(16, 16)]
            alone = np.pad(digit, [(0, 8), (0, 8), (0, 0)])
            assert any(np.array_equal(alone, place) for place in places)


def test_equal_seeds_give_equal_clips_that_cannot_be_written_to(splits):
    again, other = moving_digits(seed=3), moving_digits(seed=4)
    assert np.array_equal(splits.train.images, again.train.images)
    assert not np.array_equal(splits.train.labels, other.train.labels)
    with pytest.raises(ValueError, match="read-only"):
        splits.train.images[0] = 0


def test_two_frames_tell_the_direction(splits):
    """Of the four ways to move the first frame, the right one gives the second."""
    images, labels = splits.test
    errors = [np.abs(np.roll(images[:, 0], step, axis=(1, 2)) - images[:, 1]).sum(axis=(1, 2, 3)) for step in STEPS]
    assert np.array_equal(np.argmin(errors, axis=0), labels)


@pytest.mark.parametrize("frame", [0, 4, 7])
def test_a_single_frame_stays_at_chance(splits, frame):
    """Least squares on the pixels of a frame, and its nearest neighbour among 1,297: the spread of chance is 2.5 %."""
    x, y = splits.train.images[:, frame].reshape(1297, -1), splits.train.labels
    x_test, wanted = splits.test.images[:, frame].reshape(300, -1), splits.test.labels
    with_one = lambda x: np.c_[x, np.ones(len(x))].astype(np.float64)  # noqa: E731
    fit = np.linalg.lstsq(with_one(x), np.eye(4)[y], rcond=None)[0]
    linear = np.argmax(with_one(x_test) @ fit, axis=1)
    nearest = y[np.argmin(np.sum(x**2, axis=1) - 2 * x_test @ x.T, axis=1)]
    for found in (linear, nearest):
        assert abs(np.mean(found == wanted) - 0.25) < 0.09


def test_other_sizes_and_what_cannot_be():
    splits = moving_digits(frames=3, side=9)
    assert splits.validation.images.shape == (200, 3, 9, 9, 1)
    for sizes in ({"side": 7}, {"frames": 1}):
        with pytest.raises(ValueError, match="expected a side of at least 8 pixels and at least 2 frames"):
            moving_digits(**sizes)
