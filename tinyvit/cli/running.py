"""Models that are trained, many of them, and what they score."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from tinyvit.cli.terms import add_jobs, add_trained, count, name_failed, program, say_line, seed, table, trained


def add_commands(commands) -> None:
    """Their parsers."""
    train = commands.add_parser("train", help="train a model in a folder; a run that was stopped goes on with --resume")
    train.add_argument("--config", metavar="FILE", help="settings to begin with: the config.toml of a run")
    _add_run(train, {})
    train.set_defaults(run=_train)

    finetune = commands.add_parser("finetune", help="train on from a run's weights: other data, larger images")
    finetune.add_argument("source", metavar="RUN|FILE", help="a run's folder; or a weight file, with --model")
    _add_run(finetune, {"recipe": "finetune"})
    finetune.set_defaults(run=_finetune)

    sweep = commands.add_parser(
        "sweep", help="train every combination of settings over seeds; called again, it goes on"
    )
    sweep.add_argument("--out", required=True, metavar="DIR", help="folder for the runs and sweep.json")
    sweep.add_argument("--seeds", type=seed, nargs="+", default=[0, 1, 2], metavar="N", help="default 0 1 2")
    sweep.add_argument("--set", action="append", default=[], metavar="NAME=VALUE,VALUE…",
                       help="a setting to vary, once for each; what stays the same is a flag: --epochs 5")  # fmt: skip
    add_jobs(sweep)
    _add_settings(sweep, {}, without=("seed",))
    sweep.set_defaults(run=_sweep)

    results = commands.add_parser("results", help="what slides claim, tried in small: runs, table, figure")
    results.add_argument("names", nargs="*", metavar="NAME", help="which, or all; without one they are listed")
    size = results.add_mutually_exclusive_group()
    size.add_argument("--fast", dest="size", action="store_const", const="fast", help="only to see that it works")
    size.add_argument(
        "--full", dest="size", action="store_const", const="full", help="more seeds, longer runs: a night"
    )
    results.add_argument("--seeds", type=seed, nargs="+", metavar="N", help="others than the experiment's own")
    results.add_argument("--out", default="figures", metavar="DIR", help="folder for caches, tables, figures")
    add_jobs(results)
    results.set_defaults(run=_results, size="usual")

    evaluate = commands.add_parser("evaluate", help="what a trained model scores, class by class")
    add_trained(evaluate)
    evaluate.set_defaults(run=_evaluate)

    probe = commands.add_parser(
        "probe", help="a linear probe of a trained model's features, from a few images per class"
    )
    add_trained(probe)
    probe.add_argument("--shots", type=count, default=10, metavar="N", help="images per class (default 10)")
    probe.add_argument("--blocks", type=count, default=1, metavar="N", help="features of the last N blocks (default 1)")
    probe.add_argument("--draws", type=count, default=5, metavar="N", help="how often they are drawn (default 5)")
    probe.set_defaults(run=_probe)


def _add_run(parser, differing: dict) -> None:
    """A flag for every setting of a run, and those that change nothing in its result."""
    parser.add_argument("--out", required=True, metavar="DIR", help="the run's folder")
    parser.add_argument("--resume", action="store_true", help="go on from the folder's checkpoint")
    parser.add_argument("--threads", type=count, metavar="N", help="threads for micro-batches (default all cores)")
    parser.add_argument("--quiet", action="store_true", help="no progress bar and no lines, only the result")
    _add_settings(parser, differing)


def _add_settings(parser, differing: dict, without: tuple[str, ...] = ()) -> None:
    from dataclasses import fields

    from tinyvit.runs.config import RECIPES, RunConfig

    for f in fields(RunConfig):
        if f.name in without:
            continue
        kind, default = type(f.default), differing.get(f.name, f.default)
        how: dict = {"type": kind, "metavar": {int: "N", float: "X"}.get(kind, f.name.upper())}
        if kind is bool:
            how = {"action": argparse.BooleanOptionalAction}
        elif choices := f.metadata["choices"] or (f.name == "recipe" and list(RECIPES)):
            how = {"choices": choices}
        about = f"{f.metadata['about']} (default {'none' if default == '' else default})".replace("%", "%%")
        parser.add_argument(f"--{f.name.replace('_', '-')}", default=argparse.SUPPRESS, help=about, **how)


def _train(options) -> int:
    from tinyvit.runs import RunFolder

    file = RunFolder(Path(options.out)).config
    return _run(options, options.config or (options.resume and file.is_file() and file) or None)


def _finetune(options) -> int:
    from tinyvit import create_model
    from tinyvit.runs import config_of_run
    from tinyvit.runs.training import existing

    source = existing(options.source)
    given = {"recipe": "finetune", "weights": str(source)}
    if source.is_dir():
        run = config_of_run(source)
        given |= {"model": run.model, "data": run.data, "seed": run.seed, "weights": str(source / "model.safetensors")}
    given |= _settings(options)
    if "positions" not in given and hasattr(create_model(given.get("model", "vit_digits")), "fitted"):
        given["positions"] = "timm"
    return _run(options, None, given)


def _settings(options) -> dict:
    """The settings of a run that were given as flags."""
    from dataclasses import fields

    from tinyvit.runs import RunConfig

    return {f.name: getattr(options, f.name) for f in fields(RunConfig) if hasattr(options, f.name)}


def _run(options, file, given: dict | None = None) -> int:
    from tinyvit.runs import RunFolder, Stopped, configured, run
    from tinyvit.train.parallel import Team, communicator

    team = Team(communicator())
    folder = RunFolder(Path(options.out))
    say = say_line if team.leads and not options.quiet else lambda line: None
    try:
        config = configured(file=file, **(_settings(options) if given is None else given))
        result = run(config, folder.path, resume=options.resume, threads=options.threads, progress=not options.quiet,
                     say=say, team=team)  # fmt: skip
    except Exception as error:
        if team.size > 1:
            print(
                f"tinyvit: process {team.comm.rank} of {team.size} ends the run: {error}", file=sys.stderr, flush=True
            )
            team.abort()
        raise
    except Stopped:
        again = f"{program()} train --out {options.out} --resume"
        print(f"\nstopped at a checkpoint; `{again}` goes on", file=sys.stderr)
        return 130
    test = result["test"]
    if team.leads:
        print(f"test accuracy {test['accuracy']:.1%}, loss {test['loss']:.4f}; weights: {folder.weights}")
    return 0


def _sweep(options) -> int:
    from tinyvit.runs.sweep import MEASURED, mean_and_std, parsed, sweep

    say = (lambda line: None) if options.quiet else say_line
    swept = sweep(options.out, parsed(options.set), options.seeds, jobs=options.jobs, say=say, **_settings(options))
    rows = [(setting, str(len(of["test loss"]["runs"])), *(mean_and_std(of[name]) for name in MEASURED))
            for setting, of in swept.rows.items()]  # fmt: skip
    table(("mean ± standard deviation", "runs", *MEASURED), *rows)
    return name_failed(swept.failed)


def _results(options) -> int:
    from tinyvit.results import EXPERIMENTS, find_experiment, result

    if not options.names:
        table(*((name, find_experiment(name).title) for name in EXPERIMENTS), left=(0, 1))
        return 0
    names = EXPERIMENTS if options.names == ["all"] else options.names
    for name in names:
        find_experiment(name)  # before the first one runs
    say = (lambda line: None) if options.quiet else say_line
    status = 0
    for name in names:
        found = result(name, size=options.size, seeds=options.seeds, jobs=options.jobs, out=options.out, say=say)
        if found.table:
            for reading in found.experiment.readings:
                print(f"\n{found.experiment.title}: {reading.label}, mean ± standard deviation over seeds\n")
                table(*found.table.as_text(reading))
            print(f"\nClaim: {found.experiment.claim}\n{found.verdict}\n{found.path}; runs took {found.seconds:.0f} s")
        status = name_failed(found.failed) or status
    return status


def _evaluate(options) -> int:
    from tinyvit.runs.probe import scored

    model, task = trained(options)
    reports = {part: scored(model, getattr(task.splits, part)) for part in ("validation", "test")}
    if options.json:
        print(json.dumps({part: report.as_dict() for part, report in reports.items()}))
        return 0
    table(("", *reports), ("images", *(str(sum(map(sum, r.confusion))) for r in reports.values())),
           ("accuracy", *(f"{r.accuracy:.1%}" for r in reports.values())),
           ("loss", *(f"{r.loss:.4f}" for r in reports.values())),
           *((f"  class {k}", *(f"{r.per_class[k]:.1%}" for r in reports.values()))
             for k in range(task.classes)))  # fmt: skip
    return 0


def _probe(options) -> int:
    import numpy as np

    from tinyvit.runs.probe import features, few_shot

    model, task = trained(options)
    parts = [(features(model, part.images, blocks=options.blocks), part.labels) for part in task.splits]
    draws = np.random.default_rng(options.seed).spawn(options.draws)
    accuracies = [few_shot(*parts, shots=options.shots, rng=rng) for rng in draws]
    found = {"shots": options.shots, "blocks": options.blocks, "features": parts[0][0].shape[1],
             "accuracies": accuracies, "mean": float(np.mean(accuracies)),
             "std": float(np.std(accuracies))}  # fmt: skip
    if options.json:
        print(json.dumps(found))
        return 0
    print(f"{found['mean']:.1%} ± {found['std']:.1%} of the test images, from {options.shots} per class "
          f"({options.draws} draws, {found['features']} features)")  # fmt: skip
    return 0
