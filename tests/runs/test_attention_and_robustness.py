"""`tinyvit attention` and `tinyvit robustness` on runs and files: what they print is what the functions find."""

import json

import numpy as np
import pytest
from PIL import Image

import tinyvit
from tinyvit import Module, analysis, cli, create_model, save_weights
from tinyvit.data import Dataset, Splits
from tinyvit.data.procedural import texture_shape
from tinyvit.runs import Task, configured, find_task, model_of_run, run
from tinyvit.runs.attention import attention
from tinyvit.runs.robustness import robustness
from tinyvit.train import predict


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "run"
    run(configured(model="vit_digits", epochs=1, warmup=0.0, train_size=160), out, progress=False)
    return out


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Figures are made and not rendered, PNG alone, and few steps of the patches' ascent."""
    monkeypatch.setattr("tinyvit.plots.VECTORS", ())
    monkeypatch.setattr("tinyvit.plots._picture", lambda figure, kind: b"a picture")
    monkeypatch.setattr("tinyvit.runs.robustness.PATCH_STEPS", 2)
    monkeypatch.setattr("tinyvit.runs.robustness.CUES", 20)


@pytest.fixture(scope="module")
def textured():
    """Drawn shapes, a few of them."""
    splits = find_task("texture_shape").splits
    return Task(Splits(*(Dataset(images[:60], labels[:60]) for images, labels in splits)), 4, "texture_shape")


def printed(capsys, *command):
    assert cli.main([str(word) for word in command]) == 0
    return json.loads(capsys.readouterr().out)


def test_attention_of_a_run(folder, capsys, tmp_path):
    ask = ("--images", 2, "--similarity-images", 9, "--out", tmp_path, "--json")
    found = printed(capsys, "attention", folder, *ask)
    images = find_task("digits").splits.test.images[:2]
    maps = analysis.attention_maps(model_of_run(folder), images)
    assert list(found["layers"]) == list(maps)
    for name, of in found["layers"].items():
        np.testing.assert_allclose(of["distance_px"], analysis.mean_attention_distance(maps[name], (4, 4), 2))
        assert of["entropy"] == pytest.approx(analysis.attention_entropy(maps[name], normalised=True).mean())
        alike = analysis.head_similarity(maps[name])
        assert of["heads_alike"] == pytest.approx(alike[~np.eye(4, dtype=bool)].mean())
    (group,) = found["similarity"]
    cosines = analysis.layer_similarity(list(maps.values()))
    assert group["neighbours"] == pytest.approx((cosines[0, 1] + cosines[1, 2]) / 2)
    assert group["neighbours_at_init"] != group["neighbours"]
    drawn = json.loads((tmp_path / "attention.json").read_text(encoding="utf-8"))
    assert list(drawn) == ["layer 1", "layer 2", "layer 3", "rollout", "relevance"]
    expected = analysis.class_attention(analysis.rollout(maps), (4, 4))
    np.testing.assert_allclose(drawn["rollout"], expected, rtol=1e-5)
    flow = analysis.relevance(analysis.relevance_maps(model_of_run(folder), images))
    np.testing.assert_allclose(drawn["relevance"], analysis.class_attention(flow, (4, 4)), rtol=1e-4)
    assert {path.split(".")[-1] for path in found["figures"]} == {"png"}
    assert {path.suffix for path in tmp_path.iterdir()} == {".png", ".json"}


def test_attention_of_a_place_and_of_a_layer_s_heads(folder, capsys, tmp_path):
    options = ("--layer", 2, "--query", 0.3, 1, "--fusion", "max", "--discard", 0.5, "--similarity-images", 9)
    printed(capsys, "attention", folder, "--images", 1, "--out", tmp_path, *options, "--json")
    found = analysis.attention_maps(model_of_run(folder), find_task("digits").splits.test.images[:1])
    maps = list(found.values())
    heads = json.loads((tmp_path / "attention_heads.json").read_text(encoding="utf-8"))
    place = 1 + 1 * 4 + 3  # the class token, row 1, the last column
    np.testing.assert_allclose(heads["head 3"][0], maps[1][0, 2, place, 1:].reshape(4, 4), rtol=1e-5)
    flow = analysis.rollout(found, head_fusion="max", discard=0.5)
    drawn = json.loads((tmp_path / "attention.json").read_text(encoding="utf-8"))
    np.testing.assert_allclose(drawn["rollout"][0], flow[0, place, 1:].reshape(4, 4), rtol=1e-5)
    assert cli.main(["attention", str(folder), "--out", str(tmp_path), "--layer", "4"]) == 1
    assert "the model has 3 with attention, not 4" in capsys.readouterr().err


def test_attention_over_a_photo_of_one_s_own(folder, capsys, tmp_path, rng):
    photo = tmp_path / "a.png"
    Image.fromarray(rng.integers(0, 255, (40, 30, 3), np.uint8)).save(photo)
    assert printed(capsys, "attention", folder, "--image", photo, "--out", tmp_path / "run", "--json")["images"] == 1
    file = save_weights(create_model("vit_micro", rng=rng), tmp_path / "w.safetensors")
    ask = ("attention", "--weights", file, "--model", "vit_micro", "--image", photo, "--out", tmp_path / "file")
    assert cli.main(list(map(str, ask))) == 0
    said = capsys.readouterr().out
    assert "at initialisation" in said
    assert "attention_heads.png" in said
    assert cli.main(["attention", "--image", str(photo), "--out", str(tmp_path)]) == 1
    assert "which one?" in capsys.readouterr().err


def test_filters_positions_fields_and_similarity_of_a_run(folder, capsys, tmp_path):
    found = printed(capsys, "attention", folder, "--images", 2, "--similarity-images", 40, "--with", folder, "--out",
                    tmp_path, "--json")  # fmt: skip
    model, images = model_of_run(folder), find_task("digits").splits.test.images
    _, shares = analysis.principal_filters(model.patch_embed.proj.weight.data)
    np.testing.assert_allclose(found["filters"]["shares"], shares)
    similarity = analysis.position_similarity(model.pos_embed.data, (4, 4))
    assert found["positions"]["correlation"] == pytest.approx(analysis.position_correlation(similarity))
    field = analysis.effective_receptive_field(model, images[:2], "blocks.1")
    assert found["fields_px"]["blocks.1"]["trained"] == analysis.field_size(field)
    blocks = [f"blocks.{i}" for i in range(3)]
    seen = analysis.representations(model, images[:40], *blocks)
    expected = analysis.cka_matrix(seen, seen, debiased=True)
    assert found["cka"]["layers"] == found["cka"]["other"]["layers"] == blocks
    np.testing.assert_allclose(found["cka"]["matrix"], expected, rtol=1e-6)
    np.testing.assert_allclose(found["cka"]["other"]["matrix"], expected, rtol=1e-6)
    assert found["cka"]["neighbours"] == [found["cka"]["matrix"][i][i + 1] for i in range(2)]
    names = {"filters", "positions", "receptive_fields", "similarity", "similarity_other", "attention_entropy"}
    assert names <= {path.stem for path in tmp_path.glob("*.png")}


def test_a_network_without_attention_gets_what_applies(capsys, tmp_path, rng):
    file = save_weights(create_model("resnet_digits", rng=rng), tmp_path / "r.safetensors")
    ask = ("attention", file, "--model", "resnet_digits", "--images", 2, "--similarity-images", 20, "--out", tmp_path)
    assert cli.main(list(map(str, ask))) == 0
    said = capsys.readouterr().out
    assert "this model has no attention" in said
    assert "layer2.0" in said
    assert "principal ones" in said
    assert {path.stem for path in tmp_path.glob("*.png")} == {"filters", "receptive_fields", "similarity"}


@pytest.mark.parametrize("name", ["vit_digits", "swin_digits", "nat_digits", "volo_digits", "cait_digits"])
def test_oblong_images(name, tmp_path, rng, monkeypatch):
    drawn = {}
    monkeypatch.setattr("tinyvit.plots.save", lambda figure, path, numbers, also: drawn.setdefault(path, numbers))
    model = create_model(name, img_size=(8, 16), rng=rng).eval()
    images = rng.uniform(size=(1, 8, 16, 1)).astype(np.float32)
    found = attention(model, images, images, tmp_path, at=(0, 1))
    assert list(found["layers"]) == list(analysis.attention_maps(model, images))
    assert np.shape(drawn[tmp_path / "attention.png"]["rollout"]) == ((1, 4, 8) if name != "nat_digits" else (1, 8, 16))
    assert next(iter(found["layers"].values()))["distance_px"][0] < 16
    assert np.shape(next(iter(drawn[tmp_path / "receptive_fields.png"]["trained"].values()))) == (8, 16)


def test_a_class_token_s_layer_is_measured_by_its_own_attention(tmp_path, rng, monkeypatch):
    monkeypatch.setattr("tinyvit.plots.save", lambda figure, path, numbers, also: path)
    model, images = create_model("cait_digits", rng=rng).eval(), rng.uniform(size=(1, 8, 8, 1)).astype(np.float32)
    found = attention(model, images, images, tmp_path)
    of = found["layers"]["blocks_token_only.0.attn.weights"]
    row = analysis.attention_maps(model, images)["blocks_token_only.0.attn.weights"][:, :, :1]
    assert of["distance_px"] is None
    assert of["entropy"] == pytest.approx(-np.sum(row * np.log(row), axis=-1).mean() / np.log(17), rel=1e-4)
    assert [group["tokens"] for group in found["similarity"]] == [16], "identities are not to be compared"


def test_robustness_of_a_run_with_itself_as_the_baseline(folder, capsys, tmp_path):
    found = printed(capsys, "robustness", folder, "--images", 20, "--draws", 1, "--baseline", folder, "--json",
                    "--figure", tmp_path / "r.png")  # fmt: skip
    model, (images, labels) = model_of_run(folder), find_task("digits").splits.test
    images, labels = images[:20], labels[:20]

    def accuracy(x):
        return np.mean(predict(model, x).argmax(-1) == labels)

    assert found["clean"] == accuracy(images)
    assert found["mce"] == pytest.approx(100)
    assert found["relative_mce"] == pytest.approx(100)
    assert found["shifted"]["1"] == pytest.approx(
        np.mean([accuracy(analysis.shifted(images, *way)) for way in ((1, 0), (-1, 0), (0, 1), (0, -1))])
    )
    assert found["attacks"]["pgd"] <= found["clean"]
    assert set(found["occlusion"]) == {"zero", "mean"}
    assert "most attended" in found["occlusion"]["zero"]
    assert all(len(shares) == 5 for shares in found["corruptions"].values())
    assert found["segments"]["of_everything"] == pytest.approx((images > 0.5).mean())
    assert set(found["segments"]) == {"jaccard", "by_chance", "of_everything"}
    assert set(found["patches"]["25%"]) >= {"adversarial", "targeted", "noise", "taken for the target, targeted"}
    assert (tmp_path / "r_corruptions.png").exists()


def test_robustness_of_a_network_without_attention_on_cues(textured, rng):
    model = create_model("resnet_digits", img_size=32, num_classes=4, rng=rng).eval()
    found = robustness(model, textured, images=2, draws=1)
    assert 0 <= found["shape_bias"] <= 1
    assert "most attended" not in found["occlusion"]["zero"]
    assert "zoom_blur" in found["corruptions"]
    assert found["segments"] is None, "there is no attention that could outline anything"


def test_robustness_on_oblong_images_and_outlines_of_drawn_shapes(textured, rng):
    images, labels = rng.uniform(size=(4, 8, 12, 1)).astype(np.float32), np.arange(4)
    part = Dataset(images, labels)
    model = create_model("vit_digits", img_size=(8, 12), rng=rng).eval()
    found = robustness(model, Task(Splits(part, part, part), 10, "of one's own"), draws=1)
    assert found["protocol"]["cells"] == (4, 4)
    assert list(found["shuffled"]) == ["2×2", "4×4"]
    assert "segments" not in found
    model = create_model("vit_digits", img_size=32, num_classes=4, patch_size=4, rng=rng).eval()
    found = robustness(model, textured, images=3, draws=1, only=("segments",))
    cues = texture_shape(3, rng=np.random.default_rng(0).spawn(7)[6])
    assert found["segments"]["of_everything"] == pytest.approx(cues.masks.mean())
    assert 0 < found["segments"]["jaccard"] < 1


class BrighterCorner(Module):
    """Two classes: the upper left or the lower right cell of 2×2 pixels is the brighter."""

    def forward(self, x):
        return tinyvit.stack(x[:, :2, :2].sum(axis=(1, 2, 3)), x[:, 6:, 6:].sum(axis=(1, 2, 3)), axis=-1)


def test_the_most_salient_cells_are_those_that_decide_and_not_black_already(rng):
    labels = np.arange(10) % 2
    images = rng.uniform(0.5, 1, size=(10, 8, 8, 1))
    images[labels == 0, 6:, 6:] = images[labels == 1, :2, :2] = 0
    part = Dataset(images, labels)
    found = robustness(BrighterCorner(), Task(Splits(part, part, part), 2), draws=1, only=("occlusion",))
    assert set(found) == {"clean", "occlusion", "protocol"}
    assert found["clean"] == 1
    assert found["occlusion"]["zero"]["most salient"][0] == 0.5, "all are called by the first class, by a tie"
    assert found["occlusion"]["zero"]["least salient"][2] == 1, "half of the cells say nothing"
