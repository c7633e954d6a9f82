import hashlib
import re
from importlib.resources import files

import numpy as np
import pytest

from tinyvit.data import Dataset, batches, digits

PER_CLASS = [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]  # UCI's table for the test set
SHA256 = "09f66e6debdee2cd2b5ae59e0d6abbb73fc2b0e0185d2e1957e9ebb51e23aa22"  # scikit-learn 1.9.1


def rows(*datasets):
    """Every image with its label as one row of bytes, sorted: a multiset to compare."""
    images = np.concatenate([d.images for d in datasets]).reshape(-1, 64)
    labels = np.concatenate([d.labels for d in datasets])
    return sorted(map(bytes, np.column_stack([images * 16, labels]).astype(np.uint8)))


def test_file_and_its_notice_travel_with_the_package():
    folder = files("tinyvit.data")
    content = folder.joinpath("digits.csv.gz").read_bytes()
    assert hashlib.sha256(content).hexdigest() == SHA256
    notice = folder.joinpath("DATA_LICENSES.md").read_text(encoding="utf-8")
    assert SHA256 in notice
    assert "The scikit-learn developers" in notice


def test_first_digits_are_a_zero_and_a_one():
    everything = rows(*digits())
    zero = [0, 0, 5, 13, 9, 1, 0, 0, 0, 0, 13, 15, 10, 15, 5, 0]  # the file's first two pixel rows
    assert any(row.startswith(bytes(zero)) and row[-1] == 0 for row in everything)
    assert len(everything) == 1797


def test_sizes_types_and_range():
    splits = digits()
    for dataset, count in zip(splits, (1297, 200, 300), strict=True):
        assert dataset.images.shape == (count, 8, 8, 1)
        assert dataset.images.dtype == np.float32
        assert dataset.images.min() == 0
        assert dataset.images.max() == 1
        assert dataset.labels.shape == (count,)
        assert dataset.labels.dtype == np.int64


def test_every_class_is_counted_as_published():
    labels = np.concatenate([dataset.labels for dataset in digits()])
    assert np.bincount(labels).tolist() == PER_CLASS


@pytest.mark.parametrize("seed", [0, 1, 7])
@pytest.mark.parametrize(("validation", "test"), [(200, 300), (0, 0), (1, 1), (17, 1000)])
def test_splits_are_disjoint_and_complete(seed, validation, test):
    splits = digits(seed=seed, validation=validation, test=test)
    assert [len(dataset.labels) for dataset in splits[1:]] == [validation, test]
    # No digit occurs twice in the file, so equal multisets without repeats mean disjoint splits.
    together = rows(*splits)
    assert together == rows(*digits())
    assert len(set(together)) == len(together) == 1797


@pytest.mark.parametrize("seed", range(5))
def test_classes_keep_their_share(seed):
    share = np.array(PER_CLASS) / 1797
    splits = digits(seed=seed)
    for dataset in splits:
        count = np.bincount(dataset.labels, minlength=10)
        assert np.abs(count - share * len(dataset.labels)).max() < 2
    so_far = np.eye(10)[splits.train.labels].cumsum(axis=0)
    expected = np.arange(1, len(so_far) + 1)[:, None] * share
    assert np.abs(so_far - expected).max() < 2


def test_same_seed_same_splits_other_seed_others():
    first, again, other = digits(seed=3), digits(seed=3), digits(seed=4)
    for a, b, c in zip(first, again, other, strict=True):
        np.testing.assert_array_equal(a.images, b.images)
        np.testing.assert_array_equal(a.labels, b.labels)
        assert rows(a) != rows(c)


def test_arrays_are_read_only():
    for array in (array for dataset in digits() for array in dataset):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"seed": -1}, "seed must be zero or more, not -1"),
        ({"seed": "lucky"}, "seed must be a whole number, not 'lucky'"),
        ({"validation": 0.5}, "validation must be a whole number, not 0.5"),
        ({"test": -300}, "test must be zero or more, not -300"),
        ({"validation": 900, "test": 900}, "validation=900 and test=900 leave -3 of 1797 digits"),
        ({"validation": 1788, "test": 0}, "leave at least 10"),
    ],
)
def test_bad_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        digits(**arguments)


# ------------------------------------------------------------------------------- minibatches


@pytest.fixture
def pairs():
    """Ten images whose every pixel is their label."""
    labels = np.arange(10)
    return Dataset(np.ones((10, 2, 3, 1)) * labels[:, None, None, None], labels)


def test_batches_without_rng_keep_the_order(pairs):
    sizes = [len(labels) for _, labels in batches(pairs, 4)]
    assert sizes == [4, 4, 2]
    np.testing.assert_array_equal(np.concatenate([labels for _, labels in batches(pairs, 4)]), pairs.labels)


def test_drop_last_leaves_whole_batches_only(pairs):
    assert [len(labels) for _, labels in batches(pairs, 4, drop_last=True)] == [4, 4]
    assert [len(labels) for _, labels in batches(pairs, 5, drop_last=True)] == [5, 5]


def test_shuffled_batches_hold_everything_once_and_keep_pairs(pairs, rng):
    epoch = list(batches(pairs, 3, rng=rng))
    seen = np.concatenate([labels for _, labels in epoch])
    assert sorted(seen) == list(range(10))
    assert seen.tolist() != list(range(10))
    for images, labels in epoch:
        assert images.shape == (len(labels), 2, 3, 1)
        assert (images == labels[:, None, None, None]).all()


def test_one_generator_shuffles_each_epoch_anew_and_a_copy_repeats_it(pairs):
    def two_epochs():
        rng = np.random.default_rng(5)
        return [[b.labels.tolist() for b in batches(pairs, 3, rng=rng)] for _ in range(2)]

    first, second = two_epochs()
    assert first != second
    assert two_epochs() == [first, second]


def test_batches_accept_any_pair(pairs):
    (images, labels), *_ = batches((pairs.images, np.eye(10)), 4)
    assert images.shape == (4, 2, 3, 1)
    assert labels.shape == (4, 10)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"batch_size": 0}, "batch_size=0 makes no batch out of 10 images"),
        ({"batch_size": -2}, "batch_size must be zero or more, not -2"),
        ({"batch_size": 2.0}, "batch_size must be a whole number, not 2.0"),
        ({"batch_size": 11, "drop_last": True}, "batch_size=11 makes no batch out of 10 images"),
        ({"batch_size": 2, "rng": 0}, "rng must be a np.random.Generator or None, not 0"),
    ],
)
def test_bad_batches_are_refused_at_the_call(pairs, arguments, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        batches(pairs, **arguments)  # not one batch has been asked for yet


def test_unequal_pair_is_refused(pairs):
    with pytest.raises(ValueError, match="dataset holds 9 images but 10 labels"):
        batches((pairs.images[:9], pairs.labels), 2)
