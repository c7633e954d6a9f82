"""Several processes train as one does."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import tinyvit
from tinyvit import cli
from tinyvit.runs import RunFolder, configured, run
from tinyvit.train import classification, gradient_of
from tinyvit.train.parallel import AllReduced, Team, communicator

MPIEXEC = shutil.which("mpiexec", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]))


class Comm:
    """Processes that take turns: what the others would have sent is computed here."""

    def __init__(self, rank, size, others=()):
        self.rank, self.size, self.others = rank, size, others

    def Allreduce(self, mine, total):
        total[:] = mine + sum(self.others)


class Sent(Exception):
    """Carries what a process sends."""


class Listening(Comm):
    """Stops where the numbers are sent."""

    def Allreduce(self, mine, total):
        raise Sent(mine)


def sent(gradient, model, batch, rank, size):
    with pytest.raises(Sent) as numbers:
        AllReduced(gradient, Listening(rank, size))(model, batch)
    return numbers.value.args[0]


@pytest.mark.parametrize("size", [2, 3])
def test_shares_of_a_batch_add_up_to_its_gradient(size, rng):
    model = tinyvit.create_model("vit_digits", rng=rng).astype(np.float64)
    batch = rng.random((7, 8, 8, 1)), rng.integers(0, 10, 7)
    gradient = gradient_of(classification())
    loss, g = gradient(model, batch)
    others = [sent(gradient, model, batch, rank, size) for rank in range(1, size)]
    total, reduced = AllReduced(gradient, Comm(0, size, others))(model, batch)
    assert abs(total - loss) < 1e-13
    assert max(np.abs(g[name] - reduced[name]).max() for name in g) < 1e-13


def test_processes_have_noise_of_their_own(rng):
    model = tinyvit.create_model("vit_digits", rng=rng, drop_rate=0.5).astype(np.float64)
    image = rng.random((1, 8, 8, 1)).repeat(4, axis=0), np.array([3, 3, 3, 3])
    model.train(np.random.default_rng(0))
    first = sent(gradient_of(classification()), model, image, 0, 2)
    model.train(np.random.default_rng(0))
    second = sent(gradient_of(classification()), model, image, 1, 2)
    assert np.abs(first - second).max() > 1e-6


def test_a_model_in_which_samples_meet_is_not_cut(rng):
    model = tinyvit.create_model("resnet_digits", rng=rng).train(rng)
    batch = rng.random((4, 8, 8, 1), dtype=np.float32), rng.integers(0, 10, 4)
    loss, _ = AllReduced(gradient_of(classification()), Listening(0, 2))(model, batch)
    assert np.isfinite(loss)
    with pytest.raises(ValueError, match="4 samples cannot be shared out among 5"):
        AllReduced(gradient_of(classification()), Listening(0, 5))(model, batch)


def test_alone_there_is_no_mpi(monkeypatch):
    for name in ("PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "PMIX_RANK"):
        monkeypatch.delenv(name, raising=False)
    assert communicator() is None
    assert Team().told(lambda: 5) == 5
    monkeypatch.setenv("PMI_SIZE", "2")
    monkeypatch.setitem(sys.modules, "mpi4py", None)
    with pytest.raises(ValueError, match=r"tinyvit\[mpi\]"):
        communicator()


needs_mpi = pytest.mark.skipif(MPIEXEC is None, reason="needs mpiexec and mpi4py: pip install 'tinyvit[mpi]'")


def together(out, *arguments):
    return subprocess.run([MPIEXEC, "-n", "2", sys.executable, "-m", "tinyvit", "train", "--out", str(out), *arguments],
                          capture_output=True, text=True, timeout=120, check=False)  # fmt: skip


@needs_mpi
def test_two_processes_train_as_one_does(tmp_path):
    """Fifty steps in float64; only one writes, and the other says nothing."""
    settings = {"epochs": 5, "warmup": 1.0, "train_size": 320, "dtype": "float64"}
    flags = [text for name, value in settings.items() for text in (f"--{name.replace('_', '-')}", str(value))]
    run(configured(**settings), tmp_path / "one", progress=False)
    result = together(tmp_path / "two", *flags)
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("test accuracy") == 1
    assert result.stdout.count("epoch   1/5") == 1
    one, two = (RunFolder(tmp_path / name).read_metrics() for name in ("one", "two"))
    assert one[-1]["step"] == 50
    np.testing.assert_allclose([r["loss"] for r in two], [r["loss"] for r in one], rtol=1e-5)
    assert together(tmp_path / "two", "--resume").stdout.count("this run is finished") == 1
    refused = together(tmp_path / "two", *flags)
    assert refused.returncode != 0
    assert "holds a run already" in refused.stderr


@needs_mpi
def test_a_process_that_fails_ends_the_others(tmp_path):
    result = together(tmp_path / "x", "--rate", "1e9", "--clip", "0", "--dtype", "float32", "--epochs", "200")
    assert result.returncode != 0
    assert "ends the run: the loss is" in result.stderr
    assert cli.main(["evaluate", str(tmp_path / "x")]) == 1
