"""The machine: what a time means nothing without."""

from __future__ import annotations

import os
import platform
import time
from contextlib import suppress
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import numpy as np

from tinyvit.machine import blas_threads, cores

LIBRARIES = ("numpy", "scipy", "torch")


@dataclass(frozen=True)
class Facts:
    """What decides how fast a step is, beside the code.

    threads        that every contender may use · cores: that this process may run on
    blas           NumPy's library and the kind of core it computes for, and whether it chose that kind itself
    gemm_gflops    float32 matrix product of 1024×1024, billions of operations a second, measured now
    environment    the OPENBLAS_… variables that are set
    versions       of Python and of the libraries that are installed
    """

    cpu: str
    cores: int
    threads: int
    blas: str
    gemm_gflops: float
    environment: dict[str, str]
    versions: dict[str, str]


def machine_facts(threads: int | None = None) -> Facts:
    """The facts of this machine. Raises ValueError for a number of threads that it does not have."""
    threads = checked_threads(threads)
    environment = {name: value for name, value in sorted(os.environ.items()) if name.startswith("OPENBLAS_")}
    return Facts(
        cpu=cpu_model(),
        cores=cores(),
        threads=threads,
        blas=f"{blas_library()}, {'pinned' if 'OPENBLAS_CORETYPE' in environment else 'auto'}",
        gemm_gflops=gemm_gflops(threads),
        environment=environment,
        versions={"python": platform.python_version(), **installed(LIBRARIES)},
    )


def checked_threads(threads: int | None) -> int:
    """The number itself, all cores for None. More than there are would wait for each other, so ValueError."""
    if threads is None:
        return cores()
    if not 1 <= threads <= cores():
        raise ValueError(f"threads: expected 1 … {cores()}, the cores that may be used here, got {threads}")
    return threads


def cpu_model() -> str:
    """The processor's name."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:  # not Linux
        lines = []
    named = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return named[0] if named else platform.processor() or platform.machine()


def blas_library() -> str:
    """NumPy's BLAS: name, version, and the kind of core its kernels are for, as far as it tells."""
    from threadpoolctl import threadpool_info

    np.ones((2, 2)) @ np.ones((2, 2))
    for library in threadpool_info():
        if library["user_api"] == "blas":
            told = (library["internal_api"], library.get("version"), library.get("architecture"))
            return " ".join(str(word) for word in told if word)
    return "unknown BLAS"


def gemm_gflops(threads: int, side: int = 1024, times: int = 8) -> float:
    """Speed of the float32 matrix product, the best of ``times``: the pace that nothing here can exceed."""
    x = np.ones((side, side), np.float32)
    best = float("inf")
    with blas_threads(threads):
        for _ in range(times):
            start = time.perf_counter()
            x @ x
            best = min(best, time.perf_counter() - start)
    return 2 * side**3 / best / 1e9


def installed(libraries) -> dict[str, str]:
    """The versions of those that are installed, without importing them."""
    versions = {}
    for library in libraries:
        with suppress(metadata.PackageNotFoundError):
            versions[library] = metadata.version(library)
    return versions


# during a run -------------------------------------------------------------------------------


def busy_seconds() -> float | None:
    """CPU seconds that everybody on this machine has used since it started; None where the system does not tell."""
    try:
        fields = Path("/proc/stat").read_text(encoding="ascii").splitlines()[0].split()[1:]
    except OSError:  # not Linux
        return None
    # time stolen by other virtual machines counts: it is time that somebody else computed
    user, nice, system, _idle, _iowait, irq, softirq, steal = map(int, fields[:8])
    return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")


def peak_megabytes() -> float | None:
    """The most memory that this process has had at once, in MB (10⁶ bytes); None where the system does not tell."""
    try:
        lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
        return next(int(line.split()[1]) * 1024 / 1e6 for line in lines if line.startswith("VmHWM"))
    except (OSError, StopIteration):
        return _peak_by_resource()


def _peak_by_resource() -> float | None:
    """The same from getrusage; on Linux it would include what the parent process had, hence the second choice."""
    try:
        import resource
    except ImportError:  # Windows
        return None
    unit = 1 if platform.system() == "Darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6
