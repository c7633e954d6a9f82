"""Who is watching: recording on or off, listeners, and the modules that are running.

Facts about the running code that no argument should have to carry. They live in one ContextVar, so
threads and async tasks each have their own, and every change is a ``with``.
"""

from __future__ import annotations

from contextlib import contextmanager
from contextvars import ContextVar
from typing import NamedTuple


class Watch(NamedTuple):
    """The facts, all of them with a value from the start.

    recording  whether ops remember how they were made
    level      how many ``grad`` calls we are inside of
    listeners  the captures and profiles at work
    modules    the modules running now, outermost first
    noise      a generator in place of the modules' own, where parts of a batch run side by side
    shared     whether they do, so that nobody may move the weights
    """

    recording: bool = True
    level: int = 0
    listeners: tuple = ()
    modules: tuple = ()
    noise: object = None
    shared: bool = False


_current: ContextVar[Watch] = ContextVar("tinyvit.watch", default=Watch())  # noqa: B039 - it is frozen
watch = _current.get  # the one read that every op call pays for


class Listener:
    """What a capture or a profile may hear. Every method has a default, so each overrides what it needs."""

    def opens(self, op) -> bool:
        """Whether ``op`` must run as its equation, so that its taps are reached."""
        return False

    def tapped(self, name: str, value):
        """A value that an equation named; what is returned goes on in its place."""
        return value

    def entered(self, module, inputs):
        """A module is about to run; what is returned are the inputs it gets."""
        return inputs

    def left(self, module, value):
        """A module has run; what is returned goes on in its output's place."""
        return value

    def called(self, op, inputs, options, value, seconds):
        """A primitive or a kernel has run."""

    def pulled(self, node, seconds):
        """A node's cotangents have been computed."""


@contextmanager
def watching(**changes):
    """Run a block with some facts of the Watch changed; they are restored however the block ends."""
    token = _current.set(_current.get()._replace(**changes))
    try:
        yield
    finally:
        _current.reset(token)


def no_grad():
    """``with no_grad():`` — ops compute and remember nothing."""
    return watching(recording=False)


@contextmanager
def listening(listener: Listener, alone: bool = False):
    """Let ``listener`` hear everything that runs in the block; nobody else, if ``alone``."""
    with watching(listeners=(listener,) if alone else (*watch().listeners, listener)):
        yield listener


def tap(name: str, value):
    """Give a value inside an equation a name, by which ``capture`` finds it. The identity, otherwise."""
    for listener in watch().listeners:
        value = listener.tapped(name, value)
    return value


def run_module(module, inputs, options):
    """Call ``module.forward`` and tell the listeners, so that they know where in the model they are."""
    now = watch()
    if not now.listeners:
        return module.forward(*inputs, **options)
    with watching(modules=(*now.modules, module)):
        for listener in now.listeners:
            inputs = listener.entered(module, inputs)
        value = module.forward(*inputs, **options)
        for listener in now.listeners:
            value = listener.left(module, value)
    return value
