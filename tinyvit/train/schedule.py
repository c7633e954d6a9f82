"""Learning-rate schedules: pure functions of the step.

A schedule is a callable ``step -> rate``. It holds no state, so a run that resumes at step 1000
sees the same rates as one that never stopped. Steps are counted from 0, and the unit (update or
epoch) is the caller's. Any of them can be warmed up:

    warmed_up(cosine(5e-4, total=295, floor=1e-5), 5, start=1e-6)
"""

from collections.abc import Callable, Sequence
from math import cos, pi

Schedule = Callable[[float], float]


def constant(rate: float) -> Schedule:
    """The same rate at every step."""
    _check_not_negative(rate=rate)
    return lambda step: rate


def cosine(peak: float, *, total: float, floor: float = 0.0) -> Schedule:
    """Half a cosine from `peak` down to `floor`, where it stays (SGDR, Loshchilov and Hutter 2017, Eq. 5).

    rate(s) = floor + (peak − floor) (1 + cos(π s/n)) / 2    with n = `total`
    """
    _check_not_negative(peak=peak, floor=floor)
    _check_positive(total=total)
    return lambda step: floor + (peak - floor) * (1 + cos(pi * min(step / total, 1.0))) / 2


def linear(peak: float, *, total: float, floor: float = 0.0) -> Schedule:
    """A straight line from `peak` down to `floor`, where it stays: rate(s) = peak + (floor − peak) s/n."""
    _check_not_negative(peak=peak, floor=floor)
    _check_positive(total=total)
    return lambda step: peak + (floor - peak) * min(step / total, 1.0)


def step_decay(peak: float, *, at: Sequence[float], factor: float = 0.1) -> Schedule:
    """`factor` times less from each of the steps `at` on: a tenth, in ResNets' training (He et al. 2016)."""
    _check_not_negative(peak=peak, factor=factor)
    if list(at) != sorted(at):
        raise ValueError(f"at: expected steps in rising order, got {list(at)}")
    return lambda step: peak * factor ** sum(step >= place for place in at)


def inverse_root(width: int, *, warmup: float, factor: float = 1.0) -> Schedule:
    """The Transformer's: it rises for `warmup` steps, then falls as 1/√s (Vaswani et al. 2017, Eq. 3).

    rate(s) = factor · width^(−1/2) · min(t^(−1/2), t · warmup^(−3/2))    with t = s + 1
    """
    _check_positive(width=width, warmup=warmup)
    return lambda step: factor * width**-0.5 * min((step + 1) ** -0.5, (step + 1) * warmup**-1.5)


def warmed_up(schedule: Schedule, warmup: float, *, start: float = 0.0, prefix: bool = True) -> Schedule:
    """A line from `start` up to the schedule's first rate, then the schedule (Goyal et al. 2017, Sec. 2.2).

    prefix  True: the schedule begins when the warm-up ends, so that its peak is reached · False, timm's default and so
            DeiT's: the warm-up replaces the schedule's first steps
    """
    _check_not_negative(warmup=warmup, start=start)
    peak, delay = schedule(0), warmup if prefix else 0
    return lambda step: start + (peak - start) * step / warmup if step < warmup else schedule(step - delay)


def warmup_cosine(peak: float, *, warmup: float, total: float, floor: float = 0.0, start: float = 0.0) -> Schedule:
    """A warm-up from `start` to `peak`, then half a cosine down to `floor`; `total` counts the warm-up's steps too.

    Raises ValueError when a rate is negative or the warm-up is not shorter than the whole.
    """
    _check_not_negative(peak=peak, warmup=warmup, floor=floor, start=start)
    if not warmup < total:
        raise ValueError(f"total: expected more steps than the warm-up of {warmup}, got {total}")
    return warmed_up(cosine(peak, total=total - warmup, floor=floor), warmup, start=start)


def _check_not_negative(**values: float) -> None:
    for name, value in values.items():
        if not value >= 0:  # written this way round, NaN is refused too
            raise ValueError(f"{name}: expected a number >= 0, got {value}")


def _check_positive(**values: float) -> None:
    for name, value in values.items():
        if not value > 0:
            raise ValueError(f"{name}: expected a number > 0, got {value}")
