"""pytest's part: every exercise file becomes a row of items, one per function; the messages are ours, not tracebacks.

The only module of the package that imports pytest. A student's pytest.ini names it: ``-p tinyvit.exercises.plugin``.
"""

from __future__ import annotations

from dataclasses import asdict

import pytest

from tinyvit.exercises.course import exercises
from tinyvit.exercises.exercise import POINTS
from tinyvit.exercises.grade import NOT_LOOKED_AT, NOT_WRITTEN, RIGHT, STOPPED, Verdict, not_graded
from tinyvit.exercises.worker import Worker

WORKERS = pytest.StashKey[dict]()
QUIET = {NOT_WRITTEN: ("not written", "-", "NOT WRITTEN YET"), NOT_LOOKED_AT: ("not looked at", "-", "NOT LOOKED AT")}


def pytest_configure(config):
    """A worker for each folder, started when it is needed."""
    config.stash[WORKERS] = {}


def pytest_unconfigure(config):
    """End the workers."""
    for worker in config.stash[WORKERS].values():
        worker.stop()


def pytest_pycollect_makemodule(module_path, parent):
    """Take exercise files out of pytest's hands: it would import them, and hang if they do."""
    exercise = next((e for e in exercises().values() if e.file == module_path.name), None)
    if exercise is None:
        return None
    file = ExerciseFile.from_parent(parent, path=module_path)
    file.exercise = exercise
    return file


class ExerciseFile(pytest.File):
    """A student's file."""

    ended = ""  # why the rest of the file is not looked at

    def collect(self):
        """One item per part."""
        for part in self.exercise.parts:
            yield Part.from_parent(self, name=part)

    def verdict(self, part: str) -> Verdict:
        """Ask the worker; after an endless loop or a file that cannot be read there is nothing more to ask."""
        if self.ended:
            return not_graded(self.exercise, part, NOT_LOOKED_AT, f"Not looked at: see {self.ended}.")
        worker = self.config.stash[WORKERS].setdefault(self.path.parent, Worker())
        verdict = worker.grade(self.exercise.number, self.path, part)
        if verdict.state == STOPPED:
            self.ended = part
        return verdict


class NotRight(Exception):
    """The verdict is not "right"."""


class Part(pytest.Item):
    """One function of an exercise, or its invariants."""

    def runtest(self):
        """Grade it."""
        verdict = self.parent.verdict(self.name)
        self.user_properties.append(("verdict", asdict(verdict)))
        if verdict.state != RIGHT:
            raise NotRight(verdict.text)

    def repr_failure(self, excinfo):
        """The message and nothing else."""
        if isinstance(excinfo.value, NotRight):
            return str(excinfo.value)
        return super().repr_failure(excinfo)

    def reportinfo(self):
        """The headline over a message."""
        return self.path, None, f"ex{self.parent.exercise.code} {self.name}"


# what is printed -----------------------------------------------------------------------------


def pytest_report_teststatus(report):
    """What is not written yet counts as not done, but its message would be noise."""
    state = (_verdict(report) or {}).get("state")
    return QUIET.get(state)


def pytest_terminal_summary(terminalreporter):
    """The points, exercise by exercise."""
    reports = [report for group in terminalreporter.stats.values() for report in group]
    verdicts = [verdict for report in reports if (verdict := _verdict(report))]
    if not verdicts:
        return
    terminalreporter.section("points")
    for exercise in sorted({verdict["exercise"] for verdict in verdicts}):
        terminalreporter.write_line(_points([v for v in verdicts if v["exercise"] == exercise]))
    terminalreporter.write_line("(10 more for each EXPLANATION, which a person reads)")


def _verdict(report) -> dict | None:
    """The verdict that a report carries."""
    return (
        dict(getattr(report, "user_properties", ())).get("verdict") if getattr(report, "when", "") == "call" else None
    )


def _points(verdicts: list[dict]) -> str:
    """A line: each kind of part, and the sum."""
    name = f"{verdicts[0]['exercise']:18}"
    if all(verdict["state"] == NOT_WRITTEN for verdict in verdicts):
        return f"{name}not written yet: the docstrings in the file say what to write"
    cells = []
    for kind in POINTS:
        earned, worth = (sum(v[key] for v in verdicts if v["kind"] == kind) for key in ("points", "worth"))
        cells.append(f"{kind} {_round(earned)}/{_round(worth)}".ljust(18) if worth else "")
    earned, worth = (sum(v[key] for v in verdicts) for key in ("points", "worth"))
    return f"{name}{''.join(cells)}{_round(earned)}/{_round(worth)}"


def _round(points: float) -> str:
    """Points with a decimal where they need one."""
    return f"{points:.1f}".removesuffix(".0")
