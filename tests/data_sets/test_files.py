"""Files that users bring, made small: read back exactly, and refused in words when they are cut, lying or hostile."""

import contextlib
import gzip
import io
import json
import pickle
import struct
import tarfile
import threading
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from tinyvit.data import (
    DataFileError,
    ade20k,
    ahead,
    batches,
    cifar10,
    cifar10_c,
    cifar100,
    coco,
    image_folder,
    mnist,
    read_idx,
    read_mask,
    voc,
)
from tinyvit.data.scenes import drawn
from tinyvit.data.unpickled import unpickled

# idx ---------------------------------------------------------------------------------------


def idx(array):
    code = {"u1": 8, "i1": 9, "i2": 11, "i4": 12, "f4": 13, "f8": 14}[array.dtype.str[1:]]
    shape = struct.pack(f">{array.ndim}I", *array.shape)
    return bytes([0, 0, code, array.ndim]) + shape + array.astype(array.dtype.newbyteorder(">")).tobytes()


@pytest.mark.parametrize("dtype", ["u1", "i1", "i2", "i4", "f4", "f8"])
def test_idx_of_every_type_packed_or_not(dtype, tmp_path, rng):
    array = (100 * rng.normal(size=(2, 3, 4))).astype(dtype)
    (tmp_path / "plain").write_bytes(idx(array))
    (tmp_path / "packed").write_bytes(gzip.compress(idx(array)))
    for name in ("plain", "packed"):
        back = read_idx(tmp_path / name)
        np.testing.assert_array_equal(back, array)
        assert back.dtype == array.dtype


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda data: b"", "not an idx file"),
        (lambda data: b"\x89PNG" + data, "not an idx file"),
        (lambda data: data[:9], "ends within its header"),
        (lambda data: data[:-1], "promises 6 bytes"),
        (lambda data: data + b"\0", "holds 7"),
        (lambda data: data[:4] + b"\xff\xff\xff\xff" + data[8:], "promises"),  # four billion images
        (lambda data: gzip.compress(data)[:-9], "Compressed file ended"),
        (lambda data: gzip.compress(data)[:12] + b"!" + gzip.compress(data)[13:], "f: "),
    ],
)
def test_a_damaged_idx_file_is_named(damage, words, tmp_path):
    (tmp_path / "f").write_bytes(damage(idx(np.zeros((2, 3), np.uint8))))
    with pytest.raises(DataFileError, match=words) as refusal:
        read_idx(tmp_path / "f")
    assert str(tmp_path / "f") in str(refusal.value)


def test_mnist_from_its_four_files(tmp_path, rng):
    images, labels = rng.integers(0, 256, (5, 4, 3)).astype(np.uint8), np.arange(5, dtype=np.uint8)
    (tmp_path / "train-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx(images)))
    (tmp_path / "train-labels.idx1-ubyte").write_bytes(idx(labels))
    (tmp_path / "emnist-letters-test-images-idx3-ubyte").write_bytes(idx(images))
    (tmp_path / "emnist-letters-test-labels-idx1-ubyte").write_bytes(idx(labels))
    data = mnist(tmp_path)
    np.testing.assert_array_equal(data.images[..., 0], images)
    np.testing.assert_array_equal(data.labels, labels)
    turned = mnist(tmp_path, train=False, prefix="emnist-letters-", transposed=True)
    np.testing.assert_array_equal(turned.images[..., 0], images.swapaxes(1, 2))
    (first,) = batches(data, 5)
    np.testing.assert_allclose(first.images[..., 0], images / 255, rtol=1e-6)
    assert first.images.dtype == np.float32
    with pytest.raises(DataFileError, match="there is no t10k-images-idx3-ubyte"):
        mnist(tmp_path, train=False)
    (tmp_path / "train-labels.idx1-ubyte").write_bytes(idx(labels[:4]))
    with pytest.raises(DataFileError, match="do not belong together"):
        mnist(tmp_path)


# pickles -----------------------------------------------------------------------------------

PLAIN = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text(max_size=5)
    | st.binary(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.tuples(inner, inner) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=8,
)


@given(PLAIN, st.integers(2, 4))
def test_plain_things_come_out_of_a_pickle_as_they_went_in(thing, protocol):
    assert unpickled(pickle.dumps(thing, protocol)) == thing


@pytest.mark.parametrize("protocol", range(5))
def test_arrays_come_out_of_a_pickle(protocol, rng):
    arrays = {"c": rng.normal(size=(2, 3)), "f": np.asfortranarray(rng.normal(size=(3, 2))),
              "big": np.arange(4, dtype=">i4"), "none": np.zeros((0, 3), np.uint8)}  # fmt: skip
    back = unpickled(pickle.dumps(arrays, protocol))
    for name, array in arrays.items():
        np.testing.assert_array_equal(back[name], array)


class Trap:
    """Would leave a file behind if it were unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


@pytest.mark.parametrize("protocol", range(6))
def test_a_pickle_is_never_run(protocol, tmp_path):
    for thing in (
        Trap(tmp_path / "sprung"),
        {b"data": [Trap(tmp_path / "sprung")]},
        np.array([Trap(tmp_path)], object),
    ):
        with pytest.raises(ValueError, match=r"pickle|array of"):
            unpickled(pickle.dumps(thing, protocol))
    assert not (tmp_path / "sprung").exists()


@given(st.integers(0, 10**6), st.binary(min_size=1, max_size=3), st.booleans())
def test_a_damaged_pickle_is_a_value_error(at, noise, cut):
    whole = pickle.dumps({b"data": np.zeros((2, 3), np.uint8), b"labels": [1, 2], b"name": "x"}, 2)
    at %= len(whole)
    damaged = whole[:at] if cut else whole[:at] + noise + whole[at + len(noise) :]
    with contextlib.suppress(ValueError):
        unpickled(damaged)


# CIFAR -------------------------------------------------------------------------------------


def python_batch(planes, **labels):
    """As the page's files are: written by Python 2, whose texts are bytes."""
    return pickle.dumps({b"data": planes, **{name.encode(): values for name, values in labels.items()}}, protocol=2)


def cifar_images(n, rng):
    images = rng.integers(0, 256, (n, 32, 32, 3)).astype(np.uint8)
    return images, images.transpose(0, 3, 1, 2).reshape(n, 3072)


def test_cifar10_in_both_forms_from_folder_and_archive(tmp_path, rng):
    images, planes = cifar_images(10, rng)
    labels = list(range(10))
    for form in ("python", "binary"):
        (tmp_path / form).mkdir()
    for i in range(5):
        part = slice(2 * i, 2 * i + 2)
        (tmp_path / "python" / f"data_batch_{i + 1}").write_bytes(python_batch(planes[part], labels=labels[part]))
        records = b"".join(
            bytes([label]) + plane.tobytes() for label, plane in zip(labels[part], planes[part], strict=True)
        )
        (tmp_path / "binary" / f"data_batch_{i + 1}.bin").write_bytes(records)
    with tarfile.open(tmp_path / "c.tar.gz", "w:gz") as tar:
        tar.add(tmp_path / "python", arcname="cifar-10-batches-py")
    for path in ("python", "binary", "c.tar.gz"):
        data = cifar10(tmp_path / path)
        np.testing.assert_array_equal(data.images, images)
        np.testing.assert_array_equal(data.labels, labels)
    with pytest.raises(DataFileError, match=r"there is no test_batch"):
        cifar10(tmp_path / "c.tar.gz", train=False)


def test_cifar100_has_two_kinds_of_labels(tmp_path, rng):
    images, planes = cifar_images(3, rng)
    (tmp_path / "train").write_bytes(python_batch(planes, fine_labels=[99, 0, 5], coarse_labels=[19, 1, 2]))
    both = zip([1, 2, 3], [50, 60, 70], planes, strict=True)
    (tmp_path / "test.bin").write_bytes(b"".join(bytes([c, f]) + p.tobytes() for c, f, p in both))
    assert cifar100(tmp_path).labels.tolist() == [99, 0, 5]
    assert cifar100(tmp_path, coarse=True).labels.tolist() == [19, 1, 2]
    assert cifar100(tmp_path, train=False).labels.tolist() == [50, 60, 70]
    assert cifar100(tmp_path, train=False, coarse=True).labels.tolist() == [1, 2, 3]
    np.testing.assert_array_equal(cifar100(tmp_path, train=False).images, images)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "exhausted"),
        (pickle.dumps([1, 2]), "a pickled list"),
        (pickle.dumps({b"data": 5, b"labels": [1]}), "'data' is not an array"),
        (pickle.dumps({b"data": np.zeros((1, 3072)), b"labels": [1]}), "'data' is not an array"),
        (pickle.dumps({b"data": np.zeros((2, 3072), np.uint8), b"labels": [1]}, 2), "not a list of 2"),
        (pickle.dumps({b"data": np.zeros((1, 3072), np.uint8), b"labels": [10]}, 2), "labels from 10 to 10"),
        (pickle.dumps({b"data": np.zeros((1, 3072), np.uint8), b"labels": ["a"]}, 2), "not a list of 1"),
        (pickle.dumps(Trap("nowhere")), "names"),
    ],
)
def test_a_cifar_file_that_is_none_is_named(content, words, tmp_path):
    (tmp_path / "test_batch").write_bytes(content)
    with pytest.raises(DataFileError, match=words):
        cifar10(tmp_path, train=False)


def test_a_cut_binary_file_is_named(tmp_path):
    (tmp_path / "test_batch.bin").write_bytes(bytes(3072))
    with pytest.raises(DataFileError, match="not a whole number of records"):
        cifar10(tmp_path, train=False)


def test_a_tar_is_never_unpacked_to_disk(tmp_path, rng):
    _, planes = cifar_images(1, rng)
    with tarfile.open(tmp_path / "c.tar", "w") as tar:
        info = tarfile.TarInfo("../../test_batch")
        data = python_batch(planes, labels=[3])
        info.size = len(data)
        tar.addfile(info, io.BytesIO(data))
    before = sorted(tmp_path.parent.rglob("*"))
    assert cifar10(tmp_path / "c.tar", train=False).labels.tolist() == [3]
    assert sorted(tmp_path.parent.rglob("*")) == before
    (tmp_path / "cut.tar").write_bytes((tmp_path / "c.tar").read_bytes()[:700])
    with pytest.raises(DataFileError, match=r"cut\.tar"):
        cifar10(tmp_path / "cut.tar", train=False)


def test_cifar10_c_severities(tmp_path, rng):
    images, _ = cifar_images(10, rng)
    np.save(tmp_path / "fog.npy", images)
    np.save(tmp_path / "labels.npy", np.tile([4, 7], 5))
    data = cifar10_c(tmp_path, "fog", 3)
    np.testing.assert_array_equal(data.images, images[4:6])
    assert data.labels.tolist() == [4, 7]
    with pytest.raises(DataFileError, match=r"no corruption 'snow'; there are fog"):
        cifar10_c(tmp_path, "snow", 3)
    with pytest.raises(ValueError, match="severity: expected 1 to 5"):
        cifar10_c(tmp_path, "fog", 6)
    np.save(tmp_path / "fog.npy", np.array([Trap(tmp_path)], object), allow_pickle=True)
    with pytest.raises(DataFileError, match="fog"):
        cifar10_c(tmp_path, "fog", 1)


# folders -----------------------------------------------------------------------------------


def photo(path, size, colour, mode="RGB", **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).convert(mode).save(path, **options)
    return path


def test_an_image_folder_of_every_mode(tmp_path):
    photo(tmp_path / "b" / "1.JPEG", (40, 20), (255, 0, 0), quality=100)
    photo(tmp_path / "b" / "2.png", (10, 30), (255, 0, 0), "P")
    photo(tmp_path / "a" / "1.jpg", (20, 20), (0, 0, 255), "CMYK", quality=100)
    photo(tmp_path / "a" / "2.png", (9, 9), (128, 128, 128), "L")
    (tmp_path / "a" / "readme.txt").write_text("not an image")
    data, names = image_folder(tmp_path, 8)
    assert names == ["a", "b"]
    assert data.labels.tolist() == [0, 0, 1, 1]
    assert data.images.shape == (4, 8, 8, 3)
    np.testing.assert_allclose(data.images[2].mean((0, 1)), [255, 0, 0], atol=3)
    np.testing.assert_allclose(data.images[[3, 1]].mean((1, 2)), [[255, 0, 0], [128, 128, 128]], atol=3)
    (batch,) = batches(data, 4)
    assert batch.images.dtype == np.float32
    assert 0.99 < batch.images.max() <= 1


def test_an_image_folder_that_is_none_is_named(tmp_path):
    with pytest.raises(DataFileError, match="there is no such folder"):
        image_folder(tmp_path / "x", 8)
    with pytest.raises(DataFileError, match="there is no folder in it"):
        image_folder(tmp_path, 8)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataFileError, match="empty has none"):
        image_folder(tmp_path, 8)
    (tmp_path / "empty" / "1.png").write_bytes(b"\x89PNG nothing more")
    data, _ = image_folder(tmp_path, 8)
    with pytest.raises(DataFileError, match=r"1\.png"):
        data.images[0]


def test_ade20k_masks(tmp_path):
    photo(tmp_path / "images" / "training" / "a.jpg", (5, 4), (9, 9, 9))
    with pytest.raises(DataFileError, match="annotations/training: there is no such folder"):
        ade20k(tmp_path)
    mask = np.array([[0, 1], [150, 2]], np.uint8)
    (tmp_path / "annotations" / "training").mkdir(parents=True)
    with pytest.raises(DataFileError, match=r"a\.png: there is no such mask"):
        ade20k(tmp_path)
    path = tmp_path / "annotations" / "training" / "a.png"
    Image.fromarray(mask).save(path)
    ((image, found),) = ade20k(tmp_path)
    assert (image.name, found) == ("a.jpg", path)
    np.testing.assert_array_equal(read_mask(found), [[255, 0], [149, 1]])
    with pytest.raises(DataFileError, match="a label 150; expected 0 to 20"):
        read_mask(found, classes=20)
    photo(path, (2, 2), (1, 2, 3))
    with pytest.raises(DataFileError, match="one label per pixel; this image is RGB"):
        read_mask(path)


# scenes ------------------------------------------------------------------------------------

VOC = """<annotation><size><width>50</width><height>40</height><depth>3</depth></size>
<object><name>dog</name><difficult>1</difficult>
<bndbox><xmin>11</xmin><ymin>1</ymin><xmax>20</xmax><ymax>40</ymax></bndbox></object>
<object><name>cat</name><bndbox><xmin>1</xmin><ymin>2</ymin><xmax>3.5</xmax><ymax>4</ymax></bndbox></object></annotation>"""


def voc_folder(tmp_path, annotation, listing="a 1\n"):
    for folder in ("ImageSets/Main", "Annotations"):
        (tmp_path / folder).mkdir(parents=True, exist_ok=True)
    (tmp_path / "ImageSets/Main/train.txt").write_text(listing)
    (tmp_path / "Annotations/a.xml").write_text(annotation)
    return tmp_path


def test_voc_boxes_hold_their_first_and_last_pixel(tmp_path):
    (scene,) = voc(voc_folder(tmp_path, VOC))
    assert scene.image == tmp_path / "JPEGImages" / "a.jpg"
    assert scene.size == (40, 50)
    np.testing.assert_array_equal(scene.boxes, [[10, 0, 20, 40], [0, 1, 3.5, 4]])
    assert scene.labels.tolist() == [11, 7]
    assert scene.crowd.tolist() == [True, False]


@pytest.mark.parametrize(
    ("annotation", "words"),
    [
        (VOC[:-20], "no element found|unclosed|mismatched"),
        (VOC.replace("dog", "unicorn"), "unicorn"),
        (VOC.replace("<xmin>11", "<xmin>nan"), "corners"),
        (VOC.replace("<xmin>11", "<xmin>31"), "wrong way round"),
        (VOC.replace("<ymin>1</ymin>", ""), "NoneType"),
        ('<!DOCTYPE a [<!ENTITY b "bb"><!ENTITY c "&b;&b;">]>' + VOC, "no DOCTYPE"),
    ],
)
def test_a_damaged_voc_annotation_is_named(annotation, words, tmp_path):
    with pytest.raises(DataFileError, match=words) as refusal:
        voc(voc_folder(tmp_path, annotation))
    assert "a.xml" in str(refusal.value)


def test_a_voc_listing_cannot_lead_elsewhere(tmp_path):
    with pytest.raises(DataFileError, match="no name of an image"):
        voc(voc_folder(tmp_path, VOC, listing="../../etc/passwd\n"))


def packed_runs(counts):
    """COCO's compression, from its description: the difference to the one two before, five bits a character."""
    text = ""
    for i, count in enumerate(counts):
        x = count - (counts[i - 2] if i > 2 else 0)
        more = True
        while more:
            bits, x = x & 31, x >> 5
            more = x != (-1 if bits & 16 else 0)
            text += chr(bits + 32 * more + 48)
    return text


def runs(mask):
    flat = mask.T.ravel()
    edges = np.flatnonzero(np.diff(np.concatenate([[0], flat.astype(int)])))
    return np.diff(np.concatenate([[0], edges, [flat.size]])).tolist()


@pytest.mark.parametrize("size", [(1, 1), (3, 5), (40, 70)])
def test_run_lengths_plain_and_compressed_give_back_the_mask(size, rng):
    for density in (0.0, 0.1, 0.5, 1.0):
        mask = rng.random(size) < density
        for counts in (runs(mask), packed_runs(runs(mask))):
            np.testing.assert_array_equal(drawn({"counts": counts, "size": list(size)}, size), mask)


def test_a_polygon_covers_the_pixels_whose_centres_it_holds():
    mask = drawn([[2, 1, 6, 1, 6, 4, 2, 4]], (8, 9))
    expected = np.zeros((8, 9), bool)
    expected[1:4, 2:6] = True
    assert expected[mask].mean() > 0.5
    assert mask[expected].all()
    assert mask.sum() <= 5 * 4  # an edge's own pixels may count


def coco_file(tmp_path, **changes):
    data = {
        "images": [{"id": 7, "file_name": "a.jpg", "height": 10, "width": 20},
                   {"id": 9, "file_name": "b.jpg", "height": 4, "width": 4}],
        "categories": [{"id": 18, "name": "dog"}, {"id": 3, "name": "car"}],
        "annotations": [{"image_id": 7, "category_id": 18, "bbox": [1, 2, 3, 4], "iscrowd": 0,
                         "segmentation": [[1, 2, 4, 2, 4, 6]]}],
    }  # fmt: skip
    (tmp_path / "i.json").write_text(json.dumps({**data, **changes}))
    return tmp_path / "i.json"


def test_coco_scenes(tmp_path):
    (a, b), names = coco(coco_file(tmp_path), tmp_path)
    assert names == ["car", "dog"]
    np.testing.assert_array_equal(a.boxes, [[1, 2, 4, 6]])
    assert a.labels.tolist() == [1]
    assert a.mask(0).shape == (10, 20)
    assert 3 <= a.mask(0).sum() <= 12
    assert b.boxes.shape == (0, 4)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"categories": []}, "18"),
        ({"images": [{"id": 7, "file_name": "../a.jpg", "height": 1, "width": 1}]}, "no name of a file"),
        ({"annotations": [{"image_id": 1}]}, "1"),
        ({"annotations": [{"image_id": 7, "category_id": 18, "bbox": [1, 2, -3, 4]}]}, "wrong way round"),
        ({"annotations": [{"image_id": 7, "category_id": 18, "bbox": [1, 2]}]}, "reshape"),
        ({"annotations": 5}, "iterable"),
    ],
)
def test_a_damaged_coco_file_is_named(changes, words, tmp_path):
    with pytest.raises(DataFileError, match=words) as refusal:
        coco(coco_file(tmp_path, **changes), tmp_path)
    assert "i.json" in str(refusal.value)


@pytest.mark.parametrize("outline", [
    {"counts": [1, 2]}, {"counts": "~~"}, {"counts": "o"}, {"counts": "é"}, {"counts": [-5, 205]}, {}, [[1, 2]],
    [["a"] * 6], {"counts": [10**30]}, {"counts": [0.5]}, 7,
])  # fmt: skip
def test_an_outline_that_cannot_be_drawn_is_named(outline, tmp_path):
    thing = {"image_id": 7, "category_id": 18, "bbox": [1, 2, 3, 4], "segmentation": outline}
    (scene, _), _ = coco(coco_file(tmp_path, annotations=[thing]), tmp_path)
    with pytest.raises(DataFileError, match="object 0 has an outline"):
        scene.mask(0)


# ahead -------------------------------------------------------------------------------------


def test_batches_prepared_ahead_come_in_order_and_leave_no_thread():
    assert list(ahead(iter(range(20)), 3)) == list(range(20))
    made = []

    def source():
        for i in range(100):
            made.append(i)
            yield i

    coming = ahead(source(), 2)
    assert next(coming) == 0
    coming.close()
    time.sleep(0.01)
    assert len(made) <= 4
    assert not [t for t in threading.enumerate() if t.name.startswith("tinyvit-ahead")]


def test_what_goes_wrong_ahead_is_raised_where_the_batch_is_asked_for():
    def source():
        yield 1
        raise DataFileError("a broken photo")

    coming = ahead(source(), 2)
    assert next(coming) == 1
    with pytest.raises(DataFileError, match="a broken photo"):
        next(coming)
