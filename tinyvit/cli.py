"""The command line: it parses, calls one function per verb, and prints. No logic lives here."""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import time
from pathlib import Path

BENCH = "W1_train, W1_forward, W2, W3, W4a, W4b, W5_grad, W5_hvp, tape, small"  # a test compares it with the table


def main(arguments: list[str] | None = None) -> int:
    """Run one command; the exit status is 0, or 1 for what failed, 2 for what was not understood, 130 for Ctrl-C."""
    options = _parser().parse_args(arguments)
    try:
        return options.run(options)
    except KeyboardInterrupt:
        print("\nstopped; whatever was finished is kept", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader, `head` say, has seen enough
        sys.stderr.close()
        return 0
    except (OSError, ValueError, TypeError) as error:
        print(f"tinyvit: {error}", file=sys.stderr)
        return 1


def _parser() -> argparse.ArgumentParser:
    from tinyvit import __version__

    parser = argparse.ArgumentParser(prog="tinyvit", description="Vision transformers from scratch, in NumPy.")
    parser.add_argument("--version", action="version", version=f"tinyvit {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    tour = commands.add_parser("tour", help="train a ViT on real digits and look inside it, in under a minute")
    tour.add_argument("--seed", type=_seed, default=0, help="where every random number comes from (default 0)")
    tour.add_argument("--out", default="figures", metavar="DIR", help="folder for the figures (default figures)")
    tour.add_argument("--fast", action="store_true", help="a quarter of the time, and worse models")
    tour.add_argument("--quiet", action="store_true", help="no progress bars, only the result")
    tour.set_defaults(run=_tour)

    train = commands.add_parser("train", help="train a model in a folder; a run that was stopped goes on with --resume")
    train.add_argument("--config", metavar="FILE", help="settings to begin with: the config.toml of a run")
    _add_run(train, {})
    train.set_defaults(run=_train)

    sweep = commands.add_parser(
        "sweep", help="train every combination of settings over seeds; called again, it goes on"
    )
    sweep.add_argument("--out", required=True, metavar="DIR", help="folder for the runs and sweep.json")
    sweep.add_argument("--seeds", type=_seed, nargs="+", default=[0, 1, 2], metavar="N", help="default 0 1 2")
    sweep.add_argument("--set", action="append", default=[], metavar="NAME=VALUE,VALUE…",
                       help="a setting to vary, once for each; what stays the same is a flag: --epochs 5")  # fmt: skip
    _add_jobs(sweep)
    _add_settings(sweep, {}, without=("seed",))
    sweep.set_defaults(run=_sweep)

    results = commands.add_parser("results", help="what slides claim, tried in small: runs, table, figure")
    results.add_argument("names", nargs="*", metavar="NAME", help="which, or all; without one they are listed")
    size = results.add_mutually_exclusive_group()
    size.add_argument("--fast", dest="size", action="store_const", const="fast", help="only to see that it works")
    size.add_argument(
        "--full", dest="size", action="store_const", const="full", help="more seeds, longer runs: a night"
    )
    results.add_argument("--seeds", type=_seed, nargs="+", metavar="N", help="others than the experiment's own")
    results.add_argument("--out", default="figures", metavar="DIR", help="folder for caches, tables, figures")
    _add_jobs(results)
    results.set_defaults(run=_results, size="usual")

    finetune = commands.add_parser("finetune", help="train on from a run's weights: other data, larger images")
    finetune.add_argument("source", metavar="RUN|FILE", help="a run's folder; or a weight file, with --model")
    _add_run(finetune, {"recipe": "finetune"})
    finetune.set_defaults(run=_finetune)

    evaluate = commands.add_parser("evaluate", help="what a trained model scores, class by class")
    _add_trained(evaluate)
    evaluate.set_defaults(run=_evaluate)

    probe = commands.add_parser(
        "probe", help="a linear probe of a trained model's features, from a few images per class"
    )
    _add_trained(probe)
    probe.add_argument("--shots", type=_count, default=10, metavar="N", help="images per class (default 10)")
    probe.add_argument(
        "--blocks", type=_count, default=1, metavar="N", help="features of the last N blocks (default 1)"
    )
    probe.add_argument("--draws", type=_count, default=5, metavar="N", help="how often they are drawn (default 5)")
    probe.set_defaults(run=_probe)

    sharpness = commands.add_parser("sharpness", help="how sharp a trained model's loss is: eigenvalues, trace, SAM's")
    _add_around(sharpness)
    _add_sharpness(sharpness)

    landscape = commands.add_parser("landscape", help="the loss around a trained model's weights, in figures")
    _add_around(landscape)
    _add_landscape(landscape)

    attention = commands.add_parser("attention", help="where a trained model looks: maps over images, and numbers")
    _add_trained(attention)
    _add_attention(attention)

    robustness = commands.add_parser("robustness", help="what is left of a trained model's accuracy on harder images")
    _add_trained(robustness)
    _add_robustness(robustness)

    models = commands.add_parser("models", help="list the models: paper, parameters, multiply-accumulates")
    models.add_argument("pattern", nargs="?", default="*", help='a shell pattern such as "vit_*"')
    models.set_defaults(run=_models)

    describe = commands.add_parser("describe", help="a model's modules, shapes, parameters and MACs")
    describe.add_argument("model", help="a name that `tinyvit models` lists")
    describe.add_argument("--depth", type=int, default=2, help="how far down the modules go (default 2)")
    describe.set_defaults(run=_describe)

    ledger = commands.add_parser("ledger", help="the counts on the slides beside the exact ones, and why they differ")
    ledger.add_argument("--json", nargs="?", const="-", metavar="FILE", help="every exact count as data, there or here")
    ledger.set_defaults(run=_ledger)

    classify = commands.add_parser("classify", help="what a model, with weights of yours, sees in a photo")
    classify.add_argument("image", metavar="IMAGE", help="a JPEG or PNG")
    classify.add_argument("--model", required=True, metavar="NAME", help="a name that `tinyvit models` lists")
    classify.add_argument("--weights", required=True, metavar="FILE", help="a file, or hf-hub:owner/name")
    classify.add_argument("--labels", metavar="FILE", help="the names of the classes, one a line")
    classify.add_argument("--preprocess", choices=("inception", "imagenet"), help="colours, if not the paper's own")
    classify.add_argument("--attention", metavar="PNG", help="draw where the model looked")
    classify.add_argument("--top", type=_count, default=5, metavar="N", help="how many classes (default 5)")
    classify.set_defaults(run=_classify)

    figures = commands.add_parser("figures", help="figures for slides: an idea step by step, on a few tokens")
    figures.add_argument("names", nargs="*", metavar="NAME", help="which to draw, or all; without one they are listed")
    figures.add_argument("--out", default="figures", metavar="DIR", help="folder for them (default figures)")
    figures.set_defaults(run=_figures)

    weights = commands.add_parser("weights", help="look into a file of weights")
    _add_weights(weights.add_subparsers(metavar="ACTION", required=True))

    bench = commands.add_parser("bench", help="how fast this machine is at it, and PyTorch beside it")
    bench.add_argument("workloads", nargs="*", metavar="WORKLOAD", help=f"{BENCH}, all (default all)")
    bench.add_argument("--workload", action="append", default=[], metavar="WORKLOAD", help="the same, as an option")
    bench.add_argument("--scaling", action="store_true", help="only how time grows with sizes and places")
    bench.add_argument(
        "--models", action="store_true", help="only a model of every paper, or those named, beside a ViT"
    )
    bench.add_argument("--threads", type=_count, metavar="N", help="threads for every contender (default all cores)")
    bench.add_argument(
        "--repeats", type=_count, metavar="N", help="turns of each (default 9, of --scaling and --models 3)"
    )
    bench.add_argument("--json", metavar="FILE", help="write the results there, with the facts of the machine")
    bench.add_argument("--against", choices=("torch", "none"), default="torch", help="the peer (default torch)")
    bench.add_argument("--no-torch", dest="against", action="store_const", const="none", help="--against none")
    bench.add_argument("--quiet", action="store_true", help="no progress bars, only the result")
    bench.set_defaults(run=_bench)

    exercises = commands.add_parser("exercises", help="functions to write yourself, graded by pytest, with hints")
    _add_exercises(exercises.add_subparsers(metavar="ACTION", required=True))
    return parser


def _add_run(parser, differing: dict) -> None:
    """A flag for every setting of a run, and those that change nothing in its result."""
    parser.add_argument("--out", required=True, metavar="DIR", help="the run's folder")
    parser.add_argument("--resume", action="store_true", help="go on from the folder's checkpoint")
    parser.add_argument("--threads", type=_count, metavar="N", help="threads for micro-batches (default all cores)")
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
        about = f"{f.metadata['about']} (default {default})".replace("%", "%%")
        parser.add_argument(f"--{f.name.replace('_', '-')}", default=argparse.SUPPRESS, help=about, **how)


def _add_jobs(parser) -> None:
    parser.add_argument(
        "--jobs", type=_count, default=1, metavar="N", help="processes; several need joblib (default 1)"
    )
    parser.add_argument("--quiet", action="store_true", help="no line per run, only the result")


def _add_trained(parser) -> None:
    """Which trained model, and which data."""
    parser.add_argument("source", metavar="RUN|FILE", nargs="?", help="a run's folder; or a weight file, with --model")
    parser.add_argument("--weights", metavar="FILE", dest="file", help="the weight file, as an option")
    parser.add_argument("--model", metavar="NAME", help="the model that a weight file is of")
    parser.add_argument("--data", metavar="NAME", help="other data than the run's, see `tinyvit train --help`")
    parser.add_argument("--seed", type=_seed, default=0, help="of what is drawn (default 0)")
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def _add_around(parser) -> None:
    """Which trained model, and on which images its loss is looked at."""
    _add_trained(parser)
    parser.add_argument("--images", type=_count, default=500, metavar="N", help="training images (default 500)")
    parser.add_argument("--chunk", type=_count, metavar="N", help="images in memory at a time (default all)")
    parser.add_argument("--quiet", action="store_true", help="no progress bars, only the result")


def _add_sharpness(parser) -> None:
    parser.add_argument("--matrix", choices=("hessian", "gauss-newton", "fisher"), default="hessian", help="whose "
                        "eigenvalues (default hessian)")  # fmt: skip
    parser.add_argument("--names", metavar="PATTERN", default="*", help='only parameters such as "blocks.0.*"')
    parser.add_argument("--tol", type=float, default=1e-2, help="of the eigenvalues, relative (default 0.01)")
    parser.add_argument("--dtype", choices=("float32", "float64"), default="float64", help="(default float64)")
    parser.add_argument("--training", action="store_true", help="in training mode; the noise is drawn once")
    parser.add_argument("--blocks", action="store_true", help="also of every module by itself")
    parser.add_argument("--figure", metavar="PNG", help="draw the density of eigenvalues; also as SVG and PDF")
    parser.set_defaults(run=_sharpness)


def _add_landscape(parser) -> None:
    parser.add_argument("--out", required=True, metavar="DIR", help="folder for the figures; a walk goes on from there")
    parser.add_argument("--along", choices=("random", "hessian"), default="random", help="directions (default random)")
    parser.add_argument("--norm", choices=("neuron", "filter", "input"), default="neuron", help="what random "
                        "directions are as long as the weights by (default neuron)")  # fmt: skip
    parser.add_argument("--to", metavar="RUN|FILE", help="another model of the same kind, to go to in a line")
    parser.add_argument("--dimensions", type=int, choices=(1, 2), default=2, help="a line or a plane (default 2)")
    parser.add_argument("--points", type=_count, default=25, metavar="N", help="along each (default 25)")
    parser.add_argument("--span", type=float, metavar="X", help="how far to either side (default 1; of the hessian's, "
                        "four nats up the first parabola)")  # fmt: skip
    parser.set_defaults(run=_landscape)


def _add_attention(parser) -> None:
    parser.add_argument("--out", required=True, metavar="DIR", help="folder for the figures")
    parser.add_argument("--image", metavar="FILE", help="a JPEG or PNG of yours, not images of the data")
    parser.add_argument("--images", type=_count, default=6, metavar="N", help="test images (default 6)")
    parser.add_argument("--layer", type=_count, metavar="N", help="whose heads are drawn one by one (default the last)")
    parser.add_argument("--query", type=_share, nargs=2, metavar=("Y", "X"), help="what one place attends to, in "
                        "shares of the height and the width (default what the head reads)")  # fmt: skip
    parser.set_defaults(run=_attention)


def _add_robustness(parser) -> None:
    parser.add_argument("--images", type=_count, metavar="N", help="test images (default all)")
    parser.add_argument("--baseline", metavar="RUN|FILE", help="the model whose corruption error is called 100")
    parser.add_argument("--eps", type=float, default=0.03, metavar="X", help="how far attacks may change a pixel, of 1 "
                        "(default 0.03)")  # fmt: skip
    parser.add_argument("--draws", type=_count, default=3, metavar="N", help="of what is random (default 3)")
    parser.add_argument("--figure", metavar="PNG", help="draw what is left, kind by kind; also as SVG and PDF")
    parser.set_defaults(run=_robustness)


def _add_weights(actions) -> None:
    inspect = actions.add_parser("inspect", help="its arrays, and which model it fits")
    inspect.add_argument("file", metavar="FILE", help="safetensors, .npz of the original code, or hf-hub:owner/name")
    inspect.add_argument("--json", action="store_true", help="print it as JSON")
    inspect.set_defaults(run=_inspect)


def _add_exercises(actions) -> None:
    listing = actions.add_parser("list", help="which exercises there are")
    listing.set_defaults(run=_list_exercises)

    start = actions.add_parser("start", help="write the files to work in; nothing that is there is written over")
    start.add_argument("folder", metavar="DIR", help="where to; made if it is not there")
    start.add_argument("--only", nargs="+", metavar="NUMBER", help="some exercises, not all: --only 04 05")
    start.set_defaults(run=_start_exercises)

    hint = actions.add_parser("hint", help="a question, the formula, or the term that is usually missing")
    hint.add_argument("number", metavar="NUMBER", help="of the exercise: 04")
    hint.add_argument("level", metavar="LEVEL", type=_count, nargs="?", default=1, help="1, 2 or 3 (default 1)")
    hint.set_defaults(run=_hint)


def _seed(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"a seed is a whole number, zero or more, not {text!r}")
    return int(text)


def _count(text: str) -> int:
    if not (text.isdecimal() and int(text) >= 1):
        raise argparse.ArgumentTypeError(f"expected a whole number, one or more, not {text!r}")
    return int(text)


def _share(text: str) -> float:
    try:
        share = float(text)
    except ValueError:
        share = -1
    if not 0 <= share <= 1:
        raise argparse.ArgumentTypeError(f"expected a share from 0 to 1, not {text!r}")
    return share


def _tour(options) -> int:
    from tinyvit.machine import reuse_memory
    from tinyvit.tour import CAPTIONS, next_steps, tour

    reuse_memory()
    start = time.perf_counter()
    report = tour(seed=options.seed, out=options.out, fast=options.fast, progress=not options.quiet)
    names = list(report.accuracy)
    print(f"Two small models on real 8×8 digits, seed {options.seed}\n")
    _table(
        ("", *names),
        ("test accuracy", *(f"{report.accuracy[n]:.1%}" for n in names)),
        ("λmax of the training loss", *(f"{report.sharpness[n]:.3g}" for n in names)),
        ("   residual ‖Hv − λv‖", *(f"{report.residual[n]:.1g}" for n in names)),
        ("   at a training loss of", *(f"{report.matched_loss[n]:.3f}" for n in names)),
    )
    print(
        f"\nλmax: SciPy's eigsh on exact Hessian–vector products in float64, all parameters, evaluation mode,\n"
        f"  {report.plan.curvature_images} training images, at the first epoch whose training loss is below "
        f"{report.plan.matched_loss:g}"
        f"{_not_reached(report)}"
        f"\nAttention as convolution: {report.convolution_error:.1e} worst difference, K = 1 … 5, random kernels\n"
    )
    print("Figures (numbers beside each in a .json):")
    for path in report.figures:
        print(f"  {path}\n      {CAPTIONS[path.stem]}")
    print("\nThree things to try next:")
    for arguments, why in next_steps(options.seed).items():
        print(f"  {_program()} {arguments}\n      {why}")
    print(f"\n{time.perf_counter() - start:.0f} s")
    return 0


def _not_reached(report) -> str:
    """Which models never got to the loss at which curvature is compared."""
    late = [name for name, loss in report.matched_loss.items() if loss >= report.plan.matched_loss]
    return f"\n  (not reached by {', '.join(late)}: measured where it ended, so do not compare)" if late else ""


def _program() -> str:
    """How this command can be called again: by its name, or by the path it was called with."""
    return "tinyvit" if shutil.which("tinyvit") or not sys.argv[0].endswith("tinyvit") else sys.argv[0]


def _train(options) -> int:
    from tinyvit.runs import RunFolder

    file = RunFolder(Path(options.out)).config
    return _run(options, options.config or (options.resume and file.is_file() and file) or None)


def _finetune(options) -> int:
    from tinyvit import create_model
    from tinyvit.runs import config_of_run

    source = Path(options.source)
    if not source.exists():
        raise ValueError(
            f"{source}: there is no such run folder or weight file; `tinyvit train --out {source}` makes a run"
        )
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
    say = _say if team.leads and not options.quiet else lambda line: None
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
        again = f"{_program()} train --out {options.out} --resume"
        print(f"\nstopped at a checkpoint; `{again}` goes on", file=sys.stderr)
        return 130
    test = result["test"]
    if team.leads:
        print(f"test accuracy {test['accuracy']:.1%}, loss {test['loss']:.4f}; weights: {folder.weights}")
    return 0


def _sweep(options) -> int:
    from tinyvit.runs.sweep import MEASURED, mean_and_std, parsed, sweep

    say = (lambda line: None) if options.quiet else _say
    swept = sweep(options.out, parsed(options.set), options.seeds, jobs=options.jobs, say=say, **_settings(options))
    rows = [(setting, str(len(of["test loss"]["runs"])), *(mean_and_std(of[name]) for name in MEASURED))
            for setting, of in swept.rows.items()]  # fmt: skip
    _table(("mean ± standard deviation", "runs", *MEASURED), *rows)
    return _name_failed(swept.failed)


def _results(options) -> int:
    from tinyvit.results import EXPERIMENTS, find_experiment, result

    if not options.names:
        _table(*((name, find_experiment(name).title) for name in EXPERIMENTS), left=(0, 1))
        return 0
    names = EXPERIMENTS if options.names == ["all"] else options.names
    for name in names:
        find_experiment(name)  # before the first one runs
    say = (lambda line: None) if options.quiet else _say
    status = 0
    for name in names:
        found = result(name, size=options.size, seeds=options.seeds, jobs=options.jobs, out=options.out, say=say)
        if found.table:
            print(f"\n{found.experiment.title}: test accuracy, %, mean ± standard deviation over seeds\n")
            _table(*found.table.as_text())
            print(f"\nClaim: {found.experiment.claim}\n{found.verdict}\n{found.path}; runs took {found.seconds:.0f} s")
        status = _name_failed(found.failed) or status
    return status


def _name_failed(failed: dict[str, str]) -> int:
    for run, why in failed.items():
        print(f"failed: {run}: {why}", file=sys.stderr)
    return 1 if failed else 0


def _trained(options, source: str | None = None):
    """The trained model that the options name (or another of its kind), and its data."""
    from tinyvit.runs import model_and_task

    source = source or options.source or options.file
    if not source:
        raise ValueError("which model? a run's folder, or --weights FILE --model NAME")
    return model_and_task(source, data=options.data, name=options.model, seed=options.seed)


def _evaluate(options) -> int:
    from tinyvit.runs.probe import scored

    model, task = _trained(options)
    reports = {part: scored(model, getattr(task.splits, part)) for part in ("validation", "test")}
    if options.json:
        print(json.dumps({part: report.as_dict() for part, report in reports.items()}))
        return 0
    _table(("", *reports), ("images", *(str(sum(map(sum, r.confusion))) for r in reports.values())),
           ("accuracy", *(f"{r.accuracy:.1%}" for r in reports.values())),
           ("loss", *(f"{r.loss:.4f}" for r in reports.values())),
           *((f"  class {k}", *(f"{r.per_class[k]:.1%}" for r in reports.values()))
             for k in range(task.classes)))  # fmt: skip
    return 0


def _probe(options) -> int:
    import numpy as np

    from tinyvit.runs.probe import features, few_shot

    model, task = _trained(options)
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


def _sharpness(options) -> int:
    from tinyvit.machine import reuse_memory
    from tinyvit.runs import looking

    reuse_memory()
    model, task = _trained(options)
    found = looking.sharpness(
        model, looking.first(task.splits.train, options.images), matrix=options.matrix, names=options.names,
        tol=options.tol, dtype=options.dtype, training=options.training, blocks=options.blocks, chunk=options.chunk,
        density=20 if options.figure else 0, seed=options.seed, progress=not options.quiet,
    )  # fmt: skip
    if options.figure:
        found["figure"] = str(looking.draw_spectrum(found, Path(options.figure)))
    if options.json:
        print(json.dumps(found))
        return 0
    _table(
        ("", options.matrix, "error"),
        ("λmax", f"{found['lambda_max']:.4g}", f"≤ {found['residual']:.1g}"),
        ("λmin", f"{found['lambda_min']:.4g}", f"≤ {found['residual_min']:.1g}"),
        ("trace", f"{found['trace']:.4g}", f"± {found['trace_error']:.1g}"),
        ("SAM's sharpness, ρ = 0.05", f"{found['sam_sharpness']:.4g}", ""),
        ("loss", f"{found['loss']:.4g}", ""),
        *((f"λmax of {name}", f"{of['lambda_max']:.4g}", f"≤ {of['residual']:.1g}")
          for name, of in found.get("blocks", {}).items()),
    )  # fmt: skip
    told = found["protocol"]
    print(f"\n{told['n_params']:,} parameters ({told['parameters']}), {told['samples']} training images, "
          f"{told['mode']} mode, {told['dtype']}; {found['products']} products of "
          f"{found['seconds_per_product']:.2g} s")  # fmt: skip
    if options.figure:
        print(found["figure"])
    return 0


def _landscape(options) -> int:
    from tinyvit.machine import reuse_memory
    from tinyvit.runs import looking

    reuse_memory()
    model, task = _trained(options)
    batch, shared = looking.first(task.splits.train, options.images), {"progress": not options.quiet}
    shape = {"span": options.span, "seed": options.seed}
    if options.to:
        where = looking.slice_between(model, _trained(options, options.to)[0], options.points)
    elif options.along == "hessian":
        where = looking.eigen_slice(model, batch, options.dimensions, options.points, chunk=options.chunk, **shape,
                                    **shared)  # fmt: skip
    else:
        where = looking.random_slice(model, options.dimensions, options.points, norm=options.norm, **shape)
    found = looking.walk(model, batch, where, Path(options.out), chunk=options.chunk, **shared)
    if options.json:
        print(json.dumps(found))
        return 0
    print(f"loss {found['loss']:.4g} at the weights, from {found['lowest']:.4g} to {found['highest']:.4g} on the slice")
    print("\n".join(found["figures"]))
    return 0


def _attention(options) -> int:
    from tinyvit.runs import attention

    if options.image:
        source = options.source or options.file
        model, images, pictures = attention.of_photo(source, options.image, name=options.model)
    else:
        model, task = _trained(options)
        images = pictures = task.splits.test.images[: options.images]
    found = attention.attention(model, images, pictures, Path(options.out), layer=options.layer, at=options.query,
                                seed=options.seed)  # fmt: skip
    if options.json:
        print(json.dumps(found))
        return 0
    rows = [
        (
            name,
            " ".join(f"{d:.1f}" for d in of["distance_px"] or []),
            f"{of['entropy']:.2f}",
            f"{of['heads_alike']:.2f}",
        )
        for name, of in found["layers"].items()
    ]
    _table(("layer", "distance of each head (px)", "entropy", "heads alike"), *rows, left=(0,))
    for group in found["similarity"]:
        print(f"\nlayers {group['layers'][0]} to {group['layers'][-1]} of {group['tokens']} tokens, mean cosine of "
              f"neighbours: {group['neighbours']:.3f} (at initialisation {group['neighbours_at_init']:.3f}), centred "
              f"{group['neighbours_centred']:.3f} ({group['neighbours_centred_at_init']:.3f})")  # fmt: skip
    print("\n" + "\n".join(found["figures"]))
    return 0


def _robustness(options) -> int:
    from tinyvit.runs import robustness

    model, task = _trained(options)
    baseline = _trained(options, options.baseline)[0] if options.baseline else None
    found = robustness.robustness(model, task, baseline=baseline, images=options.images, eps=options.eps,
                                  draws=options.draws, seed=options.seed, progress=not options.json)  # fmt: skip
    if options.figure:
        found["figure"] = str(robustness.draw(found, Path(options.figure)))
    if options.json:
        print(json.dumps(found))
        return 0
    _table(("accuracy", "%"), *robustness.rows(found), left=(0,))
    if "mce" in found:
        print(f"\nmCE {found['mce']:.1f}, relative {found['relative_mce']:.1f} (the baseline's are 100)")
    print(f"\n{found['protocol']['images']} test images; random draws: {options.draws}; attacks: eps {options.eps:g}")
    if options.figure:
        print(found["figure"])
    return 0


def _say(line: str) -> None:
    """A line of a run; the progress bar, if there is one, moves out of its way."""
    from tqdm import tqdm

    tqdm.write(line)


def _models(options) -> int:
    from tinyvit import count_macs, create_model, list_models
    from tinyvit.models.catalogue import paper_of

    names = list_models(options.pattern)
    if not names:
        raise ValueError(f"no model is called {options.pattern!r}; `tinyvit models` lists them all")
    models = {name: create_model(name) for name in names}
    papers = [f"{paper.authors} {paper.year}, arXiv {paper.arxiv}" for paper in map(paper_of, names)]
    rows = [(name, paper, f"{model.num_parameters():,}", f"{count_macs(model):,}")
            for (name, model), paper in zip(models.items(), papers, strict=True)]  # fmt: skip
    _table(("model", "paper", "parameters", "MACs"), *rows, left=(0, 1))
    return 0


def _describe(options) -> int:
    from tinyvit import create_model, describe
    from tinyvit.models.ledger import differences

    print(describe(create_model(options.model), depth=options.depth))
    for entry in differences(options.model):
        figure = entry.figure
        print(f"\nThe {figure.table} table prints {figure.printed} ({WHAT[figure.what]}): {_judged(entry)}")
    return 0


def _inspect(options) -> int:
    from tinyvit import inspect_weights

    found = inspect_weights(options.file)
    if options.json:
        print(json.dumps(found.as_dict(), indent=1))
        return 0
    _table(
        ("array", "shape", "type"),
        *((name, "×".join(map(str, shape)) or "()", dtype) for name, (shape, dtype) in found.arrays.items()),
    )
    print(f"\n{len(found.arrays)} arrays, {found.size:,} numbers")
    for fit in found.fits:
        print(f"fits {fit.call}, {fit.parameters:,} parameters")
    if found.nearest:
        print(f"nearest in the catalogue: {found.nearest.name}, {found.nearest.matching} arrays fit")
        for difference in found.nearest.first_misfits():
            print(f"  {difference}")
    if not found.fits and not found.nearest:
        print("no model of the catalogue has an array like one of these")
    return 0


def _ledger(options) -> int:
    from tinyvit.files import write_atomically
    from tinyvit.models.ledger import counts, ledger

    if options.json:
        text = json.dumps(counts(), indent=1, ensure_ascii=False) + "\n"
        if options.json == "-":
            print(text, end="")
        else:
            write_atomically(Path(options.json), text.encode())
        return 0
    entries = ledger()
    rows = [(e.figure.row, e.figure.table, WHAT[e.figure.what], e.figure.printed, f"{e.exact:,}") for e in entries]
    head = ("counted as", "table", "of what", "slide", "exact")
    _table((*head, ""), *((*row, _judged(entry)) for row, entry in zip(rows, entries, strict=True)), left=(0, 1, 2, 5))
    agree = sum(entry.verdict == "agrees" for entry in entries)
    print(f"\n{agree} of {len(entries)} figures agree: the exact count rounds to the printed digits. Where cutting the "
          f"count\nthere gives them, they are truncated. MACs are for one image.")  # fmt: skip
    return 0


def _classify(options) -> int:
    from tinyvit import plots
    from tinyvit.classify import classify

    seen = classify(options.image, options.model, weights=options.weights, labels=options.labels, top=options.top,
                    style=options.preprocess, attention=bool(options.attention))  # fmt: skip
    _table(*((name, f"{share:.1%}") for name, share in seen.classes))
    if options.attention:
        figure = plots.photo_attention(seen.picture, seen.attention)
        print(f"\n{plots.save(figure, options.attention, {'attention': seen.attention})}")
    return 0


def _figures(options) -> int:
    from tinyvit.figures import FIGURES, caption, make_figure

    if not options.names:
        _table(*((name, caption(name)) for name in FIGURES), left=(0, 1))
    for name in FIGURES if options.names == ["all"] else options.names:
        print(make_figure(name, options.out))
    return 0


WHAT = {"params": "parameters", "macs": "MACs"}


def _judged(entry) -> str:
    """The verdict on a slide's figure and, where it does not agree, the reason."""
    why = "" if entry.verdict == "agrees" else entry.figure.why.removeprefix("truncated; ")
    return f"{entry.verdict}: {why}" if why else entry.verdict


def _bench(options) -> int:
    from tinyvit.bench import bench, find_workloads, machine_facts, results_file, scaling, throughput, write_rows

    names = [*options.workloads, *options.workload]
    if options.scaling and (names or options.models):
        raise ValueError(f"--scaling is measured alone, without {names[0] if names else '--models'}")
    workloads = [] if options.models else find_workloads(names)
    path = options.json and results_file(options.json)
    facts = machine_facts(options.threads)
    _print_facts(facts)
    settings = {"facts": facts, "progress": not options.quiet}
    if options.repeats:
        settings["repeats"] = options.repeats
    if options.scaling:
        show, measured = _print_growth, scaling(**settings)
    elif options.models:
        show, measured = _print_throughput, throughput(names, **settings)
        print("\n" + THROUGHPUT.format("model", "parameters", "10⁹ MACs", "a second", "beside ViT-S/16", "MB"))
    else:
        show, measured = _print_result, bench(workloads, peers=options.against != "none", **settings)
    results = []
    for result in measured:
        show(result)
        results.append(result)
        if path:
            write_rows(results, path)  # after each, so that what is finished is kept
    if path:
        print(f"\nThe numbers, turn by turn: {path}")
    return 0


def _print_facts(facts) -> None:
    print(f"{facts.cpu}, {facts.cores} cores, {facts.threads} threads used")
    print(f"{facts.blas}: {facts.gemm_gflops:.0f} GFLOP/s in a float32 product of 1024×1024")
    print(" · ".join(f"{name}={value}" for name, value in facts.environment.items()) or "no OPENBLAS_… variable is set")
    print(" · ".join(f"{name} {version}" for name, version in facts.versions.items()))


def _print_result(result) -> None:
    from tinyvit.bench import INSTALL

    everyone = {"tinyvit": result.ours, **result.peers}
    print(f"\n{result.workload.name}: {result.workload.about}\n")
    _table(
        ("", *everyone),
        ("ms, median of the turns", *(f"{1e3 * t.median:.1f}" for t in everyone.values())),
        ("ms, least", *(f"{1e3 * min(t.seconds):.1f}" for t in everyone.values())),
        ("spread of the middle half", *(f"{t.spread:.1%}" for t in everyone.values())),
        ("images a second", *(f"{result.workload.batch / t.median:.0f}" for t in everyone.values())),
        ("peak memory, MB", *("?" if t.peak_mb is None else f"{t.peak_mb:.0f}" for t in everyone.values())),
    )
    for name in result.peers:
        print(f"\ntinyvit / {name}: {result.ratio(name):.2f} of medians, {result.paired_ratio(name):.2f} by pairs of "
              f"turns; {_agreement(result, name)}")  # fmt: skip
    for name, why in result.absent.items():
        print(f"\n{name} is not measured ({why}); {INSTALL[name]}")
    if result.disturbed:
        used, share = result.others()
        print(f"\nOthers used {used:.2f} cores meanwhile, and disturbed {share:.0%} of the turns: read with care.")
        for name in result.peers:
            pairs, ratio = result.undisturbed(name)
            print(f"tinyvit / {name} in the {pairs} undisturbed pairs" + (f": {ratio:.2f}" if pairs else ""))


THROUGHPUT = "{:42} {:>13} {:>9} {:>9} {:>16} {:>7}"


def _print_throughput(row) -> None:
    memory = row.result.ours.peak_mb
    cells = row.name, f"{row.parameters:,}", f"{row.macs / 1e9:.2f}", f"{row.per_second:.2f}", f"{row.relative:.2f}"
    others = "  (others used the machine)" if row.result.disturbed else ""
    print(THROUGHPUT.format(*cells, "?" if memory is None else f"{memory:.0f}") + others, flush=True)


def _print_growth(growth) -> None:
    print(f"\n{growth.axis.about}\n")
    _table(
        (growth.axis.name, *map(str, growth.times)),
        ("ms, median of the turns", *(f"{1e3 * t.median:.1f}" for t in growth.times.values())),
        ("forward MACs, 10⁹", *(f"{macs / 1e9:.2f}" for macs in growth.macs.values())),
    )
    print(f"\ntime grows like {growth.axis.name}^{growth.slope:.2f}, arithmetic like ^{growth.expected:.2f}")


def _agreement(result, name: str) -> str:
    """How near a peer's numbers are to ours."""
    if name not in result.differences:
        return "other work, so no numbers are compared"
    return f"first numbers differ by {result.differences[name]:.1e}"


def _list_exercises(options) -> int:
    from tinyvit.exercises.course import exercises

    for exercise in exercises().values():
        needs = f"  (after {', '.join(f'{n:02d}' for n in exercise.needs)})" if exercise.needs else ""
        print(f"{exercise.code}  {exercise.title}{needs}")
    return 0


def _start_exercises(options) -> int:
    from tinyvit.exercises.course import start

    for path in start(Path(options.folder), options.only):
        print(f"wrote {path}")
    print(f"\nWrite the functions in these files, then run:  pytest {options.folder}")
    return 0


def _hint(options) -> int:
    from tinyvit.exercises.course import hint

    print(hint(options.number, options.level))
    return 0


def _table(*rows: tuple[str, ...], left: tuple[int, ...] = (0,)) -> None:
    """Print rows as columns: those numbered in ``left`` to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = zip(row, widths, strict=True)
        print("  ".join(c.ljust(w) if i in left else c.rjust(w) for i, (c, w) in enumerate(cells)).rstrip())
