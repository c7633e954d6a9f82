"""Grading: the student's functions against the exercise, and a message that says what is wrong and perhaps why."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import groupby
from types import SimpleNamespace

import numpy as np

from tinyvit.exercises.compare import Fit, explanations, flaw, same
from tinyvit.exercises.exercise import Exercise, Function, Invariant, Trial
from tinyvit.exercises.student import NotWrittenError, Student, TroubleError, unpack

SEEDS = range(10)
RIGHT, WRONG, NOT_WRITTEN = "right", "wrong", "not written"
STOPPED = "stopped"  # the code could not be judged: an endless loop, a file that cannot be read
NOT_LOOKED_AT = "not looked at"  # because something before it in the file stopped


@dataclass(frozen=True)
class Verdict:
    """What is said about one part.

    kind    "forward", "gradient" or "invariants"
    state   one of the words above
    points  earned, out of ``worth``
    text    for the student; empty if all is right
    named   the known mistake that was recognised, for each wrong output
    """

    exercise: str
    part: str
    kind: str
    state: str
    points: float
    worth: float
    text: str = ""
    named: dict[str, str] = field(default_factory=dict)


def grade(exercise: Exercise, part: str, student: Student, seeds=SEEDS) -> Verdict:
    """Grade one part (a function's name, or "invariants"). Every seed draws other numbers."""
    if part == "invariants":
        return _grade_invariants(exercise, student, seeds)
    function = next(f for f in exercise.functions if f.name == part)
    return _grade_function(exercise, function, student, seeds)


def not_graded(exercise: Exercise, part: str, state: str, text: str) -> Verdict:
    """The verdict on a part that could not be judged."""
    kind, worth = _worth(exercise, part)
    return Verdict(_title(exercise), part, kind, state, 0.0, worth, text)


def _title(exercise: Exercise) -> str:
    return f"ex{exercise.code} {exercise.name}"


def _worth(exercise: Exercise, part: str) -> tuple[str, float]:
    """The kind of a part, and its points: those of the kind, shared equally."""
    kinds = {f.name: f.kind for f in exercise.functions} | {"invariants": "invariants"}
    kind = kinds[part]
    return kind, exercise.points(kind) / list(kinds.values()).count(kind)


# functions -----------------------------------------------------------------------------------


def _grade_function(exercise: Exercise, function: Function, student: Student, seeds) -> Verdict:
    kind, worth = _worth(exercise, function.name)
    trials = [trial for seed in seeds for trial in function.trials(seed)]
    try:
        replies, trouble = _ask(function, student, trials)
    except NotWrittenError as error:
        text = f"{error}\n{_hint(exercise, 1)}"
        return Verdict(_title(exercise), function.name, kind, NOT_WRITTEN, 0.0, worth, text)
    flaws = {output: found for output in function.gives if (found := _flaws(function, output, trials, replies))}
    if not flaws and not trouble:
        return Verdict(_title(exercise), function.name, kind, RIGHT, worth, worth)
    fits = {output: explanations(function, output, trials, replies) for output in flaws}
    points = 0.0 if trouble else worth * (1 - len(flaws) / len(function.gives))
    lines = [
        *([trouble] if trouble else []),
        *_told_flaws(function, trials, flaws),
        *_told_fits(fits, len(seeds)),
        _hint(exercise, 2 if any(fits.values()) else 1),
    ]
    named = {output: found[0].name for output, found in fits.items() if found}
    return Verdict(_title(exercise), function.name, kind, WRONG, points, worth, "\n".join(lines), named)


def _ask(function: Function, student: Student, trials: list[Trial]) -> tuple[list[dict], str]:
    """The student's arrays for every trial (none where the code failed), and the first trouble in words."""
    replies, trouble = [], ""
    for trial in trials:
        try:
            value = getattr(student, function.name)(*(trial.known[name] for name in function.takes))
            replies.append(unpack(value, function.name, function.gives))
        except NotWrittenError:
            raise
        except TroubleError as error:
            replies.append({})
            trouble = trouble or f"{error}\n  ({_asked(function, trial)})"
    return replies, trouble


def _asked(function: Function, trial: Trial) -> str:
    """What a function was given: the case and the shapes."""
    given = {name: trial.known[name] for name in function.takes}
    shapes = ", ".join(f"{n} {x.shape}" if isinstance(x, np.ndarray) else f"{n} {x}" for n, x in given.items())
    return f"{trial.case}: {shapes}"


def _flaws(function: Function, output: str, trials: list[Trial], replies: list[dict]) -> list[tuple[Trial, str]]:
    """The trials in which an output is wrong, and how. Elements of dx are called by those of x."""
    letter = output if function.kind == "forward" else output.removeprefix("d")
    found = [
        (trial, flaw(reply[output], trial.want[output], letter))
        for trial, reply in zip(trials, replies, strict=True)
        if output in reply
    ]
    return [(trial, text) for trial, text in found if text]


def _label(function: Function, output: str) -> str:
    return output if function.kind == "forward" else f"d/d{output.removeprefix('d')}"


def _told_flaws(function: Function, trials: list[Trial], flaws: dict) -> list[str]:
    """The first flaw of each output, the cases that are right, the outputs that are right."""
    lines, cases = [], dict.fromkeys(trial.case for trial in trials)
    for output, found in flaws.items():
        wrong = dict.fromkeys(trial.case for trial, _ in found)
        trial, text = found[0]
        lines += [f"{_label(function, output)} wrong: {text}", f"  ({_asked(function, trial)})"]
        if right := [case for case in cases if case not in wrong]:
            lines.append(f"  It is right for: {', '.join(right)}.")
    right = [_label(function, output) for output in function.gives if output not in flaws]
    return lines + ([f"{', '.join(right)} right."] if right and flaws else [])


def _told_fits(fits: dict[str, list[Fit]], seeds: int) -> list[str]:
    """The mistake that each output equals; outputs that share one are told together."""
    best = [(found[0], output) for output, found in fits.items() if found]
    lines = []
    for fit, group in groupby(best, key=lambda pair: pair[0]):
        names = [output if output == "y" else f"d/d{output.removeprefix('d')}" for _, output in group]
        whose = f"Your {names[0]}" if len(names) == 1 else f"Each of your {', '.join(names)}"
        where = f" for {' and for '.join(fit.cases)}" if fit.cases else ""
        lines.append(f"{whose} {fit.says}{where} ({seeds} of {seeds} seeds).")
        lines += [fit.clue] if fit.clue else []
    return lines


def _hint(exercise: Exercise, level: int) -> str:
    return f"Hint: tinyvit exercises hint {exercise.code} {level}"


# invariants ----------------------------------------------------------------------------------


def _grade_invariants(exercise: Exercise, student: Student, seeds) -> Verdict:
    """Facts that hold for right answers, whatever the numbers. Each is worth the same."""
    kind, worth = _worth(exercise, "invariants")
    tried = [_try_invariant(exercise, invariant, student, seeds) for invariant in exercise.invariants]
    states = [state for state, _, _ in tried]
    state = next((s for s in (WRONG, NOT_WRITTEN) if s in states), RIGHT)
    lines = [f"It should hold that {text}." for _, text, _ in tried if text]
    lines += dict.fromkeys(trouble for _, _, trouble in tried if trouble)  # each once
    lines += [_hint(exercise, 1)] if lines else []
    points = worth * states.count(RIGHT) / len(states)
    return Verdict(_title(exercise), "invariants", kind, state, points, worth, "\n".join(lines))


def _unpacked(exercise: Exercise, student: Student) -> SimpleNamespace:
    """The student's functions; each returns an array, or a tuple of arrays if it gives several."""

    def checked(function: Function):
        def call(*arguments):
            value = getattr(student, function.name)(*arguments)
            arrays = tuple(unpack(value, function.name, function.gives).values())
            return arrays if len(arrays) > 1 else arrays[0]

        return call

    return SimpleNamespace(**{function.name: checked(function) for function in exercise.functions})


def _try_invariant(exercise: Exercise, invariant: Invariant, student: Student, seeds) -> tuple[str, str, str]:
    """The state of one fact; the fact, if it does not hold; what kept it from being tried."""
    answers = _unpacked(exercise, student)
    for seed in list(seeds)[:3]:
        try:
            with np.errstate(all="ignore"):
                got, want = map(np.asarray, invariant.test(answers, np.random.default_rng([seed, 2])))
        except NotWrittenError as error:
            return NOT_WRITTEN, "", str(error)
        except TroubleError as error:
            return WRONG, f"{invariant.says}, but it could not be tried", str(error)
        except (ValueError, IndexError) as error:  # arrays of other shapes than were expected
            return WRONG, f"{invariant.says}, but the shapes do not fit ({error})", ""
        if not same(got, want):
            return WRONG, f"{invariant.says}, but {flaw(got, want, '')}", ""
    return RIGHT, "", ""
