"""Scores and linear probes, against closed forms."""

import json

import numpy as np
import pytest

import tinyvit
from tinyvit import cli
from tinyvit.autodiff.tensor import raw
from tinyvit.data import Dataset, digits
from tinyvit.runs import configured, run
from tinyvit.runs.probe import features, few_shot, ridge, scored
from tinyvit.train import evaluate


def some(part, n=40):
    return Dataset(part.images[:n], part.labels[:n])


def test_a_report_says_what_evaluation_says(rng):
    model = tinyvit.create_model("vit_digits", rng=rng)
    model.head.weight.data = rng.normal(size=model.head.weight.shape).astype(np.float32)
    data = some(digits().test, 100)
    report, score = scored(model, data), evaluate(model, data)
    assert report.accuracy == pytest.approx(score.accuracy)
    assert report.loss == pytest.approx(score.loss, rel=1e-5)
    confusion = np.array(report.confusion)
    np.testing.assert_array_equal(confusion.sum(1), np.bincount(data.labels, minlength=10))
    np.testing.assert_allclose(report.per_class, np.diag(confusion) / confusion.sum(1))


@pytest.mark.parametrize("name", ["vit_digits", "resnet_digits", "swin_digits", "cait_digits", "bit_digits"])
def test_the_classifier_of_the_features_gives_the_logits(name, rng):
    model = tinyvit.create_model(name, rng=rng)
    images = digits().test.images[:5]
    x = features(model, images, batch=2)
    head = model.head if hasattr(model, "head") else model.fc
    head = getattr(head, "fc", head)
    head.weight.data = rng.normal(size=head.weight.shape).astype(np.float32)  # some start at zero
    logits = x @ head.weight.data.reshape(10, -1).T + head.bias.data
    np.testing.assert_allclose(logits, raw(model(images)), rtol=1e-4, atol=1e-4)


def test_features_of_several_blocks_are_their_class_tokens(rng):
    model = tinyvit.create_model("vit_digits", rng=rng)
    images = digits().test.images[:3]
    with tinyvit.capture(model, "blocks.*") as seen:
        model(images)
    depth = len(model.blocks)
    expected = np.concatenate([raw(seen[f"blocks.{i}"])[:, 0] for i in (depth - 2, depth - 1)], axis=1)
    np.testing.assert_array_equal(features(model, images, blocks=2), expected)
    with pytest.raises(ValueError, match=f"blocks: expected 1 to {depth}"):
        features(model, images, blocks=depth + 1)
    with pytest.raises(ValueError, match="no linear classifier"):
        features(tinyvit.create_model("vit_digits", rng=rng, num_classes=0), images)


@pytest.mark.parametrize(("n", "D"), [(30, 5), (5, 30)])
def test_ridge_is_where_the_gradient_vanishes(n, D, rng):
    x, y = rng.normal(size=(n, D)), rng.normal(size=(n, 3))
    w = ridge(x, y, 0.1)
    assert np.abs(x.T @ (x @ w - y) + n * 0.1 * w).max() < 1e-10


def test_a_probe_finds_what_is_linear_and_is_at_chance_where_nothing_is(rng):
    labels = np.arange(300) % 3
    centres = 5 * rng.normal(size=(3, 8))
    x = centres[labels] + rng.normal(size=(300, 8))
    parts = [(x[i : i + 100], labels[i : i + 100]) for i in (0, 100, 200)]
    assert few_shot(*parts, shots=10, rng=rng) > 0.95
    noise = [(rng.normal(size=(100, 8)), y) for _, y in parts]
    assert few_shot(*noise, shots=10, rng=rng) < 0.6
    with pytest.raises(ValueError, match="shots: class 1 has 33 training images, not 40"):
        few_shot(*parts, shots=40, rng=rng)


def test_commands_on_a_finished_run(tmp_path, capsys):
    run(configured(epochs=4, warmup=1.0), tmp_path / "run", progress=False)
    assert cli.main(["evaluate", str(tmp_path / "run"), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert report["test"]["accuracy"] == pytest.approx(result["test"]["accuracy"])
    assert cli.main(["probe", str(tmp_path / "run"), "--shots", "5", "--blocks", "2", "--json"]) == 0
    probe = json.loads(capsys.readouterr().out)
    assert len(probe["accuracies"]) == 5
    assert probe["mean"] == pytest.approx(np.mean(probe["accuracies"]))
    assert probe["mean"] > 0.4
    out = tmp_path / "tuned"
    assert cli.main(["finetune", str(tmp_path / "run"), "--out", str(out), "--img-size", "12", "--epochs", "2",
                     "--warmup", "0", "--train-size", "320", "--quiet"]) == 0  # fmt: skip
    assert json.loads((out / "result.json").read_text())["test"]["accuracy"] > 0.5
    assert cli.main(["evaluate", str(out)]) == 0
    assert "accuracy" in capsys.readouterr().out
    assert cli.main(["evaluate", str(tmp_path / "none")]) == 1
    assert "there is no such run folder" in capsys.readouterr().err
    assert cli.main(["evaluate", str(tmp_path)]) == 1
    assert "no finished run" in capsys.readouterr().err
