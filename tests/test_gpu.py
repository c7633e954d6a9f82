"""On a device the package computes what it computes on the host, and leaves the device only where that is said.

Each test runs on the stand-in, anywhere, and on CUDA where there is CuPy and a GPU. ``python tests/gpu_report.py`` runs
the same checks without pytest, and times a training step.
"""

import time

import gpu_report
import numpy as np
import pytest
from devices import (
    MODEL_CHECKS,
    OTHER_CHECKS,
    PLACES,
    SMALL,
    WAYS,
    Compared,
    noise,
    op_differs,
    outputs_of,
    rows_of,
    twins,
)

from tinyvit import gradients
from tinyvit.autodiff.op import REGISTRY
from tinyvit.autodiff.standin import MISSING, DeviceArray

EVERYWHERE = [pytest.param(PLACES["stand-in"], id="stand-in"),
              pytest.param(PLACES["cuda"], id="cuda", marks=pytest.mark.gpu)]  # fmt: skip


@pytest.mark.parametrize("place", EVERYWHERE)
@pytest.mark.parametrize("name", sorted(REGISTRY))
def test_an_op_and_its_derivatives(name, place):
    for way, options in WAYS.items():
        for example in rows_of(name, way):
            op_differs(place, name, example, **options)


def asked(check):
    """The models of a check: what helps with any model is tried on the smaller of two of a family."""
    larger = {name for name in SMALL if name.endswith("_micro") and name.replace("_micro", "_digits") in SMALL}
    return [name for name in SMALL if check != "helpers" or name not in larger]


@pytest.mark.parametrize("place", EVERYWHERE)
@pytest.mark.parametrize(("check", "name"), [(check, name) for check in MODEL_CHECKS for name in asked(check)])
def test_a_model(check, name, place):
    MODEL_CHECKS[check](place, name)


@pytest.mark.parametrize("place", EVERYWHERE)
@pytest.mark.parametrize("check", OTHER_CHECKS)
def test_what_is_no_model(check, place):
    OTHER_CHECKS[check](place)


@pytest.mark.parametrize("name", SMALL)
def test_a_forward_and_a_backward_pass_never_wait_for_the_device(name, monkeypatch):
    """Whoever asks for a number on the host waits until the device has computed it."""
    place = PLACES["stand-in"]
    _, model, (images, *_) = twins(place, name)
    model.train(noise())
    cotangents = [place.array(np.ones(y.shape)) for y in outputs_of(model, place.array(images))]

    def waits(self):
        raise AssertionError("the host asked for a number of the device")

    for asking in ("get", "item", "__bool__"):
        monkeypatch.setattr(DeviceArray, asking, waits)
    gradients(outputs_of(model, place.array(images)), model.parameters(), cotangents)


@pytest.mark.parametrize(
    ("found", "words"),
    [
        (np.zeros(3), "left the device"),
        (DeviceArray(np.zeros(2)), "has shape"),
        (DeviceArray(np.zeros(3, np.float32)), "is float32 on the device"),
        (DeviceArray([0, 1e-3, 0]), "differs by 1.0e-03"),
        (DeviceArray([0, np.nan, 0]), "differs by nan"),
    ],
)
def test_a_difference_is_noticed(found, words):
    with pytest.raises(AssertionError, match=words):
        Compared(PLACES["stand-in"], 1e-4).arrays({"x": found}, {"x": np.zeros(3)})


def test_the_stand_in_lacks_what_cupy_lacks():
    cupy = pytest.importorskip("cupy")
    assert [name for name in MISSING if hasattr(cupy, name)] == []


def test_the_report_tells_what_failed_and_goes_on():
    tasks = [["op", "softmax"], ["model", "no-such-model", "state"], ["other", "boxes"], ["op", "relu"]]
    softmax, missing, boxes, relu = gpu_report.done("stand-in", tasks, time.monotonic() + 60, workers=2)
    assert softmax["found"].keys() == {"kernel", "equation", "float32"}
    assert missing["failed"].startswith("ValueError: there is no model")
    assert "twins" in missing["traceback"]
    assert boxes["found"] == 0.0
    assert relu["found"]["equation"] is None
    assert [task for task, _ in gpu_report.failures_in([softmax, missing, boxes])] == ["model no-such-model state"]
