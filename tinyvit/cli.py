"""The command line: it parses, calls one function per verb, and prints. No logic lives here."""

from __future__ import annotations

import argparse
import sys
import time


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

    tour = commands.add_parser("tour", help="train a ViT on real digits and look inside it, in a minute")
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
    return parser


def _seed(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"a seed is a whole number, zero or more, not {text!r}")
    return int(text)


def _tour(options) -> int:
    from tinyvit.machine import reuse_memory
    from tinyvit.tour import NEXT, tour

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
        f"\nAttention as convolution: {report.convolution_error:.1e} worst difference, K = 1 … 5, random kernels\n"
    )
    print("Figures (numbers beside each in a .json):")
    for path in report.figures:
        print(f"  {path}")
    print("\nThree things to try next:")
    for command, why in NEXT:
        print(f"  {command:44}  {why}")
    print(f"\n{time.perf_counter() - start:.0f} s")
    return 0


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


def _table(*rows: tuple[str, ...]) -> None:
    """Print rows as columns: the first to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for first, *others in rows:
        cells = [first.ljust(widths[0]), *(cell.rjust(w) for cell, w in zip(others, widths[1:], strict=True))]
        print("  ".join(cells).rstrip())
