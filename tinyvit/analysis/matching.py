"""Models at the same training loss: curvature vanishes with the loss, so only there it compares.

An epoch's end is too coarse for that: "the first epoch under 0.1" compares 0.098 with 0.062. A ``Crossing`` looks every
few updates, and between the last two looks it goes back along the straight line between their weights.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

from tinyvit.analysis.landscape import between
from tinyvit.autodiff.watch import no_grad
from tinyvit.nn.module import Module


class Crossing:
    """Keeps copies of a model that is being trained, from where its loss on fixed data first is at given levels.

        crossing = Crossing(objective, model, batch, [0.1])
        for step in training(model, …):
            crossing.look(step.number)
        matched = crossing.at[0.1]

    objective  (model, batch) -> loss
    model      what is trained; it is looked at in the mode it is in between updates, which is evaluation
    batch      (images, labels), the fixed data
    levels     losses, in nats
    every      how many updates lie between two looks
    within     how near to a level is near enough, as a share of it

    ``at`` has the levels that were reached, and copies of the model from there; from the start, if it was below then.
    """

    def __init__(self, objective, model: Module, batch: tuple, levels: Sequence[float], *, every: int = 4,
                 within: float = 0.001):  # fmt: skip
        self.objective, self.model, self.batch, self.every, self.within = objective, model, batch, every, within
        self.missing = sorted(levels, reverse=True)
        self.at: dict[float, Module] = {}
        self.before = copy.deepcopy(model)

    def look(self, number: int) -> None:
        """After update ``number``, from 0: keep the model if it has come to a level."""
        if not self.missing or (number + 1) % self.every:
            return
        loss = self._loss(self.model)
        while self.missing and loss <= self.missing[0]:
            level = self.missing.pop(0)
            self.at[level] = self._between(level)
        self.before.load_state_dict(self.model.state_dict())

    def _between(self, level: float) -> Module:
        """The model on the line from the last look to this one where the loss is the level, by bisection."""
        found, start, way = copy.deepcopy(self.model), self.before.state_dict(), between(self.before, self.model)
        start = {name: x.copy() for name, x in start.items()}
        low, high = 0.0, 1.0  # shares of the way: the loss is above the level there, and below it
        while high - low > 1e-6:
            share = (low + high) / 2
            found.load_state_dict(start | {name: (start[name] + share * d).astype(start[name].dtype)
                                           for name, d in way.items()})  # fmt: skip
            loss = self._loss(found)
            if abs(loss - level) <= self.within * level:
                break
            low, high = (share, high) if loss > level else (low, share)
        return found

    def _loss(self, model: Module) -> float:
        with no_grad():
            return self.objective(model, self.batch).item()
