"""How the time of forward and backward grows along one size of a ViT or of a map, and how the arithmetic does.

    for growth in scaling():
        print(growth.axis.name, growth.slope, growth.expected)

If time goes like sizeᵃ, then a is the slope of log time over log size. Multiply-accumulates are counted exactly: linear
in the batch and in the depth; in the tokens between linear (the projections) and quadratic (the scores). In the places
of a map, attention of all to all (MSA) is nearly quadratic; in windows (W-MSA), in neighbourhoods (NA) and outlooks
(OA) it is linear.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from tinyvit import plots
from tinyvit.bench.contender import Apart
from tinyvit.bench.facts import Facts, machine_facts
from tinyvit.bench.measure import Times, in_turns
from tinyvit.bench.ours import gradient, window_blocks
from tinyvit.bench.tasks import Images, MapLayer


@dataclass(frozen=True)
class Axis:
    """Tasks that differ in one size, by that size, and the contender whose work they are."""

    name: str
    about: str
    tasks: dict[int, Images | MapLayer]
    contender: Callable = gradient


@dataclass(frozen=True)
class Growth:
    """Times along an axis, by size, and the multiply-accumulates of one forward pass."""

    axis: Axis
    facts: Facts
    times: dict[int, Times]
    macs: dict[int, int]

    @property
    def slope(self) -> float:
        """The power of the size that the time goes like."""
        return power({size: times.median for size, times in self.times.items()})

    @property
    def expected(self) -> float:
        """The power of the size that the arithmetic goes like."""
        return power(self.macs)

    def row(self) -> dict:
        """Everything as plain numbers, for a JSON file.

        sizes, sizes_ms, sizes_macs  lists of one length · slope, expected_slope: of their logarithms
        ours_ms, ours_mb             time and peak memory of the largest size, as in every row
        """
        last = self.times[max(self.times)]
        return {
            "workload": f"scaling_{self.axis.name}", "threads": self.facts.threads, "blas": self.facts.blas,
            "ours_ms": 1e3 * last.median, "ours_mb": last.peak_mb, "slope": self.slope,
            "expected_slope": self.expected, "sizes": list(self.times),
            "sizes_ms": [1e3 * times.median for times in self.times.values()], "sizes_macs": list(self.macs.values()),
            "machine": asdict(self.facts),
        }  # fmt: skip


def power(values: dict[int, float]) -> float:
    """The a of value ∝ sizeᵃ: the slope of the least-squares line through the logarithms."""
    return float(np.polyfit(np.log(list(values)), np.log(list(values.values())), 1)[0])


# the axes -----------------------------------------------------------------------------------

SIZES = {"img_size": 32, "patch_size": 4, "depth": 2, "num_classes": 10}
BASE = Images("vit_tiny_patch16_224", SIZES, batch=32)
ABOUT = "gradient of a ViT on 32×32 images in 4×4 patches, width 192, depth 2, 3 heads, batch 32; other"

LAYER = {"batch": 4, "dim": 32, "heads": 1}


def places(layer: str, about: str, reach: int = 7) -> Axis:
    """A layer of attention alone, on maps of 14×14 to 56×56."""
    about = f"{about}: forward and backward of a layer of 32 channels, 1 head, batch 4, by the places of a square map"
    tasks = {n**2: MapLayer(layer, side=n, reach=reach, **LAYER) for n in (14, 28, 42, 56)}
    return Axis(f"places_{layer.replace('-', '_')}", about, tasks, window_blocks)


AXES = (
    Axis("batch", f"{ABOUT} batches", {n: replace(BASE, batch=n) for n in (32, 64, 96, 128)}),
    Axis("depth", f"{ABOUT} depths", {n: replace(BASE, config=SIZES | {"depth": n}) for n in (2, 4, 6, 8)}),
    Axis("tokens", f"{ABOUT} image sizes",
         {1 + (n // 4) ** 2: replace(BASE, config=SIZES | {"img_size": n}) for n in (32, 48, 64, 80)}),
    places("MSA", "attention of all places to all (MSA)"),
    places("W-MSA", "attention in windows of 7×7 (W-MSA)"),
    places("NA", "attention to the nearest 7×7 places (NA)"),
    places("OA", "outlook attention, 3×3 at every second place (OA)", reach=3),
)  # fmt: skip


def scaling(axes: Sequence[Axis] = AXES, *, facts: Facts | None = None, repeats: int = 3, progress: bool = False,
            place=Apart) -> Iterator[Growth]:  # fmt: skip
    """Time the gradient along each axis, all its sizes in turns; arguments and errors as in ``bench``."""
    if repeats < 1:
        raise ValueError(f"repeats: expected at least 1, got {repeats}")
    facts = facts or machine_facts()
    return (_measured(axis, facts, repeats, progress, place) for axis in axes)


def draw(growths: Sequence[Growth], path) -> Path | None:
    """Time by the places of a map, layer by layer; dashed, if all went at the speed on the largest map. If measured."""
    layers = [growth for growth in growths if growth.axis.name.startswith("places_")]
    if not layers:
        return None
    measured, formula = {}, {}
    for growth in layers:
        name, places = growth.axis.name.removeprefix("places_").replace("_", "-"), np.array(list(growth.times))
        measured[name] = places, np.array([1e3 * times.median for times in growth.times.values()])
        macs = np.array([task.formula() for task in growth.axis.tasks.values()])
        formula[name] = places, macs * measured[name][1][-1] / macs[-1]
    dashed = [np.concatenate([np.append(part, np.nan) for part in parts])
              for parts in zip(*formula.values(), strict=True)]  # fmt: skip
    figure = plots.lines(measured, x="places of the map (1)", y="time, forward and backward (ms)", log="xy",
                         theory={"like the formula's MACs": dashed})  # fmt: skip
    return plots.save(figure, path, {"ms": measured, "formula_ms": formula}, also=plots.VECTORS)


def _measured(axis: Axis, facts: Facts, repeats: int, progress: bool, place) -> Growth:
    """One axis's result."""
    running = {}
    try:
        for size, task in axis.tasks.items():
            running[size] = place(partial(axis.contender, task), facts.threads)
            running[size].warm_up()
        turns = in_turns(running, repeats, axis.name if progress else None)
        times = {size: Times(tuple(turns[size]), contender.peak()) for size, contender in running.items()}
    finally:
        for contender in running.values():
            contender.close()
    return Growth(axis, facts, times, {size: task.macs() for size, task in axis.tasks.items()})
