"""Contenders of a benchmark that behave badly; in a file of their own, for other processes to import."""

import os


def absent(threads):
    """Its library is not installed."""
    import a_library_that_is_not_there  # noqa: F401


def broken(threads):
    """It fails while it is made."""
    raise ZeroDivisionError("no such luck")


def dying(threads):
    """The system ends it."""
    os._exit(3)


def noisy(threads):
    """Its library prints; its number is that of the threads that its libraries were told of."""
    print("a word of welcome")
    return lambda: float(os.environ["OMP_NUM_THREADS"])
