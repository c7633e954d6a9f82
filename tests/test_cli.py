"""The command line as its users meet it: results, clear errors, exit statuses."""

import json

import numpy as np
import pytest

from tinyvit import cli, list_models
from tinyvit import tour as tour_module
from tinyvit.data import digits
from tinyvit.models import vit

SHORT = tour_module.Plan(
    epochs={"ViT": 1, "ResNet": 1}, batch_size=256, matched_loss=9.0, curvature_images=10, density_steps=3
)
FIGURES = {"digits_and_patches", "training", "positions", "attention", "hessian_spectrum", "convolution_heads"}


def test_the_tour_draws_its_figures_and_prints_its_table(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(tour_module, "FAST", SHORT)
    folder = tmp_path / "new" / "folder"
    assert cli.main(["tour", "--fast", "--quiet", "--out", str(folder), "--seed", "3"]) == 0
    said = capsys.readouterr()
    assert said.err == "", "--quiet lets nothing through but the result"
    for word in ("test accuracy", "λmax", "ViT", "ResNet", "Attention as convolution", "Three things to try next"):
        assert word in said.out
    for name in FIGURES:
        assert str(folder / f"{name}.png") in said.out
        assert (folder / f"{name}.png").stat().st_size > 5_000
        assert json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))
    assert {p.stem for p in folder.iterdir()} == FIGURES, "something else was left in the folder"
    check_numbers(
        {name: json.loads((folder / f"{name}.json").read_text(encoding="utf-8")) for name in FIGURES}, said.out
    )


def check_numbers(figures, printed):
    """What the figures show is what it must be, and what the table says."""
    splits = digits(seed=3)
    assert figures["digits_and_patches"]["labels"] == splits.train.labels[:8].tolist()
    assert np.allclose(figures["digits_and_patches"]["mean_ink"], splits.train.images[:8].mean((1, 2, 3)), rtol=1e-5)
    similarity = np.array(figures["positions"]["similarity"])
    assert np.allclose(np.einsum("ijij->ij", similarity), 1, atol=1e-5), "a position is like itself"
    assert np.allclose(similarity, similarity.transpose(2, 3, 0, 1), atol=1e-5)
    maps = {name: np.array(m) for name, m in figures["attention"].items() if name != "labels"}
    for name, shown in maps.items():
        assert shown.shape == (6, 4, 4), name
        assert (shown >= 0).all(), name
        assert (shown.sum((1, 2)) <= 1 + 1e-4).all(), f"{name}: the rest of a row is what the class token keeps"
    heads = np.array(figures["convolution_heads"]["heads"])
    looked_at = [tuple(int(i) for i in np.unravel_index(m.argmax(), m.shape)) for m in heads]
    assert looked_at == [(4 + a, 4 + b) for a in (-1, 0, 1) for b in (-1, 0, 1)], "a head misses its tap"
    assert figures["convolution_heads"]["worst_difference"] < 1e-10
    for name, value in figures["hessian_spectrum"]["leading"].items():
        assert f"{value:.3g}" in printed, f"the table and the figure give {name} different eigenvalues"
    for name, curves in figures["training"].items():
        steps, losses = curves["loss"]
        assert len(steps) == len(losses) == SHORT.epochs[name]
        assert all(0 <= share <= 1 for share in curves["accuracy"][1])


@pytest.mark.slow
def test_the_same_seed_gives_the_same_figures(monkeypatch, tmp_path):
    monkeypatch.setattr(tour_module, "FAST", SHORT)
    one, other = (tour_module.tour(seed=3, out=tmp_path / str(i), fast=True, progress=False) for i in range(2))
    for a, b in zip(one.figures, other.figures, strict=True):
        assert a.with_suffix(".json").read_bytes() == b.with_suffix(".json").read_bytes(), f"{a.name} differs"


def test_a_folder_that_cannot_be_written_is_named_before_any_work(tmp_path, capsys):
    file = tmp_path / "a_file"
    file.write_text("here first")
    assert cli.main(["tour", "--fast", "--out", str(file / "figures")]) == 1
    assert f"cannot write into the folder {file / 'figures'}" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["tour", "--seed", "-1"], "seed"),
        (["tour", "--seed", "one"], "a seed is a whole number"),
        (["tour", "--fats"], "unrecognized arguments: --fats"),
        (["toor"], "invalid choice: 'toor'"),
        ([], "COMMAND"),
    ],
)
def test_what_is_not_understood_is_said_in_a_line(arguments, said, capsys):
    with pytest.raises(SystemExit) as stopped:
        cli.main(arguments)
    assert stopped.value.code == 2
    assert said in capsys.readouterr().err


def test_ctrl_c_ends_cleanly(monkeypatch, tmp_path, capsys):
    def interrupted(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(tour_module, "train", interrupted)
    assert cli.main(["tour", "--fast", "--quiet", "--out", str(tmp_path)]) == 130
    assert "stopped" in capsys.readouterr().err
    assert not [p for p in tmp_path.iterdir() if p.name.startswith(".")], "a half-written file was left"


def test_models_are_listed_with_their_parameters(capsys):
    assert cli.main(["models", "vit_*_patch16_224"]) == 0
    lines = capsys.readouterr().out.splitlines()
    wanted = "vit_base_patch16_224 Dosovitskiy et al. 2021, arXiv 2010.11929 86,567,656 17,563,828,224"
    assert wanted.split() in [line.split() for line in lines]
    assert cli.main(["models", "nothing*"]) == 1
    assert "no model is called" in capsys.readouterr().err


def test_without_a_pattern_papers_are_listed_with_how_many_models_they_have(capsys):
    assert cli.main(["models"]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert sum(int(line[0]) for line in lines if line and line[0].isdigit()) == len(list_models())
    assert [line[1] for line in lines if "2010.11929" in line] == [next(iter(vit.PUBLISHED))]


def test_a_model_is_described(capsys):
    assert cli.main(["describe", "vit_digits"]) == 0
    assert "blocks.2" in capsys.readouterr().out
    assert cli.main(["describe", "vit_digits", "--time"]) == 0
    assert "activations" in capsys.readouterr().out
    assert cli.main(["describe", "vit_digit"]) == 1
    assert "did you mean vit_digits" in capsys.readouterr().err
