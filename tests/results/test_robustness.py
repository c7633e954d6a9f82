"""The robustness table: which rows come of what is measured, and what the verdict makes of them."""

import numpy as np
import pytest

from tinyvit.results import robustness
from tinyvit.results.robustness import (
    BLACK,
    BY_SHAPE,
    CLEAN,
    CORRUPTED,
    EXPERIMENT,
    MEAN,
    OUTLINED,
    SHARE,
    SHIFTED,
    SHUFFLED,
    mce,
    measure,
)
from tinyvit.results.table import Table


@pytest.fixture
def quick(monkeypatch):
    """Models that have learned nothing, few images, short ascents."""
    monkeypatch.setattr("tinyvit.results.experiment.trained", lambda model, config, task: [])
    monkeypatch.setattr("tinyvit.runs.robustness.PATCH_STEPS", 1)
    monkeypatch.setattr("tinyvit.runs.robustness.CUES", 20)
    real = robustness.robustness
    seen = {}

    def once(model, task, **options):
        seen.update(real(model, task, draws=1, **options))
        return seen

    monkeypatch.setattr(robustness, "robustness", once)
    return seen


def test_the_rows_of_digits(quick):
    rows = measure(EXPERIMENT.trials(updates=40, cues=40, images=30)["digits", "Mixer"], 0)
    assert quick["protocol"]["images"] == 30
    assert rows[CLEAN]["share"] == quick["clean"]
    assert rows[BLACK]["share"] == quick["occlusion"]["zero"]["random"][2], "half of the cells"
    assert rows[f"{MEAN}, least salient"]["share"] == quick["occlusion"]["mean"]["least salient"][2]
    assert rows["taken for the target"]["share"] == quick["patches"]["25%"]["taken for the target, targeted"]
    errors = np.array(rows[CORRUPTED]["errors"])
    assert errors.shape == (len(quick["corruptions"]), 5)
    assert rows[CORRUPTED]["share"] == pytest.approx(1 - errors.mean())


def test_the_rows_of_shapes(quick):
    trials = EXPERIMENT.trials(updates=40, cues=40, images=30)
    rows = measure(trials["shapes", "ViT"], 0)
    assert rows[BY_SHAPE]["share"] == quick["shape_bias"]
    assert rows[f"{OUTLINED} (Jaccard)"]["share"] == quick["segments"]["jaccard"]
    assert "occlusion" not in quick
    quick.clear()
    assert len(measure(trials["shapes", "ResNet"], 0)) == 2, "a ResNet has no attention"


def table(vit, resnet):
    """Tables whose every share is the same, but for some rows; corrupted shares by severity from the share itself."""
    rows = (CLEAN, SHUFFLED, BLACK, MEAN, SHIFTED, BY_SHAPE, CORRUPTED)
    names = {"ViT": vit, "ResNet": resnet, "Swin": {}, "Mixer": {}}
    noise = np.array([-0.01, 0.0, 0.01])
    cells = {(row, name): [{"share": s, "errors": [[1 - s, 1.2 - s], [0.5, 1 - s]]}
                           for s in shares.get(row, 0.5) + noise]
             for name, shares in names.items() for row in rows}  # fmt: skip
    return Table(cells, SHARE)


def test_the_mean_corruption_error_is_of_the_resnet_s_of_the_same_seed():
    found = table({CORRUPTED: 0.7, CLEAN: 0.9}, {CORRUPTED: 0.6, CLEAN: 0.8})
    np.testing.assert_allclose(mce(found, "ResNet"), 100)
    vit, resnet = 0.7, 0.6  # the middle seed
    expected = 50 * ((2.2 - 2 * vit) / (2.2 - 2 * resnet) + (1.5 - vit) / (1.5 - resnet))
    assert mce(found, "ViT")[1] == pytest.approx(expected)
    relative = 50 * ((2.2 - 2 * vit - 0.2) / (2.2 - 2 * resnet - 0.4) + (1.5 - vit - 0.2) / (1.5 - resnet - 0.4))
    assert mce(found, "ViT", relative=True)[1] == pytest.approx(relative)


def test_the_verdict_says_each_part_by_itself():
    said = EXPERIMENT.verdict(table({SHUFFLED: 0.8, BLACK: 0.7}, {SHIFTED: 0.9}))
    assert said.startswith(
        "It appears here that a ViT stands shuffled patches better than a ResNet: +30.0 ± 0.0 points."
    )
    assert "It does NOT appear here that it stands occlusion better: +20.0 ± 0.0 points with black, +0.0" in said
    assert "by shape: +0.0" in said
    assert "shifted by a pixel: +40.0" in said
    assert "ViT 100 ± 0" in said


def test_the_figure_has_a_row_for_each_kind_that_counts():
    axes, *_ = EXPERIMENT.figure(table({}, {})).axes
    labels = [label.get_text() for label in axes.get_yticklabels()]
    assert labels == [CLEAN, BLACK, MEAN, SHUFFLED, SHIFTED, CORRUPTED, BY_SHAPE]
