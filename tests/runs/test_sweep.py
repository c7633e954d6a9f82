"""Sweeps: every combination over every seed, done once, and what came out of them."""

import json
import re
import statistics
import sys

import pytest

from tinyvit import cli
from tinyvit.runs import RunFolder
from tinyvit.runs.sweep import mean_and_std, parsed, plan, sweep

QUICK = ["--epochs", "1", "--warmup", "0", "--train-size", "64", "--quiet"]


def sweep_command(out, *more):
    return cli.main(["sweep", "--out", str(out), "--set", "rate=1e-3,2e-3", "--seeds", "0", "1", *QUICK, *more])


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    out = tmp_path_factory.mktemp("sweep") / "new"
    assert sweep_command(out) == 0
    return out


def test_the_table_is_of_the_runs(swept):
    written = json.loads((swept / "sweep.json").read_text())
    assert written["settings"] == {"rate": [0.001, 0.002]}
    assert written["failed"] == {}
    assert list(written["rows"]) == ["rate=0.001", "rate=0.002"]
    for setting, row in written["rows"].items():
        runs = [json.loads((swept / setting / f"seed{seed}" / "result.json").read_text()) for seed in (0, 1)]
        for name, found in row.items():
            part, what = name.split()
            values = [run[part][what] for run in runs]
            assert found["runs"] == values
            assert found["mean"] == pytest.approx(statistics.fmean(values))
            assert found["std"] == pytest.approx(statistics.stdev(values))
    assert len({row["test loss"]["mean"] for row in written["rows"].values()}) == 2, "the setting had no effect"


def test_what_is_finished_is_not_run_again_and_the_table_is_printed(swept, capsys, monkeypatch):
    before = {path: path.stat().st_mtime_ns for path in swept.glob("*/*/*")}
    lost = swept / "rate=0.001" / "seed1" / "result.json"
    was = lost.read_bytes()
    lost.unlink()
    assert sweep_command(swept) == 0
    after = {path: path.stat().st_mtime_ns for path in swept.glob("*/*/*")}
    changed = {path.parent for path in after if after[path] != before[path]}
    assert changed == {lost.parent}
    assert lost.read_bytes() == was
    row = json.loads((swept / "sweep.json").read_text())["rows"]["rate=0.002"]
    line = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("rate=0.002"))
    assert line.split("  ")[-1].strip() == mean_and_std(row["test loss"])


def test_a_run_that_fails_does_not_stop_the_others(tmp_path, capsys):
    arguments = ["sweep", "--out", str(tmp_path), "--set", "model=bert_micro,vit_digits", "--seeds", "0", *QUICK]
    assert cli.main(arguments) == 1
    said = capsys.readouterr()
    assert "bert_micro/seed0: ValueError: model: bert_micro does not classify images" in said.err
    assert RunFolder(tmp_path / "model=vit_digits" / "seed0").finished
    written = json.loads((tmp_path / "sweep.json").read_text())
    assert list(written["rows"]) == ["model=vit_digits"]
    assert len(written["failed"]) == 1


def test_several_jobs_give_the_same(swept, tmp_path):
    pytest.importorskip("joblib")
    assert sweep_command(tmp_path, "--jobs", "2") == 0
    one, two = ((folder / "sweep.json").read_text() for folder in (swept, tmp_path))
    assert one == two


def test_without_joblib_one_job_works_and_several_name_the_extra(swept, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "joblib", None)
    assert sweep_command(swept) == 0
    assert sweep_command(swept, "--jobs", "2") == 1
    assert 'pip install "tinyvit[sweep]"' in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("rat=1", "--set: no such setting, got 'rat'; there is rate"),
        ("rate", "expected rate=VALUE,VALUE… of kind float, all different, got 'rate'"),
        ("rate=1,1.0", "all different"),
        ("augment=yes", "of kind bool"),
        ("epochs=1.5", "of kind int"),
        ("seed=1,2", "seeds are given by --seeds"),
    ],
)
def test_a_list_of_values_that_is_none(text, complaint):
    with pytest.raises(ValueError, match=re.escape(complaint)):
        parsed([text])


def test_lists_of_values():
    found = parsed(["rate=1e-3,2", "augment=true,false", "data=digits", "train-size=100"])
    assert found == {"rate": [0.001, 2.0], "augment": [True, False], "data": ["digits"], "train_size": [100]}
    with pytest.raises(ValueError, match="every setting once"):
        parsed(["rate=1", "rate=2"])


def test_a_plan_is_checked_before_anything_runs(tmp_path):
    planned = plan(tmp_path, {"recipe": ["plain", "sam"], "data": ["cifar10:a/b"]}, [3, 4], epochs=5)
    assert [(one.config.rho, one.config.seed, one.config.epochs) for one in planned] == [
        (0.0, 3, 5), (0.0, 4, 5), (0.05, 3, 5), (0.05, 4, 5)]  # fmt: skip
    assert len({one.folder for one in planned}) == 4
    assert {one.folder.parent.parent for one in planned} == {tmp_path}
    with pytest.raises(ValueError, match="batch_size"):
        sweep(tmp_path / "none", {"batch_size": [32, 0]}, [0])
    assert not (tmp_path / "none").exists()
