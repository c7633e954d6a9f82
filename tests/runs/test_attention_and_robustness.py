"""`tinyvit attention` and `tinyvit robustness` on runs and files: what they print is what the functions find."""

import json

import numpy as np
import pytest
from PIL import Image

from tinyvit import analysis, cli, create_model, save_weights
from tinyvit.runs import configured, find_task, model_of_run, run
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
    """PNG alone, without its dots per inch, and few steps of the patches' ascent."""
    for module in ("attention", "robustness"):
        monkeypatch.setattr(f"tinyvit.runs.{module}.VECTORS", ())
    monkeypatch.setattr("tinyvit.plots.DPI", 20)
    monkeypatch.setattr("tinyvit.runs.robustness.PATCH_STEPS", 2)
    monkeypatch.setattr("tinyvit.runs.robustness.CUES", 20)


def printed(capsys, *command):
    assert cli.main([str(word) for word in command]) == 0
    return json.loads(capsys.readouterr().out)


def test_attention_of_a_run(folder, capsys, tmp_path):
    found = printed(capsys, "attention", folder, "--images", 2, "--out", tmp_path, "--json")
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
    assert {path.split(".")[-1] for path in found["figures"]} == {"png"}
    assert {path.suffix for path in tmp_path.iterdir()} == {".png", ".json"}


def test_attention_of_a_place_and_of_a_layer_s_heads(folder, capsys, tmp_path):
    printed(capsys, "attention", folder, "--images", 1, "--out", tmp_path, "--layer", 2, "--query", 0.3, 1, "--json")
    maps = list(analysis.attention_maps(model_of_run(folder), find_task("digits").splits.test.images[:1]).values())
    heads = json.loads((tmp_path / "attention_heads.json").read_text(encoding="utf-8"))
    place = 1 + 1 * 4 + 3  # the class token, row 1, the last column
    np.testing.assert_allclose(heads["head 3"][0], maps[1][0, 2, place, 1:].reshape(4, 4), rtol=1e-5)
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


@pytest.mark.parametrize("name", ["swin_digits", "cait_digits", "nat_digits", "volo_digits"])
def test_attention_of_other_architectures(name, tmp_path, rng, monkeypatch):
    """All but the drawing, which is the same for all."""
    monkeypatch.setattr("tinyvit.plots.save", lambda figure, path, numbers, also: path)
    model, images = create_model(name, rng=rng).eval(), rng.uniform(size=(1, 8, 8, 1)).astype(np.float32)
    found = attention(model, images, images, tmp_path)
    assert list(found["layers"]) == list(analysis.attention_maps(model, images))
    assert any(of["distance_px"] for of in found["layers"].values())
    if name == "cait_digits":
        assert found["layers"]["blocks_token_only.0.attn.weights"]["distance_px"] is None


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
    assert (tmp_path / "r_corruptions.png").exists()


def test_robustness_of_a_network_without_attention_on_cues(rng):
    task = find_task("texture_shape")
    model = create_model("resnet_digits", img_size=32, num_classes=4, rng=rng).eval()
    found = robustness(model, task, images=2, draws=1)
    assert 0 <= found["shape_bias"] <= 1
    assert "most attended" not in found["occlusion"]["zero"]
    assert "zoom_blur" in found["corruptions"]
    assert "segments" not in found
