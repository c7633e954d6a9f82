"""A model as a table: modules, output shapes, parameters, multiply-accumulates. Nothing is allocated."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass

from tinyvit.autodiff.cost import MacCounter
from tinyvit.autodiff.watch import Listener, listening, no_grad
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


def describe(model: Module, depth: int = 2, shape: tuple | None = None) -> str:
    """The table of the modules whose names have up to ``depth`` parts, with shapes, parameters and MACs, as text."""
    rows = measure(model, shape)
    rows = [row for row in rows if not row.name or len(row.name.split(".")) <= depth]
    head = ("module", "kind", "output", "parameters", "MACs")
    body = [(row.name or type(model).__name__, row.kind, "×".join(map(str, row.shape[1:])),
             f"{row.params:,}", f"{row.macs:,}") for row in rows]  # fmt: skip
    widths = [max(map(len, column)) for column in zip(head, *body, strict=True)]
    lines = [_line(cells, widths) for cells in (head, tuple("─" * w for w in widths), *body)]
    return "\n".join(lines)


def _line(cells, widths) -> str:
    """One row: words to the left, numbers to the right."""
    return "  ".join(
        c.ljust(w) if i < 3 else c.rjust(w) for i, (c, w) in enumerate(zip(cells, widths, strict=True))
    ).rstrip()
