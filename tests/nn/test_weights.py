"""Weight files: what is saved comes back, what does not fit is named whole, what is damaged harms nothing."""

import json
import os
import stat
import struct
import tracemalloc

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from tinyvit import StateError, WeightFileError, create_model, load_weights, save_weights
from tinyvit.blueprint import Blueprint
from tinyvit.nn.module import Buffer, Module, Parameter
from tinyvit.nn.weights import read_weights

READ_ERRORS = (WeightFileError, StateError, OSError)


class Bag(Module):
    """A model of given arrays."""

    def __init__(self, **arrays):
        for name, array in arrays.items():
            setattr(self, name, Parameter(array) if array.dtype.kind == "f" else Buffer(array))


def small(rng=None):
    return create_model("vit_digits", depth=1, rng=rng)


def snapshot(model):
    return {name: x.copy() for name, x in model.state_dict().items()}


def assert_same(state, other):
    assert state.keys() == other.keys()
    for name, x in state.items():
        assert (x.dtype, x.shape) == (other[name].dtype, other[name].shape), name
        assert np.array_equal(x, other[name]), name


# there and back -----------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["vit_digits", "simple_vit_digits", "resnet_digits"])
@pytest.mark.parametrize("start", ["numbers", "blueprint"])
def test_a_saved_model_comes_back_whole(name, start, rng, tmp_path):
    model = create_model(name, rng=rng)
    path = save_weights(model, tmp_path / "model.safetensors")
    again = create_model(name, rng=None if start == "blueprint" else rng, weights=path)
    assert_same(model.state_dict(), again.state_dict())


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_precision_is_kept_in_the_file(dtype, rng, tmp_path):
    model = small(rng).astype(dtype)
    assert_same(read_weights(save_weights(model, tmp_path / "m")), model.state_dict())


def test_layouts_that_are_not_contiguous_survive(rng, tmp_path):
    """safetensors 0.8 writes other numbers for these, and says nothing."""
    x = rng.normal(size=(3, 4)).astype(np.float32)
    bag = Bag(transposed=x.T, reversed=x[::-1], every_second=x[:, ::2], fortran=np.asfortranarray(x),
              repeated=np.broadcast_to(x[0], (5, 4)), single=np.float32(2).reshape(()), count=np.array(7),
              empty=np.zeros((0, 3), np.float32))  # fmt: skip
    state = read_weights(save_weights(bag, tmp_path / "m"))
    assert_same(state, bag.state_dict())
    assert state["count"].shape == ()
    assert state["count"].dtype == np.int64


def test_a_tied_parameter_is_saved_under_both_names(rng, tmp_path):
    bag = Bag(a=rng.normal(size=(2, 3)))
    bag.b = bag.a
    assert read_weights(save_weights(bag, tmp_path / "m")).keys() == {"a", "b"}
    assert load_weights(bag, tmp_path / "m").a is bag.b


def test_metadata_is_written(rng, tmp_path):
    from safetensors import safe_open

    save_weights(small(rng), tmp_path / "m", metadata={"accuracy": "0.97"})
    with safe_open(tmp_path / "m", framework="numpy") as file:
        assert file.metadata() == {"accuracy": "0.97"}


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_the_bytes_are_those_that_the_safetensors_library_writes(dtype, rng, tmp_path):
    """Of a model with several types and an array without numbers."""
    bag = Bag(b=rng.normal(size=(3, 5)).astype(dtype), a=rng.normal(size=7), empty=np.zeros((0, 3), np.float32),
              mask=np.array([True, False]), n=np.array(3), ä=rng.integers(9, size=5).astype(np.uint8))  # fmt: skip
    path = save_weights(bag, tmp_path / "m")
    save_file(bag.state_dict(), tmp_path / "theirs")
    assert path.read_bytes() == (tmp_path / "theirs").read_bytes()
    assert_same(load_file(path), bag.state_dict())


def test_equal_weights_are_equal_bytes(rng, tmp_path):
    """No time, no path; neither the order of attributes, nor the layout in memory, nor the order of the metadata."""
    x, y = rng.normal(size=(3, 4)), rng.normal(size=2)
    notes = {str(i): f"note {i}" for i in range(9)}
    one = save_weights(Bag(x=x, y=y), tmp_path / "m", notes)
    os.utime(one, (0, 0))
    (tmp_path / "elsewhere").mkdir()
    other = save_weights(Bag(y=y, x=np.asfortranarray(x).astype(">f8")), tmp_path / "elsewhere" / "another name",
                         dict(reversed(notes.items())))  # fmt: skip
    assert one.read_bytes() == other.read_bytes()
    assert save_weights(Bag(x=x, y=y + 1), tmp_path / "third", notes).read_bytes() != one.read_bytes()


@pytest.mark.parametrize("metadata", [{"accuracy": 0.97}, {1: "a"}, ["a"]])
def test_metadata_are_text(metadata, rng, tmp_path):
    with pytest.raises(TypeError, match="metadata: expected names and values that are text"):
        save_weights(small(rng), tmp_path / "m", metadata=metadata)
    assert list(tmp_path.iterdir()) == []


def test_what_the_format_cannot_hold_is_named(rng, tmp_path):
    bag = Bag(a=rng.normal(size=3), spectrum=rng.normal(size=3) * 1j)
    with pytest.raises(TypeError, match="spectrum: a safetensors file cannot hold numbers of type complex128"):
        save_weights(bag, tmp_path / "m")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", ["safetensors", "npz", "packed npz"])
def test_a_file_needs_no_second_copy_in_memory(kind, rng, tmp_path):
    """A blueprint that is filled takes the model's size, and what is being read besides: one array, or a piece."""
    arrays = {f"a{i}": rng.integers(256, size=(300, 300)).astype(np.float32) for i in range(30)}
    path, size = tmp_path / "m", sum(x.nbytes for x in arrays.values())
    if kind == "safetensors":
        save_file(arrays, path)
    else:
        with open(path, "wb") as file:
            {"npz": np.savez, "packed npz": np.savez_compressed}[kind](file, **arrays)
    model = Bag(**{name: Blueprint(x.shape) for name, x in arrays.items()})
    tracemalloc.start()
    load_weights(model, path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert_same(model.state_dict(), arrays)
    assert peak < size + 3e6, f"{peak / 1e6:.1f} MB for a model of {size / 1e6:.1f} MB"


def test_saving_needs_no_copy_in_memory(rng, tmp_path):
    model = Bag(**{f"a{i}": rng.normal(size=(500, 500)) for i in range(20)})
    tracemalloc.start()
    save_weights(model, tmp_path / "m")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4e6, f"{peak / 1e6:.1f} MB"


def test_a_blueprint_cannot_be_saved(tmp_path):
    with pytest.raises(TypeError, match="a blueprint has a shape but no numbers"):
        save_weights(small(), tmp_path / "m")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("stored", "own", "blueprint"), [("f2", "f4", "f4"), ("f4", "f4", "f4"), ("f8", "f4", "f8")])
def test_numbers_take_the_precision_of_the_model(stored, own, blueprint, rng, tmp_path):
    """A blueprint has none yet: it takes the file's, but half precision becomes single, which NumPy computes faster."""
    save_weights(small(rng).astype(stored), tmp_path / "m")
    assert load_weights(small(rng), tmp_path / "m").head.weight.dtype == own
    assert load_weights(small(), tmp_path / "m").head.weight.dtype == blueprint


# what does not fit --------------------------------------------------------------------------


def test_everything_that_does_not_fit_is_named_at_once(rng):
    model = small(rng)
    before = snapshot(model)
    state = snapshot(small(rng)) | {"extra": np.zeros(3), "head.extra": np.zeros(2), "cls_token": np.zeros((1, 32))}
    state["norm.bias"] = state["norm.bias"] * 1j
    del state["head.bias"], state["norm.weight"]
    with pytest.raises(StateError) as caught:
        model.load_state_dict(state)
    error, text = caught.value, str(caught.value)
    assert sorted(error.missing) == ["head.bias", "norm.weight"]
    assert sorted(error.unexpected) == ["extra", "head.extra"]
    assert error.misshaped == [("cls_token", (1, 32), (1, 1, 32))]
    assert error.mistyped == [("norm.bias", np.dtype("c8"), np.dtype("f4"))]
    for line in ("missing: head.bias", "unexpected: extra", "mis-shaped: cls_token is (1, 32), the model's",
                 "mis-typed: norm.bias is complex64, the model's is float32"):  # fmt: skip
        assert line in text
    assert_same(before, model.state_dict())


def test_not_strict_takes_what_there_is(rng, tmp_path):
    """A head of another number of classes is mis-shaped all the same; without it, the rest is taken."""
    model, other = small(rng), small(rng)
    model.head.weight.data = model.head.weight.data + 1
    state = {name: x for name, x in other.state_dict().items() if not name.startswith("head.")}
    state["pre_logits.weight"] = np.zeros((2, 2), np.float32)
    save_file(state, tmp_path / "m")
    load_weights(model, tmp_path / "m", strict=False)
    assert np.array_equal(model.pos_embed.data, other.pos_embed.data)
    assert not np.array_equal(model.head.weight.data, other.head.weight.data)
    with pytest.raises(StateError, match=r"mis-shaped: head.weight is \(3, 32\)"):
        model.load_state_dict({"head.weight": np.zeros((3, 32))}, strict=False)


def test_loaded_arrays_are_copies(rng):
    model, state = small(rng), snapshot(small(rng))
    model.load_state_dict(state)
    state["head.bias"][:] = 9
    assert not (model.head.bias.data == 9).any()


def test_counters_take_integers_only(rng, tmp_path):
    model = create_model("resnet_digits", rng=rng)
    save_file(snapshot(model) | {"bn1.num_batches_tracked": np.full((), 3, np.float32)}, tmp_path / "m")
    with pytest.raises(StateError, match=r"mis-typed: bn1\.num_batches_tracked is float32, the model's is int64"):
        load_weights(model, tmp_path / "m")


# files of others ----------------------------------------------------------------------------


def crafted(header: dict | str, body: bytes = b"") -> bytes:
    """A safetensors file of any header."""
    text = (header if isinstance(header, str) else json.dumps(header)).encode()
    return struct.pack("<Q", len(text)) + text + body


def one(dtype="F32", shape=(2,), end=8) -> dict:
    return {"a": {"dtype": dtype, "shape": list(shape), "data_offsets": [0, end]}}


ENTRY = json.dumps(one()["a"])
HOSTILE = {
    "empty": b"",
    "short": b"\x01\x02",
    "not safetensors": b"PK\x03\x04" + bytes(100),
    "a pickle": b"\x80\x04\x95" + bytes(40),
    "header longer than the file": struct.pack("<Q", 1 << 60) + b"{}",
    "header is no JSON": crafted("{{{{"),
    "header is a list": crafted("[1, 2]"),
    "deep": crafted("[" * 50_000 + "]" * 50_000),
    "offsets beyond the end": crafted(one(end=1 << 40), bytes(8)),
    "offsets that disagree with the shape": crafted(one(shape=(3,)), bytes(8)),
    "negative length": crafted(one(shape=(-2,)), bytes(8)),
    "overflowing shape": crafted(one(shape=(1 << 62, 1 << 62)), bytes(8)),
    "trailing bytes": crafted(one(), bytes(80)),
    "a hole": crafted({"a": {"dtype": "F32", "shape": [2], "data_offsets": [8, 16]}}, bytes(16)),
    "unknown type": crafted(one("F31"), bytes(8)),
    "bfloat16": crafted(one("BF16", end=4), bytes(4)),
    "float8": crafted(one("F8_E4M3", end=2), bytes(2)),
    "complex": crafted(one("C64", end=16), bytes(16)),
    "the same name twice": crafted(f'{{"a": {ENTRY}, "a": {ENTRY}}}', bytes(8)),
    "a name that is a path": crafted({"../../a": one()["a"]}, bytes(8)),
    "an enormous empty array": crafted(one(shape=(1 << 40, 0), end=0)),
    "NaN in another shape": crafted(one(), np.full(2, np.nan, "f4").tobytes()),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_a_hostile_file_is_refused_and_harms_nothing(case, rng, tmp_path):
    (tmp_path / "m").write_bytes(HOSTILE[case])
    model = Bag(a=rng.normal(size=3))
    before = snapshot(model)
    with pytest.raises(READ_ERRORS) as caught:
        load_weights(model, tmp_path / "m")
    assert str(caught.value)
    assert_same(before, model.state_dict())


def test_the_reason_is_told(tmp_path):
    for case, reason in {
        "bfloat16": "the numbers of 'a' are 'BF16', which NumPy lacks; store F32",
        "the same name twice": "it has 'a' twice",
        "empty": "no whole safetensors file",
    }.items():
        (tmp_path / "m").write_bytes(HOSTILE[case])
        with pytest.raises(WeightFileError, match=reason):
            read_weights(tmp_path / "m")


def test_no_file_and_a_folder(tmp_path):
    for path in (tmp_path / "none", tmp_path):
        with pytest.raises(OSError, match=path.name):
            read_weights(path)


def test_random_damage_is_refused_or_loaded_never_anything_else(rng, tmp_path):
    """A thousand files with a few bytes changed, cut or added."""
    model = Bag(a=rng.normal(size=(2, 3)).astype("f4"), b=rng.normal(size=4))
    whole = save_weights(model, tmp_path / "m").read_bytes()
    refused = 0
    for _ in range(1000):
        content = bytearray(whole)
        for _ in range(rng.integers(1, 4)):
            content[rng.integers(len(content))] = rng.integers(256)
        content = content[: rng.integers(len(content))] if rng.random() < 0.2 else content
        (tmp_path / "damaged").write_bytes(content)
        try:
            load_weights(model, tmp_path / "damaged")
        except READ_ERRORS:
            refused += 1
    assert refused > 500


def test_nan_is_loaded_as_it_is(rng, tmp_path):
    """The weights of a training that diverged can be looked at."""
    bag = Bag(a=np.array([1, np.nan, np.inf]))
    save_weights(bag, tmp_path / "m")
    assert np.array_equal(load_weights(Bag(a=np.zeros(3)), tmp_path / "m").a.data, bag.a.data, equal_nan=True)


# the file itself ----------------------------------------------------------------------------


def test_a_kill_in_the_middle_leaves_the_old_file(rng, tmp_path, monkeypatch):
    path = save_weights(small(rng), tmp_path / "m")
    old = path.read_bytes()

    def killed(*_):
        raise KeyboardInterrupt

    for step in ("fsync", "replace"):
        with monkeypatch.context() as patched:
            patched.setattr(os, step, killed)
            with pytest.raises(KeyboardInterrupt):
                save_weights(small(rng), path)
        assert path.read_bytes() == old
        assert list(tmp_path.iterdir()) == [path], "a temporary file was left"


def test_saving_over_a_file_replaces_it(rng, tmp_path):
    models = [small(rng), small(rng)]
    for model in models:
        path = save_weights(model, tmp_path / "m")
    assert_same(read_weights(path), models[1].state_dict())
    assert list(tmp_path.iterdir()) == [path]


def test_saving_into_no_folder_or_over_one_is_an_error(rng, tmp_path):
    with pytest.raises(FileNotFoundError):
        save_weights(small(rng), tmp_path / "none" / "m")
    (tmp_path / "folder").mkdir()
    with pytest.raises(OSError, match="folder"):
        save_weights(small(rng), tmp_path / "folder")
    assert [p.name for p in tmp_path.iterdir()] == ["folder"]


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such permissions")
@pytest.mark.parametrize("mask", [0o022, 0o077])
def test_permissions_are_those_of_any_file_the_user_writes(mask, rng, tmp_path):
    before = os.umask(mask)
    try:
        (tmp_path / "any").write_bytes(b"")
        save_weights(small(rng), tmp_path / "m")
    finally:
        os.umask(before)
    ours, any_file = (stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("m", "any"))
    assert ours == any_file == 0o666 & ~mask


# positions of another resolution ------------------------------------------------------------


@pytest.mark.parametrize("method", ["timm", "deit", "jax"])
@pytest.mark.parametrize("size", [(8, 8), (16, 16), (6, 10), (4, 4)])
def test_positions_are_resampled_to_another_image_size(method, size, rng, tmp_path):
    from tinyvit.nn.embed import resample_positions

    source = small(rng)
    path = save_weights(source, tmp_path / "m")
    model = create_model("vit_digits", depth=1, img_size=size, weights=path, positions=method)
    table, grid = source.pos_embed.data, (size[0] // 2, size[1] // 2)
    assert np.array_equal(model.pos_embed.data[:, 0], table[:, 0]), "the class token's row is not of the image"
    assert np.array_equal(model.pos_embed.data, resample_positions(table, (4, 4), grid, method=method))
    assert np.isfinite(model(rng.normal(size=(2, *size, 1)).astype(np.float32)).data).all()


@pytest.mark.parametrize("at", ["stem", "every_layer", "every_layer_shared"])
@pytest.mark.parametrize("kind", ["learn", "learn2d", "sincos"])
def test_every_kind_of_table_is_resampled(kind, at, rng, tmp_path):
    config = {"pos_embed": kind, "pos_embed_at": at, "depth": 2}
    source = create_model("vit_digits", rng=rng, **config)
    path = save_weights(source, tmp_path / "m")
    model = create_model("vit_digits", img_size=(12, 20), weights=path, positions="jax", **config)
    assert model(rng.normal(size=(1, 12, 20, 1))).shape == (1, 10)
    if kind == "learn2d":  # linear between aligned corners: the ends stay
        ours, theirs = (m.pos_embed[1] if at == "every_layer" else m.pos_embed for m in (model, source))
        for axis, (new, old) in enumerate([(ours.y, theirs.y), (ours.x, theirs.x)]):
            np.testing.assert_allclose(new.data.take([0, -1], axis), old.data.take([0, -1], axis), rtol=1e-6)


def test_a_table_that_does_not_fit_gets_a_hint(rng, tmp_path):
    path = save_weights(small(rng), tmp_path / "m")
    with pytest.raises(StateError, match=r'pos_embed is \(1, 17, 32\)[\s\S]*pass positions="timm", "deit" or "jax"'):
        create_model("vit_digits", depth=1, img_size=16, weights=path)
    with pytest.raises(StateError, match="from a square grid of tokens of the same width"):
        create_model("vit_digits", depth=1, img_size=16, embed_dim=16, weights=path, positions="timm")
    with pytest.raises(StateError) as caught:
        create_model("vit_digits", depth=1, num_classes=3, weights=path)
    assert "positions=" not in str(caught.value)


def test_positions_that_make_no_sense(rng, tmp_path):
    path = save_weights(small(rng), tmp_path / "m")
    with pytest.raises(ValueError, match=r"positions: expected one of \['deit', 'jax', 'timm'\], got 'nearest'"):
        create_model("vit_digits", depth=1, weights=path, positions="nearest")
    with pytest.raises(ValueError, match="pass weights too"):
        create_model("vit_digits", positions="timm")
    path = save_weights(create_model("resnet_digits", rng=rng), tmp_path / "r")
    with pytest.raises(ValueError, match="a ResNet has no position tables"):
        create_model("resnet_digits", weights=path, positions="timm")


@pytest.mark.parametrize("shape", [(), (1,), (1, 0, 32), (1, 1, 32), (1, 11, 32), (17, 32), (1, 0, 0)])
def test_odd_tables_are_refused(shape, rng, tmp_path):
    model = small(rng)
    save_file(snapshot(model) | {"pos_embed": np.zeros(shape, np.float32)}, tmp_path / "m")
    with pytest.raises(StateError, match="mis-shaped: pos_embed"):
        load_weights(model, tmp_path / "m", positions="timm")


def test_a_fitting_file_is_not_resampled(rng, tmp_path):
    model = small(rng)
    again = create_model("vit_digits", depth=1, weights=save_weights(model, tmp_path / "m"), positions="timm")
    assert_same(model.state_dict(), again.state_dict())


def test_what_a_newcomer_tries_is_answered(tmp_path):
    model = create_model("vit_digits", rng=np.random.default_rng(0))
    with pytest.raises(TypeError, match=r"expected a Module, got a str; save_weights\(model, path\)"):
        save_weights(str(tmp_path / "a.safetensors"), model)
    with pytest.raises(ValueError, match="names another format"):
        save_weights(model, tmp_path / "a.npz")
    path = save_weights(model, tmp_path / "a.safetensors")
    with pytest.raises(StateError, match="no name in common: is this the state of another model"):
        create_model("resnet_digits", weights=path)
    with pytest.raises(ValueError, match=r"images\[\.\.\., None\]"):
        model(np.zeros((4, 8, 8), np.float32))
    with pytest.raises(TypeError, match="expected an array, got a list"):
        model([[1.0, 2.0]])
    with pytest.raises(ValueError, match="did you mean vit_tiny_patch16_224"):
        create_model("vit_tiny")
    assert repr(model) == "<ViT, 26,762 parameters; tinyvit.describe(model) lists its modules>"
