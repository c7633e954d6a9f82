"""The benchmark: what it reports and what it refuses. How fast anything is, is never asserted."""

import json
import math
import os
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from contenders import absent, broken, dying, noisy

from tinyvit import bench as package
from tinyvit import cli
from tinyvit.bench import (
    Apart,
    Disagreement,
    Facts,
    Here,
    Result,
    Times,
    Workload,
    bench,
    contender,
    facts,
    find_workloads,
    machine_facts,
    measure,
    workloads,
    write_rows,
)
from tinyvit.bench.contender import Turn
from tinyvit.bench.workloads import Images, inference, torch_inference, torch_training_step, training_step

SIZES = {"img_size": 8, "patch_size": 4, "embed_dim": 24, "depth": 1, "num_heads": 3, "num_classes": 10}
TASK = Images("vit_tiny_patch16_224", SIZES, batch=10)
FACTS = Facts("a processor", 2, 2, "a BLAS, auto", 100.0, {}, {"numpy": "2.0"})


def constant(value):
    """A contender whose every step gives the same number."""
    return lambda threads: lambda: value


def tiny(**peers):
    return Workload("tiny", "a tiny ViT", TASK.batch, partial(training_step, TASK), peers)


def run(workload, **options):
    (result,) = bench([workload], facts=FACTS, place=Here, **{"repeats": 2, **options})
    return result


@pytest.fixture(autouse=True)
def short(monkeypatch):
    monkeypatch.setattr(contender, "TURN", 0.0)
    monkeypatch.setattr(measure, "SETTLE", 0.0)


# the result --------------------------------------------------------------------------------


def test_every_contender_has_its_times_and_every_peer_its_ratio():
    result = run(tiny(twin=partial(training_step, TASK)), repeats=3)
    assert [len(times.turns) for times in (result.ours, result.peers["twin"])] == [3, 3]
    assert result.differences == {"twin": 0.0}, "the same seed gives the same weights"
    row = result.row()
    assert json.loads(json.dumps(row)) == row
    for name in ("ours_ms", "ours_min_ms", "twin_ms", "ours_images_per_second", "twin_ratio", "twin_ratio_of_pairs"):
        assert row[name] > 0
    assert row["ours_min_ms"] <= row["ours_ms"]
    assert row["machine"]["cpu"] == FACTS.cpu


def test_ratios_spread_and_the_work_of_others_by_hand():
    ours = Times(tuple(Turn(s, 0.0) for s in (1.0, 2.0, 4.0)), 100.0)
    torch = Times((Turn(2.0, 0.0), Turn(1.0, 0.6), Turn(4.0, 0.0)), None)
    result = Result(tiny(), FACTS, ours, {"torch": torch}, {"torch": 0.0})
    assert ours.median == 2.0
    assert ours.spread == (3.0 - 1.5) / 2.0
    assert result.ratio("torch") == 1.0  # 2 / 2
    assert result.paired_ratio("torch") == 1.0  # of 1/2, 2, 1
    assert result.others() == pytest.approx((0.1, 1 / 6))
    assert result.disturbed
    assert result.undisturbed("torch") == (2, 0.75)  # of 1/2 and 1
    row = {name: value for name, value in result.row().items() if not isinstance(value, list | dict)}
    expected = {"workload": "tiny", "threads": 2, "blas": "a BLAS, auto", "ours_ms": 2000.0, "torch_ms": 2000.0}
    assert row.items() >= (expected | {"ratio": 1.0, "ours_mb": 100.0, "torch_mb": None}).items()


def test_where_the_system_tells_nothing_nothing_is_claimed(monkeypatch):
    def no_such_file(*args, **kwargs):
        raise FileNotFoundError

    monkeypatch.setattr(facts.Path, "read_text", no_such_file)
    result = run(tiny())
    assert result.others() is None
    assert not result.disturbed
    assert result.row()["others_cores"] is None
    assert facts.cpu_model()
    assert result.ours.peak_mb is None or result.ours.peak_mb > 1


def test_one_turn_has_no_spread():
    assert run(tiny(), repeats=1).ours.spread == 0.0


def test_contenders_take_turns_and_are_ended(monkeypatch):
    said = []

    class Told(Here):
        def turn(self):
            said.append(self.step())
            return super().turn()

        def close(self):
            said.append("closed")

    workload = Workload("letters", "", 1, constant(1.0), {"b": constant(1.0 + 1e-7)})
    list(bench([workload], facts=FACTS, repeats=3, place=Told))
    assert said == [1.0, 1.0 + 1e-7] * 3 + ["closed"] * 2


# what is refused ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("peer", "step"),
    [
        (partial(training_step, replace(TASK, config=SIZES | {"depth": 2})), 1),  # another model
        (partial(training_step, replace(TASK, rate=0.0)), 2),  # the same model, but it does not learn
        (partial(inference, TASK), 1),  # numbers of another shape
        (constant(math.nan), 1),
    ],
)
def test_a_peer_that_computes_something_else_is_an_error_and_nothing_is_timed(peer, step, monkeypatch):
    monkeypatch.setattr(Here, "turn", None)
    with pytest.raises(Disagreement, match=f"tiny: wrong computes something else: at step {step} "):
        run(tiny(wrong=peer))


def test_a_difference_is_relative_to_the_largest_number():
    assert measure.difference(np.array([1.0, 10.0]), np.array([1.5, 10.0])) == 0.05
    assert measure.difference(np.zeros(2), np.zeros(2)) == 0.0
    assert measure.difference(np.zeros(2), np.zeros(3)) == math.inf


def test_a_peer_that_is_not_installed_is_named_and_left_out():
    result = run(tiny(torch=absent))
    assert list(result.peers) == []
    assert "a_library_that_is_not_there" in result.absent["torch"]
    assert "ratio" not in result.row()
    assert run(tiny(torch=absent), peers=False).absent == {}, "who is not asked for is not missing"


def test_names_of_workloads():
    assert [w.name for w in find_workloads()] == ["W1_train", "W1_forward"]
    assert find_workloads(["all"]) == find_workloads()
    assert [w.name for w in find_workloads(["W1-forward"])] == ["W1_forward"]
    with pytest.raises(ValueError, match="there is no workload 'W9'; there are W1_train"):
        find_workloads(["W9", "all"])
    with pytest.raises(ValueError, match="repeats"):
        bench(repeats=0)


def test_the_workloads_are_what_they_say():
    """W1: 65 tokens of width 192, 6 blocks of 3 heads; its parameters counted by hand."""
    model = workloads.W1.create()
    D = 192
    block = 4 * D + (3 * D * D + 3 * D) + (D * D + D) + (4 * D * D + 4 * D) + (4 * D * D + D)
    assert model.num_parameters() == 6 * block + 48 * D + D + 65 * D + D + 2 * D + 10 * D + 10
    images, labels = workloads.W1.data()
    assert (images.shape, images.dtype, labels.shape) == ((64, 32, 32, 3), np.float32, (64,))
    assert model.config.num_heads == 3
    assert model.state_dict()["head.weight"].dtype == np.float32


# the machine -------------------------------------------------------------------------------


def test_facts_of_this_machine(monkeypatch):
    monkeypatch.setenv("OPENBLAS_CORETYPE", "Haswell")
    found = machine_facts(1)
    assert found.threads == 1
    assert found.cores >= 1
    assert found.gemm_gflops > 0
    assert found.versions["numpy"] == np.__version__
    assert found.blas.endswith(", pinned")
    assert found.environment["OPENBLAS_CORETYPE"] == "Haswell"
    assert facts.installed(["a_library_that_is_not_there"]) == {}
    for threads in (0, 100_000):
        with pytest.raises(ValueError, match=f"threads: expected 1 … {found.cores}"):
            machine_facts(threads)


# a process of its own ----------------------------------------------------------------------


def test_a_process_answers_as_here_does():
    apart, here = Apart(partial(inference, TASK), 1), Here(partial(inference, TASK), 1)
    try:
        for a, b in zip(apart.warm_up(), here.warm_up(), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-6)
        assert apart.turn().seconds > 0
        assert apart.peak() is None or apart.peak() > 10
    finally:
        apart.close()
    assert apart.process.poll() is not None


def test_a_process_has_the_threads_that_were_asked_for_and_may_print():
    apart = Apart(noisy, 7)
    try:
        assert apart.warm_up() == [7.0] * contender.WARM_UP
    finally:
        apart.close()


@pytest.mark.parametrize(
    ("made", "error", "said"),
    [
        (absent, ImportError, "a_library_that_is_not_there"),
        (broken, ChildProcessError, "ZeroDivisionError: no such luck"),
        (dying, ChildProcessError, "status 3"),
    ],
)
def test_what_goes_wrong_in_a_process_is_said_here(made, error, said):
    with pytest.raises(error, match=said):
        Apart(made, 1)


# the command -------------------------------------------------------------------------------


@pytest.fixture
def only_tiny(monkeypatch):
    monkeypatch.setattr(workloads, "WORKLOADS", (tiny(torch=absent),))
    monkeypatch.setattr(facts, "gemm_gflops", lambda threads: 100.0)


def test_the_command_prints_and_writes_what_it_measured(only_tiny, tmp_path, capsys):
    path = tmp_path / "new" / "bench.json"
    assert cli.main(["bench", "tiny", "--threads", "1", "--repeats", "2", "--json", str(path), "--quiet"]) == 0
    said = capsys.readouterr()
    assert said.err == ""
    for word in (
        "1 threads used",
        "median of the turns",
        "peak memory",
        "torch is not measured",
        "pip install torch==",
    ):
        assert word in said.out
    (row,) = json.loads(path.read_text(encoding="utf-8"))
    assert row["workload"] == "tiny"
    assert row["threads"] == 1
    assert len(row["ours_turns_ms"]) == 2
    assert os.listdir(path.parent) == ["bench.json"]


def test_rows_come_back_from_the_file_as_they_were(tmp_path):
    result = run(tiny())
    path = write_rows([result, result], tmp_path / "rows.json")
    assert json.loads(path.read_text(encoding="utf-8")) == [result.row()] * 2


def test_without_a_peer_nothing_is_said_of_it(only_tiny, capsys):
    assert cli.main(["bench", "--no-torch", "--repeats", "1", "--quiet", "--threads", "1"]) == 0
    assert "torch is not measured" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (["--threads", "0"], 2, "a whole number, one or more"),
        (["--threads", "two"], 2, "a whole number, one or more"),
        (["--threads", "100000"], 1, "threads: expected 1 …"),
        (["--repeats", "0"], 2, "a whole number, one or more"),
        (["--against", "jax"], 2, "invalid choice"),
        (["--workload", "W9"], 1, "there is no workload 'W9'"),
        (["W9"], 1, "there is no workload 'W9'"),
        (["--json", "."], 1, "it is a folder"),
        (["--json", "FILE/below/b.json"], 1, "cannot write into the folder"),
    ],
)
def test_what_makes_no_sense_is_said_before_anything_is_measured(
    arguments, status, said, tmp_path, monkeypatch, capsys
):
    (tmp_path / "FILE").write_text("here first")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(package, "bench", None)
    assert exit_status(["bench", *arguments]) == status
    assert said in capsys.readouterr().err


def exit_status(arguments):
    """What the shell sees."""
    try:
        return cli.main(arguments)
    except SystemExit as stopped:
        return stopped.code


def test_ctrl_c_ends_the_processes_and_leaves_no_file(only_tiny, tmp_path, monkeypatch, capsys):
    started = []

    def interrupted(self):
        started.append(self.process)
        raise KeyboardInterrupt

    monkeypatch.setattr(Apart, "turn", interrupted)
    assert cli.main(["bench", "--quiet", "--threads", "1", "--json", str(tmp_path / "b.json")]) == 130
    assert "stopped" in capsys.readouterr().err
    assert started[0].poll() is not None
    assert os.listdir(tmp_path) == []


# PyTorch, where it is installed -------------------------------------------------------------


@pytest.mark.parametrize(("ours", "theirs"), [(training_step, torch_training_step), (inference, torch_inference)])
def test_pytorch_computes_the_same(ours, theirs):
    pytest.importorskip("torch", reason="PyTorch is not installed; the benchmark does without it")
    workload = Workload("tiny", "", TASK.batch, partial(ours, TASK), {"torch": partial(theirs, TASK)})
    result = run(workload, repeats=1)
    assert result.differences["torch"] < 1e-5
    assert {"ratio", "torch_ms", "torch_mb"} <= result.row().keys()


def test_pytorch_with_another_activation_is_caught(monkeypatch):
    torch = pytest.importorskip("torch", reason="PyTorch is not installed; the benchmark does without it")
    functional = torch.nn.functional
    monkeypatch.setattr(functional, "gelu", functional.silu)
    peers = {"torch": partial(torch_inference, TASK)}
    with pytest.raises(Disagreement, match="torch computes something else"):
        run(Workload("tiny", "", TASK.batch, partial(inference, TASK), peers))
