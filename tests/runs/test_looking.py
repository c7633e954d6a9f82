"""`tinyvit sharpness` and `tinyvit landscape` on runs and on files: what they print is what the functions find."""

import json
import re

import numpy as np
import pytest

import tinyvit
from tinyvit import cli
from tinyvit.analysis import Surface, curvature, leading_eigenvalue
from tinyvit.runs import configured, find_task, looking, model_of_run, run
from tinyvit.train import classification


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "run"
    run(configured(model="resnet_digits", epochs=1, warmup=0.0, train_size=160), out, progress=False)
    return out


@pytest.fixture
def data():
    train = find_task("digits").splits.train
    return train.images[:12], train.labels[:12]


def printed(capsys, *command):
    assert cli.main([str(word) for word in command]) == 0
    return json.loads(capsys.readouterr().out)


def test_sharpness_of_a_run(folder, data, capsys, tmp_path):
    found = printed(capsys, "sharpness", folder, "--images", 12, "--json", "--blocks", "--tol", 1e-4,
                    "--figure", tmp_path / "f.png")  # fmt: skip
    model = model_of_run(folder)
    H = curvature(classification(), model, data)
    for end, residual, which in (("lambda_max", "residual", "LA"), ("lambda_min", "residual_min", "SA")):
        value = leading_eigenvalue(classification(), model, data, which=which, tol=1e-6,
                                   rng=np.random.default_rng(5)).value  # fmt: skip
        assert abs(found[end] - value) <= found[residual] + 1e-4 * abs(value)
    assert found["lambda_min"] < 0 < found["lambda_max"]
    assert found["loss"] == pytest.approx(Surface(classification(), model, data).loss())
    assert found["n_params"] == H.shape[0] == model.num_parameters()
    protocol = found["protocol"]
    assert (protocol["mode"], protocol["samples"], protocol["dtype"]) == ("evaluation", 12, "float64")
    assert protocol["loss"] == found["loss"]
    assert protocol["tolerance"] == 1e-4
    assert "conv1" in found["blocks"]
    assert all(block["lambda_max"] <= found["lambda_max"] * 1.001 for block in found["blocks"].values())
    assert sum(found["density"]["weights"]) == pytest.approx(1)
    assert sorted(path.suffix for path in tmp_path.iterdir()) == [".json", ".pdf", ".png", ".svg"]


def test_sharpness_of_a_file_in_other_ways(folder, capsys):
    file = ("--weights", folder / "model.safetensors", "--model", "resnet_digits", "--data", "digits", "--images", 9,
            "--names", "fc.*")  # fmt: skip
    base = printed(capsys, "sharpness", *file, "--json")
    single = printed(capsys, "sharpness", *file, "--json", "--dtype", "float32", "--chunk", 5)
    assert single["lambda_max"] == pytest.approx(base["lambda_max"], rel=0.02)
    fisher = printed(capsys, "sharpness", *file, "--json", "--matrix", "fisher", "--names", "fc.bias")
    assert (fisher["n_params"], fisher["protocol"]["parameters"]) == (10, "fc.bias")
    assert fisher["protocol"]["matrix"] == "fisher"
    training = printed(capsys, "sharpness", *file, "--json", "--training")
    assert training["protocol"]["mode"] == "training"
    assert training["loss"] != base["loss"]
    assert cli.main(["sharpness", *map(str, file)]) == 0
    assert "λmin" in capsys.readouterr().out
    assert cli.main(["sharpness", "--json"]) == 1
    assert "which model?" in capsys.readouterr().err


def test_landscapes_of_a_run(folder, data, capsys, tmp_path):
    ask = ("landscape", folder, "--images", 12, "--points", 5, "--json")
    found = printed(capsys, *ask, "--out", tmp_path / "plane")
    losses = np.array(found["losses"])
    assert losses.shape == (5, 5)
    assert losses[2, 2] == pytest.approx(found["loss"], rel=1e-5)
    assert found["protocol"]["samples"] == 12
    assert [path.rsplit("/")[-1] for path in found["figures"]] == ["landscape.png", "landscape_surface.png"]
    assert printed(capsys, *ask, "--out", tmp_path / "plane")["losses"] == found["losses"], "from the finished points"
    assert cli.main([*map(str, ask), "--seed", "1", "--out", str(tmp_path / "plane")]) == 1
    assert "the points of another landscape" in capsys.readouterr().err


def test_a_box_is_drawn_in_slices(folder, capsys, tmp_path):
    found = printed(capsys, "landscape", folder, "--images", 6, "--points", 3, "--dimensions", 3, "--json", "--out",
                    tmp_path / "box")  # fmt: skip
    losses = np.array(found["losses"])
    assert losses.shape == (3, 3, 3)
    assert losses[1, 1, 1] == pytest.approx(found["loss"], rel=1e-5)
    assert [path.rsplit("/")[-1] for path in found["figures"]] == ["landscape.png"]


def test_the_path_of_a_run_is_walked_again_to_the_bit(folder, capsys, tmp_path):
    again, states = looking.path_of_run(folder, states=3)
    end = model_of_run(folder).state_dict()
    for name, array in again.state_dict().items():
        np.testing.assert_array_equal(array, end[name], f"{name} differs from the run's")
    assert len(states) == 4
    found = printed(capsys, "landscape", folder, "--along", "path", "--images", 6, "--points", 3, "--json", "--out",
                    tmp_path / "path")  # fmt: skip
    path = np.array(found["path"])
    assert path.shape == (6, 2), "the start and five updates"
    np.testing.assert_allclose(path[-1], 0, atol=1e-9)
    moved = sum(np.sum((states[0][name] - end[name]) ** 2.0) for name, _ in again.named_parameters())
    assert np.sum(path[0] ** 2) <= 1.001 * moved
    assert path[0, 0] ** 2 > 0.3 * moved
    assert sum(found["explained"]) > 0.5
    file = ("--weights", folder / "model.safetensors", "--model", "resnet_digits")
    assert cli.main(["landscape", *map(str, file), "--along", "path", "--out", str(tmp_path / "no")]) == 1
    assert "a run folder is needed" in capsys.readouterr().err


def test_a_line_along_an_eigenvector_and_one_to_another_model(data, capsys, tmp_path, rng):
    """Of a ViT: where a ReLU bends, a line bends more than its Hessian knows."""
    models = [tinyvit.create_model("vit_digits", rng=rng) for _ in range(2)]
    files = [tmp_path / f"{i}.safetensors" for i in range(2)]
    for model, file in zip(models, files, strict=True):
        model.head.weight.data = rng.normal(size=model.head.weight.shape).astype(np.float32)
        tinyvit.save_weights(model, file)
    ask = ("landscape", files[0], "--model", "vit_digits", "--images", 12, "--points", 7, "--json")
    line = printed(capsys, *ask, "--along", "hessian", "--dimensions", 1, "--out", tmp_path / "line", "--span", 1e-3)
    value = leading_eigenvalue(classification(), models[0], data, tol=1e-4, rng=rng).value
    assert 2 * np.polyfit(line["steps"][0], line["losses"], 2)[0] == pytest.approx(value, rel=0.05)
    assert float(re.search(r"λ = ([\d.e+]+)", line["labels"][0])[1]) == pytest.approx(value, rel=0.01)
    way = printed(capsys, *ask, "--to", files[1], "--out", tmp_path / "way")
    np.testing.assert_allclose(way["steps"][0], np.linspace(-0.25, 1.25, 7))
    ends = [classification()(model, data).item() for model in models]
    np.testing.assert_allclose([way["losses"][1], way["losses"][5]], ends, rtol=1e-4)
