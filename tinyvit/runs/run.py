"""A training run in a folder: settings, metrics, checkpoint, weights. It can be killed at any moment and goes on.

What is random is a function of the seed and of the step: the order of epoch e comes from (seed, 1, e), the noise of
step s from (seed, 2, s), its augmentation from (seed, 3, s). So where a run stands is its step, its weights and what
the optimiser keeps; no generator has a state to be saved, and a run that was killed ends with the bits of one that was
not.

    config.toml              the settings; `tinyvit train --config` runs them again
    metrics.jsonl            a line per epoch
    checkpoint.safetensors   the last state, see checkpoint.py
    model.safetensors        the result: the averaged weights, if there is an average
    result.json              what it scores on the test images; a run that has it is finished
    curves.png               loss and accuracy by step
"""

from __future__ import annotations

import hashlib
import json
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np

from tinyvit.data import Dataset
from tinyvit.data.augment import Augmentation, repeated
from tinyvit.files import make_folder, remove_half_written, write_atomically
from tinyvit.machine import blas_threads, useful_workers
from tinyvit.nn.embed import pixels
from tinyvit.nn.module import Module
from tinyvit.nn.weights import save_weights
from tinyvit.runs.checkpoint import CheckpointError, read_checkpoint, write_checkpoint
from tinyvit.runs.config import RunConfig, configured
from tinyvit.runs.tasks import Task
from tinyvit.runs.training import (
    augmentation_for,
    average_of,
    gradient_for,
    initial_model,
    optimizer_for,
    schedule_for,
    task_for,
)
from tinyvit.train import evaluate, training
from tinyvit.train.parallel import Team

ORDER, NOISE, LOOKS = 1, 2, 3  # purposes of random numbers


def random_at(config: RunConfig, purpose: int, at: int) -> np.random.Generator:
    """Where the random numbers of an epoch's order, or of a step, come from."""
    return np.random.default_rng([config.seed, purpose, at])


@dataclass(frozen=True)
class RunFolder:
    """The files of a run."""

    path: Path

    config = property(lambda self: self.path / "config.toml")
    metrics = property(lambda self: self.path / "metrics.jsonl")
    checkpoint = property(lambda self: self.path / "checkpoint.safetensors")
    weights = property(lambda self: self.path / "model.safetensors")
    result = property(lambda self: self.path / "result.json")
    curves = property(lambda self: self.path / "curves.png")

    @property
    def files(self) -> tuple[Path, ...]:
        """Everything that a run writes."""
        numbers = self.curves.with_suffix(".json")
        return self.config, self.metrics, self.checkpoint, self.weights, self.result, self.curves, numbers

    @property
    def finished(self) -> bool:
        """Whether the run has come to its end."""
        return self.result.is_file()

    def read_metrics(self) -> list[dict]:
        """One record per epoch."""
        if not self.metrics.is_file():
            return []
        return [json.loads(line) for line in self.metrics.read_text(encoding="utf-8").splitlines()]

    def write_metrics(self, records: list[dict]) -> None:
        """All records, whole or not at all."""
        write_atomically(self.metrics, "".join(json.dumps(record) + "\n" for record in records).encode())


class Stopped(KeyboardInterrupt):
    """The run was asked to stop, and has saved where it stands."""


class Batches:
    """The minibatches of a whole run, from any step on, augmented. The last, smaller one of an epoch is left out."""

    def __init__(self, dataset: Dataset, config: RunConfig, start: int, augmentation: Augmentation | None):
        self.dataset, self.config, self.start, self.augmentation = dataset, config, start, augmentation
        self.size = min(config.batch_size, len(dataset.labels))
        self.per_epoch = len(self.order(0)) // self.size

    def __len__(self) -> int:
        return self.per_epoch * self.config.epochs - self.start

    def __iter__(self) -> Iterator[Dataset]:
        for epoch in range(self.start // self.per_epoch, self.config.epochs):
            order = self.order(epoch)
            for i in range(max(self.start - epoch * self.per_epoch, 0), self.per_epoch):
                yield self.batch(order[i * self.size : (i + 1) * self.size], epoch * self.per_epoch + i)

    def order(self, epoch: int) -> np.ndarray:
        """The images of an epoch: all of them, or several versions of some."""
        rng, total = random_at(self.config, ORDER, epoch), len(self.dataset.labels)
        return rng.permutation(total) if self.config.repeats == 1 else repeated(total, rng, repeats=self.config.repeats)

    def batch(self, chosen: np.ndarray, step: int) -> Dataset:
        """The images of a step, as the model sees them."""
        images, labels = self.dataset
        batch = Dataset(pixels(images[chosen]).astype(self.config.dtype, copy=False), labels[chosen])
        if self.augmentation is None:
            return batch
        images, labels = self.augmentation(*batch, random_at(self.config, LOOKS, step))
        return Dataset(images.astype(self.config.dtype, copy=False), labels)


class Run:
    """A run as it stands: model, optimiser, average, the next step, and the records of its epochs."""

    def __init__(self, config: RunConfig, folder: RunFolder, threads: int | None, team: Team):
        self.config, self.folder, self.threads, self.team = config, folder, threads, team
        self.task: Task = task_for(config)
        self.model: Module = initial_model(config, self.task)
        self.optimizer = optimizer_for(config, self.model)
        self.average = average_of(config, self.model)
        self.step, self.records = 0, []
        self.total_loss = 0.0  # of the steps of this epoch

    # saving and going on --------------------------------------------------------------------

    @property
    def digest(self) -> str:
        """Which settings a checkpoint belongs to."""
        return hashlib.sha256(self.config.as_toml().encode()).hexdigest()[:16]

    def parts(self) -> dict:
        """What goes on in a checkpoint."""
        parts = {"model": self.model.state_dict(), "optimizer": self.optimizer.state()}
        return parts | ({"average": self.average.state()} if self.average else {})

    def save(self) -> None:
        """Write where the run stands; the metrics first, so that a checkpoint never lacks the lines before it."""
        if not self.team.leads:
            return
        self.folder.write_metrics(self.records)
        write_checkpoint(
            self.folder.checkpoint,
            {"step": self.step, "total_loss": self.total_loss, "settings": self.digest},
            self.parts(),
        )

    def go_on(self) -> None:
        """Take up the folder's checkpoint. Raises CheckpointError, and changes nothing, for one of another run."""
        facts, parts = read_checkpoint(self.folder.checkpoint)
        if facts.get("settings") != self.digest or parts.keys() != self.parts().keys():
            raise CheckpointError(f"{self.folder.checkpoint}: it belongs to a run with other settings")
        try:
            self.optimizer.restore(parts["optimizer"])
            self.model.load_state_dict(parts["model"])
            if self.average:
                self.average.restore(parts["average"])
        except ValueError as error:
            raise CheckpointError(f"{self.folder.checkpoint}: {error}") from error
        self.step, self.total_loss = int(facts["step"]), float(facts["total_loss"])
        self.records = [record for record in self.folder.read_metrics() if record["step"] <= self.step]

    # training -------------------------------------------------------------------------------

    def train(self, *, progress: bool, say: Callable[[str], None]) -> None:
        """Train to the end, saving after every epoch. Raises Stopped after Ctrl-C, when all is saved."""
        batches = Batches(self.task.splits.train, self.config, self.step, augmentation_for(self.config, self.task))
        schedule = schedule_for(self.config, batches.per_epoch)
        gradient = gradient_for(self.config, self.threads, self.team)
        noise = partial(random_at, self.config, NOISE)
        began, first, waited = time.perf_counter(), self.step, self.team.seconds
        with interruptible() as asked:
            for step in training(self.model, batches, gradient, self.optimizer, schedule, rng=noise, start=self.step,
                                 progress=self.config.model if progress else None):  # fmt: skip
                self.step = step.number + 1
                self.total_loss += step.loss
                if self.average:
                    self.average.update()
                if self.step % batches.per_epoch == 0:
                    if self.team.leads:
                        took = time.perf_counter() - began
                        speed, waiting = batches.size * (self.step - first) / took, (self.team.seconds - waited) / took
                        self.record(self.total_loss / batches.per_epoch, step, speed, waiting)
                        say(described(self.records[-1], self.config.epochs))
                    self.total_loss = 0.0
                    self.save()
                    began, first, waited = time.perf_counter(), self.step, self.team.seconds
                if self.team.any(asked.stop):
                    self.save()
                    raise Stopped

    def record(self, loss: float, step, images_per_second: float, waiting: float) -> None:
        """Write down how the epoch went; ``waiting`` is the share of its time spent on other processes."""
        score = self.score(self.task.splits.validation)
        epoch = len(self.records) + 1
        self.records.append({"epoch": epoch, "step": self.step, "loss": loss, "validation_loss": score.loss,
                             "validation_accuracy": score.accuracy, "rate": step.rate,
                             "gradient_norm": step.gradient_norm, "images_per_second": images_per_second,
                             "waiting": waiting})  # fmt: skip

    def score(self, dataset: Dataset):
        """Loss and accuracy of the weights that would be the result."""
        with self.average.weights() if self.average else nullcontext():
            return evaluate(self.model, dataset)

    def finish(self) -> dict:
        """Write the weights and what they score on the test images; the latter last, since it ends the run."""
        from tinyvit import plots

        with self.average.weights() if self.average else nullcontext():
            save_weights(self.model, self.folder.weights)
        test, last = self.score(self.task.splits.test), self.records[-1]
        validation = {name: last[f"validation_{name}"] for name in test._fields}
        result = {"model": self.config.model, "data": self.config.data, "recipe": self.config.recipe,
                  "seed": self.config.seed, "steps": self.step, "parameters": self.model.num_parameters(),
                  "training_loss": last["loss"], "validation": validation,
                  "test": test._asdict()}  # fmt: skip
        steps = [record["step"] for record in self.records]
        curves = {"loss": (steps, [record["loss"] for record in self.records]),
                  "accuracy": (steps, [record["validation_accuracy"] for record in self.records])}  # fmt: skip
        plots.save(plots.training_curves({self.config.model: curves}), self.folder.curves, curves)
        write_atomically(self.folder.result, (json.dumps(result, indent=1) + "\n").encode())
        return result


def run(config: RunConfig, out, *, resume: bool = False, threads: int | None = None, progress: bool = True,
        say: Callable[[str], None] = lambda line: None, team: Team | None = None) -> dict:  # fmt: skip
    """Train as the settings say, in a folder, and return what ``result.json`` holds.

    resume    go on from the folder's checkpoint; a finished run is left as it is
    threads   Python threads that micro-batches run on (see ``threaded``); the cores there are, unless given
    progress  show a progress bar on stderr
    say       is told in lines what happens
    team      the processes that share out every batch; each runs on one thread unless told otherwise, the leader writes

    Raises Stopped when Ctrl-C ended it and all is saved; ValueError for a folder that holds a run already, or one of
    other settings; CheckpointError for a checkpoint that cannot be gone on from; OSError where nothing can be written.
    """
    folder, team = RunFolder(Path(out)), team or Team()
    begun = team.told(lambda: _begun(folder, config, resume))
    if team.told(lambda: folder.finished):
        say(f"{folder.path}: this run is finished")
        return json.loads(folder.result.read_text(encoding="utf-8"))
    current = Run(config, folder, 1 if team.size > 1 and not threads else threads, team)
    small = useful_workers(current.model.num_parameters()) == 1  # threads of BLAS would wait for each other
    with blas_threads(1) if team.size > 1 or small else nullcontext():
        team.told(lambda: _made_ready(folder))
        if begun and team.told(folder.checkpoint.is_file):
            current.go_on()
            say(f"going on from step {current.step}")
        else:
            say("starting from the beginning" + (f": there is no checkpoint in {folder.path}" if resume else ""))
            team.told(lambda: write_atomically(folder.config, config.as_toml().encode()))
        current.train(progress=progress and team.leads, say=say)
        return team.told(current.finish)


def _begun(folder: RunFolder, config: RunConfig, resume: bool) -> bool:
    """Whether the folder holds this run. Raises ValueError if it holds one that must not be touched."""
    begun = folder.config.is_file()
    if begun and not resume:
        raise ValueError(f"{folder.path} holds a run already; add --resume to go on, or choose another folder")
    if begun:
        _same_settings(folder, config)
    return begun


def _made_ready(folder: RunFolder) -> None:
    """The folder is there, and nothing in it is half-written by a run that was killed."""
    make_folder(folder.path)
    remove_half_written(*folder.files)


def _same_settings(folder: RunFolder, config: RunConfig) -> None:
    """Raise ValueError naming every setting that differs from the folder's."""
    there = asdict(configured(file=folder.config))
    if odd := [f"{name}: {there[name]!r} there, {value!r} now" for name, value in asdict(config).items()
               if there[name] != value]:  # fmt: skip
        raise ValueError(f"{folder.path} holds a run with other settings; leave them away to go on with it, or choose "
                         "another folder:\n  " + "\n  ".join(odd))  # fmt: skip


def described(record: dict, epochs: int) -> str:
    """An epoch's record in a line."""
    r = record
    return (f"epoch {r['epoch']:>3}/{epochs}  loss {r['loss']:.4f}  validation {r['validation_loss']:.4f} "
            f"{r['validation_accuracy']:.1%}  {r['images_per_second']:.0f} images/s")  # fmt: skip


@contextmanager
def interruptible():
    """Ctrl-C, for the length of the block, asks to stop and is answered between steps; a second one stops at once."""

    class Asked:
        stop = False

    asked = Asked()
    if threading.current_thread() is not threading.main_thread():
        yield asked  # only the main thread hears signals
        return

    def hear(number, frame):
        if asked.stop:
            raise KeyboardInterrupt
        asked.stop = True

    before = signal.signal(signal.SIGINT, hear)
    try:
        yield asked
    finally:
        signal.signal(signal.SIGINT, before)
