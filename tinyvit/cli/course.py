"""What to look at first: the tour, figures for slides, exercises."""

from __future__ import annotations

import time
from pathlib import Path

from tinyvit.cli.terms import count, program, seed, table


def add_commands(commands) -> None:
    """Their parsers."""
    tour = commands.add_parser("tour", help="train a ViT on real digits and look inside it, in under a minute")
    tour.add_argument("--seed", type=seed, default=0, help="where every random number comes from (default 0)")
    tour.add_argument("--out", default="figures", metavar="DIR", help="folder for the figures (default figures)")
    tour.add_argument("--fast", action="store_true", help="a quarter of the time, and worse models")
    tour.add_argument("--quiet", action="store_true", help="no progress bars, only the result")
    tour.set_defaults(run=_tour)

    figures = commands.add_parser("figures", help="figures for slides: an idea step by step, on a few tokens")
    figures.add_argument("names", nargs="*", metavar="NAME", help="which to draw, or all; without one they are listed")
    figures.add_argument("--out", default="figures", metavar="DIR", help="folder for them (default figures)")
    figures.set_defaults(run=_figures)

    exercises = commands.add_parser("exercises", help="functions to write yourself, graded by pytest, with hints")
    _add_exercises(exercises.add_subparsers(metavar="list|start|hint", required=True))


def _add_exercises(actions) -> None:
    listing = actions.add_parser("list", help="which exercises there are")
    listing.set_defaults(run=_list_exercises)

    start = actions.add_parser("start", help="write the files to work in; nothing that is there is written over")
    start.add_argument("folder", metavar="DIR", help="where to; made if it is not there")
    start.add_argument("--only", nargs="+", metavar="NUMBER", help="some exercises, not all: --only 04 05")
    start.set_defaults(run=_start_exercises)

    hint = actions.add_parser("hint", help="a question, the formula, or the term that is usually missing")
    hint.add_argument("number", metavar="NUMBER", help="of the exercise: 04")
    hint.add_argument("level", metavar="LEVEL", type=count, nargs="?", default=1, help="1, 2 or 3 (default 1)")
    hint.set_defaults(run=_hint)


def _tour(options) -> int:
    from tinyvit.machine import reuse_memory
    from tinyvit.tour import CAPTIONS, next_steps, tour

    reuse_memory()
    start = time.perf_counter()
    report = tour(seed=options.seed, out=options.out, fast=options.fast, progress=not options.quiet)
    names = list(report.accuracy)
    print(f"Two small models on real 8×8 digits, seed {options.seed}\n")
    table(
        ("", *names),
        ("test accuracy", *(f"{report.accuracy[n]:.1%}" for n in names)),
        ("λmax of the training loss", *(f"{report.sharpness[n]:.3g}" for n in names)),
        ("   residual ‖Hv − λv‖", *(f"{report.residual[n]:.1g}" for n in names)),
        ("   at a training loss of", *(f"{report.matched_loss[n]:.3f}" for n in names)),
    )
    print(
        f"\nλmax: SciPy's eigsh on exact Hessian–vector products in float64, all parameters, evaluation mode,\n"
        f"  {report.plan.curvature_images} training images, where their loss first is "
        f"{report.plan.matched_loss:g}"
        f"{_not_reached(report)}"
        f"\nAttention as convolution: {report.convolution_error:.1e} worst difference, K = 1 … 5, random kernels\n"
    )
    print("Figures (numbers beside each in a .json):")
    for path in report.figures:
        print(f"  {path}\n      {CAPTIONS[path.stem]}")
    print("\nThree things to try next:")
    for arguments, why in next_steps(options.seed).items():
        print(f"  {program()} {arguments}\n      {why}")
    print(f"\n{time.perf_counter() - start:.0f} s")
    return 0


def _not_reached(report) -> str:
    """Which models never got to the loss at which curvature is compared."""
    late = [name for name, loss in report.matched_loss.items() if loss > 1.01 * report.plan.matched_loss]
    return f"\n  (not reached by {', '.join(late)}: measured where it ended, so do not compare)" if late else ""


def _figures(options) -> int:
    from tinyvit.figures import FIGURES, caption, make_figure

    if not options.names:
        table(*((name, caption(name)) for name in FIGURES), left=(0, 1))
    for name in FIGURES if options.names == ["all"] else options.names:
        print(make_figure(name, options.out))
    return 0


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
