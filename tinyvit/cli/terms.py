"""What commands have in common: kinds of arguments, trained models, lines and tables."""

from __future__ import annotations

import argparse
import shutil
import sys


def seed(text: str) -> int:
    """An argument that is a whole number, zero or more."""
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"a seed is a whole number, zero or more, not {text!r}")
    return int(text)


def count(text: str) -> int:
    """An argument that is a whole number, one or more."""
    if not (text.isdecimal() and int(text) >= 1):
        raise argparse.ArgumentTypeError(f"expected a whole number, one or more, not {text!r}")
    return int(text)


def share(text: str) -> float:
    """An argument from 0 to 1."""
    try:
        value = float(text)
    except ValueError:
        value = -1
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"expected a share from 0 to 1, not {text!r}")
    return value


def add_jobs(parser) -> None:
    """How many runs at a time."""
    parser.add_argument("--jobs", type=count, default=1, metavar="N", help="processes; several need joblib (default 1)")
    parser.add_argument("--quiet", action="store_true", help="no line per run, only the result")


def add_trained(parser) -> None:
    """Which trained model, and which data."""
    parser.add_argument("source", metavar="RUN|FILE", nargs="?", help="a run's folder; or a weight file, with --model")
    parser.add_argument("--weights", metavar="FILE", dest="file", help="the weight file, as an option")
    parser.add_argument("--model", metavar="NAME", help="the model that a weight file is of")
    parser.add_argument("--data", metavar="NAME", help="other data than the run's, see `tinyvit train --help`")
    parser.add_argument("--seed", type=seed, default=0, help="of what is drawn (default 0)")
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def trained(options, source: str | None = None):
    """The trained model that the options name (or another of its kind), and its data."""
    from tinyvit.runs import model_and_task

    source = source or options.source or options.file
    if not source:
        raise ValueError("which model? a run's folder, or --weights FILE --model NAME")
    return model_and_task(source, data=options.data, name=options.model, seed=options.seed)


def name_failed(failed: dict[str, str]) -> int:
    """Say which runs failed, and why; the exit status."""
    for run, why in failed.items():
        print(f"failed: {run}: {why}", file=sys.stderr)
    return 1 if failed else 0


def say_line(line: str) -> None:
    """A line of a run; the progress bar, if there is one, moves out of its way."""
    from tqdm import tqdm

    tqdm.write(line)


def program() -> str:
    """How this command can be called again: by its name, or by the path it was called with."""
    return "tinyvit" if shutil.which("tinyvit") or not sys.argv[0].endswith("tinyvit") else sys.argv[0]


def table(*rows: tuple[str, ...], left: tuple[int, ...] = (0,)) -> None:
    """Print rows as columns: those numbered in ``left`` to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = zip(row, widths, strict=True)
        print("  ".join(c.ljust(w) if i in left else c.rjust(w) for i, (c, w) in enumerate(cells)).rstrip())
