"""A running average of the weights, which often does better than the last ones."""

from __future__ import annotations

import numpy as np

from tinyvit.nn.module import Module, swapped
from tinyvit.train.saved import copied, fitting


class Average:
    """The exponential moving average of parameters and running statistics (Polyak & Juditsky 1992; DeiT: α = 0.99996).

        ē ← α ē + (1-α) w, after every update; ē starts as w

    What counts, as batch normalisation counts its batches, is not averaged but followed.

    for step in training(model, …):
        average.update()
    with average.weights():
        print(evaluate(model, splits.test))
    """

    def __init__(self, model: Module, decay: float):
        if not 0 <= decay < 1:
            raise ValueError(f"decay: expected at least 0 and below 1, got {decay}")
        self.model, self.decay = model, decay
        self.arrays = {name: array.copy() for name, array in model.state_dict().items()}

    def update(self) -> None:
        """Move the average towards the model as it is now."""
        for name, array in self.model.state_dict().items():
            counts = array.dtype.kind != "f"
            self.arrays[name] = array if counts else self.decay * self.arrays[name] + (1 - self.decay) * array

    def weights(self):
        """``with average.weights():`` the model has them; the old ones come back however the block ends."""
        return swapped(self.model, self.arrays)

    def state(self) -> dict[str, np.ndarray]:
        """The average, under the names of the model's state."""
        return copied(self.arrays)

    def restore(self, state: dict) -> None:
        """Go on from a ``state()``. Raises ValueError, and changes nothing, if it does not fit."""
        self.arrays = fitting(state, self.arrays, "the average")
