"""The benchmark: what it reports and what it refuses. How fast anything is, is never asserted."""

import json
import math
import os
import sys
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from contenders import absent, broken, dying, noisy

from tinyvit import bench as package
from tinyvit import cli, create_model, machine
from tinyvit.bench import (
    AXES,
    WORKLOADS,
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
    hand_written,
    machine_facts,
    measure,
    members,
    scaling,
    throughput,
    workloads,
    write_rows,
)
from tinyvit.bench.contender import Turn, sampled
from tinyvit.bench.ours import gradient, inference, on_one_thread, training_step
from tinyvit.bench.scaling import Axis, Growth, draw, power
from tinyvit.bench.tasks import Convolution, Images, MapLayer, Windows
from tinyvit.bench.workloads import PRODUCTS, and_torch
from tinyvit.cli.measuring import BENCH
from tinyvit.models.catalogue import PAPERS, paper_of

SIZES = {"img_size": 8, "patch_size": 4, "embed_dim": 24, "depth": 1, "num_heads": 3, "num_classes": 10}
TASK = Images("vit_tiny_patch16_224", SIZES, batch=10)
FACTS = Facts("a processor", 2, 2, "a BLAS, auto", 100.0, {}, {"numpy": "2.0"})


def constant(value):
    """A contender whose every step gives the same number."""
    return lambda threads: lambda: value


def tiny(**peers):
    return Workload("tiny", "a tiny ViT", TASK.batch, partial(training_step, TASK), peers)


def shrunk(x):
    """A contender of the table with a tiny task in its place; anything else as it is."""
    if isinstance(x, partial):
        return partial(x.func, *map(shrunk, x.args), **{name: shrunk(value) for name, value in x.keywords.items()})
    if x == PRODUCTS:
        return 2
    if isinstance(x, Images):
        return replace(x, config=x.config | SIZES, batch=TASK.batch)
    if isinstance(x, Convolution):
        return replace(x, batch=2, side=9, channels=4, groups=min(x.groups, 4))
    if isinstance(x, Windows):
        return replace(x, batch=2, side=9, dim=12, window=3)
    return x


def small(workload):
    """A workload of the table, made so small that it takes no time."""
    peers, beside = ({name: shrunk(c) for name, c in them.items()} for them in (workload.peers, workload.beside))
    return replace(workload, ours=shrunk(workload.ours), peers=peers, beside=beside, pieces=min(workload.pieces, 2))


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
        (partial(gradient, TASK), 1),  # more of them
        (constant(math.nan), 1),
        (constant(None), 1),
    ],
)
def test_a_peer_that_computes_something_else_is_an_error_and_nothing_is_timed(peer, step, monkeypatch):
    monkeypatch.setattr(Here, "turn", None)
    with pytest.raises(Disagreement, match=f"tiny: wrong computes something else: at step {step} "):
        run(tiny(wrong=peer))


def test_what_stands_beside_ours_is_compared_too_unless_it_does_other_work():
    workload = Workload("letters", "", 1, constant(1.0), beside={"b": constant(1.0), "other": constant(None)})
    result = run(workload, peers=False)
    assert list(result.peers) == ["b", "other"]
    assert result.differences == {"b": 0.0}
    assert result.row()["other_ratio"] > 0
    assert result.row()["other_difference"] is None
    with pytest.raises(Disagreement, match="b computes something else"):
        run(replace(workload, beside={"b": constant(2.0)}))


def test_a_difference_is_relative_to_the_largest_number_of_its_array():
    a, b = np.array([1.0, 10.0]), np.array([1.5, 10.0])
    assert measure.difference([a], [b]) == 0.05
    assert measure.difference([a, a * 0, a], [a, a * 0, b]) == 0.05
    assert measure.difference([a * 1e-6, a], [b * 1e-6, a]) == pytest.approx(0.05), "a small array counts as well"
    assert measure.difference([np.zeros(2)], [np.zeros(3)]) == math.inf
    assert measure.difference([a], [a, a]) == math.inf


def test_what_a_step_gives_is_compared_by_a_sample():
    assert sampled(None) == []
    assert [x.tolist() for x in sampled(0.5)] == [[0.5]]
    x = np.arange(24.0).reshape(2, 3, 4)
    np.testing.assert_array_equal(sampled((1, x.T))[1], x.T.ravel())
    (some,) = sampled(np.arange(64_000, dtype=np.float32).reshape(1000, 64))
    assert len(some) <= contender.SAMPLE
    assert some.dtype == np.float64
    assert set(some % 64) == set(range(64)), "no channel is left out"


def test_a_peer_that_is_not_installed_is_named_and_left_out():
    result = run(tiny(torch=absent))
    assert list(result.peers) == []
    assert "a_library_that_is_not_there" in result.absent["torch"]
    assert "ratio" not in result.row()
    assert run(tiny(torch=absent), peers=False).absent == {}, "who is not asked for is not missing"


@pytest.mark.parametrize("workload", [w for w in WORKLOADS if w.peers], ids=lambda w: w.name)
def test_without_pytorch_every_workload_leaves_it_out(workload, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)  # import torch raises ImportError
    monkeypatch.delitem(sys.modules, "tinyvit.bench.torch_peer", raising=False)
    monkeypatch.delattr(package, "torch_peer", raising=False)
    result = run(replace(small(workload), ours=constant(1.0), beside={}), repeats=1)
    assert list(result.absent) == ["torch"]


def test_names_of_workloads():
    table = [w.name for w in find_workloads()]
    assert table == ["W1_train", "W1_forward", "W2", "W3", "W4a", "W4b", "W5_grad", "W5_hvp", "tape", "small"]
    assert table == BENCH.split(", ")
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


def test_the_other_workloads_are_what_they_say():
    """Parameters, multiply-accumulates and shapes, counted by hand."""
    assert workloads.W2.create().num_parameters() == 5_717_416, "ViT-Ti/16 of 1000 classes, as DeiT counts it"
    assert workloads.W2.data()[0].shape == (8, 224, 224, 3)
    blocks = workloads.W3.create().blocks
    assert [block.shift for block in blocks] == [(0, 0), (3, 3)]
    assert [block.attn.window for block in blocks] == [(7, 7)] * 2
    assert workloads.W3.data()[0].shape == (4, 56, 56, 96)
    assert [x.shape for x in workloads.W4a.data()] == [(64, 32, 32, 64), (64, 64, 3, 3), (64,), (64, 32, 32, 64)]
    assert [x.shape for x in workloads.W4b.data()] == [(4, 56, 56, 96), (96, 1, 7, 7), (96,), (4, 56, 56, 96)]
    assert (workloads.W4a.settings, workloads.W4b.settings) == (
        {"padding": 1, "groups": 1},
        {"padding": 3, "groups": 96},
    )
    config = workloads.W5.create().config
    assert (config.embed_dim, config.depth, config.num_heads, workloads.W5.batch) == (64, 4, 2, 16)


@pytest.mark.parametrize("workload", WORKLOADS, ids=lambda w: w.name)
def test_every_workload_runs_without_pytorch(workload):
    workload = small(workload)
    numbers = sampled(workload.ours(1)())
    assert all(np.isfinite(x).all() and x.size for x in numbers), "finite numbers"
    assert numbers, "to be compared with a peer's"
    result = run(workload, peers=False, repeats=1)
    assert list(result.peers) == list(workload.beside)
    assert all(d < 1e-6 for d in result.differences.values())


@pytest.mark.parametrize("workload", WORKLOADS, ids=lambda w: w.name)
def test_who_may_use_one_thread_uses_one(workload, monkeypatch):
    monkeypatch.setattr(machine, "SMALL_MODEL", 0)  # a model of any size is worth two
    monkeypatch.setattr(machine, "cores", lambda: 2)
    monkeypatch.setattr(machine, "ThreadPoolExecutor", None)  # and who starts them fails
    assert sampled(small(workload).ours(1)())


def test_what_stands_beside_which_workload():
    assert {w.name: list(w.beside) for w in WORKLOADS if w.beside} == {
        "W5_hvp": ["gradient"],
        "tape": ["by_hand"],
        "small": ["one_thread"],
    }
    assert [w.name for w in WORKLOADS if not w.peers] == ["tape", "small"]


def test_times_are_those_of_one_piece(monkeypatch):
    monkeypatch.setattr(Here, "turn", lambda self: Turn(1.0, 0.0))
    workload = Workload("letters", "", 8, constant(1.0), beside={"b": constant(1.0)}, pieces=4)
    row = run(workload).row()
    assert (row["ours_ms"], row["b_ms"], row["ours_images_per_second"]) == (250.0, 250.0, 32.0)


def test_a_workload_may_have_its_own_number_of_threads():
    told = []

    def asked(threads):
        told.append(threads)
        return lambda: 1.0

    workload = Workload("letters", "", 1, asked, beside={"b": asked}, threads=1)
    assert run(workload).row()["threads"] == 1
    assert told == [1, 1]
    run(replace(workload, threads=None))
    assert told[2:] == [FACTS.threads] * 2


def test_one_thread_is_one_thread():
    from threadpoolctl import threadpool_info, threadpool_limits

    def counting(task, threads):
        return lambda: [lib["num_threads"] for lib in threadpool_info() if lib["user_api"] == "blas"]

    with threadpool_limits(2, user_api="blas"):
        held = on_one_thread(counting, TASK, 2)()
    assert set(held) <= {1}


def test_by_hand_every_parameter_has_its_derivative(monkeypatch):
    """And a slip in the hand-written code would be seen."""
    workload = small(*find_workloads(["tape"]))
    result = run(workload, repeats=1)
    assert result.differences["by_hand"] < 1e-6
    monkeypatch.setattr(hand_written, "now", lambda c: 2 * c() if callable(c) else c)
    with pytest.raises(Disagreement, match="by_hand computes something else"):
        run(workload, repeats=1)


# how time grows ----------------------------------------------------------------------------


def test_the_power_of_a_law():
    assert power({1: 3.0, 2: 12.0, 4: 48.0}) == pytest.approx(2.0)
    assert power({3: 5.0, 9: 15.0}) == pytest.approx(1.0)


@pytest.mark.parametrize(("layer", "reach"), [("MSA", 7), ("W-MSA", 7), ("W-MSA", 2), ("NA", 5), ("OA", 3), ("OA", 5)])
def test_what_a_layer_multiplies_is_what_its_formula_says(layer, reach):
    for side, dim, heads in ((14, 32, 1), (28, 24, 3)):
        task = MapLayer(layer, batch=2, side=side, dim=dim, heads=heads, reach=reach)
        assert task.macs() == task.formula(), f"{layer} on {side}×{side}"


def test_outlook_attention_of_an_odd_map_and_of_volo_d1():
    """⌈H/2⌉ windows along each axis; 79.1 million in the paper's first stage."""
    assert MapLayer("OA", batch=1, side=7, dim=6, heads=3, reach=3).macs() == 2 * 49 * 36 + 16 * 6 * 81 * 4
    assert MapLayer("OA", batch=1, side=28, dim=192, heads=6, reach=3).formula() == pytest.approx(79.1e6, rel=1e-3)


def test_arithmetic_is_linear_in_batch_and_depth_and_more_than_that_in_tokens():
    expected = {axis.name: power({size: task.macs() for size, task in axis.tasks.items()}) for axis in AXES}
    assert expected["batch"] == pytest.approx(1.0, abs=1e-12)
    assert 0.98 < expected["depth"] < 1.0, "patches and head do not grow with it"
    assert 1.05 < expected["tokens"] < 1.5
    assert 1.9 < expected["places_MSA"] < 2.0, "the projections are linear"
    assert expected["places_W_MSA"] == pytest.approx(1.0, abs=1e-12)
    assert expected["places_NA"] == pytest.approx(1.0, abs=1e-12)
    assert expected["places_OA"] == pytest.approx(1.0, abs=1e-12)
    for axis in AXES[1:3]:
        for size, task in axis.tasks.items():
            model = task.blueprint()
            assert size == (model.config.depth if axis.name == "depth" else model.pos_embed.shape[1])


class Lawful(Here):
    """A turn takes batch^1.5 seconds."""

    def __init__(self, contender, threads):
        super().__init__(contender, threads)
        (self.task,) = contender.args

    def turn(self):
        return Turn(self.task.batch**1.5, 0.0)


def test_growth_is_measured_size_by_size():
    axis = Axis("batch", "a tiny ViT", {n: replace(TASK, batch=n) for n in (2, 4, 8)})
    (growth,) = scaling([axis], facts=FACTS, repeats=2, place=Lawful)
    assert growth.slope == pytest.approx(1.5)
    assert growth.expected == pytest.approx(1.0)
    row = growth.row()
    assert json.loads(json.dumps(row)) == row
    assert (row["workload"], row["threads"], row["blas"]) == ("scaling_batch", FACTS.threads, FACTS.blas)
    assert row["sizes"] == [2, 4, 8]
    assert row["sizes_ms"] == pytest.approx([1e3 * n**1.5 for n in (2, 4, 8)])
    assert row["ours_ms"] == row["sizes_ms"][-1]
    with pytest.raises(ValueError, match="repeats"):
        scaling(repeats=0)


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
            np.testing.assert_allclose(a[0], b[0], rtol=1e-6, atol=1e-6)
        assert apart.turn().seconds > 0
        assert apart.peak() is None or apart.peak() > 10
    finally:
        apart.close()
    assert apart.process.poll() is not None


def test_a_process_has_the_threads_that_were_asked_for_and_may_print():
    apart = Apart(noisy, 7)
    try:
        assert apart.warm_up() == [[7.0]] * contender.WARM_UP
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


def test_every_paper_has_a_member_in_the_throughput_and_all_are_of_one_size():
    """The member nearest to ViT-S/16, which is its own paper's."""
    names = members()
    assert names.count("vit_small_patch16_224") == 1
    assert {paper_of(name) for name in names} == {paper.PAPER for paper in PAPERS if paper.PUBLISHED}
    assert {"deit_small_patch16_224", "swin_tiny_patch4_window7_224", "resnet34", "bert_base_uncased"} <= set(names)
    sides = [getattr(create_model(name).config, "img_size", None) for name in names]
    assert set(sides) == {224, None}, "images at one resolution, and texts"


def test_throughput_is_relative_to_the_reference(monkeypatch, capsys):
    """Texts have two inputs here; no number is claimed of how fast anything is."""
    monkeypatch.setattr(sys.modules["tinyvit.bench.throughput"], "REFERENCE", "vit_digits")
    names = ["resnet_digits", "transformer_micro", "vit_digits"]
    rows = list(throughput(names, facts=FACTS, place=Here, repeats=2))
    assert [row.name for row in rows] == names
    assert rows[0].parameters == create_model("resnet_digits").num_parameters()
    for row in rows:
        assert row.result.workload.batch == FACTS.threads, "an image for every thread"
        assert row.relative == pytest.approx(1 / row.result.paired_ratio("vit_digits"))
        assert json.loads(json.dumps(row.row())) == row.row()
        assert row.row()["macs"] == row.macs > 0
    monkeypatch.setattr(package, "throughput", lambda names, **settings: rows)
    assert cli.main(["bench", "--models", "--quiet", "--threads", "1"]) == 0
    said = capsys.readouterr().out
    assert all(name in said for name in (*names, "beside ViT-S/16"))


def test_the_command_prints_how_time_grows(only_tiny, tmp_path, monkeypatch, capsys):
    axes = [Axis("batch", "a tiny ViT", {n: replace(TASK, batch=n) for n in (2, 4)})]
    monkeypatch.setattr(package, "scaling", partial(scaling, axes, place=Here))
    path = tmp_path / "rows.json"
    command = ["bench", "--scaling", "--repeats", "1", "--quiet", "--threads", "1", "--json", str(path)]
    assert cli.main(command) == 0
    said = capsys.readouterr().out
    for word in ("a tiny ViT", "MACs", "time grows like batch^", "arithmetic like ^1.00"):
        assert word in said
    assert [row["workload"] for row in json.loads(path.read_text(encoding="utf-8"))] == ["scaling_batch"]
    assert cli.main(["bench", "--figure", "x.png"]) == 1
    assert "--figure is of --scaling" in capsys.readouterr().err


def took(seconds):
    return Times((Turn(seconds, 0.0),), None)


def test_the_figure_of_growth_goes_through_the_largest_map(tmp_path):
    tasks = {n**2: MapLayer("W-MSA", batch=1, side=n, dim=4, heads=1, reach=2) for n in (4, 8)}
    growths = [Growth(Axis("places_W_MSA", "", tasks), FACTS, {16: took(3e-3), 64: took(8e-3)}, {}),
               Growth(Axis("batch", "", {}), FACTS, {}, {})]  # fmt: skip
    path = draw(growths, tmp_path / "growth.png")
    written = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
    assert written["ms"] == {"W-MSA": [[16, 64], [3.0, 8.0]]}
    (law,) = written["formula_ms"].values()
    assert law == [[16, 64], [2.0, 8.0]], "windows: four times the places, four times the work"
    assert path.with_suffix(".svg").is_file()
    assert draw(growths[1:], tmp_path / "none.png") is None


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
        (["W2", "--scaling"], 1, "--scaling is measured alone, without W2"),
        (["--scaling", "--models"], 1, "--scaling is measured alone, without --models"),
        (["--models", "vit"], 1, "there is no model 'vit'"),
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

NO_TORCH = "PyTorch is not installed; the benchmark does without it"


@pytest.mark.parametrize("workload", [w for w in WORKLOADS if w.peers], ids=lambda w: w.name)
def test_pytorch_computes_the_same(workload):
    pytest.importorskip("torch", reason=NO_TORCH)
    result = run(small(workload), repeats=1)
    assert result.differences["torch"] < 1e-5
    assert {"ratio", "torch_ms", "torch_mb"} <= result.row().keys()


def test_pytorch_with_another_activation_is_caught(monkeypatch):
    torch = pytest.importorskip("torch", reason=NO_TORCH)
    functional = torch.nn.functional
    monkeypatch.setattr(functional, "gelu", functional.silu)
    with pytest.raises(Disagreement, match="torch computes something else"):
        run(Workload("tiny", "", **and_torch(inference, TASK)))
