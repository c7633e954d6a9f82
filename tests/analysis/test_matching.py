"""Models are caught where their loss is a given one, not where somebody happened to look."""

import numpy as np
import pytest

from tinyvit import create_model
from tinyvit.analysis import Crossing
from tinyvit.data import digits
from tinyvit.nn.module import Buffer, Module, Parameter
from tinyvit.train import AdamW, classification, evaluate, gradient_of, training


class Point(Module):
    """A weight, and a statistic that moves with it."""

    def __init__(self):
        self.w = Parameter(np.array([3.0, 0.0]))
        self.running = Buffer(np.array([30.0]))

    def forward(self, x):
        return (self.w * self.w).sum() * x


def loss(model, batch):
    return model(batch[0])


def walked(places, levels, **options):
    model = Point()
    crossing = Crossing(loss, model, (1.0,), levels, **options)
    for number, (w, running) in enumerate(places):
        model.w.data, model.running.data = np.array(w), np.array([running])
        crossing.look(number)
    return crossing, model


def test_the_model_is_caught_on_the_line_between_two_looks():
    crossing, model = walked([([2.0, 0.0], 20.0), ([0.5, 0.0], 5.0), ([0.1, 0.0], 1.0)], [1.0], every=1)
    found = crossing.at[1.0]
    np.testing.assert_allclose(found.w.data, [1, 0], rtol=1e-3)
    np.testing.assert_allclose(found.running.data, [10], rtol=1e-3, err_msg="statistics go the same way")
    np.testing.assert_array_equal(model.w.data, [0.1, 0.0], "the model itself is where it was")


def test_several_levels_in_one_step_and_one_that_is_never_reached():
    crossing, _ = walked([([2.0, 0.0], 20.0), ([0.5, 0.0], 5.0)], [0.01, 1.0, 2.25], every=1)
    assert {level: round(float(found.w.data[0]), 2) for level, found in crossing.at.items()} == {2.25: 1.5, 1.0: 1.0}


def test_it_looks_every_so_often_and_keeps_the_first_time():
    places = [([2.0, 0.0], 20.0), ([0.5, 0.0], 5.0), ([0.0, 1.5], 20.0), ([0.0, 0.5], 5.0)]
    first, _ = walked(places, [1.0], every=1)
    assert first.at[1.0].w.data[1] == 0
    second, _ = walked(places, [1.0], every=2)
    assert second.at[1.0].w.data[1] == 0
    start_to_end, _ = walked(places, [1.0], every=4)
    found = start_to_end.at[1.0].w.data
    assert found @ found == pytest.approx(1, rel=1e-3)
    assert found[1] > 0, "on the line from the start to the only look"


def test_a_network_with_statistics_is_caught_at_its_loss_in_evaluation(rng):
    part = digits(seed=0).train
    batch = part.images[:60], part.labels[:60]
    model = create_model("resnet_digits", rng=rng)
    crossing = Crossing(classification(), model, batch, [2.0, 1.0])
    for step in training(model, [batch] * 32, gradient_of(classification()), AdamW(model), lambda _: 8e-3, rng=rng):
        crossing.look(step.number)
    assert set(crossing.at) == {2.0, 1.0}
    for level, found in crossing.at.items():
        assert evaluate(found, batch).loss == pytest.approx(level, rel=1.1e-3)
