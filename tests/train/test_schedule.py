"""Schedules against closed forms and against the rates that other libraries used."""

import json
from pathlib import Path

import numpy as np
import pytest

from tinyvit.train.schedule import (
    constant,
    cosine,
    inverse_root,
    linear,
    step_decay,
    warmed_up,
    warmup_cosine,
)

REFERENCE = Path(__file__).parent.parent / "data" / "shared-op-schedule.npz"


def timm_cosine(c):
    return cosine(c["base_lr"], total=c["t_initial"], floor=c["lr_min"])


# The schedule that each stored case is; the noam case begins with step 1.
SAME_AS = {
    "hf_cosine_warmup": lambda c: warmup_cosine(c["base_lr"], warmup=c["warmup"], total=c["total"]),
    "hf_linear_warmup": lambda c: warmed_up(linear(c["base_lr"], total=c["total"] - c["warmup"]), c["warmup"]),
    "torch_cosine": lambda c: cosine(c["base_lr"], total=c["T_max"], floor=c["eta_min"]),
    "timm_cosine": timm_cosine,
    "timm_cosine_warmup": lambda c: warmed_up(timm_cosine(c), c["warmup_t"], start=c["warmup_lr_init"], prefix=False),
    "timm_cosine_warmup_prefix": lambda c: warmed_up(timm_cosine(c), c["warmup_t"], start=c["warmup_lr_init"]),
    "noam": lambda c: inverse_root(c["d_model"], warmup=c["warmup"]),
}


@pytest.mark.parametrize("name", SAME_AS)
def test_the_rates_are_those_of_other_libraries(name):
    with np.load(REFERENCE) as file:
        expected = file[name]
        cases = json.loads(str(file["meta"]))["cases"]
    rate = SAME_AS[name](next(case for case in cases if case["case"] == name))
    np.testing.assert_allclose([rate(step) for step in range(len(expected))], expected, rtol=1e-12, atol=1e-20)


def test_every_stored_schedule_is_compared():
    with np.load(REFERENCE) as file:
        assert set(file.files) - {"meta", "drop_path_linear"} == set(SAME_AS)


def test_steps_fall_by_a_factor_each():
    rate = step_decay(0.4, at=[3, 5], factor=0.5)
    assert [rate(s) for s in range(7)] == [0.4, 0.4, 0.4, 0.2, 0.2, 0.1, 0.1]
    assert step_decay(1.0, at=[2])(2) == 0.1


def test_a_line_ends_on_its_floor_and_every_schedule_can_be_warmed_up():
    rate = warmed_up(linear(1.0, total=4, floor=0.2), 2, start=0.5)
    np.testing.assert_allclose([rate(s) for s in range(9)], [0.5, 0.75, 1, 0.8, 0.6, 0.4, 0.2, 0.2, 0.2], rtol=1e-15)
    rate = warmed_up(step_decay(1.0, at=[3]), 2)
    np.testing.assert_allclose([rate(s) for s in range(7)], [0, 0.5, 1, 1, 1, 0.1, 0.1], rtol=1e-15)
    rate = warmed_up(constant(0.3), 0)
    assert rate(0) == 0.3


def test_the_root_peaks_where_the_warm_up_ends():
    rate = inverse_root(64, warmup=10)
    rates = [rate(s) for s in range(40)]
    assert np.argmax(rates) == 9
    assert rates[9] == pytest.approx(1 / (8 * 10**0.5), rel=1e-14)
    assert rates[39] == pytest.approx(rates[9] / 2, rel=1e-14)


def test_constant_is_constant():
    rate = constant(0.3)
    assert [rate(0), rate(17)] == [0.3, 0.3]


def test_landmarks_of_the_curve():
    rate = warmup_cosine(1.0, warmup=4, total=12, floor=0.2, start=0.5)
    assert rate(0) == 0.5
    assert rate(2) == 0.75  # half of the way up
    assert rate(4) == 1.0  # the peak itself is reached
    assert rate(8) == pytest.approx(0.6, abs=1e-15)  # the middle of the cosine
    assert rate(12) == pytest.approx(0.2, abs=1e-15)
    assert rate(1000) == rate(12)  # a longer run stays on the floor


def test_the_curve_is_continuous_and_falls_after_the_peak():
    rate = warmup_cosine(1.0, warmup=10, total=100)
    rates = np.array([rate(step) for step in np.linspace(0, 110, 1101)])
    assert np.abs(np.diff(rates)).max() < 0.011
    assert np.all(np.diff(rates[100:]) <= 0)


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        ({"peak": -1.0, "warmup": 1, "total": 2}, "peak"),
        ({"peak": float("nan"), "warmup": 1, "total": 2}, "peak"),
        ({"peak": 1.0, "warmup": -1, "total": 2}, "warmup"),
        ({"peak": 1.0, "warmup": 2, "total": 2}, "total"),
        ({"peak": 1.0, "warmup": 1, "total": 2, "floor": -0.1}, "floor"),
    ],
)
def test_errors_name_the_argument(arguments, name):
    with pytest.raises(ValueError, match=name):
        warmup_cosine(**arguments)


def test_constant_refuses_a_negative_rate():
    with pytest.raises(ValueError, match="rate"):
        constant(-1e-3)


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (lambda: cosine(1.0, total=0), "total"),
        (lambda: linear(-1.0, total=3), "peak"),
        (lambda: linear(1.0, total=3, floor=-1), "floor"),
        (lambda: step_decay(1.0, at=[5, 3]), "at"),
        (lambda: inverse_root(0, warmup=3), "width"),
        (lambda: warmed_up(constant(1.0), -1), "warmup"),
    ],
)
def test_impossible_schedules_are_refused(make, name):
    with pytest.raises(ValueError, match=f"^{name}: expected"):
        make()
