"""Schedules against closed forms and against the rates that other libraries used."""

import json
from pathlib import Path

import numpy as np
import pytest

from tinyvit.train.schedule import constant, warmup_cosine

REFERENCE = Path(__file__).parent.parent / "data" / "shared-op-schedule.npz"

# The arguments that make warmup_cosine the schedule of each stored case.
SAME_AS = {
    "hf_cosine_warmup": lambda c: {"warmup": c["warmup"], "total": c["total"]},
    "torch_cosine": lambda c: {"warmup": 0, "total": c["T_max"], "floor": c["eta_min"]},
    "timm_cosine": lambda c: {"warmup": 0, "total": c["t_initial"], "floor": c["lr_min"]},
    "timm_cosine_warmup_prefix": lambda c: {
        "warmup": c["warmup_t"],
        "total": c["warmup_t"] + c["t_initial"],
        "floor": c["lr_min"],
        "start": c["warmup_lr_init"],
    },
}


@pytest.mark.parametrize("name", SAME_AS)
def test_warmup_cosine_gives_the_rates_of_other_libraries(name):
    with np.load(REFERENCE) as file:
        expected = file[name]
        cases = json.loads(str(file["meta"]))["cases"]
    case = next(case for case in cases if case["case"] == name)
    rate = warmup_cosine(case["base_lr"], **SAME_AS[name](case))
    np.testing.assert_allclose([rate(step) for step in range(len(expected))], expected, rtol=1e-12)


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
