"""Grading in a process of its own: an endless loop, an exit or a crash of a student's code ends that and no more."""

from __future__ import annotations

import contextlib
import io
import multiprocessing
from dataclasses import replace
from pathlib import Path

from tinyvit.exercises.course import find
from tinyvit.exercises.grade import STOPPED, Verdict, grade, not_graded
from tinyvit.exercises.student import TroubleError, load

LIMIT = 5.0  # seconds for one part; a right answer takes a hundredth of it
START = 60.0  # seconds for Python to start and import NumPy, on a very busy machine
PRINTED = 20  # how many lines that the student's code printed are shown


class Worker:
    """Grades files of one folder, one part after the other; a context manager."""

    def __init__(self, limit: float = LIMIT):
        self.limit = limit
        self.process = self.connection = None

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stop()

    def grade(self, number: int, path: Path, part: str) -> Verdict:
        """The verdict on one part of an exercise; within the limit, whatever the student's code does."""
        if self.process is None:
            self._start()
        exercise = find(str(number))
        try:
            self.connection.send((number, path, part))
            if self.connection.poll(self.limit):
                return self.connection.recv()
            text = f"{part} did not come to an end within {self.limit:g} s: a loop that never ends?"
        except (EOFError, ConnectionError):
            text = f"{part} ended Python itself: a crash, or too much memory?"
        self.stop()
        return not_graded(exercise, part, STOPPED, text)

    def _start(self) -> None:
        """A fresh interpreter (spawn), so that nothing of ours, open files say, is in the student's reach."""
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(theirs,), daemon=True)
        self.process.start()
        theirs.close()
        if not self.connection.poll(START) or self.connection.recv() != "ready":
            raise RuntimeError("the process that grades did not start")

    def stop(self) -> None:
        """End the process, if there is one."""
        if self.process is not None:
            self.process.kill()
            self.process.join()
            self.connection.close()
            self.process = self.connection = None


def _serve(connection) -> None:
    """The process: answer questions until the other side is gone."""
    connection.send("ready")
    with contextlib.suppress(EOFError):
        while True:
            number, path, part = connection.recv()
            connection.send(_judge(number, path, part))


def _judge(number: int, path: Path, part: str) -> Verdict:
    """The verdict, with what the student's code printed."""
    exercise, printed = find(str(number)), io.StringIO()
    with contextlib.redirect_stdout(printed):
        try:
            verdict = grade(exercise, part, load(path))
        except TroubleError as error:  # the file as a whole
            verdict = not_graded(exercise, part, STOPPED, str(error))
    lines = printed.getvalue().splitlines()
    if lines and verdict.text:
        more = [f"  … and {len(lines) - PRINTED} lines more"] if len(lines) > PRINTED else []
        shown = [f"  {line}" for line in lines[:PRINTED]]
        verdict = replace(verdict, text="\n".join([verdict.text, "Your code printed:", *shown, *more]))
    return verdict
