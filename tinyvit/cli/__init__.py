"""The command line: it parses, calls one function per verb, and prints. No logic lives here."""

from __future__ import annotations

import argparse
import sys

from tinyvit.cli import catalogue, course, looking, measuring, running


def main(arguments: list[str] | None = None) -> int:
    """Run one command; the exit status is 0, or 1 for what failed, 2 for what was not understood, 130 for Ctrl-C."""
    parser = _parser()
    options = parser.parse_args(arguments)
    if "run" not in options:
        parser.exit(2, parser.format_help())
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
    commands = parser.add_subparsers(metavar="COMMAND")
    for part in (course, running, looking, catalogue, measuring):
        part.add_commands(commands)
    return parser
