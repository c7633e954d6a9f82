"""The benchmark: the package and its peers on the same work, with the same weights, in turns.

    for result in bench(find_workloads(["W1_train"]), repeats=5):
        print(result.row())

A workload is one entry in ``workloads.py``; how it is timed, in ``measure.py``, does not depend on which it is. What it
computes on is in ``tasks.py``, who computes it in ``ours.py``, ``torch_peer.py`` and ``hand_written.py``. How our time
grows with batch, depth and tokens is in ``scaling.py``, how fast every paper's model is in ``throughput.py``.
"""

from tinyvit.bench.contender import Apart, Here
from tinyvit.bench.facts import Facts, machine_facts
from tinyvit.bench.measure import Disagreement, Result, Times, bench, results_file, write_rows
from tinyvit.bench.scaling import AXES, Growth, scaling
from tinyvit.bench.throughput import Throughput, members, throughput
from tinyvit.bench.workloads import INSTALL, WORKLOADS, Workload, find_workloads

__all__ = [
    "AXES",
    "Apart",
    "Disagreement",
    "Facts",
    "Growth",
    "Here",
    "INSTALL",
    "Result",
    "Throughput",
    "Times",
    "WORKLOADS",
    "Workload",
    "bench",
    "find_workloads",
    "machine_facts",
    "members",
    "results_file",
    "scaling",
    "throughput",
    "write_rows",
]
