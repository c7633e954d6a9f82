"""Weight files that are damaged, or lie: one error, soon, and no memory to speak of.

Whatever happens to a file's bytes, opening it and loading it into a model ends in one of three ways: WeightFileError,
StateError, or a model whose arrays have the model's shapes. 300 files of each kind are tried here, and 10,000 with
`-m slow`; each test says which seed to try again.
"""

import io
import json
import os
import struct
import time
import tracemalloc
import warnings
import zipfile
import zlib

import numpy as np
import pytest

from tinyvit import StateError, WeightFileError, load_weights, save_weights
from tinyvit.nn import npz, safetensors
from tinyvit.nn.module import Buffer, Module, Parameter
from tinyvit.nn.stored import HEADER_LIMIT, NAME_LIMIT
from tinyvit.nn.weights import open_weights, read_weights

MOST_BYTES, MOST_SECONDS = 64e6, 1.0


class Small(Module):
    """A few arrays: of several widths and ranks, one empty, one of integers."""

    def __init__(self):
        self.a, self.b = Parameter(np.zeros((3, 4), np.float32)), Parameter(np.zeros((5,), np.float64))
        self.c, self.d = Parameter(np.zeros((2, 1, 3), np.float32)), Parameter(np.zeros((0, 2), np.float32))
        self.n = Buffer(np.zeros((), np.int64))


def noisy(model, rng):
    for _, value in model.named_state():
        value.data = np.asarray(rng.integers(-9, 9, size=value.shape), value.dtype)
    return model


def state(rng):
    return noisy(Small(), rng).state_dict()


# what is done to files ----------------------------------------------------------------------


def flip(content, rng):
    """Some bits turned over."""
    content = bytearray(content)
    for _ in range(rng.integers(1, 9)):
        content[rng.integers(len(content))] ^= 1 << rng.integers(8)
    return bytes(content)


def cut(content, rng):
    """The end gone, or the beginning, or something between."""
    i, j = sorted(rng.integers(len(content) + 1, size=2))
    return [content[:i], content[i:], content[:i] + content[j:]][rng.integers(3)]


def insert(content, rng):
    """Bytes from nowhere, or from elsewhere in the file."""
    i, j, k = rng.integers(len(content) + 1, size=3)
    return content[:i] + (rng.bytes(rng.integers(1, 50)) if rng.random() < 0.5 else content[j : j + k]) + content[i:]


def lie(content, rng):
    """Some eight, four or two bytes in a row become a number that is likely to hurt."""
    content, width = bytearray(content), int(rng.choice([2, 4, 8]))
    numbers = [0, 1, 7, 1 << 15, (1 << 16) - 1, (1 << 31) - 1, 1 << 31, (1 << 32) - 1, 1 << 40, (1 << 63) - 1, 1 << 63,
               (1 << 64) - 1, len(content), len(content) - 8]  # fmt: skip
    value = int(rng.choice(np.array(numbers, dtype=object))) % (1 << 8 * width)
    place = rng.integers(len(content) - width) if rng.random() < 0.7 else 0
    content[place : place + width] = value.to_bytes(width, "little")
    return bytes(content)


NUMBERS = [0, 1, -1, 2, 3, 1.0, 1e300, float("nan"), True, None, "3", [], {}, [1], 1 << 31, 1 << 62, 1 << 64, 10**400]
KINDS = ["F32", "F64", "I64", "BF16", "F8_E4M3", "C64", "BOOL", "U8", "", "F32 ", 32, None, ["F32"], {}]
NAMES = ["", "a", "a" * 10_000, "__metadata__", "../../a", "a\0", "\x1b[2J", "\ud800", "ā", "a.b.c", "n", "A\nB"]


def pick(options, rng):
    return options[rng.integers(len(options))]


def rewrite_header(content, rng):
    """A safetensors header in which some entry is another; its length is told as it is."""
    length = int.from_bytes(content[:8], "little")
    header, numbers = json.loads(content[8 : 8 + length]), content[8 + length :]
    for _ in range(rng.integers(1, 4)):
        name = pick(list(header), rng)
        entry = header[name]
        change = rng.integers(8)
        if change == 0:
            header[pick(NAMES, rng)] = entry
        elif change == 1:
            header[name] = pick([*NUMBERS, *KINDS], rng)
        elif change == 2:
            del header[name]
            header.setdefault("a", entry)
        elif isinstance(entry, dict):
            field = pick(["dtype", "shape", "data_offsets", "more"], rng)
            if change < 6 and isinstance(entry.get(field), list) and entry[field]:
                entry[field][rng.integers(len(entry[field]))] = pick(NUMBERS, rng)
            else:
                entry[field] = pick([*KINDS, *NUMBERS, [2] * 70, [1 << 32, 1 << 32, 0], [0, 1 << 40]], rng)
    text = json.dumps(header)
    if rng.random() < 0.2:  # a name twice, as no dict can have it
        text = text[:-1] + "," + text[1:]
    text = text.encode(errors="surrogatepass")
    return struct.pack("<Q", len(text)) + text + numbers


def array_file(x):
    """A sound .npy file."""
    file = io.BytesIO()
    np.lib.format.write_array(file, x)
    return file.getvalue()


def npy(x, rng):
    """An .npy file that is not quite what it should be."""
    content = array_file(x)
    length = int.from_bytes(content[8:10], "little")
    text, numbers = content[10 : 10 + length].decode(), content[10 + length :]
    descr = pick(
        ["'|O'", "'<f16'", "'<U4'", "'<c8'", "'>f4'", "'<f4'", "[('a', '<f4')]", "'|V4'", "'<f3'", "'|b1'"], rng
    )
    shape = pick(["()", "(3, 4)", "(12,)", "(-3, 4)", "(3, 4, )", "(3L, 4L)", "(1e9,)", "(" + "9" * 50 + ",)", "(0,)",
                  "(4611686018427387904, 4)", "(4294967296, 4294967296, 0)", "(" + "1, " * 70 + ")"], rng)  # fmt: skip
    change = rng.integers(6)
    if change == 0:
        text = text.replace("'<f4'", descr)
    elif change == 1:
        text = text.replace(text[text.index("(") : text.index(")") + 1], shape)
    elif change == 2:
        text = text.replace("False", pick(["True", "0", "None", "__import__('os')"], rng))
    elif change == 3:
        text = "(" * rng.integers(1, 5000) + text
    elif change == 4:
        numbers = flip(numbers, rng) + bytes(rng.integers(0, 9)) if numbers else b"1"
    return content[:8] + struct.pack("<H", len(text)) + text.encode() + numbers


def zip_surgery(content, rng):
    """An archive written anew, sound as an archive, of members that are not what they should be."""
    names = ["b.npy", "b", "b.npy/", "archive/data.pkl", "x" * 600 + ".npy", ".npy", "a\x1b.npy"]
    file = io.BytesIO()
    how = int(rng.choice([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2], p=[0.45, 0.45, 0.1]))
    with zipfile.ZipFile(file, "w", how) as new, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a name twice
        for name, x in {f"{name}.npy": x for name, x in state(rng).items()}.items():
            change = rng.integers(12)
            if change == 0:
                new.writestr(pick(names, rng), npy(x, rng))
            elif change == 1:
                new.writestr(name, bytes(rng.integers(0, 200_000)))
            elif change == 2:
                new.writestr(name, npy(np.zeros(pick([10, 100_000], rng), np.float32), rng))
            elif change == 3:
                new.writestr(name, npy(x, rng))
            else:
                new.writestr(name, array_file(x))
    if rng.random() < 0.3:
        file.seek(0, io.SEEK_END)
        with zipfile.ZipFile(file, "a") as new:
            new.comment = rng.bytes(rng.integers(1, 30))
    return lie(file.getvalue(), rng) if rng.random() < 0.3 else file.getvalue()


def written(kind, rng):
    """A sound file of a format."""
    if kind == "safetensors":
        return b"".join(bytes(piece) for piece in safetensors.pieces(state(rng), {"made": "here"}))
    file = io.BytesIO()
    {"npz": np.savez, "packed npz": np.savez_compressed}[kind](file, **state(rng))
    return file.getvalue()


SURGERY = {"safetensors": rewrite_header, "npz": zip_surgery, "packed npz": zip_surgery}


def damaged(kind, seed):
    """One damaged file, the same for the same seed."""
    rng = np.random.default_rng(seed)
    content = written(kind, rng)
    for damage in rng.choice(
        [flip, cut, insert, lie, SURGERY[kind], SURGERY[kind]], size=1 if rng.random() < 0.8 else 2
    ):
        try:
            content = damage(content, rng)
        except (ValueError, KeyError, EOFError, zipfile.BadZipFile, json.JSONDecodeError, NotImplementedError):
            continue  # too damaged already for surgery
    return content


def outcome(path):
    """How loading ends. Any exception but the two goes through to the test."""
    model = Small()
    try:
        load_weights(model, path)
    except (WeightFileError, StateError) as error:
        return type(error).__name__
    for name, value in Small().named_state():
        own = model.state_dict()[name]
        assert (own.shape, own.dtype) == (value.shape, value.dtype), name
    return "loaded"


def try_all(kind, seeds, tmp_path):
    """Load a damaged file per seed; what came of them, counted."""
    counted = {}
    outcome_of_sound = tmp_path / "sound"
    outcome_of_sound.write_bytes(written(kind, np.random.default_rng(0)))
    assert outcome(outcome_of_sound) == "loaded"
    tracemalloc.start()
    try:
        for seed in seeds:
            (tmp_path / "damaged").write_bytes(damaged(kind, seed))
            tracemalloc.reset_peak()
            before, start = tracemalloc.get_traced_memory()[0], time.process_time()
            try:
                found = outcome(tmp_path / "damaged")
            except Exception as error:
                raise AssertionError(f"damaged({kind!r}, {seed}): {error!r}") from error
            seconds, used = time.process_time() - start, tracemalloc.get_traced_memory()[1] - before
            assert seconds < MOST_SECONDS, f"damaged({kind!r}, {seed}) took {seconds:.1f} s of computing"
            assert used < MOST_BYTES, f"damaged({kind!r}, {seed}) took {used / 1e6:.0f} MB"
            counted[found] = counted.get(found, 0) + 1
    finally:
        tracemalloc.stop()
    return counted


@pytest.mark.parametrize("kind", SURGERY)
def test_damage_is_refused_or_harmless(kind, tmp_path):
    counted = try_all(kind, range(300), tmp_path)
    assert counted["WeightFileError"] > 150, counted
    assert counted["loaded"] > 3, "some damage is to numbers, or to spaces: if nothing loads, nothing was tried"


@pytest.mark.slow
@pytest.mark.parametrize("kind", SURGERY)
def test_damage_is_refused_or_harmless_ten_thousand_times(kind, tmp_path):
    counted = try_all(kind, range(1000, 1000 + 10_000 // len(SURGERY) + 1), tmp_path)
    assert sum(counted.values()) > 3_333


# lies, one by one ---------------------------------------------------------------------------


def archive(members, how=zipfile.ZIP_STORED):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", how) as new, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name, content in members:
            new.writestr(name, content)
    return file.getvalue()


HEADER = "{'descr': '<f4', 'fortran_order': False, 'shape': (3,), }\n"


def array(header=HEADER, numbers=bytes(12), magic=b"\x93NUMPY\1\0"):
    return magic + struct.pack("<H", len(header)) + header.encode() + numbers


def directory(content, offset, new):
    """An archive in whose last directory entry some bytes are others."""
    place = content.rindex(b"PK\1\2") + offset
    return content[:place] + new + content[place + len(new) :]


SOUND = archive([("a.npy", array())])
BOMB = archive([("a.npy", array(numbers=bytes(12_000_000)))], zipfile.ZIP_DEFLATED)
LIES = {
    "sound": (SOUND, None),
    "empty": (SOUND[:4], "does not end as one does"),
    "cut": (SOUND[:-1], "does not end as one does"),
    "something behind it": (SOUND + b"\0", "does not end as one does"),
    "something before it": (b"PK\3\4" + SOUND, "does not end as one does"),
    "comment": (SOUND[:-2] + b"\2\0hi", "does not end as one does"),
    "long directory": (archive([(f"{i:0400}.npy", b"") for i in range(3000)]), "its directory is"),
    "the same name twice": (archive([("a.npy", array()), ("a.npy", array())]), "it has 'a' twice"),
    "a name too long": (archive([("a" * NAME_LIMIT + ".npy", array())]), "is no name"),
    "a name to upset a terminal": (archive([("\x1b[2J.npy", array())]), "is no name"),
    "no .npy": (archive([("archive/data.pkl", b"\x80\2.")]), "is no array; PyTorch"),
    "packed as NumPy never does": (archive([("a.npy", array())], zipfile.ZIP_LZMA), "packed in a way"),
    "bomb": (BOMB, "would unpack to"),
    "a size that is not so": (directory(SOUND, 24, struct.pack("<L", 999)), "is not 999 bytes long"),
    "a packed size beyond the file": (directory(SOUND, 20, struct.pack("<L", 1 << 30)), "lie over each other"),
    "a place beyond the file": (directory(SOUND, 42, struct.pack("<L", 1 << 30)), "begins behind its end"),
    "encrypted": (directory(SOUND, 8, b"\1\0"), "encrypted"),
    "damaged numbers": (SOUND.replace(bytes(12), bytes(11) + b"\1"), "CRC"),
    "objects": (archive([("a.npy", array(HEADER.replace("<f4", "|O")))]), "plain numbers"),
    "a program": (archive([("a.npy", array("__import__('os').abort()"))]), "plain numbers"),
    "a later version": (archive([("a.npy", array(magic=b"\x93NUMPY\3\0"))]), "plain numbers"),
    "not an array": (archive([("a.npy", b"hello")]), "plain numbers"),
    "fewer numbers": (archive([("a.npy", array(numbers=bytes(8)))]), "is not"),
    "more numbers": (archive([("a.npy", array(numbers=bytes(16)))]), "is not"),
    "no machine's shape": (archive([("a.npy", array(HEADER.replace("3,", f"{(1 << 63) - 1}, 2")))]), "too large"),
    "empty, of no machine's shape": (
        archive([("a.npy", array(HEADER.replace("3,", f"{(1 << 63) - 1}, 0"), b""))]), "too large for any machine"),
}  # fmt: skip


@pytest.mark.parametrize("case", LIES)
def test_a_lying_archive_is_refused_with_the_reason(case, tmp_path):
    content, reason = LIES[case]
    (tmp_path / "m").write_bytes(content)
    if reason is None:
        assert np.array_equal(read_weights(tmp_path / "m")["a"], np.zeros(3, np.float32))
        return
    with pytest.raises(WeightFileError, match=reason) as caught:
        read_weights(tmp_path / "m")
    assert str(tmp_path / "m") in str(caught.value)


def test_a_bomb_that_lies_about_its_size_is_not_unpacked(tmp_path):
    """It says that it is small, and its array agrees, and it holds more: what is more is left where it is."""
    packer = zlib.compressobj(wbits=-15)
    packed = packer.compress(array(numbers=bytes(300_000_000))) + packer.flush()
    content = archive([("a.npy", array())], zipfile.ZIP_DEFLATED)
    start = content.index(b"a.npy") + 5
    length = struct.unpack("<L", content[18:22])[0]
    content = bytearray(content[:start] + packed + content[start + length :])
    content[18:22] = struct.pack("<L", len(packed))
    end = len(content) - 22
    entry = bytes(content).rindex(b"PK\1\2")
    content[entry + 20 : entry + 24] = struct.pack("<L", len(packed))
    content[end + 16 : end + 20] = struct.pack("<L", entry)
    (tmp_path / "m").write_bytes(content)
    tracemalloc.start()
    try:
        found = read_weights(tmp_path / "m")["a"]
    except WeightFileError:
        found = np.zeros(3)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert found.shape == (3,)
    assert peak < 3e6, f"{peak / 1e6:.1f} MB"


def test_a_second_directory_cannot_be_hidden(tmp_path):
    """The record of archives over 4 GB would lead to it."""
    end = SOUND[-22:]
    record = struct.pack("<4sQ2H2L4Q", b"PK\6\6", 44, 45, 45, 0, 0, 1, 1, 1 << 40, 0)
    locator = struct.pack("<4sLQL", b"PK\6\7", 0, len(SOUND) - 22, 1)
    long = struct.unpack("<L", end[12:16])[0] + len(record) + len(locator)
    (tmp_path / "m").write_bytes(SOUND[:-22] + record + locator + end[:12] + struct.pack("<L", long) + end[16:])
    with pytest.raises(WeightFileError, match="does not end as one does"):
        read_weights(tmp_path / "m")


def test_a_safetensors_header_has_a_limit(tmp_path):
    text = b'{"__metadata__": {"a": "' + b"x" * HEADER_LIMIT + b'"}}'
    (tmp_path / "m").write_bytes(struct.pack("<Q", len(text)) + text)
    with pytest.raises(WeightFileError, match="no whole safetensors file"):
        read_weights(tmp_path / "m")


LONGEST = {"lists": '{"a":[' + "[]," * 349_000 + "0]}", "deep": "[" * 999_999, "objects": '{"":' * 200_000,
           "text": '{"a":"' + "é" * 400_000 + '"}'}  # fmt: skip


@pytest.mark.parametrize("case", LONGEST)
def test_the_longest_headers_take_little_memory(case, tmp_path):
    text = LONGEST[case].encode()
    assert len(text) <= HEADER_LIMIT
    (tmp_path / "m").write_bytes(struct.pack("<Q", len(text)) + text)
    tracemalloc.start()
    start = time.process_time()
    with pytest.raises(WeightFileError):
        read_weights(tmp_path / "m")
    peak, seconds = tracemalloc.get_traced_memory()[1], time.process_time() - start
    tracemalloc.stop()
    assert peak < MOST_BYTES, f"{peak / 1e6:.1f} MB"
    assert seconds < MOST_SECONDS


def test_a_file_that_shrinks_while_it_is_read_changes_nothing(rng, tmp_path):
    """The header was fine; the last array is not there any more."""
    model = Small()
    model.z = Parameter(np.zeros(100_000, np.float32))
    path = save_weights(noisy(model, rng), tmp_path / "m")
    before = {name: x.copy() for name, x in noisy(model, rng).state_dict().items()}
    with open_weights(path) as stored:
        os.truncate(path, path.stat().st_size - 4)
        with pytest.raises(WeightFileError, match="it ends within an array"):
            model.load_state_dict(stored)
    assert all(np.array_equal(x, before[name]) for name, x in model.state_dict().items())


def test_a_mistake_inside_the_block_is_not_a_damaged_file(rng, tmp_path):
    (tmp_path / "m").write_bytes(written("npz", rng))
    with pytest.raises(ValueError, match="mine") as caught, open_weights(tmp_path / "m"):
        raise ValueError("mine")
    assert not isinstance(caught.value, WeightFileError)


def test_the_pattern_of_headers_is_what_numpy_writes():
    for x in (np.zeros(()), np.zeros(3, ">i2"), np.zeros((2, 3), "f2", order="F"), np.zeros((1, 0, 2), bool)):
        content = array_file(x)
        assert npz.NPY.fullmatch(content[10 : 10 + content[8]].decode())
