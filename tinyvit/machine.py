"""What decides how fast NumPy is on a machine: threads, processes, and where fresh memory comes from."""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext, suppress
from contextvars import copy_context
from functools import cache
from queue import Empty, SimpleQueue
from threading import Lock


@contextmanager
def blas_threads(count: int | None):
    """Run a block with ``count`` BLAS threads; None leaves the number as it is.

    Small models are fastest on one (waking a second thread takes longer than the product), and bits repeat only for the
    same number of threads.
    """
    if count is None:
        yield
        return
    if not (isinstance(count, int) and count >= 1):
        raise ValueError(f"threads: expected a whole number of at least 1, got {count!r}")
    with _libraries().limit(limits=count, user_api="blas"):
        yield


def side_by_side(work: Callable, parts: Sequence, workers: int) -> list:
    """``[work(part) for part in parts]`` on Python threads with one BLAS thread each; the results are in order.

    NumPy computes outside of Python's lock, so independent parts use the cores better than threads inside a product do.
    The caller's thread is one of the workers, and the others see its context (``np.errstate``, for one). With one
    worker it is the plain loop, and the BLAS threads are left as they are.
    """
    workers = min(workers, len(parts))
    if workers <= 1:
        return [work(part) for part in parts]
    results, places = [None] * len(parts), SimpleQueue()
    for i in range(len(parts)):
        places.put(i)

    def run():
        with suppress(Empty):
            while True:
                i = places.get_nowait()
                results[i] = work(parts[i])

    with _one_blas_thread(), ThreadPoolExecutor(workers - 1) as pool:
        others = [pool.submit(copy_context().run, run) for _ in range(workers - 1)]
        run()
        for other in others:
            other.result()  # raises what it raised
    return results


def shared_out(work: Callable, parts: Sequence, worthwhile: bool) -> list:
    """``[work(part) for part in parts]`` inside a kernel: if worthwhile, on as many Python threads as BLAS would use.

    BLAS has one thread then, however many workers there are, so that the bits are always the same. Inside of
    ``side_by_side``, and wherever else BLAS is held to one thread, it is the plain loop.
    """
    workers = _blas_thread_count() if worthwhile and len(parts) > 1 else 1
    with _one_blas_thread() if worthwhile and len(parts) > 1 else nullcontext():
        return side_by_side(work, parts, workers)


_guard, _guarded = Lock(), []


@contextmanager
def _one_blas_thread():
    """``blas_threads(1)`` for several threads of the program at once: whoever leaves last restores the number."""
    with _guard:
        limit = _guarded[0] if _guarded else _libraries().limit(limits=1, user_api="blas")
        _guarded.append(limit)
    try:
        yield
    finally:
        with _guard:
            _guarded.pop()
            if not _guarded:
                limit.restore_original_limits()


def _blas_thread_count() -> int:
    """How many threads BLAS uses at present."""
    return max((lib.num_threads for lib in _libraries().lib_controllers if lib.user_api == "blas"), default=1)


def in_processes(work: Callable, arguments: Sequence[tuple], jobs: int) -> Iterator[tuple]:
    """``work(*arguments[i])`` in ``jobs`` processes of one BLAS thread each: (i, result, error), as each is done.

    What a call raises is its error, a line of text, and its result is None. One job needs no other process. Raises
    ValueError if joblib is missing.
    """
    calls = [(work, i, given) for i, given in enumerate(arguments)]
    if jobs == 1:
        return (_caught(*call) for call in calls)
    try:
        from joblib import Parallel, delayed
    except ImportError as error:
        raise ValueError('jobs: several processes need joblib: pip install "tinyvit[sweep]"') from error
    return Parallel(n_jobs=jobs, return_as="generator_unordered", batch_size=1)(delayed(_caught)(*c) for c in calls)


def _caught(work: Callable, i: int, given: tuple) -> tuple:
    try:
        with blas_threads(1):
            return i, work(*given), None
    except Exception as error:  # one that fails must not end the others
        return i, None, f"{type(error).__name__}: {error}"


def cores() -> int:
    """How many processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


SMALL_MODEL = 100_000  # parameters; below, an op of a micro-batch is shorter than the threads' waiting for each other


def useful_workers(parameters: int) -> int:
    """How many threads to cut a model's work over, by its number of parameters: the cores there are, or one."""
    return cores() if parameters >= SMALL_MODEL else 1


@cache
def _libraries():
    """The BLAS libraries that are loaded; looking for them takes milliseconds, so it is done once."""
    from threadpoolctl import ThreadpoolController

    return ThreadpoolController()


M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_ARENA_MAX = -1, -3, -8  # from glibc's malloc.h


@cache
def reuse_memory() -> bool:
    """Ask the C library to keep freed memory for the next array instead of returning it; whether it agreed.

    A fresh large array costs a page fault every 4 kB, many times what computing it costs. It matters only for programs
    that make and drop large arrays all the time, as training does, so training and the command line call this once.
    Only glibc (Linux) knows how; TINYVIT_REUSE_MEMORY=0 forbids it.
    """
    if not sys.platform.startswith("linux") or os.environ.get("TINYVIT_REUSE_MEMORY") == "0":
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # another C library
        return False
    wishes = {M_MMAP_THRESHOLD: 1 << 30, M_TRIM_THRESHOLD: 2**31 - 1, M_ARENA_MAX: 1}  # one store for all threads
    return all(mallopt(what, value) for what, value in wishes.items())
