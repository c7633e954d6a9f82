"""Many runs: every combination of some settings, each over several seeds, side by side, and a table of what came out.

    DIR/rate=0.001,model=vit_digits/seed0    a run folder, as of `tinyvit train`
    DIR/sweep.json                           mean and standard deviation over the seeds, by setting

A sweep that was stopped goes on where it was: finished runs are left as they are, the others go on from their
checkpoints.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from itertools import product
from pathlib import Path
from urllib.parse import quote

from tinyvit.files import make_folder, write_atomically
from tinyvit.machine import in_processes
from tinyvit.runs.config import RunConfig, configured, known
from tinyvit.runs.run import run

MEASURED = ("validation accuracy", "test accuracy", "test loss")


@dataclass(frozen=True)
class Planned:
    """A run of a sweep: which of the combinations it belongs to, all its settings, its folder."""

    setting: str
    config: RunConfig
    folder: Path


@dataclass(frozen=True)
class Swept:
    """What came of a sweep.

    rows    setting -> what was measured -> {"mean", "std", "runs"}; std is None for a single run
    failed  folder -> why
    """

    rows: dict[str, dict[str, dict]]
    failed: dict[str, str]


def parsed(texts: Sequence[str]) -> dict[str, list]:
    """``["rate=1e-3,2e-3", …]`` as names of settings and their values. Raises ValueError for what is no such list."""
    varied = dict(map(_list_of_values, texts))
    if len(varied) < len(texts):
        raise ValueError(f"--set: expected every setting once, got {' and '.join(texts)}")
    return varied


def _list_of_values(text: str) -> tuple[str, list]:
    name, _, values = text.partition("=")
    name = name.replace("-", "_")
    known("no such setting", name, [f.name for f in fields(RunConfig)], "--set")
    if name == "seed":
        raise ValueError("--set: seeds are given by --seeds")
    kind = type(getattr(RunConfig(), name))
    found = [_value(kind, value) for value in values.split(",")]
    if None in found or len(set(found)) < len(found):
        raise ValueError(f"--set: expected {name}=VALUE,VALUE… of kind {kind.__name__}, all different, got {text!r}")
    return name, found


def _value(kind: type, text: str):
    """The text as a value of that kind, or None."""
    try:
        return {"true": True, "false": False}.get(text) if kind is bool else kind(text)
    except ValueError:
        return None


def plan(out, varied: dict[str, list], seeds: Sequence[int], **given) -> list[Planned]:
    """Every combination of the varied settings, over every seed; ``given`` are those they have in common.

    Raises ValueError for a setting or value that there is not: before anything has run.
    """
    planned = []
    for values in product(*varied.values()):
        chosen = dict(zip(varied, values, strict=True))
        setting = ",".join(f"{name}={value}" for name, value in chosen.items()) or "defaults"
        for seed in seeds:
            config = configured(**{**given, **chosen, "seed": seed})
            planned.append(Planned(setting, config, Path(out) / quote(setting, safe="=,") / f"seed{seed}"))
    return planned


def sweep(out, varied: dict[str, list], seeds: Sequence[int], *, jobs: int = 1,
          say: Callable[[str], None] = lambda line: None, **given) -> Swept:  # fmt: skip
    """Do all runs of a plan that are not done, ``jobs`` at a time, and write ``sweep.json``.

    A run that fails does not keep the others from running. Raises ValueError for settings that there are not, and where
    several jobs need joblib; OSError where nothing can be written.
    """
    planned = plan(out, varied, seeds, **given)
    make_folder(Path(out))
    results, failed = {}, {}
    work = [(one.config, one.folder) for one in planned]
    for i, result, error in in_processes(_finished_run, work, jobs):
        one = planned[i]
        if error:
            failed[str(one.folder)] = error
        else:
            results[one.folder] = result
        say(f"{len(results) + len(failed)}/{len(planned)}  {one.setting}  seed {one.config.seed}  "
            + (error or f"test accuracy {result['test']['accuracy']:.1%}"))  # fmt: skip
    swept = Swept(_rows(planned, results), failed)
    written = {"settings": varied, "seeds": list(seeds), "rows": swept.rows, "failed": failed}
    write_atomically(Path(out) / "sweep.json", (json.dumps(written, indent=1) + "\n").encode())
    return swept


def _finished_run(config: RunConfig, folder: Path) -> dict:
    return run(config, folder, resume=True, threads=1, progress=False)


def _rows(planned: list[Planned], results: dict[Path, dict]) -> dict[str, dict]:
    """The statistics of every setting that has a finished run."""
    of_setting: dict[str, list] = {}
    for one in planned:
        if one.folder in results:
            of_setting.setdefault(one.setting, []).append(results[one.folder])
    return {
        setting: {name: spread([found[part][what] for found in runs])
                  for name in MEASURED for part, what in [name.split()]}
        for setting, runs in of_setting.items()
    }  # fmt: skip


def spread(values: Sequence[float]) -> dict:
    """Mean and standard deviation (of a sample: n - 1) of some runs, and the runs."""
    return {"mean": statistics.fmean(values), "std": statistics.stdev(values) if len(values) > 1 else None,
            "runs": list(values)}  # fmt: skip


def mean_and_std(found: dict) -> str:
    """A ``spread`` as it stands in a table."""
    return f"{found['mean']:.3f}" + ("" if found["std"] is None else f" ± {found['std']:.3f}")
