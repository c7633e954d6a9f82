"""Files that are whole or absent, and the machine's threads and memory."""

import os
from contextvars import ContextVar
from threading import Barrier, get_ident
from time import sleep

import numpy as np
import pytest
from threadpoolctl import threadpool_info

from tinyvit import machine
from tinyvit.files import make_folder, write_atomically


def test_an_interrupted_write_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    path = write_atomically(tmp_path / "weights", b"old")

    def interrupted(source, target):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["weights"]


def test_a_written_file_has_the_usual_permissions(tmp_path):
    (tmp_path / "usual").write_bytes(b"")
    path = write_atomically(tmp_path / "ours", b"")
    assert path.stat().st_mode == (tmp_path / "usual").stat().st_mode


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(OSError, match="cannot write into the folder"):
        make_folder(tmp_path / "file" / "below")
    assert make_folder(tmp_path / "a" / "b").is_dir()


def test_blas_threads_are_set_and_restored():
    def counts():
        return {lib["num_threads"] for lib in threadpool_info() if lib["user_api"] == "blas"}

    np.ones((2, 2)) @ np.ones((2, 2))
    before = counts()
    with machine.blas_threads(1):
        assert counts() == {1}
    assert counts() == before
    with pytest.raises(ValueError, match="threads"), machine.blas_threads(0):
        pass


def test_work_side_by_side_is_in_order_and_sees_the_callers_context():
    name = ContextVar("name", default="nobody")
    name.set("caller")
    meeting = Barrier(3, timeout=10)  # three must be at work at once

    def work(part):
        meeting.wait()
        return part, name.get(), get_ident()

    parts, names, threads = zip(*machine.side_by_side(work, range(6), workers=3), strict=True)
    assert parts == tuple(range(6))
    assert set(names) == {"caller"}
    assert len(set(threads)) == 3
    assert get_ident() in threads


def test_blas_has_its_threads_back_whoever_leaves_last():
    """Two callers at once: the first to come is the first to go."""
    np.ones((2, 2)) @ np.ones((2, 2))
    with machine.blas_threads(2):
        before = machine._blas_thread_count()
        first, second = machine._one_blas_thread(), machine._one_blas_thread()
        first.__enter__()
        second.__enter__()
        first.__exit__(None, None, None)
        assert machine._blas_thread_count() == 1
        second.__exit__(None, None, None)
        assert machine._blas_thread_count() == before


def test_shared_out_work_is_not_shared_out_again(monkeypatch):
    def work(_):
        sleep(0.01)  # long enough for another thread to take some
        return get_ident()

    def count(_):
        return len(set(machine.shared_out(work, range(4), worthwhile=True)))

    with machine.blas_threads(2):
        if machine._blas_thread_count() == 2:  # not every library can
            assert count(None) == 2
            assert machine.side_by_side(count, range(2), workers=2) == [1, 1]


def test_memory_is_reused_only_where_it_can_be_and_may_be(monkeypatch):
    machine.reuse_memory.cache_clear()
    monkeypatch.setenv("TINYVIT_REUSE_MEMORY", "0")
    assert machine.reuse_memory() is False
    machine.reuse_memory.cache_clear()
    monkeypatch.setattr(machine.sys, "platform", "darwin")
    monkeypatch.delenv("TINYVIT_REUSE_MEMORY")
    assert machine.reuse_memory() is False
    machine.reuse_memory.cache_clear()
