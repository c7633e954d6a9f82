"""How many images a second a model of every paper passes on, beside a ViT and in turns with it.

    for row in throughput():
        print(row.name, row.per_second, row.relative)

The slides compare systems so, at about the same number of parameters and 224×224 pixels. Of every paper in the
catalogue it is the published model that comes nearest to ViT-S/16 by parameters; of a paper that has none at 224
pixels, of all. Texts and clips count as images do.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

from tinyvit.bench.facts import Facts, machine_facts
from tinyvit.bench.measure import Result, bench
from tinyvit.bench.ours import forward, other_work
from tinyvit.bench.tasks import Inputs
from tinyvit.bench.workloads import Workload
from tinyvit.models.catalogue import PAPERS, create_model
from tinyvit.models.config import pair
from tinyvit.nn.describe import count_macs
from tinyvit.nn.module import Module

REFERENCE = "vit_small_patch16_224"
RESOLUTION = (224, 224)


@dataclass(frozen=True)
class Throughput:
    """A model's times beside the reference's, and what it is by count."""

    name: str
    parameters: int
    macs: int
    result: Result

    @property
    def per_second(self) -> float:
        """Images (or texts, or clips) that go forward."""
        return self.result.workload.batch / self.result.ours.median

    @property
    def relative(self) -> float:
        """That many times the reference's images: the median over neighbouring turns."""
        return 1 / self.result.paired_ratio(REFERENCE)

    def row(self) -> dict:
        """Everything as plain numbers, for a JSON file; see ``Result.row``."""
        own = {"parameters": self.parameters, "macs": self.macs, "relative": self.relative}
        return self.result.row() | own


def throughput(names: Sequence[str] = (), *, facts: Facts | None = None, **settings) -> Iterator[Throughput]:
    """Time models beside the reference, an image for every thread; ``members()``, unless others are named.

    Settings and errors are those of ``bench``; ValueError for a name that is not in the catalogue.
    """
    facts = facts or machine_facts()
    models = {name: create_model(name) for name in names or members()}
    return (_measured(name, model, facts, {"repeats": 3, **settings}) for name, model in models.items())


def _measured(name: str, model: Module, facts: Facts, settings: dict) -> Throughput:
    """One model's result."""
    (result,) = bench([beside_reference(name, facts.threads)], facts=facts, **settings)
    return Throughput(name, model.num_parameters(), count_macs(model), result)


def beside_reference(name: str, batch: int) -> Workload:
    """A model's forward pass, and the reference's."""
    ours, vit = Inputs(name, batch), Inputs(REFERENCE, batch)
    beside = {REFERENCE: partial(other_work, forward, vit)}
    return Workload(name, f"{name}: forward, no gradient", batch, partial(forward, ours), beside=beside)


def members() -> list[str]:
    """Of every paper in the catalogue, the published model whose number of parameters is nearest to the reference's."""
    wanted = create_model(REFERENCE).num_parameters()
    names = []
    for paper in PAPERS:
        sizes = {name: create_model(name).num_parameters() for name in _at_one_resolution(paper.PUBLISHED)}
        if sizes:
            names.append(min(sizes, key=lambda name: abs(math.log(sizes[name] / wanted))))
    return names


def _at_one_resolution(published: dict) -> list[str]:
    """The models of a paper's table that take images of 224×224 pixels, or all if none does."""
    sides = {name: getattr(row.config, "img_size", None) for name, row in published.items()}
    return [name for name, side in sides.items() if side and pair(side) == RESOLUTION] or list(published)
