"""The command line: it parses, calls one function per verb, and prints. No logic lives here."""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import time
from pathlib import Path


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

    models = commands.add_parser("models", help="list the models, with their parameters")
    models.add_argument("pattern", nargs="?", default="*", help='a shell pattern such as "vit_*"')
    models.set_defaults(run=_models)

    describe = commands.add_parser("describe", help="a model's modules, shapes, parameters and MACs")
    describe.add_argument("model", help="a name that `tinyvit models` lists")
    describe.add_argument("--depth", type=int, default=2, help="how far down the modules go (default 2)")
    describe.set_defaults(run=_describe)

    weights = commands.add_parser("weights", help="look into a file of weights")
    _add_weights(weights.add_subparsers(metavar="ACTION", required=True))

    bench = commands.add_parser("bench", help="how fast this machine trains a ViT, and PyTorch beside it")
    bench.add_argument("workloads", nargs="*", metavar="WORKLOAD", help="W1_train, W1_forward, all (default all)")
    bench.add_argument("--workload", action="append", default=[], metavar="WORKLOAD", help="the same, as an option")
    bench.add_argument("--threads", type=_count, metavar="N", help="threads for every contender (default all cores)")
    bench.add_argument("--repeats", type=_count, default=9, metavar="N", help="turns of each contender (default 9)")
    bench.add_argument("--json", metavar="FILE", help="write the results there, with the facts of the machine")
    bench.add_argument("--against", choices=("torch", "none"), default="torch", help="the peer (default torch)")
    bench.add_argument("--no-torch", dest="against", action="store_const", const="none", help="--against none")
    bench.add_argument("--quiet", action="store_true", help="no progress bars, only the result")
    bench.set_defaults(run=_bench)

    exercises = commands.add_parser("exercises", help="functions to write yourself, graded by pytest, with hints")
    _add_exercises(exercises.add_subparsers(metavar="ACTION", required=True))
    return parser


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


def _models(options) -> int:
    from tinyvit import create_model, list_models

    names = list_models(options.pattern)
    if not names:
        raise ValueError(f"no model is called {options.pattern!r}; `tinyvit models` lists them all")
    _table(("model", "parameters"), *((name, f"{create_model(name).num_parameters():,}") for name in names))
    return 0


def _describe(options) -> int:
    from tinyvit import create_model, describe

    print(describe(create_model(options.model), depth=options.depth))
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


def _bench(options) -> int:
    from tinyvit.bench import bench, find_workloads, machine_facts, results_file, write_rows

    workloads = find_workloads([*options.workloads, *options.workload])
    path = options.json and results_file(options.json)
    facts = machine_facts(options.threads)
    _print_facts(facts)
    results = []
    for result in bench(workloads, facts=facts, repeats=options.repeats, peers=options.against != "none",
                        progress=not options.quiet):  # fmt: skip
        _print_result(result)
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
              f"turns; first numbers differ by {result.differences[name]:.1e}")  # fmt: skip
    for name, why in result.absent.items():
        print(f"\n{name} is not measured ({why}); {INSTALL[name]}")
    if result.disturbed:
        used, share = result.others()
        print(f"\nOthers used {used:.2f} cores meanwhile, and disturbed {share:.0%} of the turns: read with care.")
        for name in result.peers:
            pairs, ratio = result.undisturbed(name)
            print(f"tinyvit / {name} in the {pairs} undisturbed pairs" + (f": {ratio:.2f}" if pairs else ""))


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


def _table(*rows: tuple[str, ...]) -> None:
    """Print rows as columns: the first to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for first, *others in rows:
        cells = [first.ljust(widths[0]), *(cell.rjust(w) for cell, w in zip(others, widths[1:], strict=True))]
        print("  ".join(cells).rstrip())
