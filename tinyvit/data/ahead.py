"""Batches prepared ahead, on a thread of their own: while a model computes, the next photos are decoded."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor


def ahead(batches: Iterable, count: int = 2) -> Iterator:
    """The same batches in the same order, up to ``count`` of them prepared while the last one is in use.

    Worth it where preparing takes long and does not hold Python's lock, as decoding photos does. What goes wrong while
    preparing is raised where the batch is asked for; no thread is left over, however early the loop ends.
    """
    if count < 1:
        raise ValueError(f"count: expected at least 1, got {count}")
    source, end = iter(batches), object()
    with ThreadPoolExecutor(1, thread_name_prefix="tinyvit-ahead") as worker:
        waiting = [worker.submit(next, source, end) for _ in range(count)]
        try:
            while (batch := waiting.pop(0).result()) is not end:
                waiting.append(worker.submit(next, source, end))
                yield batch
        finally:
            for future in waiting:
                future.cancel()
