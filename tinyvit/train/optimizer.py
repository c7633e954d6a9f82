"""What all optimisers share: parameters in groups, arrays kept beside them, a state that can be saved."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from tinyvit.nn.module import Module
from tinyvit.train.groups import Groups, weights_decay
from tinyvit.train.saved import copied, fitting


class Optimizer:
    """From gradients to new parameters. It acts on arrays and knows nothing of graphs.

    weight_decay  λ of the parameters whose group says 1
    groups        by a parameter's name and array: its factors of λ and of the rate (see ``groups.py``)

    A subclass names the arrays it keeps for every parameter in ``kept``, which start at zero, and says in ``updated``
    what becomes of one parameter.
    """

    kept: ClassVar[tuple[str, ...]] = ()

    def __init__(self, model: Module, *, weight_decay: float = 0.0, groups: Groups = weights_decay):
        if not weight_decay >= 0:
            raise ValueError(f"weight_decay: expected a number of at least 0, got {weight_decay}")
        self.parameters, self.steps = dict(model.named_parameters()), 0
        factors = {name: groups(name, p.data) for name, p in self.parameters.items()}
        self.decay = {name: weight_decay * decay for name, (decay, _) in factors.items()}
        self.pace = {name: rate for name, (_, rate) in factors.items()}
        self.memory = {kind: {n: np.zeros_like(p.data) for n, p in self.parameters.items()} for kind in self.kept}

    def step(self, gradients: dict[str, np.ndarray], rate: float) -> None:
        """Move every parameter by one update. Parameters get new arrays; the old ones are left as they were."""
        self.steps += 1
        for name, g in gradients.items():
            p = self.parameters[name]
            p.data = self.updated(name, p.data, g, rate * self.pace[name])

    def updated(self, name: str, w: np.ndarray, g: np.ndarray, rate: float) -> np.ndarray:
        """The parameter's new value; what is kept for it moves on."""
        raise NotImplementedError

    def state(self) -> dict[str, np.ndarray | int]:
        """What a run that goes on needs besides the parameters, copied to the host.

        ``steps``, a number, and an array ``<what is kept>/<parameter>`` for every parameter.
        """
        return {"steps": self.steps} | copied(self._arrays())

    def restore(self, state: dict) -> None:
        """Go on from a ``state()``.

        Raises ValueError naming every array that is missing, unknown or of another shape; then nothing has changed.
        """
        arrays = self._arrays()
        taken = fitting(state, arrays | {"steps": self.steps}, "the optimiser")
        self.steps = int(taken.pop("steps"))
        for name in arrays:
            kind, _, parameter = name.partition("/")
            self.memory[kind][parameter] = taken[name]

    def _arrays(self) -> dict[str, np.ndarray]:
        return {f"{kind}/{name}": array for kind, all_of_it in self.memory.items() for name, array in all_of_it.items()}


def fraction(name: str, *values: float) -> None:
    """Raise ValueError unless all values lie in [0, 1)."""
    if not all(0 <= value < 1 for value in values):
        raise ValueError(f"{name}: expected at least 0 and below 1, got {', '.join(map(str, values))}")


def positive(name: str, value: float) -> None:
    """Raise ValueError unless the value is over 0."""
    if not value > 0:
        raise ValueError(f"{name}: expected a positive number, got {value}")
