"""Plain and residual networks by depth: what is compared, and what the verdict makes of it."""

import pytest

from tinyvit import create_model
from tinyvit.results.degradation import ERROR, EXPERIMENT, PLAIN, RESIDUAL, measure
from tinyvit.results.experiment import Trial
from tinyvit.results.report import result
from tinyvit.results.table import Table


def test_the_networks_differ_in_shortcuts_alone():
    trials = EXPERIMENT.trials(updates=200, depths=(8, 20, 32))
    for depth in (8, 20, 32):
        plain, residual = (trials[kind, depth] for kind in (PLAIN, RESIDUAL))
        assert plain.settings == residual.settings
        nets = [create_model("resnet_digits", **trial.model) for trial in (plain, residual)]
        weights = [{name for name, p in net.named_parameters() if p.ndim > 1 and "downsample" not in name}
                   for net in nets]  # fmt: skip
        assert weights[0] == weights[1]
        assert len(weights[0]) == depth, "layers with weights, the classifier among them"


def table(plain, residual):
    """A table of training errors, 8 and 32 layers, three seeds."""
    errors = {(PLAIN, 8): plain[0], (PLAIN, 32): plain[1], (RESIDUAL, 8): residual[0], (RESIDUAL, 32): residual[1]}
    return Table(
        {cell: [{"train_error": e, "test_accuracy": 0.5} for e in runs] for cell, runs in errors.items()}, ERROR
    )


def test_the_verdict():
    flat, rises = ([0.01, 0.02, 0.0], [0.02, 0.0, 0.01]), ([0.01, 0.02, 0.0], [0.3, 0.4, 0.35])
    assert EXPERIMENT.verdict(table(rises, flat)) == (
        "It appears here: from 8 layers to 32, the training error of plain networks changes by +34.0 ± 4.6 points, of "
        "residual ones by +0.0 ± 1.7 points; with 32 layers it is 35.0 % and 1.0 %."
    )
    for plain, residual in ((flat, flat), (rises, rises)):
        assert EXPERIMENT.verdict(table(plain, residual)).startswith("It does NOT appear here")


def test_a_run_measures_the_training_error():
    settings = {"model": "resnet_digits", "epochs": 1, "warmup": 0.0, "train_size": 60, "batch_size": 30}
    found = measure(Trial(settings, {"residual": False, "channels": (4, 4), "stem_width": 4}), 0)[""]
    wrong = 60 * found["train_error"]  # of 60 images
    assert 0 < wrong < 60
    assert abs(wrong - round(wrong)) < 1e-9
    assert {"test_accuracy", "curve"} <= found.keys()


@pytest.mark.slow
def test_depth_harms_plain_networks_and_not_residual_ones(tmp_path):
    found = result("degradation", out=tmp_path)
    assert found.verdict.startswith("It appears here")
    assert found.table.mean(PLAIN, 32, "train_error") > 0.1
    assert found.table.mean(RESIDUAL, 32, "train_error") < 0.02
