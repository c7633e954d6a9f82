"""Seeing and changing what happens inside a model, by name.

    with capture(model, "blocks.*.attn.weights") as seen:
        logits = model(images)
    seen["blocks.3.attn.weights"]            # a Tensor in the graph: gradients(loss, seen[...]) works

A name is the module's place in the model, and for a value inside an equation (attention's ``weights``) the name it is
tapped under. Kernels that hide a value asked for run as their equations, by themselves.
"""

from __future__ import annotations

from contextlib import contextmanager
from fnmatch import fnmatchcase

from tinyvit.autodiff.watch import Listener, listening, watch
from tinyvit.nn.module import Module

INPUT = ".input"


class Capture(Listener):
    """A dictionary of what was seen, name -> Tensor or array, filled while its ``with`` block runs."""

    def __init__(self, model: Module, patterns, edit):
        self.names = {id(module): name for name, module in model.named_modules()}
        self.patterns, self.edit = tuple(patterns), dict(edit or {})
        self.seen: dict = {}
        self.heard: dict = {}  # every name that ran, in order

    def opens(self, op) -> bool:
        """Only an equation with a tap that was asked for is opened; every other kernel stays fast."""
        return any(self._wants(name) for name in map(self._place, op.taps) if name is not None)

    def tapped(self, name, value):
        return self._see(self._place(name), value)

    def entered(self, module, inputs):
        name = self.names.get(id(module))
        if name is None or not inputs or not any(p.endswith(INPUT) for p in (*self.patterns, *self.edit)):
            return inputs
        return (self._see(f"{name}{INPUT}".lstrip("."), inputs[0]), *inputs[1:])

    def left(self, module, value):
        return self._see(self.names.get(id(module)), value)

    def _place(self, tap: str):
        """The full name of a tap in the module that is running; None outside the model."""
        for module in reversed(watch().modules):
            if id(module) in self.names:
                return f"{self.names[id(module)]}.{tap}".lstrip(".")
        return None

    def _wants(self, name: str) -> bool:
        self.heard[name] = None
        return any(_matches(name, pattern) for pattern in (*self.patterns, *self.edit))

    def _see(self, name, value):
        """Change the value if an edit asks for it, remember it if a pattern does, and pass it on."""
        if name is None or not self._wants(name):
            return value
        for pattern, change in self.edit.items():
            if _matches(name, pattern):
                value = change(value)
        if any(_matches(name, pattern) for pattern in self.patterns):
            self.seen[name] = value
        return value


def _matches(name: str, pattern: str) -> bool:
    """Whether a pattern means a name; a module's input is meant only by a pattern that says so."""
    return fnmatchcase(name, pattern) and name.endswith(INPUT) <= pattern.endswith(INPUT)


@contextmanager
def capture(model: Module, *patterns: str, edit: dict | None = None):
    """Collect values inside ``model`` whose names match a shell pattern, while the block runs.

    patterns  "blocks.*.attn.weights" (attention weights), "blocks.3" (a module's output), "blocks.3.input" (its first
              argument), "*.weights", …
    edit      pattern -> function: replaces matching values on their way, e.g. to ablate a head

    Gives a dictionary name -> Tensor (or array). A module that runs twice leaves its latest value.
    Raises ValueError at the end of the block for a pattern, of either kind, that met nothing: a wrong name, or a
    model that did not run.
    """
    listener = Capture(model, patterns, edit)
    with listening(listener):
        yield listener.seen
    for pattern in (*patterns, *(edit or {})):
        if not any(_matches(name, pattern) for name in listener.heard):
            raise ValueError(f"capture: nothing called {pattern!r} ran; {_hint(listener, pattern)}")


def _hint(listener: Capture, pattern: str) -> str:
    """A few names that did run, the nearest if any are near."""
    from difflib import get_close_matches  # not needed until something is wrong

    names = [name for name in listener.heard if name]
    if not listener.heard:
        return "the captured model was not called in the block"
    return "names look like " + ", ".join(get_close_matches(pattern, names, cutoff=0.5) or names[:3] or ["''"])
