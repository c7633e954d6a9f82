"""Runs in folders: what they write, that they go on bit for bit, and what they refuse."""

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from tinyvit import cli
from tinyvit.nn.weights import read_weights
from tinyvit.runs import CheckpointError, RunFolder, Stopped, configured, model_of_run, run
from tinyvit.runs import run as run_module
from tinyvit.runs.checkpoint import read_checkpoint, write_checkpoint
from tinyvit.runs.tasks import find_task
from tinyvit.train import evaluate

TINY = {"epochs": 3, "warmup": 1.0, "train_size": 96, "drop_path": 0.1, "average": 0.9, "augment": True}


def bits(path):
    return path.read_bytes()


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run that nobody disturbed."""
    folder = tmp_path_factory.mktemp("runs") / "whole"
    result = run(configured(**TINY), folder, progress=False)
    return RunFolder(folder), result


def test_a_run_leaves_what_it_says(whole):
    folder, result = whole
    names = {path.name for path in folder.path.iterdir()}
    assert names == {"config.toml", "metrics.jsonl", "checkpoint.safetensors", "model.safetensors", "result.json",
                     "curves.png", "curves.json"}  # fmt: skip
    records = folder.read_metrics()
    assert [record["step"] for record in records] == [3, 6, 9]
    assert records[-1]["validation_accuracy"] == result["validation"]["accuracy"]
    assert configured(file=folder.config) == configured(**TINY)
    assert json.loads(folder.result.read_text()) == result


def test_the_weights_are_those_that_were_scored(whole):
    folder, result = whole
    model = model_of_run(folder.path)
    task = find_task("digits")
    assert evaluate(model, task.splits.test)._asdict() == pytest.approx(result["test"])
    averaged, last = read_weights(folder.weights), read_checkpoint(folder.checkpoint)[1]
    assert all(np.array_equal(averaged[name], last["average"][name]) for name in averaged)
    assert any(not np.array_equal(averaged[name], last["model"][name]) for name in averaged)


def test_the_same_settings_give_the_same_bytes(whole, tmp_path):
    folder, _ = whole
    run(configured(file=folder.config), tmp_path / "again", progress=False)
    again = RunFolder(tmp_path / "again")
    for file in ("weights", "checkpoint", "result", "config"):
        assert bits(getattr(again, file)) == bits(getattr(folder, file)), file


@pytest.mark.parametrize("stop_after", [1, 3, 4, 8, 9])
def test_a_run_that_was_stopped_goes_on_bit_for_bit(whole, stop_after, tmp_path, monkeypatch):
    folder, result = whole
    out = tmp_path / "stopped"
    taken = []
    ordinary = run_module.__globals__["training"]

    def interrupted(*arguments, **options):
        for step in ordinary(*arguments, **options):
            taken.append(step.number)
            if len(taken) == stop_after:
                os.kill(os.getpid(), signal.SIGINT)  # what Ctrl-C sends
            yield step

    monkeypatch.setitem(run_module.__globals__, "training", interrupted)
    with pytest.raises(Stopped):
        run(configured(**TINY), out, progress=False)
    assert len(taken) == stop_after, "the step was not the last"
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    monkeypatch.undo()
    (out / ".model.safetensors.0a1b2c3d").write_bytes(b"half")  # as a kill while weights are written leaves it
    said = []
    assert run(configured(**TINY), out, resume=True, progress=False, say=said.append) == result
    assert said[0] == f"going on from step {stop_after}"
    for file in ("weights", "checkpoint"):
        assert bits(getattr(RunFolder(out), file)) == bits(getattr(folder, file)), file
    assert [r["loss"] for r in RunFolder(out).read_metrics()] == [r["loss"] for r in folder.read_metrics()]
    assert not list(out.glob(".*")), "what was half-written is left over"


def test_resume_on_what_is_empty_new_or_finished(whole, tmp_path, capsys):
    folder, _ = whole
    assert cli.main(["train", "--out", str(folder.path), "--resume"]) == 0
    assert "this run is finished" in capsys.readouterr().out
    (tmp_path / "empty").mkdir()
    for name in ("empty", "new"):
        small = ["--epochs", "1", "--warmup", "0", "--train-size", "32"]
        assert cli.main(["train", "--out", str(tmp_path / name), "--resume", *small]) == 0
        assert "starting from the beginning: there is no checkpoint" in capsys.readouterr().out


def test_what_would_destroy_or_mix_runs_is_refused(whole, tmp_path, capsys):
    folder, _ = whole
    assert cli.main(["train", "--out", str(folder.path)]) == 1
    assert "holds a run already; add --resume" in capsys.readouterr().err
    assert cli.main(["train", "--out", str(folder.path), "--resume", "--rate", "0.5", "--seed", "3"]) == 1
    refusal = capsys.readouterr().err
    assert "rate: 0.002 there, 0.5 now" in refusal
    assert "seed: 0 there, 3 now" in refusal
    assert cli.main(["train", "--out", str(tmp_path / "x"), "--model", "vit_digit"]) == 1
    assert "vit_digits" in capsys.readouterr().err
    assert cli.main(["train", "--out", str(tmp_path / "x"), "--data", "digit"]) == 1
    assert "there is digits" in capsys.readouterr().err
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"model": "bert_micro"}, "bert_micro does not classify images"),
        ({"model": "vit_base_patch16_224"}, "patch"),
        ({"data": "mnist"}, "expected mnist:FOLDER, got 'mnist'"),
        ({"data": "digits:x"}, "expected digits, got 'digits:x'"),
        ({"train_size": 5000}, "has 1297 training images, not 5000"),
        ({"warmup": 3.0, "epochs": 3}, "expected fewer epochs"),
        ({"optimizer": "adamm"}, "there is adam"),
        ({"recipe": "plane"}, "there is plain"),
        ({"rate": -1.0}, "rate: expected at least 0"),
        ({"rate": "fast"}, "rate: expected float, got 'fast'"),
        ({"speed": 1}, "no such setting"),
        ({"teacher": "nowhere"}, "no finished run"),
    ],
)
def test_settings_that_cannot_be_are_refused_before_anything_is_written(settings, words, tmp_path):
    with pytest.raises(ValueError, match=words):
        run(configured(**settings), tmp_path / "x", progress=False)
    assert not (tmp_path / "x" / "checkpoint.safetensors").exists()


@pytest.mark.parametrize("damage", ["cut", "noise", "empty", "foreign", "other settings"])
def test_a_checkpoint_that_cannot_be_used_is_named_and_kept(whole, damage, tmp_path):
    folder, _ = whole
    out = RunFolder(tmp_path / "x")
    out.path.mkdir()
    out.config.write_bytes(bits(folder.config))
    good = bits(folder.checkpoint)
    bad = {"cut": good[:-10], "noise": good[:100] + b"\xff" * 50 + good[150:], "empty": b"",
           "foreign": bits(folder.weights), "other settings": b""}[damage]  # fmt: skip
    out.checkpoint.write_bytes(bad)
    if damage == "other settings":
        facts, parts = read_checkpoint(folder.checkpoint)
        write_checkpoint(out.checkpoint, {**facts, "settings": "0"}, parts)
    before = bits(out.checkpoint)
    with pytest.raises(CheckpointError, match=r"checkpoint\.safetensors"):
        run(configured(**TINY), out.path, resume=True, progress=False)
    assert bits(out.checkpoint) == before


def test_a_full_disk_leaves_the_last_checkpoint(whole, tmp_path, monkeypatch):
    folder, _ = whole
    path = tmp_path / "checkpoint.safetensors"
    facts, parts = read_checkpoint(folder.checkpoint)
    write_checkpoint(path, facts, parts)

    def full(fd):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_checkpoint(path, {"step": 1}, parts)
    assert read_checkpoint(path)[0] == facts
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_a_shortened_run_warms_up_for_a_shorter_time():
    assert configured(epochs=2).warmup == 0.5
    assert configured(epochs=100).warmup == configured().warmup
    with pytest.raises(ValueError, match="warmup: expected fewer epochs"):
        configured(epochs=2, warmup=2.0)


def test_a_run_starts_from_the_weights_of_another(whole, tmp_path):
    folder, _ = whole
    config = configured(data="where", model="vit_digits", weights=str(folder.weights), epochs=1, warmup=0.0)
    with pytest.raises(ValueError, match="does not fit"):  # three channels and 32 pixels are too much
        run(config, tmp_path / "x", progress=False)
    config = configured(weights=str(folder.weights), positions="timm", img_size=16, epochs=1, warmup=0.0,
                        train_size=32, rate=0.0, weight_decay=0.0)  # fmt: skip
    result = run(config, tmp_path / "y", progress=False)
    assert model_of_run(tmp_path / "y").config.img_size == 16
    assert result["test"]["accuracy"] > 0.1


def start(out, *arguments):
    """The command in a process of its own."""
    return subprocess.Popen([sys.executable, "-m", "tinyvit", "train", "--out", str(out), *arguments],
                            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)  # fmt: skip


def test_ctrl_c_of_the_command(tmp_path):
    with start(tmp_path / "x", "--epochs", "400") as process:
        next(line for line in process.stdout if line.startswith("epoch   1/"))
        process.send_signal(signal.SIGINT)
        rest = process.stdout.read()
    assert process.returncode == 130
    assert "--resume` goes on" in rest
    assert read_checkpoint(tmp_path / "x" / "checkpoint.safetensors")[0]["step"] >= 40


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_killed_at_fifty_moments_it_always_goes_on_bit_for_bit(tmp_path):
    """Each run is killed at random moments until it comes to its end; fifty kills in all."""
    settings = ["--epochs", "8", "--warmup", "1", "--train-size", "96", "--augment", "--average", "0.9"]
    began = time.perf_counter()
    with start(tmp_path / "whole", *settings) as process:
        process.communicate()
    took = time.perf_counter() - began  # more on a busy machine, where a kill too early would find nothing begun
    assert process.returncode == 0
    expected, rng = bits(tmp_path / "whole" / "model.safetensors"), np.random.default_rng(0)
    kills = finished = 0
    while kills < 50:
        folder = RunFolder(tmp_path / f"killed{finished}")
        while not folder.finished:
            with start(folder.path, "--resume", *settings) as process:
                try:
                    process.wait(rng.uniform(0.2, 1.0) * took)
                except subprocess.TimeoutExpired:
                    process.kill()
                    kills += 1
            if folder.checkpoint.exists():
                read_checkpoint(folder.checkpoint)  # or it raises
            assert kills < 200, "it never comes to its end"
        assert bits(folder.weights) == expected
        assert not list(folder.path.glob(".*")), "what was half-written is left over"
        finished += 1
    print(f"{kills} kills, {finished} runs came to their end")


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_default_learns(seed, tmp_path):
    began = time.perf_counter()
    result = run(configured(seed=seed), tmp_path / "x", progress=False)
    print(f"{result['test']['accuracy']:.1%} in {time.perf_counter() - began:.0f} s")
    assert result["test"]["accuracy"] > 0.92
