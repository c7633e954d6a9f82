"""What every test gets: its own random numbers, one BLAS thread, no figure left open."""

import os

os.environ["MPLBACKEND"] = "Agg"  # before anything imports matplotlib, here or in a subprocess

import sys
from functools import cache

import numpy as np
import pytest
import scipy.linalg  # noqa: F401  loads SciPy's own BLAS, so that the limit below holds for it too
from hypothesis import settings
from threadpoolctl import threadpool_limits

# The same cases on every run and every machine; a slow machine is no failure. Of each there are 50, and with
# `--hypothesis-profile=thorough --timeout=0` 2,000.
SAME = {"derandomize": True, "deadline": None, "database": None}
settings.register_profile("ordinary", max_examples=50, **SAME)
settings.register_profile("thorough", max_examples=2000, **SAME)
settings.load_profile("ordinary")


@pytest.fixture
def rng(request):
    """Random numbers of this test's own: the same on every run, whichever other tests run."""
    return np.random.default_rng(list(request.node.nodeid.encode()))


@pytest.fixture(scope="session", autouse=True)
def one_blas_thread():
    """Small products take many times longer when threads wait for each other."""
    with threadpool_limits(limits=1, user_api="blas"):
        yield


@pytest.fixture(autouse=True)
def no_figure_left_open():
    yield
    if "matplotlib.pyplot" in sys.modules:
        sys.modules["matplotlib.pyplot"].close("all")


def pytest_runtest_setup(item):
    """Skip the tests marked `gpu` where there is none."""
    if item.get_closest_marker("gpu") and not gpu_found():
        pytest.skip("needs CuPy and a CUDA device")


@cache
def gpu_found():
    try:
        import cupy

        return cupy.cuda.runtime.getDeviceCount() > 0
    except Exception:  # not installed, or installed without a driver: each raises its own kind
        return False
