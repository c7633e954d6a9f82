"""A model as a table: modules, output shapes, parameters, multiply-accumulates. Nothing is allocated, unless timed."""

from __future__ import annotations

import time
from contextlib import ExitStack
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from tinyvit.autodiff.cost import MacCounter
from tinyvit.autodiff.tensor import raw
from tinyvit.autodiff.watch import Listener, listening, no_grad, watch
from tinyvit.blueprint import Blueprint
from tinyvit.nn.module import Module, swapped


@dataclass(frozen=True)
class Row:
    """One module: its dotted name, its class, its output's shape for one image, its parameters and MACs."""

    name: str
    kind: str
    shape: tuple
    params: int
    macs: int


class _Shapes(Listener):
    """Remembers every module's output shape, in the order in which they first run."""

    def __init__(self):
        self.shapes: dict[int, tuple] = {}

    def entered(self, module, inputs):
        self.shapes.setdefault(id(module), ())
        return inputs

    def left(self, module, value):
        self.shapes[id(module)] = getattr(value, "shape", ())
        return value


class _Activations(Listener):
    """How many numbers were computed in every module and below: all results but views of what went in."""

    def __init__(self):
        self.numbers: dict[int, int] = {}

    def called(self, op, inputs, options, value, seconds):
        made = raw(value)
        new = 0 if any(np.may_share_memory(made, raw(x)) for x in inputs if hasattr(x, "shape")) else np.size(made)
        for module in watch().modules:
            self.numbers[id(module)] = self.numbers.get(id(module), 0) + new


class _Clock(Listener):
    """How long every module ran, with all that runs in it, in seconds."""

    def __init__(self):
        self.seconds: dict[int, float] = {}
        self.running: list[float] = []

    def entered(self, module, inputs):
        self.running.append(time.perf_counter())
        return inputs

    def left(self, module, value):
        taken = time.perf_counter() - self.running.pop()
        self.seconds[id(module)] = self.seconds.get(id(module), 0.0) + taken
        return value


def measure(model: Module, shape: tuple | None = None) -> list[Row]:
    """A Row for the model (named "") and every module that runs on its example inputs, or an array of ``shape``."""
    counter, shapes = MacCounter(), _Shapes()
    _run_on_shapes(model, shape, counter, shapes)
    modules = {id(module): (name, module) for name, module in reversed(list(model.named_modules()))}
    return [
        Row(modules[key][0], type(modules[key][1]).__name__, shape, modules[key][1].num_parameters(),
            counter.by_module.get(key, 0))
        for key, shape in shapes.shapes.items()
    ]  # fmt: skip


class Cost(NamedTuple):
    """What a forward pass of one image, or an input of some shape, costs in a module and those below it.

    activations  numbers computed, kernels being kernels and views no numbers · seconds
    """

    activations: int
    seconds: float


def forward_costs(model: Module, shape: tuple | None = None, *, turns: int = 5) -> dict[str, Cost]:
    """The Cost of every module that runs, by name ("" is the model); of seconds the least of some turns.

    The model needs numbers; it is given zeros.
    """
    inputs = example_inputs(model) if shape is None else (Blueprint(shape),)
    inputs = [model.bring(np.zeros(x.shape, x.dtype)) for x in inputs]
    clocks = []
    with no_grad():
        with listening(_Activations()) as counter:
            model(*inputs)
        for _ in range(turns):
            with listening(_Clock()) as clock:
                model(*inputs)
            clocks.append(clock.seconds)
    names = {id(module): name for name, module in reversed(list(model.named_modules()))}
    return {names[key]: Cost(counter.numbers.get(key, 0), min(clock[key] for clock in clocks)) for key in clocks[0]}


def _run_on_shapes(model: Module, shape: tuple | None, *listeners) -> None:
    """Run the model on shapes alone, heard by the listeners."""
    inputs = example_inputs(model) if shape is None else (Blueprint(shape),)
    blueprints = {name: Blueprint(value.shape, value.dtype) for name, value in model.named_state()}
    with no_grad(), swapped(model, blueprints), ExitStack() as heard:
        for listener in listeners:
            heard.enter_context(listening(listener))
        model(*inputs)


def example_inputs(model: Module, batch: int = 1) -> tuple:
    """What the model can be called with, as blueprints: images, or what its own ``example_inputs`` says."""
    own = getattr(model, "example_inputs", None)
    return own(batch) if own else (Blueprint(input_shape(model, batch)),)


def input_shape(model: Module, batch: int = 1) -> tuple:
    """(B, H, W, C) of the images a model's config asks for; (B, T, H, W, C) of clips, where it says how many frames."""
    size = model.config.img_size
    if size is None:
        raise ValueError(f"shape: this {type(model).__name__} takes images of any size; say (B, H, W, C)")
    H, W = (size, size) if isinstance(size, int) else size
    frames = (model.config.num_frames,) if hasattr(model.config, "num_frames") else ()
    return (batch, *frames, H, W, model.config.in_chans)


def count_macs(model: Module, shape: tuple | None = None) -> int:
    """Multiply-accumulates of convolutions and matrix products, exact; for one image, or an input of ``shape``."""
    counter = MacCounter()
    _run_on_shapes(model, shape, counter)
    return counter.by_module.get(id(model), 0)


def describe(model: Module, depth: int = 2, shape: tuple | None = None, *, timed: bool = False) -> str:
    """The table of the modules whose names have up to ``depth`` parts, with shapes, parameters and MACs, as text.

    timed  also how many numbers are computed in them, and how long that takes here (``forward_costs``)
    """
    rows = measure(model, shape)
    rows = [row for row in rows if not row.name or len(row.name.split(".")) <= depth]
    head = ("module", "kind", "output", "parameters", "MACs")
    body = [(row.name or type(model).__name__, row.kind, "×".join(map(str, row.shape[1:])),
             f"{row.params:,}", f"{row.macs:,}") for row in rows]  # fmt: skip
    if timed:
        costs = forward_costs(model, shape)
        head = (*head, "activations", "ms")
        body = [(*cells, f"{costs[row.name].activations:,}", f"{1e3 * costs[row.name].seconds:.2f}")
                for cells, row in zip(body, rows, strict=True)]  # fmt: skip
    widths = [max(map(len, column)) for column in zip(head, *body, strict=True)]
    lines = [_line(cells, widths) for cells in (head, tuple("─" * w for w in widths), *body)]
    return "\n".join(lines)


def _line(cells, widths) -> str:
    """One row: words to the left, numbers to the right."""
    return "  ".join(
        c.ljust(w) if i < 3 else c.rjust(w) for i, (c, w) in enumerate(zip(cells, widths, strict=True))
    ).rstrip()
