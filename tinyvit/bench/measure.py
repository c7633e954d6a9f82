"""How it is timed: contenders take turns, A B A B …, each in a process of its own.

Apart from each other they have honest memory figures and no second pool of threads in their way; taking turns, they
meet the same weather. What others did with the machine meanwhile is measured too, and told.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from statistics import median, quantiles

import numpy as np

from tinyvit.bench.contender import Apart, Turn
from tinyvit.bench.facts import Facts, machine_facts
from tinyvit.bench.workloads import WORKLOADS, Workload
from tinyvit.files import make_folder, write_atomically

SETTLE = 0.05  # seconds between turns, for the last one's threads to stop waiting for work
FOREIGN = 0.12  # share of one core that others may use in a turn before it is called disturbed


class Disagreement(ValueError):
    """Contenders whose numbers differ: they do not do the same work, so their times cannot be compared."""


@dataclass(frozen=True)
class Times:
    """A contender's turns, and the most memory its process had, in MB."""

    turns: tuple[Turn, ...]
    peak_mb: float | None

    @property
    def seconds(self) -> list[float]:
        """Seconds per step of every turn."""
        return [turn.seconds for turn in self.turns]

    @property
    def median(self) -> float:
        """Seconds per step."""
        return median(self.seconds)

    @property
    def spread(self) -> float:
        """How far apart the middle half of the turns is, relative to the median."""
        if len(self.turns) < 2:
            return 0.0
        low, _, high = quantiles(self.seconds, n=4, method="inclusive")
        return (high - low) / self.median


@dataclass(frozen=True)
class Result:
    """What came out of one workload.

    ours, peers  times; those beside ours are among the peers
    differences  of every peer's first numbers from ours, relative; of none that does other work
    absent       peers that could not be imported, and why
    """

    workload: Workload
    facts: Facts
    ours: Times
    peers: dict[str, Times] = field(default_factory=dict)
    differences: dict[str, float] = field(default_factory=dict)
    absent: dict[str, str] = field(default_factory=dict)

    def ratio(self, peer: str) -> float:
        """Our median over the peer's: below one, we are faster."""
        return self.ours.median / self.peers[peer].median

    def paired_ratio(self, peer: str) -> float:
        """The median of the ratios of neighbouring turns; a slow drift of the machine cancels in it."""
        return median(a / b for a, b in zip(self.ours.seconds, self.peers[peer].seconds, strict=True))

    def undisturbed(self, peer: str) -> tuple[int, float | None]:
        """How many pairs of neighbouring turns others left alone, and the median of the ratios in those."""
        pairs = zip(self.ours.turns, self.peers[peer].turns, strict=True)
        calm = [a.seconds / b.seconds for a, b in pairs if not (disturbed(a) or disturbed(b))]
        return len(calm), median(calm) if calm else None

    def others(self) -> tuple[float, float] | None:
        """Cores that others used on average, and the share of turns that this disturbed; None where unknown."""
        turns = [turn for times in (self.ours, *self.peers.values()) for turn in times.turns]
        if any(turn.others is None for turn in turns):
            return None
        return float(np.mean([turn.others for turn in turns])), float(np.mean([disturbed(turn) for turn in turns]))

    @property
    def disturbed(self) -> bool:
        """Whether others used so much of the machine that the times are less sure."""
        return bool(self.others() and self.others()[1] > 0)

    def row(self) -> dict:
        """Everything as plain numbers, for a JSON file; times in milliseconds, memory in MB.

        For ours, and for every peer by its name: ``_ms`` the median, ``_min_ms`` the least, ``_spread`` of the middle
        half relative to the median, ``_mb`` the most memory, ``_turns_ms`` the turns and what others did meanwhile.
        For every peer ``_ratio`` is ours over its median (PyTorch's is just ``ratio``), ``_ratio_of_pairs`` the median
        over neighbouring turns, ``_ratio_undisturbed`` over those that others left alone, ``_difference`` of numbers.
        """
        row = {"workload": self.workload.name, "threads": self.facts.threads, "blas": self.facts.blas}
        for name, times in {"ours": self.ours, **self.peers}.items():
            row |= {
                f"{name}_ms": 1e3 * times.median,
                f"{name}_min_ms": 1e3 * min(times.seconds),
                f"{name}_spread": times.spread,
                f"{name}_mb": times.peak_mb,
                f"{name}_images_per_second": self.workload.batch / times.median,
                f"{name}_turns_ms": [1e3 * s for s in times.seconds],
                f"{name}_turns_others_cores": [turn.others for turn in times.turns],
            }
        for name in self.peers:
            against = "ratio" if name == "torch" else f"{name}_ratio"
            row |= {against: self.ratio(name), f"{against}_of_pairs": self.paired_ratio(name)}
            row |= {f"{against}_undisturbed": self.undisturbed(name)[1]}
            row |= {f"{name}_difference": self.differences.get(name)}
        used, disturbed = self.others() or (None, None)
        return row | {"others_cores": used, "disturbed_turns": disturbed, "machine": asdict(self.facts)}


def disturbed(turn: Turn) -> bool:
    """Whether others used more of the machine in a turn than can be passed over; never where that is unknown."""
    return turn.others is not None and turn.others > FOREIGN


def results_file(path) -> Path:
    """The path, if a file can be written there; better to know before a minute of measuring. Raises OSError."""
    path = Path(path)
    if path.is_dir():
        raise IsADirectoryError(f"cannot write the results to {path}: it is a folder")
    make_folder(path.parent)
    return path


def write_rows(results: Sequence, path) -> Path:
    """Write a JSON list with the row of every Result and Growth; whole or not at all."""
    text = json.dumps([result.row() for result in results], indent=1)
    return write_atomically(Path(path), (text + "\n").encode())


# all of them --------------------------------------------------------------------------------


def bench(workloads: Sequence[Workload] = WORKLOADS, *, facts: Facts | None = None, repeats: int = 9,
          peers: bool = True, progress: bool = False, place=Apart) -> Iterator[Result]:  # fmt: skip
    """Time workloads, yielding each one's result when it is there.

    facts     ``machine_facts(threads)``, which also says how many threads each may use; all cores if left out
    repeats   turns of each contender · peers: whether others than ourselves take part
    progress  a progress bar on stderr
    place     where contenders run: ``Apart``, each in a process of its own, or ``Here``

    Peers that cannot be imported are left out and named in the result. Raises Disagreement when a peer computes
    something else, ValueError for arguments that make no sense, ChildProcessError when a contender breaks.
    """
    if repeats < 1:
        raise ValueError(f"repeats: expected at least 1, got {repeats}")
    facts = facts or machine_facts()
    return (_measure(workload, facts, repeats, peers, progress, place) for workload in workloads)


def _measure(workload: Workload, facts: Facts, repeats: int, peers: bool, progress: bool, place) -> Result:
    """One workload's result."""
    facts = replace(facts, threads=workload.threads or facts.threads)
    running, absent = {}, {}
    try:
        running["ours"] = place(workload.ours, facts.threads)
        for name, contender in {**(workload.peers if peers else {}), **workload.beside}.items():
            try:
                running[name] = place(contender, facts.threads)
            except ImportError as error:
                absent[name] = str(error)
        differences = _compared(workload, {name: c.warm_up() for name, c in running.items()})
        turns = in_turns(running, repeats, workload.name if progress else None)
        times = {name: Times(_shared(turns[name], workload.pieces), c.peak()) for name, c in running.items()}
    finally:
        for contender in running.values():
            contender.close()
    return Result(workload, facts, times.pop("ours"), times, differences, absent)


def _shared(turns: list[Turn], pieces: int) -> tuple[Turn, ...]:
    """Turns whose seconds are those of one of the equal pieces of a step."""
    return tuple(replace(turn, seconds=turn.seconds / pieces) for turn in turns)


def in_turns(running: dict, repeats: int, name: str | None) -> dict[str, list[Turn]]:
    """A B A B …: the turns of each."""
    from tqdm import tqdm

    turns: dict[str, list[Turn]] = {contender: [] for contender in running}
    for _ in tqdm(range(repeats), desc=name, disable=name is None, leave=False, dynamic_ncols=True):
        for contender, its in turns.items():
            time.sleep(SETTLE)
            its.append(running[contender].turn())
    return turns


def _compared(workload: Workload, numbers: dict[str, list]) -> dict[str, float]:
    """Each peer's worst difference from us in the first step. Raises Disagreement if it, or a later one, is large."""
    ours, differences = numbers.pop("ours"), {}
    for name, theirs in numbers.items():
        if name in workload.beside and not any(theirs):  # other work
            continue
        for i, (a, b) in enumerate(zip(ours, theirs, strict=True)):
            allowed = workload.drift if i else workload.agreement
            if not difference(a, b) <= allowed:
                raise Disagreement(
                    f"{workload.name}: {name} computes something else: at step {i + 1} its numbers differ from ours by "
                    f"{difference(a, b):.1e}, where {allowed:.0e} is allowed; nothing was timed"
                )
        differences[name] = difference(ours[0], theirs[0])
    return differences


def difference(ours: list, theirs: list) -> float:
    """The worst difference of arrays, each relative to its largest number; infinite for other shapes."""
    if [a.shape for a in ours] != [b.shape for b in theirs]:
        return math.inf
    worst = [np.max(np.abs(a - b)) / max(np.max(np.abs(b)), 1e-30) for a, b in zip(ours, theirs, strict=True)]
    return float(np.max(worst))  # NaN, if there is one
