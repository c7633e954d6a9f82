"""A contender, ready to take its turns: in this process, or in one of its own."""

from __future__ import annotations

import math
import os
import pickle
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass

import numpy as np

from tinyvit.bench.facts import busy_seconds, peak_megabytes
from tinyvit.bench.workloads import Contender

WARM_UP = 3  # steps before anything is timed; their numbers are compared
SAMPLE = 10_000  # numbers of an array that are compared, at most
TURN = 0.3  # seconds that a turn lasts at least: short steps are repeated in it, and averaged


@dataclass(frozen=True)
class Turn:
    """One turn: seconds per step, and how many cores others used meanwhile (None where the system does not tell)."""

    seconds: float
    others: float | None


class Here:
    """A contender in this process."""

    def __init__(self, contender: Contender, threads: int):
        self.step, self.steps = contender(threads), 1

    def warm_up(self) -> list[list]:
        """Run the first steps; gives each one's numbers, and fixes how many steps make a turn."""
        numbers = [sampled(self.step()) for _ in range(WARM_UP - 1)]
        start = time.perf_counter()
        last = self.step()
        self.steps = max(1, math.ceil(TURN / (time.perf_counter() - start)))
        return [*numbers, sampled(last)]

    def turn(self) -> Turn:
        """Time some steps; the one before them, which wakes threads and caches, does not count."""
        self.step()
        busy, own, start = busy_seconds(), time.process_time(), time.perf_counter()
        for _ in range(self.steps):
            self.step()
        seconds, own = time.perf_counter() - start, time.process_time() - own
        others = None if busy is None else max(0.0, busy_seconds() - busy - own) / seconds
        return Turn(seconds / self.steps, others)

    def peak(self) -> float | None:
        """The most memory the process has had, in MB."""
        return peak_megabytes()

    def close(self) -> None:
        """Nothing to end."""


def sampled(numbers) -> list[np.ndarray]:
    """What a step gave, as arrays (n,) float64: of large ones some entries, spread evenly, so that little is copied."""
    several = numbers if isinstance(numbers, tuple | list) else [] if numbers is None else [numbers]
    # an odd stride meets every channel, though their number is even
    return [x.flat[:: x.size // SAMPLE | 1].astype(np.float64) for x in map(np.asarray, several)]


# in a process of its own -------------------------------------------------------------------

# every library reads one of these when it is loaded, so the number holds for what a contender forgets to tell
THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")


class Apart:
    """A contender in another process, with the methods of ``Here``: questions and answers are pickles in two pipes.

    Raises ImportError if the contender cannot import its library, ChildProcessError for whatever else goes wrong there.
    """

    def __init__(self, contender: Contender, threads: int):
        environment = {**os.environ, **dict.fromkeys(THREADS, str(threads)), "PYTHONPATH": os.pathsep.join(sys.path)}
        self.process = subprocess.Popen(
            [sys.executable, "-c", "from tinyvit.bench.contender import serve; serve()"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment,
            start_new_session=True,  # Ctrl-C is the parent's; it ends the process by ``close``
        )  # fmt: skip
        try:
            self.ask((contender, threads))
        except BaseException:
            self.close()
            raise

    def warm_up(self) -> list[list]:
        """See ``Here``."""
        return self.ask("warm_up")

    def turn(self):
        """See ``Here``."""
        return self.ask("turn")

    def peak(self) -> float | None:
        """See ``Here``."""
        return self.ask("peak")

    def ask(self, question):
        """Send a question, wait for the answer."""
        try:
            pickle.dump(question, self.process.stdin)
            self.process.stdin.flush()
            kind, answer = pickle.load(self.process.stdout)
        except (EOFError, BrokenPipeError):
            status = self.process.wait()
            raise ChildProcessError(f"a contender's process ended with status {status}; too little memory?") from None
        if kind is not None:
            raise (ImportError if kind == "import" else ChildProcessError)(answer)
        return answer

    def close(self) -> None:
        """End the process, whatever it is doing."""
        self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            with suppress(OSError):  # a question that was never read
                pipe.close()


def serve() -> None:
    """The other process's end: make the contender, then answer until the parent is gone."""
    questions, answers = sys.stdin.buffer, os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # what a library prints must not get among the answers
    contender = None
    while True:
        try:
            question = pickle.load(questions)
            if contender is None:
                contender, answer = Here(*question), (None, None)
            else:
                answer = (None, getattr(contender, question)())
        except EOFError:
            return
        except ImportError as error:
            answer = ("import", str(error))
        except Exception as error:
            answer = ("error", f"{type(error).__name__}: {error}")
        pickle.dump(answer, answers)
        answers.flush()
