"""What an exercise is: functions to write, what judges them, and the wrong answers that are known by name.

EXERCISE = Exercise(4, "softmax", title=…, needs=(…), hints=(…))

@EXERCISE.forward(answer=…)                                       a function in loops, and the op that answers it
def softmax(x, axis): …

@softmax.cases                                                    arguments to try it on
softmax_backward = EXERCISE.gradient(softmax, takes=…, of=…)      its gradient, derived from the answer by tinyvit
@softmax_backward.wrong("dx", "WITHOUT …", clue=…)                a wrong answer that the message will recognise
@EXERCISE.invariant("every row sums to one")                      a fact that holds for right answers
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from importlib import resources

import numpy as np

from tinyvit.autodiff.derivatives import vjp

POINTS = {"forward": 30, "gradient": 40, "invariants": 20}  # of 100: ten are for the explanation, which a person reads


@dataclass(frozen=True)
class Trial:
    """One question to one function.

    case   what is special about it, in words
    known  everything there is to know: the arguments, for a backward also g (the cotangent) and y (the output)
    want   the right answer: an array for each name that the function gives
    """

    case: str
    known: dict
    want: dict[str, np.ndarray]


@dataclass(frozen=True)
class Mistake:
    """A wrong answer and its name, which ends the sentence "Your y equals the formula …".

    wrong  function of whatever it names of ``Trial.known``; returns an array for each name in ``gives``
    clue   a sentence that helps without giving the answer away
    """

    name: str
    clue: str
    gives: tuple[str, ...]
    wrong: Callable
    of_gradient: bool = False  # the right gradient of a wrong forward

    def answers(self, known: dict) -> dict[str, np.ndarray]:
        """The wrong arrays by name; none at all where the mistake makes the code fail (shapes that do not fit)."""
        try:
            with np.errstate(all="ignore"):
                arrays = _with_what_it_names(self.wrong, known)
        except (ValueError, IndexError):
            return {}
        return dict(zip(self.gives, arrays if isinstance(arrays, tuple) else (arrays,), strict=True))


def _with_what_it_names(function: Callable, known: dict):
    """Call a function with those of the known things that its parameters name; ``known`` itself is one."""
    return function(*({**known, "known": known}[name] for name in inspect.signature(function).parameters))


@dataclass(frozen=True)
class Invariant:
    """A fact about right answers: ``test(student, rng)`` returns two arrays that must be equal."""

    says: str
    test: Callable


@dataclass
class Function:
    """A function that the student writes.

    name      what it is called in the student's file
    takes     the names of what it is given, in order
    gives     the names of what it returns, in order
    mistakes  known wrong answers; where two fit, the first is told
    """

    name: str
    takes: tuple[str, ...]
    gives: tuple[str, ...]
    mistakes: list[Mistake] = field(default_factory=list, init=False)

    kind = "forward"

    def wrong(self, gives: str, name: str, *, clue: str):
        """Decorator: a wrong answer for the outputs named in ``gives`` ("dq dk"), written in tinyvit's ops."""

        def register(wrong):
            self.mistakes.append(Mistake(name, clue, tuple(gives.split()), wrong))
            return wrong

        return register

    def known_mistakes(self) -> list[Mistake]:
        """Every wrong answer that a message may name."""
        return self.mistakes


@dataclass
class Forward(Function):
    """A function, judged by its definition: loops, slow and obviously right.

    definition  ``(*arguments) -> y``, number by number
    answer      the same by tinyvit's op: its derivative is the right gradient
    """

    definition: Callable
    answer: Callable

    def cases(self, draw):
        """Decorator: a generator function of ``rng`` that yields (what is special, *arguments)."""
        self.draw = draw
        return draw

    def arguments(self, seed: int):
        """The cases of one seed: (what is special, arguments by name)."""
        for case, *values in self.draw(np.random.default_rng(seed)):
            yield case, dict(zip(self.takes, values, strict=True))

    def trials(self, seed: int) -> list[Trial]:
        """The questions of one seed."""
        return [Trial(case, known, {"y": self.definition(**known)}) for case, known in self.arguments(seed)]


@dataclass
class Backward(Function):
    """The gradient of a function, judged by tinyvit's derivative of the answer for random cotangents.

    forward  the function
    of       the arguments whose gradients it returns
    """

    forward: Forward
    of: tuple[str, ...]

    kind = "gradient"

    def trials(self, seed: int) -> list[Trial]:
        """The questions of one seed. The cotangent is random: ones are blind to many mistakes."""
        rng = np.random.default_rng([seed, 1])
        trials = []
        for case, arguments in self.forward.arguments(seed):
            y, pull = self.linearise(self.forward.answer, arguments)
            g = rng.normal(size=y.shape)
            trials.append(Trial(case, {**arguments, "y": y, "g": g}, dict(zip(self.gives, pull(g), strict=True))))
        return trials

    def linearise(self, function, arguments: dict):
        """The value, and the map from its cotangent to the gradients (tinyvit derives it)."""

        def of_variables(*xs):
            return _with_what_it_names(function, {**arguments, **dict(zip(self.of, xs, strict=True))})

        return vjp(of_variables, *(arguments[name] for name in self.of))

    def known_mistakes(self) -> list[Mistake]:
        """Its own, and the right gradients of wrong forwards."""
        return [*self.mistakes, *map(self.gradient_of, self.forward.mistakes)]

    def gradient_of(self, mistake: Mistake) -> Mistake:
        """What a student gets who differentiates a wrong forward correctly."""

        def wrong(known, g):
            return self.linearise(mistake.wrong, known)[1](g)

        return Mistake(mistake.name, mistake.clue, self.gives, wrong, of_gradient=True)


class Exercise:
    """Functions to write, facts to respect, hints.

    number  its place in the course
    name    of its files: ex04_softmax.py
    title   a line for the list
    needs   the numbers of the exercises before it that it builds on
    hints   three: a question, the formula, the term that is usually missing
    """

    def __init__(self, number: int, name: str, *, title: str, needs: tuple[int, ...] = (), hints: tuple[str, ...]):
        self.number, self.name, self.title, self.needs, self.hints = number, name, title, needs, hints
        self.functions: list[Function] = []
        self.invariants: list[Invariant] = []

    @property
    def code(self) -> str:
        """The number in two digits, as in file names and commands."""
        return f"{self.number:02d}"

    @property
    def file(self) -> str:
        """What the student's file is called."""
        return f"ex{self.code}_{self.name}.py"

    @cached_property
    def stub(self) -> str:
        """The text of the student's file before anything is written."""
        return resources.files("tinyvit.exercises").joinpath("stubs", self.file).read_text(encoding="utf-8")

    @property
    def parts(self) -> list[str]:
        """What is graded, in the order in which it is told: forwards, gradients, invariants."""
        return [*(f.name for f in self.functions), "invariants"]

    def points(self, kind: str) -> float:
        """What a kind of part is worth; an exercise without gradients has more for its forwards."""
        if kind == "forward" and not any(f.kind == "gradient" for f in self.functions):
            return POINTS["forward"] + POINTS["gradient"]
        return POINTS[kind]

    def forward(self, *, answer: Callable):
        """Decorator: the loops that define a function. ``answer`` computes the same by tinyvit's op."""

        def register(definition):
            takes = tuple(inspect.signature(definition).parameters)
            return self._with(Forward(definition.__name__, takes, ("y",), definition, answer))

        return register

    def gradient(self, forward: Forward, *, takes: str, of: str) -> Backward:
        """The gradient of a function, which the student writes as ``…_backward``.

        takes  what it is given: "g y axis", g the cotangent of the output, y the output, else arguments
        of     the arguments whose gradients it returns: "x gain offset"
        """
        names = tuple(of.split())
        gives = tuple(f"d{name}" for name in names)
        return self._with(Backward(f"{forward.name}_backward", tuple(takes.split()), gives, forward, names))

    def invariant(self, says: str):
        """Decorator: a fact that right answers respect; it returns two arrays that must be equal."""

        def register(test):
            self.invariants.append(Invariant(says, test))
            return test

        return register

    def _with(self, function: Function) -> Function:
        self.functions.append(function)
        return function
