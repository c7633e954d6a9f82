"""Modules: plain objects with parameters, found by walking their attributes.

``blocks.0.attn.qkv.weight`` is a parameter's name because that is where it hangs. Nothing is registered.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import ClassVar

import numpy as np

from tinyvit.autodiff.tensor import Tensor
from tinyvit.autodiff.watch import run_module
from tinyvit.backend import like, on_device, to_device
from tinyvit.blueprint import Blueprint


class Parameter(Tensor):
    """A Tensor that training changes."""

    __slots__ = ()

    def __init__(self, data):
        super().__init__(data, requires_grad=True)


class Buffer(Tensor):
    """A Tensor that belongs to the model's state and is not trained: a running mean, say."""

    __slots__ = ()


class Frozen(Buffer):
    """A Buffer that counts as a parameter: a table that the reference keeps among its parameters and never trains."""

    __slots__ = ()


STATE = (Parameter, Buffer)
NESTS = (list, tuple, dict)  # what modules and parameters are looked for in


class StateError(ValueError):
    """A state that does not fit a model.

    ``missing`` and ``unexpected`` list names; ``misshaped`` and ``mistyped`` list (name, the state's, the model's).
    """

    def __init__(self, missing, unexpected, misshaped, mistyped=(), hint: str = "", strangers: bool = False):
        self.missing, self.unexpected = list(missing), list(unexpected)
        self.misshaped, self.mistyped = list(misshaped), list(mistyped)
        self.strangers = strangers
        lines = ["(no name in common: is this the state of another model?)"] if unexpected and strangers else []
        lines += [f"{kind}: {what}" for kind, all_of_it in self.by_kind().items() for what in all_of_it]
        super().__init__("\n  ".join(["the state does not fit the model", *lines, *[hint] * bool(hint)]))

    def by_kind(self) -> dict[str, list[str]]:
        """What does not fit, in words, by what is wrong with it."""
        return {
            "missing": self.missing,
            "unexpected": sorted(self.unexpected),
            "mis-shaped": [f"{name} is {got}, the model's is {own}" for name, got, own in self.misshaped],
            "mis-typed": [f"{name} is {got}, the model's is {own}" for name, got, own in self.mistyped],
        }


class Module:
    """An object with parameters and a ``forward``.

    Training mode *is* having a generator: ``model.train(rng)`` gives every layer the source its noise comes
    from, ``model.eval()`` takes it away.
    """

    rng: np.random.Generator | None = None
    original_names: ClassVar[dict] = {}  # how files of the paper's own code name the parameters (nn/conversion.py)
    mixes_batch = False  # whether, in training, what happens to one sample depends on the others
    idle: tuple[str, ...] = ()  # patterns of parameters that the paper's model has and its output does not depend on

    def forward(self, *inputs, **options):
        """The module's function; subclasses write it."""
        raise NotImplementedError(f"{type(self).__name__} has no forward")

    def __call__(self, *inputs, **options):
        return run_module(self, inputs, options)

    def __repr__(self):
        return (
            f"<{type(self).__name__}, {self.num_parameters():,} parameters; tinyvit.describe(model) lists its modules>"
        )

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
                if isinstance(value, STATE):
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
        """How many numbers training changes, and those of Frozen tables (other buffers are not counted)."""
        frozen = [value for _, value in self.named_state() if isinstance(value, Frozen)]
        return sum(p.size for p in self.parameters() + frozen)

    # state --------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, np.ndarray]:
        """Name -> array, of parameters and buffers. The arrays are the model's own, not copies."""
        return {name: value.data for name, value in self.named_state()}

    def load_state_dict(self, state: dict, strict: bool = True) -> None:
        """Take parameters and buffers from ``state``, copied and cast to the model's precision.

        A blueprint has no precision yet and takes the state's, float32 at least. Raises StateError naming *every*
        missing, unexpected, mis-shaped and mis-typed array (the last two only, if not strict). Whatever is raised,
        nothing has been changed. The copies are made where the model is; a device's arrays for a model on the host are
        a TypeError.
        """
        error = self.misfits(state)
        if error.misshaped or error.mistyped or (strict and (error.missing or error.unexpected)):
            raise error
        own = dict(self.named_state())
        taken = {name: _taken(state[name], value.data) for name, value in own.items() if name in state}
        for name, array in taken.items():
            own[name].data = array

    def misfits(self, state: dict) -> StateError:
        """What of ``state`` does not fit, as the error that would say so: its lists are empty if all of it fits."""
        own = dict(self.named_state())
        missing = [name for name in own if name not in state]
        unexpected = [name for name in state if name not in own]
        met = [name for name in own if name in state]
        misshaped = [(n, np.shape(state[n]), own[n].shape) for n in met if np.shape(state[n]) != own[n].shape]
        mistyped = [(n, state[n].dtype, own[n].dtype) for n in met if not _castable(state[n].dtype, own[n].dtype)]
        return StateError(missing, unexpected, misshaped, mistyped, strangers=not met)

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

    def to(self, device: str):
        """Move every parameter and buffer to ``"cpu"`` (NumPy) or ``"cuda"`` (CuPy). Returns the model."""
        return self._convert(lambda x: to_device(x, device))

    @property
    def on_device(self) -> bool:
        """Whether the model's numbers, if it has any, are on a device."""
        _, first = next(self.named_state(), ("", None))
        return first is not None and on_device(first.data)

    def bring(self, x):
        """A NumPy array moved to the device that the model is on; with a model on the host, ``x`` itself."""
        return like(x, next(self.named_state())[1].data) if isinstance(x, np.ndarray) and self.on_device else x

    def _convert(self, change):
        for _, value in self.named_state():
            value.data = change(value.data)
        return self


class Sequential(Module):
    """Modules one after the other; their names are their positions."""

    def __init__(self, *modules):
        for i, module in enumerate(modules):
            setattr(self, str(i), module)

    def __iter__(self) -> Iterator[Module]:
        return (child for _, child in _children(self) if isinstance(child, Module))

    def forward(self, x):
        for module in self:
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
    """Attributes by dotted name; the members of lists, tuples and dicts, however nested, by position or key."""
    for name, value in vars(module).items():
        if isinstance(value, NESTS):
            yield from _members(name, value)
        else:
            yield name, value


def _members(name: str, value) -> Iterator[tuple[str, object]]:
    """``value`` under its name, or, if it is a list, tuple or dict, what is in it."""
    if isinstance(value, NESTS):
        for key, member in value.items() if isinstance(value, dict) else enumerate(value):
            yield from _members(f"{name}.{key}", member)
    else:
        yield name, value


def _taken(given, own):
    """A copy of ``given`` in the precision of ``own`` and where that is; a blueprint has no place yet."""
    if isinstance(own, Blueprint):
        return given.astype(np.result_type(own.dtype, given.dtype), copy=True)
    return like(given.astype(own.dtype, copy=True), own)


def _castable(given, own) -> bool:
    """Whether numbers of one type may become another's: any real ones floats, only integers integers."""
    return given.kind in "fiub" and np.can_cast(given, own, "same_kind")
