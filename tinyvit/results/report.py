"""Doing an experiment: the runs that are not in its cache, then its table and its figure.

OUT/results_NAME.runs.json    the cache: every run that was done, its settings, what it measured, how long it took
OUT/results_NAME.json, .png   the table and the figure, made from it
"""

from __future__ import annotations

import importlib
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from tinyvit import plots
from tinyvit.files import make_folder, write_atomically
from tinyvit.machine import in_processes
from tinyvit.results.experiment import Experiment, Trial
from tinyvit.results.table import Reading, Table
from tinyvit.runs.config import known

EXPERIMENTS = ("inductive_bias", "distillation", "sharpness", "positions", "depth", "pretraining", "noisy_student",
               "convergence", "degradation", "minima", "class_token", "two_papers", "sam_minima", "spectra",
               "landscapes", "paths", "shifts", "robustness")  # fmt: skip


@dataclass(frozen=True)
class Result:
    """What came of an experiment: its table, what it says of the claim, the picture, seconds of all runs, failures."""

    experiment: Experiment
    table: Table | None
    verdict: str
    path: Path
    seconds: float
    failed: dict[str, str]


def find_experiment(name: str) -> Experiment:
    """One of EXPERIMENTS. Raises ValueError naming them for another."""
    known("no such experiment", name, EXPERIMENTS, "name")
    return importlib.import_module(f"tinyvit.results.{name}").EXPERIMENT


def result(name: str, *, size: str = "usual", seeds: Sequence[int] | None = None, jobs: int = 1, out="figures",
           say: Callable[[str], None] = lambda line: None) -> Result:  # fmt: skip
    """Do an experiment's runs, but for those in the cache, and write its table and figure.

    size   "fast", "usual" or "full"; what is not usual is written under a name of its own
    seeds  others than the size's own

    Raises ValueError for an unknown name, or where several jobs need joblib; OSError where nothing can be written.
    """
    experiment = find_experiment(name)
    told = dict(experiment.sizes[size])
    own = told.pop("seeds")
    seeds = own if seeds is None else tuple(dict.fromkeys(seeds))
    trials = experiment.trials(**told)
    stem = f"results_{name}" + ("" if size == "usual" else f"_{size}")
    cache = Cache(make_folder(Path(out)) / f"{stem}.runs.json")
    wanted = [(key, trial, seed) for seed in seeds for key, trial in trials.items()]
    missing = [one for one in wanted if cache.find(*one) is None]
    failed = {}
    work = [(experiment.measure, trial, seed) for _, trial, seed in missing]
    for i, found, error in in_processes(_timed, work, jobs):
        (row, column), trial, seed = missing[i]
        if error:
            failed[f"{row}, {column}, seed {seed}"] = error
        else:
            cache.add((row, column), trial, seed, *found)
        done = len(wanted) - len(missing) + len(cache.added) + len(failed)
        say(f"{done}/{len(wanted)}  {row}, {column}, seed {seed}  {error or f'{found[1]:.0f} s'}")
    runs = [cache.find(*one) for one in wanted]
    if failed:
        return Result(experiment, None, "", cache.path, 0.0, failed)
    table, seconds = tabled(runs, experiment.readings[0]), sum(run["seconds"] for run in runs)
    verdict = experiment.verdict(table)
    numbers = {"title": experiment.title, "claim": experiment.claim, "verdict": verdict, "size": told,
               "seeds": seeds, "seconds": seconds, "table": table.as_numbers()}  # fmt: skip
    path = plots.save(experiment.figure(table), cache.path.with_name(f"{stem}.png"), numbers)
    return Result(experiment, table, verdict, path, seconds, failed)


def _timed(measure: Callable, trial: Trial, seed: int) -> tuple[dict, float]:
    began = time.perf_counter()
    return measure(trial, seed), time.perf_counter() - began


def tabled(runs: Sequence[dict], reading: Reading) -> Table:
    """The cells that some runs fill; what a run has under names of its own are rows of their own."""
    cells: dict[tuple, list] = {}
    for run in runs:
        for name, numbers in run["found"].items():
            cells.setdefault((name or run["row"], run["column"]), []).append(numbers)
    return Table(cells, reading)


class Cache:
    """The runs that were done, in a file that is rewritten, whole, after each."""

    def __init__(self, path: Path):
        self.path, self.added = path, []
        self.runs = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else []

    def find(self, key: tuple, trial: Trial, seed: int) -> dict | None:
        """The record of a run with exactly these settings, if there is one."""
        wanted = _identity(key, trial, seed)
        return next((run for run in self.runs if wanted.items() <= run.items()), None)

    def add(self, key: tuple, trial: Trial, seed: int, found: dict, seconds: float) -> None:
        """Write down a run that was done."""
        self.added.append(key)
        self.runs.append(_identity(key, trial, seed) | {"seconds": round(seconds, 2), "found": found})
        lines = ",\n".join(json.dumps(run, ensure_ascii=False) for run in self.runs)
        write_atomically(self.path, f"[\n{lines}\n]\n".encode())


def _identity(key: tuple, trial: Trial, seed: int) -> dict:
    """What tells a run from others, as JSON gives it back."""
    return json.loads(json.dumps({"row": key[0], "column": key[1], "seed": seed} | asdict(trial)))
