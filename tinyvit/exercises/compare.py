"""Arrays compared: where a wrong one is worst, and which known mistakes explain it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tinyvit.exercises.exercise import Function, Mistake, Trial

TOLERANCE = 1e-9  # relative to the largest number; right answers in float64 differ by 1e-13
ALIKE = 1e-5  # a mistake is recognised although some make it with a mask of 1e9, which costs nine digits


@dataclass(frozen=True)
class Fit:
    """A known wrong answer that the student's equals.

    name   of the mistake
    says   the rest of the sentence "Your y …"
    cases  where it fits, if not everywhere
    """

    name: str
    says: str
    clue: str = ""
    cases: tuple[str, ...] = ()


def same(a: np.ndarray, b: np.ndarray, tolerance: float = TOLERANCE) -> bool:
    """Whether two arrays agree up to rounding; NaN agrees with NaN, infinity with infinity."""
    if a.shape != b.shape:
        return False
    finite = np.abs(b[np.isfinite(b)])
    size = 1 + (finite.max() if finite.size else 0)
    return bool(np.allclose(a, b, rtol=0, atol=tolerance * size, equal_nan=True))


def flaw(got: np.ndarray, want: np.ndarray, letter: str) -> str | None:
    """What is wrong with an array, in words; None if nothing is. ``letter`` is what its elements are called."""
    if got.shape != want.shape:
        return f"its shape is {got.shape}, it must be {want.shape}"
    if got.dtype != want.dtype:
        return f"it is {got.dtype}, it must be {want.dtype}, as the inputs are"
    if same(got, want):
        return None
    if not np.isfinite(got).all():
        place = _place(~np.isfinite(got))
        return f"{got[place]} at {letter}{list(place)}, where the right value is {want[place]:.3g}"
    difference = np.abs(got - want)
    place = _place(difference)
    biggest, (a, b) = difference[place], _apart(got[place], want[place])
    relative = biggest / abs(want[place]) if want[place] else np.inf
    return f"max |Δ| {biggest:.2g} at {letter}{list(place)}: got {a}, want {b} (relative {relative:.2g})"


def _place(scores: np.ndarray) -> tuple[int, ...]:
    """The index of the largest."""
    return tuple(int(i) for i in np.unravel_index(np.argmax(scores), scores.shape))


def _apart(a: float, b: float) -> tuple[str, str]:
    """Two numbers with as many digits as it takes to tell them apart."""
    pairs = ((f"{a:.{digits}g}", f"{b:.{digits}g}") for digits in range(3, 18))
    return next((pair for pair in pairs if pair[0] != pair[1]), (repr(a), repr(b)))


def explanations(function: Function, output: str, trials: list[Trial], replies: list[dict]) -> list[Fit]:
    """The known mistakes that give this output, best first: those that fit everywhere, else those that fit somewhere.

    replies  the student's arrays for each trial; empty where the code failed
    """
    got = [reply.get(output) for reply in replies]
    mistakes = [m for m in function.known_mistakes() if output in m.gives]
    fits = [fit for m in mistakes if (fit := _fit(m, output, trials, got))]
    if factor := _factor(output, trials, got):
        fits.append(factor)
    return [fit for fit in fits if not fit.cases] or fits


def _fit(mistake: Mistake, output: str, trials: list[Trial], got: list) -> Fit | None:
    """Whether the mistake gives what the student got: everywhere, or in every trial of some case."""
    every = _fitting(mistake, output, trials, got)
    says = f"equals the {'gradient of the ' if mistake.of_gradient else ''}formula {mistake.name}"
    wrong = [(t, a) for t, a in zip(trials, got, strict=True) if a is not None and not same(a, t.want[output], ALIKE)]
    if wrong and every == {trial.case for trial in trials}:
        return Fit(mistake.name, says, mistake.clue)
    # NaN resembles NaN whatever made it: only finite numbers tell one mistake from another
    sure = tuple(dict.fromkeys(t.case for t, a in wrong if t.case in every and np.isfinite(a).all()))
    return Fit(mistake.name, says, mistake.clue, sure) if sure else None


def _fitting(mistake: Mistake, output: str, trials: list[Trial], got: list) -> set[str]:
    """The cases in which mistake and student agree, for every seed."""
    cases = {trial.case for trial in trials}
    for trial, a in zip(trials, got, strict=True):
        if trial.case in cases and not _equal(a, mistake.answers(trial.known).get(output)):
            cases.remove(trial.case)
    return cases


def _equal(a, b) -> bool:
    """Whether two outcomes agree; None stands for code that failed."""
    return a is b if a is None or b is None else same(a, b, ALIKE)


def _factor(output: str, trials: list[Trial], got: list) -> Fit | None:
    """Whether the answer is the right one times a number: nothing, minus one, 1/B …"""
    if any(a is None or a.shape != t.want[output].shape or not np.isfinite(a).all()
           for a, t in zip(got, trials, strict=True)):  # fmt: skip
        return None
    factors: dict[str, set[float]] = {}
    for a, trial in zip(got, trials, strict=True):
        want = trial.want[output]
        if same(want, np.zeros_like(want)):
            continue  # any number times nothing
        factor = float(np.sum(a * want) / np.sum(want * want))
        if not same(a, factor * want, ALIKE):
            return None
        factors.setdefault(trial.case, set()).add(round(factor, 6) + 0.0)  # + 0.0: no minus zero
    if not factors or any(len(found) > 1 for found in factors.values()):
        return None
    return _told_factor({case: found.pop() for case, found in factors.items()})


def _told_factor(factors: dict[str, float]) -> Fit:
    values = set(factors.values())
    if values == {0.0}:
        return Fit("zeros", "is zero everywhere")
    if values == {1.0}:
        return Fit("rounding", "is right in the first digits only: is something computed in float32?")
    if values == {-1.0}:
        return Fit("sign", "has the sign turned round, everywhere")
    if len(values) == 1:
        return Fit("factor", f"is the right one times {values.pop():.4g}, everywhere")
    told = ", ".join(f"{factor:.4g} ({case})" for case, factor in factors.items())
    return Fit("factor", f"is the right one times a number: {told}")
