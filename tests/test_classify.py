"""Photos of every mode through the preprocessing and a model with weights from a file."""

import io
import math

import numpy as np
import pytest
from PIL import Image

from tinyvit import cli, create_model, plots, save_weights
from tinyvit.analysis import attention_maps, rollout
from tinyvit.classify import class_flow, classify, preprocessing
from tinyvit.data.photo import IMAGENET, framed, load_photo, normalised


def saved(image, path, **options):
    image.save(path, **options)
    return path


def photo(rng, size=(40, 30)):
    return Image.fromarray(rng.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8))


@pytest.fixture
def weights(tmp_path, rng):
    return save_weights(create_model("vit_micro", rng=rng), tmp_path / "weights.safetensors")


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB"])
def test_a_png_of_any_mode_becomes_what_it_shows(mode, rng, tmp_path):
    image = photo(rng).convert(mode)
    read = load_photo(saved(image, tmp_path / "a.png"))
    np.testing.assert_array_equal(np.asarray(read), np.asarray(image.convert("RGB")))


def test_what_is_transparent_becomes_white(tmp_path):
    half = Image.new("RGBA", (2, 1), (255, 0, 0, 0))
    half.putpixel((1, 0), (0, 0, 255, 255))
    read = load_photo(saved(half, tmp_path / "a.png"))
    assert [read.getpixel((x, 0)) for x in range(2)] == [(255, 255, 255), (0, 0, 255)]
    read = load_photo(saved(Image.new("LA", (1, 1), (0, 0)), tmp_path / "b.png"))
    assert read.getpixel((0, 0)) == (255, 255, 255)


def test_sixteen_bits_become_eight(tmp_path):
    image = Image.fromarray(np.array([[0, 257 * 100, 65535]], dtype=np.uint16))
    read = load_photo(saved(image, tmp_path / "a.png"))
    assert [read.getpixel((x, 0))[0] for x in range(3)] == [0, 100, 255]


def test_cmyk_is_read(tmp_path):
    read = load_photo(saved(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), tmp_path / "a.jpg", quality=95))
    red, green, blue = read.getpixel((4, 4))
    assert red > 200
    assert max(green, blue) < 40


def test_a_photo_stands_upright(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90° clockwise
    image = Image.new("RGB", (32, 16), "black")
    image.paste("white", (0, 0, 16, 16))
    read = load_photo(saved(image, tmp_path / "a.jpg", exif=exif))
    assert read.size == (16, 32)
    assert read.getpixel((8, 4))[0] > 200 > 50 > read.getpixel((8, 28))[0]


def test_what_is_hostile_is_a_clear_error(rng, tmp_path, monkeypatch):
    good = io.BytesIO()
    photo(rng, (200, 200)).save(good, "PNG")
    for content in (b"", b"not an image", good.getvalue()[:2000], good.getvalue()[:40]):
        (tmp_path / "bad.png").write_bytes(content)
        with pytest.raises(ValueError, match=r"bad\.png: not a whole JPEG or PNG"):
            load_photo(tmp_path / "bad.png")
    bomb = saved(Image.new("1", (20_000, 20_000)), tmp_path / "bomb.png")
    with pytest.raises(ValueError, match="bomb"):
        load_photo(bomb)
    big = saved(Image.new("1", (10_001, 10_000)), tmp_path / "big.png")
    with pytest.raises(ValueError, match="10001×10000 pixels are more than"):
        load_photo(big)
    with pytest.raises(ValueError, match="too narrow"):
        framed(Image.new("RGB", (1, 100_000)), 224, 0.9)
    with pytest.raises(OSError, match="nowhere"):
        load_photo(tmp_path / "nowhere.png")


def test_the_middle_of_the_resized_photo_is_kept(rng):
    image = photo(rng, (301, 201))
    resized = image.resize((int(248 * 301 / 201), 248), Image.Resampling.BICUBIC)
    left = round((resized.width - 224) / 2)
    wanted = np.asarray(resized)[12 : 12 + 224, left : left + 224]
    np.testing.assert_array_equal(np.asarray(framed(image, 224, 0.9)), wanted)
    values = normalised(framed(image, 224, 0.9), IMAGENET)
    assert values.dtype == np.float32
    np.testing.assert_allclose(values[0], (wanted / 255 - IMAGENET.mean) / IMAGENET.std, rtol=0, atol=1e-6)


def test_a_crop_above_one_surrounds_with_black():
    framed_ = np.asarray(framed(Image.new("RGB", (300, 300), "white"), 384, 1.15))
    assert (framed_[0] == 0).all()
    assert (framed_[25:-26, 25:-26] == 255).all()


def test_each_family_is_tested_in_its_own_way():
    assert (preprocessing("vit_base_patch16_224", 224).mean[0], preprocessing("vit_base_patch16_224", 224).crop) == (
        0.5,
        0.9,
    )
    assert preprocessing("vit_base_patch16_384", 384).crop == 1.0
    assert preprocessing("vit_base_patch16_224", 224, "imagenet").mean == IMAGENET.mean
    assert preprocessing("resnet50", 224) == IMAGENET
    volo = {"volo_d1_384": 1.0, "volo_d2_384": 1.0, "volo_d3_448": 1.0, "volo_d4_448": 1.15, "volo_d5_512": 1.15}
    assert {name: preprocessing(name, int(name[-3:])).crop for name in volo} == volo
    assert preprocessing("volo_d4_224", 224).crop == 0.96


def test_the_classes_are_those_of_the_model(weights, rng, tmp_path):
    path = saved(photo(rng, (32, 32)), tmp_path / "a.png")
    model = create_model("vit_micro", weights=weights)
    logits = model(normalised(framed(load_photo(path), 32, 0.9), preprocessing("vit_micro", 32))).data[0].astype(float)
    wanted = np.exp(logits) / np.exp(logits).sum()
    seen = classify(path, "vit_micro", weights=weights, top=3, attention=True)
    assert [name for name, _ in seen.classes] == [f"class {i}" for i in np.argsort(-wanted)[:3]]
    np.testing.assert_allclose([p for _, p in seen.classes], np.sort(wanted)[::-1][:3], rtol=1e-5)
    assert seen.attention.shape == (8, 8)
    assert 0 < seen.attention.sum() < 1


@pytest.mark.parametrize("name", ["volo_digits", "cait_digits", "ceit_digits", "deit_digits", "swin_digits",
                                  "sasa_digits", "t2t_vit_t_digits", "simple_vit_digits"])  # fmt: skip
def test_attention_of_every_kind_is_followed_to_what_the_head_reads(name, rng):
    model, image = create_model(name, rng=rng), rng.normal(size=(1, 8, 8, 1)).astype(np.float32)
    flow, maps = class_flow(model, image), attention_maps(model, image)
    places = math.isqrt(next(iter(maps.values())).shape[-1])
    assert flow.shape == (places, places)
    assert (flow > 0).all()
    head = rollout(maps)[0]
    prefix = head.shape[1] - places**2
    row = head.mean(axis=0) if not prefix else head[-1 if name == "ceit_digits" else 0]
    np.testing.assert_allclose(flow.ravel(), row[prefix:], rtol=1e-6)


def test_the_mean_of_the_patches_is_followed_where_the_head_reads_it(rng):
    model = create_model("vit_digits", rng=rng, global_pool="avg")
    image = rng.normal(size=(1, 8, 8, 1)).astype(np.float32)
    flow = rollout(attention_maps(model, image))[0]
    np.testing.assert_allclose(class_flow(model, image).ravel(), flow[1:, 1:].mean(axis=0), rtol=1e-6)


@pytest.mark.parametrize("name", ["resnet_digits", "mixer_digits"])
def test_without_attention_there_is_none(name, rng):
    with pytest.raises(ValueError, match="attention: this model has none that can be followed"):
        class_flow(create_model(name, rng=rng), rng.normal(size=(1, 8, 8, 1)).astype(np.float32))


def test_on_the_command_line(weights, rng, tmp_path, capsys):
    path = str(saved(photo(rng), tmp_path / "a.png"))
    labels = tmp_path / "labels.txt"
    labels.write_text("\n".join("abcdefghij"))
    command = ["classify", path, "--model", "vit_micro", "--weights", str(weights), "--labels", str(labels)]
    assert cli.main([*command, "--attention", str(tmp_path / "out.png")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert all(line.split()[0] in "abcdefghij" and line.endswith("%") for line in lines[:5])
    assert (tmp_path / "out.png").stat().st_size > 5_000
    labels.write_text("too few")
    assert cli.main(command) == 1
    assert "has 1 lines, and the model 10 classes" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        cli.main(command[:4])
    assert "--weights" in capsys.readouterr().err
    assert cli.main(["classify", path, "--model", "vit_digits", "--weights", str(weights)]) == 1
    assert "does not classify square photos in colour" in capsys.readouterr().err


def test_the_figure_shows_picture_and_attention(rng):
    picture, weights = rng.integers(0, 256, (8, 8, 3)), rng.uniform(size=(2, 2))
    figure = plots.photo_attention(picture, weights)
    np.testing.assert_array_equal(figure.axes[1].images[0].get_array(), picture)
    np.testing.assert_array_equal(figure.axes[1].images[1].get_array(), weights)
