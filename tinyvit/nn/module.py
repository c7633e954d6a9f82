"""Modules: plain objects with parameters, found by walking their attributes.

``blocks.0.attn.qkv.weight`` is a parameter's name because that is where it hangs. Nothing is registered.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

from tinyvit.autodiff.tensor import Tensor
from tinyvit.autodiff.watch import run_module
from tinyvit.blueprint import Blueprint


class Parameter(Tensor):
    """A Tensor that training changes."""

    __slots__ = ()

    def __init__(self, data):
        super().__init__(data, requires_grad=True)


class Buffer(Tensor):
    """A Tensor that belongs to the model's state and is not trained: a running mean, say."""

    __slots__ = ()


class StateError(ValueError):
    """A state that does not fit a model; ``missing``, ``unexpected`` and ``misshaped`` list the names."""

    def __init__(self, missing, unexpected, misshaped):
        self.missing, self.unexpected, self.misshaped = missing, unexpected, misshaped
        lines = [f"missing: {name}" for name in missing] + [f"unexpected: {name}" for name in unexpected]
        lines += [f"mis-shaped: {name} is {got}, the model's is {own}" for name, got, own in misshaped]
        super().__init__("the state does not fit the model\n  " + "\n  ".join(lines))


class Module:
    """An object with parameters and a ``forward``.

    Training mode *is* having a generator: ``model.train(rng)`` gives every layer the source its noise comes
    from, ``model.eval()`` takes it away.
    """

    rng: np.random.Generator | None = None

    def forward(self, *inputs, **options):
        """The module's function; subclasses write it."""
        raise NotImplementedError(f"{type(self).__name__} has no forward")

    def __call__(self, *inputs, **options):
        return run_module(self, inputs, options)

    # finding ------------------------------------------------------------------------------

    def named_modules(self, prefix: str = "") -> Iterator[tuple[str, Module]]:
        """This module and all below it, with their dotted names (this one's is ``prefix``)."""
        yield prefix, self
        for name, value in _children(self):
            if isinstance(value, Module):
                yield from value.named_modules(f"{prefix}.{name}" if prefix else name)

    def named_state(self) -> Iterator[tuple[str, Tensor]]:
        """Parameters and buffers with their dotted names, in the order they were made."""
        for prefix, module in self.named_modules():
            for name, value in _children(module):
                if isinstance(value, Parameter | Buffer):
                    yield f"{prefix}.{name}" if prefix else name, value

    def named_parameters(self) -> Iterator[tuple[str, Parameter]]:
        """Parameters with their dotted names; one that hangs in two places has the name of the first."""
        seen: set = set()
        for name, value in self.named_state():
            if isinstance(value, Parameter) and id(value) not in seen:
                seen.add(id(value))
                yield name, value

    def parameters(self) -> list[Parameter]:
        """The parameters, in the order they were made."""
        return [value for _, value in self.named_parameters()]

    def num_parameters(self) -> int:
        """How many numbers training changes (buffers are not counted)."""
        return sum(p.size for p in self.parameters())

    # state --------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, np.ndarray]:
        """Name -> array, of parameters and buffers. The arrays are the model's own, not copies."""
        return {name: value.data for name, value in self.named_state()}

    def load_state_dict(self, state: dict, strict: bool = True) -> None:
        """Take parameters and buffers from ``state``, copied and cast to the model's precision.

        Raises StateError naming *every* missing, unexpected and mis-shaped array (mis-shaped only, if not strict);
        then nothing has been changed.
        """
        own = dict(self.named_state())
        missing = [name for name in own if name not in state]
        unexpected = [name for name in state if name not in own]
        met = [name for name in own if name in state]
        misshaped = [(n, np.shape(state[n]), own[n].shape) for n in met if np.shape(state[n]) != own[n].shape]
        if misshaped or (strict and (missing or unexpected)):
            raise StateError(missing, unexpected, misshaped)
        for name in met:
            dtype = state[name].dtype if isinstance(own[name].data, Blueprint) else own[name].dtype
            own[name].data = state[name].astype(dtype, copy=True)

    # mode, precision, place ---------------------------------------------------------------

    def train(self, rng: np.random.Generator):
        """Training mode: every layer draws its noise from ``rng``. Returns the model."""
        if not isinstance(rng, np.random.Generator):
            raise TypeError("rng: training mode is having a generator; pass np.random.default_rng(seed)")
        return self._with_rng(rng)

    def eval(self):
        """Evaluation mode: no noise, running statistics. Returns the model."""
        return self._with_rng(None)

    @property
    def training(self) -> bool:
        """Whether the module has a generator, which is what training mode means."""
        return self.rng is not None

    def _with_rng(self, rng):
        for _, module in self.named_modules():
            module.rng = rng
        return self

    def astype(self, dtype):
        """Change the precision of every floating parameter and buffer. Returns the model."""
        return self._convert(lambda x: x.astype(dtype) if x.dtype.kind == "f" else x)

    def _convert(self, change):
        for _, value in self.named_state():
            value.data = change(value.data)
        return self


class Sequential(Module):
    """Modules one after the other; their names are their positions."""

    def __init__(self, *modules):
        for i, module in enumerate(modules):
            setattr(self, str(i), module)

    def forward(self, x):
        for _, module in _children(self):
            if isinstance(module, Module):
                x = module(x)
        return x


class Identity(Module):
    """``x`` itself: where a variant of a model has nothing to do."""

    def forward(self, x):
        return x


@contextmanager
def swapped(model: Module, arrays: dict):
    """Run a block with other values in some parameters and buffers; the old ones come back however it ends.

    arrays: name -> array of the same shape. SAM's ascent point, loss landscapes and the complex step are this.
    """
    own = dict(model.named_state())
    if unknown := [name for name in arrays if name not in own]:
        raise KeyError(f"the model has no parameter or buffer called {unknown[0]!r}")
    if wrong := [name for name in arrays if np.shape(arrays[name]) != own[name].shape]:
        raise ValueError(f"{wrong[0]}: expected shape {own[wrong[0]].shape}, got {np.shape(arrays[wrong[0]])}")
    before = {name: own[name].data for name in arrays}
    try:
        for name, array in arrays.items():
            own[name].data = array
        yield model
    finally:
        for name, array in before.items():
            own[name].data = array


def _children(module: Module) -> Iterator[tuple[str, object]]:
    """Attributes by dotted name; the members of lists, tuples and dicts by position or key."""
    for name, value in vars(module).items():
        if isinstance(value, list | tuple):
            yield from ((f"{name}.{i}", member) for i, member in enumerate(value))
        elif isinstance(value, dict):
            yield from ((f"{name}.{key}", member) for key, member in value.items())
        else:
            yield name, value
