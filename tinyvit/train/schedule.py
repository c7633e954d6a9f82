"""Learning-rate schedules: pure functions of the step.

A schedule is a callable ``step -> rate``. It holds no state, so a run that resumes at step 1000
sees the same rates as one that never stopped. Steps are counted from 0, and the unit (update or
epoch) is the caller's.
"""

from collections.abc import Callable
from math import cos, pi

Schedule = Callable[[float], float]


def constant(rate: float) -> Schedule:
    """The same rate at every step.

    Raises ValueError when `rate` is negative.
    """
    _check_not_negative(rate=rate)
    return lambda step: rate


def warmup_cosine(peak: float, *, warmup: float, total: float, floor: float = 0.0, start: float = 0.0) -> Schedule:
    """Linear warm-up from `start` to `peak`, then half a cosine down to `floor`.

    With s the step, w = `warmup` and n = `total` (warm-up included):

        rate(s) = start + (peak − start) s / w                               for s < w
        rate(s) = floor + (peak − floor) (1 + cos(π (s − w) / (n − w))) / 2  for w <= s < n
        rate(s) = floor                                                      from n on

    Sources: the warm-up of Goyal et al. 2017 (Sec. 2.2), the cosine of Loshchilov and Hutter 2017
    (SGDR, Eq. 5) without restarts. The peak is reached at step w exactly. timm's scheduler does
    the same with `warmup_prefix=True`; without it (its default) the warm-up replaces the first w
    steps of the cosine, so that the rate never reaches the peak.

    Raises ValueError when a rate is negative or the warm-up is not shorter than the whole.
    """
    _check_not_negative(peak=peak, warmup=warmup, floor=floor, start=start)
    if not warmup < total:
        raise ValueError(f"total: expected more steps than the warm-up of {warmup}, got {total}")

    def rate(step: float) -> float:
        if step < warmup:
            return start + (peak - start) * step / warmup
        progress = min((step - warmup) / (total - warmup), 1.0)
        return floor + (peak - floor) * (1 + cos(pi * progress)) / 2

    return rate


def _check_not_negative(**values: float) -> None:
    for name, value in values.items():
        if not value >= 0:  # written this way round, NaN is refused too
            raise ValueError(f"{name}: expected a number >= 0, got {value}")
