"""Experiments: a small one from end to end, and whether the committed tables are those of the committed runs."""

import json
import statistics
import sys
import types
from itertools import product
from pathlib import Path

import numpy as np
import pytest

import tinyvit
from tinyvit import cli, plots
from tinyvit.results import SIZES, Experiment, Trial, find_experiment, report
from tinyvit.results.distillation import BOTH, CLASS, DIST, readings
from tinyvit.results.experiment import measured, of_length, thinned
from tinyvit.results.inductive_bias import PLAIN, RECIPE, RESNET
from tinyvit.results.pretraining import halves
from tinyvit.results.sharpness import chosen
from tinyvit.results.table import ACCURACY, Difference, Reading, Table
from tinyvit.runs.tasks import find_task
from tinyvit.train import evaluate

FIGURES = Path(__file__).parent.parent.parent / "figures"
COMMITTED = sorted(path for path in FIGURES.glob("results_*.json") if not path.name.endswith(".runs.json"))


# ---- what is committed ---------------------------------------------------------------------------


@pytest.mark.parametrize("path", COMMITTED, ids=lambda path: path.stem)
def test_the_committed_table_is_of_the_committed_runs(path):
    name = path.stem.removeprefix("results_")
    experiment, written = find_experiment(name), json.loads(path.read_text(encoding="utf-8"))
    runs = json.loads(path.with_suffix(".runs.json").read_text(encoding="utf-8"))
    told = dict(experiment.sizes["usual"])
    seeds = told.pop("seeds")
    assert written["seeds"] == list(seeds)
    assert len(seeds) >= 3
    assert path.with_suffix(".png").is_file()
    wanted = [(key, trial, seed) for seed in seeds for key, trial in experiment.trials(**told).items()]
    cache = report.Cache(path.with_suffix(".runs.json"))
    found = [cache.find(*one) for one in wanted]
    assert None not in found, "the experiment is not the one whose runs are committed"
    assert len(runs) == len(found), "runs that no table uses"
    cells = {}
    for run in runs:
        for reading, numbers in run["found"].items():
            cells.setdefault((reading or run["row"], run["column"]), {})[run["seed"]] = numbers
    assert {(cell["row"], cell["column"]) for cell in written["table"]} == set(cells)
    for cell, reading in product(written["table"], experiment.readings):
        values = [cells[cell["row"], cell["column"]][seed][reading.name] for seed in seeds]
        assert cell[reading.name]["runs"] == pytest.approx(values, rel=1e-5)
        assert cell[reading.name]["mean"] == pytest.approx(statistics.fmean(values), rel=1e-5)
        assert cell[reading.name]["std"] == pytest.approx(statistics.stdev(values), rel=1e-4, abs=1e-9)
    assert written["seconds"] == pytest.approx(sum(run["seconds"] for run in runs), rel=1e-5)
    assert written["verdict"] == experiment.verdict(report.tabled(found, experiment.readings[0]))


@pytest.mark.parametrize("name", report.EXPERIMENTS)
def test_every_experiment_is_told_in_three_sizes(name):
    experiment = find_experiment(name)
    assert tuple(experiment.sizes) == SIZES
    for size in experiment.sizes.values():
        told = dict(size)
        assert len(told.pop("seeds")) >= 2
        trials = experiment.trials(**told)
        assert len({repr(trial) for trial in trials.values()}) == len(trials), "two trials are the same"
        assert all(trial.config(3).seed == 3 for trial in trials.values())


# ---- a small one ---------------------------------------------------------------------------------

SETTINGS = {"train_size": 64, **of_length(2, 64)}


def small_trials(rates):
    return {("ViT", rate): Trial(SETTINGS | {"rate": rate}, {"depth": 1}) for rate in rates}


def small(measure=measured):
    return Experiment(
        title="Small",
        claim="None.",
        sizes={"fast": {"seeds": (0, 1), "rates": (1e-3, 1e-2)}},
        trials=small_trials,
        verdict=lambda table: f"{len(table.columns)} columns",
        figure=lambda table: plots.run_dots(table.dots(), x="%"),
        measure=measure,
    )


@pytest.fixture
def listed(monkeypatch):
    """Put an experiment where the command finds it."""

    def put(experiment):
        module = types.ModuleType("tinyvit.results.small")
        module.EXPERIMENT = experiment
        monkeypatch.setitem(sys.modules, module.__name__, module)
        monkeypatch.setattr(report, "EXPERIMENTS", (*report.EXPERIMENTS, "small"))

    return put


def test_one_command_makes_cache_table_and_figure_and_goes_on(listed, tmp_path, capsys):
    listed(small())
    command = ["results", "small", "--fast", "--out", str(tmp_path)]
    assert cli.main(command) == 0
    said = capsys.readouterr().out
    assert "4/4  ViT, 0.01, seed 1" in said
    assert "2 columns" in said
    names = {"results_small_fast.runs.json", "results_small_fast.json", "results_small_fast.png"}
    assert {path.name for path in tmp_path.iterdir()} == names
    table = json.loads((tmp_path / "results_small_fast.json").read_text())["table"]
    shown = f"{100 * table[1]['test_accuracy']['mean']:.1f} ± {100 * table[1]['test_accuracy']['std']:.1f}"
    assert shown in said
    cache = tmp_path / "results_small_fast.runs.json"
    runs = json.loads(cache.read_text(encoding="utf-8"))
    assert [(run["column"], run["seed"]) for run in runs] == [(0.001, 0), (0.01, 0), (0.001, 1), (0.01, 1)]
    lost = runs.pop(1)
    cache.write_text(json.dumps(runs), encoding="utf-8")
    assert cli.main(command) == 0
    assert capsys.readouterr().out.splitlines()[0].startswith("4/4  ViT, 0.01, seed 0")
    again = json.loads(cache.read_text(encoding="utf-8"))[-1]
    assert again["found"] == lost["found"], "the same run gave something else"
    assert cli.main(command) == 0
    assert "4/4" not in capsys.readouterr().out, "a run was done again"
    assert cli.main([*command, "--seeds", "1", "2"]) == 0
    assert "4/4  ViT, 0.01, seed 2" in capsys.readouterr().out
    assert json.loads((tmp_path / "results_small_fast.json").read_text())["seeds"] == [1, 2]


def fails_for_one(trial, seed):
    if trial.settings["rate"] == 1e-2 and seed == 1:
        raise FloatingPointError("the loss is nan")
    return {"": {"test_accuracy": 0.5}}


def test_a_run_that_fails_is_named_and_the_others_are_kept(listed, tmp_path, capsys):
    listed(small(fails_for_one))
    assert cli.main(["results", "small", "--fast", "--quiet", "--out", str(tmp_path)]) == 1
    assert "failed: ViT, 0.01, seed 1: FloatingPointError: the loss is nan" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["results_small_fast.runs.json"]
    assert len(json.loads((tmp_path / "results_small_fast.runs.json").read_text(encoding="utf-8"))) == 3


def test_a_run_with_other_settings_is_another_run(tmp_path):
    cache = report.Cache(tmp_path / "x.runs.json")
    key, trial = ("a", 0.1), Trial({"rate": 0.1}, {"depth": 1})
    cache.add(key, trial, 0, {"": {"test_accuracy": 0.5}}, 1.0)
    cache = report.Cache(tmp_path / "x.runs.json")
    assert cache.find(key, trial, 0)["found"] == {"": {"test_accuracy": 0.5}}
    assert cache.find(key, trial, 1) is None
    assert cache.find(("a", 0.2), trial, 0) is None
    assert cache.find(key, Trial({"rate": 0.1}, {"depth": 2}), 0) is None


def test_they_are_listed_and_an_unknown_one_gets_those_there_are(capsys):
    assert cli.main(["results"]) == 0
    listed = capsys.readouterr().out
    assert all(name in listed and find_experiment(name).title in listed for name in report.EXPERIMENTS)
    assert cli.main(["results", "position"]) == 1
    assert "there is positions" in capsys.readouterr().err


# ---- its parts -----------------------------------------------------------------------------------


def table_of(accuracies):
    return Table({key: [{"test_accuracy": a, "validation_accuracy": 1 - a} for a in runs]
                  for key, runs in accuracies.items()})  # fmt: skip


def test_a_difference_is_taken_seed_by_seed():
    table = table_of({("a", 1): [0.5, 0.7, 0.9], ("b", 1): [0.4, 0.58, 0.81]})
    difference = Difference(table, ("a", 1), ("b", 1))
    np.testing.assert_allclose(difference.points, [10, 12, 9])
    assert difference.mean == pytest.approx(31 / 3)
    assert difference.std == pytest.approx(statistics.stdev([10, 12, 9]))
    assert difference.clear
    assert not Difference(table, ("b", 1), ("a", 1)).clear
    assert str(Difference(table, ("b", 1), ("a", 1))) == "−10.3 ± 1.5 points"
    assert not Difference(table_of({("a", 1): [0.9], ("b", 1): [0.1]}), ("a", 1), ("b", 1)).clear, "one seed is none"


def test_a_table_is_of_any_number_that_runs_measure():
    loss = Reading("loss", "training loss", "nats", form=".2f")
    runs = [{"loss": 0.5, "test_accuracy": 0.9}, {"loss": -0.25, "test_accuracy": 0.8}]
    table = Table({("a", 1): runs, ("b", 1): runs[:1]}, loss)
    assert table.as_text() == [("", "1"), ("a", "0.12 ± 0.53"), ("b", "0.50")]
    assert table.as_text(ACCURACY) == [("", "1"), ("a", "85.0 ± 7.1"), ("b", "90.0")]
    np.testing.assert_array_equal(table.curves()["a"][1], [[0.5, -0.25]])
    np.testing.assert_allclose(table.dots(ACCURACY)["a"]["1"], [90, 80])
    assert str(Difference(table, ("a", 1), ("a", 1))) == "+0.00 ± 0.00 nats"
    assert (loss.label, Reading("ratio", "ratio").label) == ("training loss (nats)", "ratio")


def test_a_verdict_says_when_the_claim_does_not_appear():
    high, low = [0.9, 0.91, 0.92], [0.6, 0.62, 0.61]
    few, many = 100, 1000
    cells = {(PLAIN, few): low, (RESNET, few): high, (RECIPE, few): high,
             (PLAIN, many): high, (RESNET, many): high, (RECIPE, many): high}  # fmt: skip
    verdict = find_experiment("inductive_bias").verdict
    assert verdict(table_of(cells)).startswith(
        "It appears here that a ViT needs more data: ResNet over plain ViT is +30.0"
    )
    assert verdict(table_of(cells | {(PLAIN, few): high})).startswith("It does NOT appear here")


def test_the_radius_is_chosen_on_validation():
    table = table_of({("ViT", 0.0): [0.0], ("ViT", 0.1): [0.9], ("ViT", 0.2): [0.5]})
    assert chosen(table, "ViT") == 0.2  # its validation accuracy is higher, that of no radius higher still


def test_a_student_with_a_token_is_read_in_three_ways(rng):
    model = tinyvit.create_model("deit_digits", rng=rng)
    for head in (model.head, model.head_dist):
        head.weight.data = rng.normal(size=head.weight.shape).astype(np.float32)
    task = find_task("digits")
    assert readings(model, task)[BOTH]["test_accuracy"] == pytest.approx(evaluate(model, task.splits.test).accuracy)
    for head, says, how_loud in ((model.head, 2, 100), (model.head_dist, 3, 1000)):  # they cannot be moved
        head.bias.data = how_loud * np.eye(10, dtype=np.float32)[says]
    share = np.bincount(task.splits.test.labels) / 300
    found = {name: numbers["test_accuracy"] for name, numbers in readings(model, task).items()}
    assert found == pytest.approx({CLASS: share[2], DIST: share[3], BOTH: share[3]})


def test_what_was_pretrained_on_and_what_it_is_asked_about_share_no_classes():
    splits = find_task("digits").splits
    source, others = halves(splits, 60)
    assert source.classes == 5
    assert len(source.splits.train.labels) == 60
    assert set(source.splits.train.labels) == set(range(5)) == set(others.test.labels)
    for part, first, second in zip(splits, halves(splits, len(splits.train.labels))[0].splits, others, strict=True):
        assert len(first.labels) + len(second.labels) == len(part.labels)
        np.testing.assert_array_equal(second.images, part.images[part.labels >= 5])


def test_lengths():
    assert of_length(600, 100) == {"epochs": 200, "warmup": 20.0, "batch_size": 32}
    assert of_length(600, 1297, warmup=0.2) == {"epochs": 15, "warmup": 3.0, "batch_size": 32}
    assert of_length(4, 10) == {"epochs": 4, "warmup": 0.4, "batch_size": 32}
    np.testing.assert_allclose(thinned([1.0, 3.0, 5.0, 7.0], points=2), [2, 6])
