"""Experiments about the loss around trained weights: what they measure, against a direct count, and their verdicts."""

from fnmatch import fnmatchcase

import numpy as np
import pytest

from tinyvit import create_model
from tinyvit.analysis import curvature, dense
from tinyvit.results import class_token, landscapes, minima, paths, sam_minima, spectra, two_papers
from tinyvit.results.around import (
    IMAGES,
    LEVEL,
    first,
    larger,
    matched,
    rounded,
    settings,
    times,
    unmatched,
    watched,
)
from tinyvit.results.experiment import Trial, started
from tinyvit.results.report import tabled
from tinyvit.results.table import Table
from tinyvit.runs.looking import OBJECTIVE
from tinyvit.train import evaluate

TINY = {"ViT": {"embed_dim": 8, "depth": 1, "num_heads": 2}, "ResNet": {"channels": (4, 4), "stem_width": 4},
        "Mixer": {"embed_dim": 4, "num_blocks": 1}}  # fmt: skip


def tiny(module, cell, **told):
    """A trial of an experiment, made so small that a test can do it."""
    trial = module.trials(**({"updates": 10} | told))[cell]
    return Trial(trial.settings | {"train_size": 80, "batch_size": 40, "epochs": 1, "warmup": 0.0},
                 trial.model | TINY[cell[0].split(",")[0]], trial.also)  # fmt: skip


def table_of(cells, reading=minima.SHARPNESS, name=None):
    """A table of λmax, all at the same loss."""
    return Table({cell: [{name or reading.name: value, "loss": LEVEL} for value in values]
                  for cell, values in cells.items()}, reading)  # fmt: skip


# ---- the protocol --------------------------------------------------------------------------------


def test_a_model_is_trained_until_its_loss_is_the_level():
    trial = Trial(settings(60, "mixer_digits") | {"rate": 8e-3}, {"num_blocks": 1})
    model, task = started(trial, 0)
    at = watched(model, task, trial, 0, (1.5,), on=False)
    batch = first(task.splits.train, IMAGES)
    assert evaluate(at[1.5], batch).loss == pytest.approx(1.5, rel=2e-3)
    assert 1 < evaluate(model, batch).loss <= 1.5, "it stopped there"
    never = Trial(trial.settings | {"epochs": 1, "warmup": 0.0}, trial.model)
    model, task = started(never, 0)
    assert matched(model, task, never, 0) is model


def test_how_cells_are_compared():
    table = table_of({("a", 1): [2.0, 8.0], ("b", 1): [1.0, 1.0], ("c", 1): [-1.0, 9.0]})
    assert times(table, ("a", 1), ("b", 1)) == "4 times (2 to 8)"
    assert times(table, ("a", 1), ("c", 1)) == "of another sign"
    assert larger(table, ("a", 1), ("b", 1))
    assert not larger(table, ("c", 1), ("b", 1)), "not with every seed"
    assert unmatched(table) == ""
    table.cells["b", 1][1]["loss"] = 0.3
    assert unmatched(table) == " NOT at the same training loss: b, 1: 0.200."
    assert rounded(np.array([[1.23456, 2e-5], [0, 7]])) == [[1.235, 2e-5], [0, 7]]


# ---- what is measured ----------------------------------------------------------------------------


def test_minima_are_measured_at_two_losses_and_at_the_end():
    found = minima.measure(tiny(minima, ("ViT", "AdamW")), 0)[""]
    for suffix in ("", "_early", "_end"):
        assert found[f"residual{suffix}"] <= 0.02 * found[f"lambda_max{suffix}"]
        assert found[f"loss{suffix}"] > LEVEL, "so short a run comes nowhere, and says so by its loss"
    assert {"test_accuracy", "validation_accuracy"} <= found.keys()


def test_token_and_positions_start_as_they_are_told(rng):
    model = create_model("vit_digits", rng=rng)
    positions = model.pos_embed.data.copy()
    assert not minima.redrawn(model, {}, 0).cls_token.data.any()
    token = minima.redrawn(model, {"token": 2.0}, 0).cls_token.data
    assert 1 < token.std() < 3
    np.testing.assert_array_equal(model.pos_embed.data, positions)
    np.testing.assert_array_equal(token, minima.redrawn(model, {"token": 2.0}, 0).cls_token.data)
    assert not minima.redrawn(model, {"token": 0.0}, 0).cls_token.data.any()
    assert 0.4 < minima.redrawn(model, {"positions": 0.5}, 0).pos_embed.data.std() < 0.6


def test_blocks_share_out_every_parameter():
    for name, _ in create_model("vit_digits").named_parameters():
        found = [block for block, patterns in class_token.BLOCKS.items() if block != class_token.WHOLE
                 and any(fnmatchcase(name, pattern) for pattern in patterns)]  # fmt: skip
        assert len(found) == 1, f"{name} is in {found}"


def test_no_block_is_sharper_than_all(monkeypatch):
    blocks = {name: patterns for name, patterns in class_token.BLOCKS.items() if "block 2" not in name}
    monkeypatch.setattr(class_token, "BLOCKS", {n: p for n, p in blocks.items() if "block 3" not in n})
    found = class_token.measure(tiny(class_token, ("ViT", class_token.LONG)), 0)
    whole = found.pop(class_token.WHOLE)["lambda_max"]
    assert len(found) == 5
    assert all(block["lambda_max"] <= 1.02 * whole for block in found.values())


def test_eigenvalues_batch_by_batch_are_those_of_a_dense_hessian(rng):
    model, task = started(tiny(spectra, ("Mixer", spectra.BEFORE), steps=1), 0)
    model.head.weight.data = rng.normal(size=model.head.weight.shape).astype(np.float32)
    found = two_papers.batch_by_batch(model, task, 0.05, 3, 2)
    images, labels = first(task.splits.train, 32)
    expected = []
    for i in range(2):
        looks, truth = two_papers.LOOKS(images[16 * i : 16 * i + 16], labels[16 * i : 16 * i + 16],
                                        np.random.default_rng([3, i]))  # fmt: skip
        values = np.linalg.eigvalsh(dense(curvature(OBJECTIVE, model, (looks, truth)))) + 0.05  # of ½ 0.05 ‖w‖²
        expected.append(values[np.argsort(-abs(values))[:5]])
    np.testing.assert_allclose(np.sort(found["eigenvalues"]), np.sort(np.ravel(expected)), rtol=0.02)
    assert found["top"] == pytest.approx(np.max(expected, axis=1).mean(), rel=0.02)
    assert found["negative"] == np.mean(np.array(expected) < 0)


def test_spectra_are_those_of_a_dense_hessian(monkeypatch):
    monkeypatch.setattr(spectra, "IMAGES", 20)
    monkeypatch.setattr(spectra, "STARTS", 12)
    trial = tiny(spectra, ("Mixer", spectra.BEFORE), steps=12)
    found = spectra.measure(trial, 0)[""]
    model, task = started(trial, 0)
    values = np.linalg.eigvalsh(dense(curvature(OBJECTIVE, model, first(task.splits.train, 20))))
    assert found["lambda_max"] == pytest.approx(values[-1], rel=0.02)
    assert found["lambda_min"] == pytest.approx(values[0], rel=0.02)
    assert found["negative"] == pytest.approx(-values[values < 0].sum() / abs(values).sum(), abs=0.06)
    assert found["loss"] == pytest.approx(np.log(10), rel=1e-6), "a head of zeros"
    assert sum(found["weights"]) == pytest.approx(1, abs=1e-3)


def test_a_landscape_has_its_loss_in_the_middle():
    found = landscapes.measure(tiny(landscapes, ("ResNet", landscapes.SAM), points=5), 0)[""]
    losses = np.array(found["losses"])
    assert losses.shape == (5, 5)
    assert losses[2, 2] == pytest.approx(found["loss"], rel=1e-3)
    near = [losses[i, j] for i, j in ((2, 2), (1, 2), (3, 2), (2, 1), (2, 3))]
    assert found["rise"] == pytest.approx(np.mean(near) - losses[2, 2], abs=1e-3)


def test_a_path_begins_where_the_model_did_and_ends_in_the_middle(monkeypatch):
    monkeypatch.setattr(paths, "EVERY", 1)
    found = paths.measure(tiny(paths, ("ViT", "SGD"), points=3), 0)[""]
    path = np.array(found["path"])
    assert path.shape == (3, 2)
    np.testing.assert_allclose(path[-1], 0, atol=1e-12)
    assert found["explained"] == pytest.approx(1), "three states lie in a plane"
    for axis, along in zip(found["axes"], path.T, strict=True):
        assert axis[0] < along.min() <= along.max() < axis[-1]


def test_sam_is_measured_by_its_own_measure_too():
    found = sam_minima.measure(tiny(sam_minima, ("Mixer", 0.1), rhos=(0.1,)), 0)[""]
    assert found["sam_sharpness"] > 0
    assert found["loss"] > LEVEL


# ---- what is said --------------------------------------------------------------------------------


def test_the_verdict_on_minima():
    high, low = [9.0, 8.0], [1.0, 2.0]
    cells = {(name, by): low for name in ("ResNet", "Mixer") for by in ("AdamW", "SGD")}
    sharp = {(name, by): high for name in (minima.VIT, minima.LONG) for by in ("AdamW", "SGD")}
    said = minima.verdict(table_of(cells | sharp))
    assert said.startswith("It appears here that ViT (AdamW) is sharper")
    assert "It appears here that this is the architecture's doing" in said
    said = minima.verdict(table_of(cells | sharp | {(minima.LONG, "SGD"): low}))
    assert said.startswith("It appears here")
    assert "It does NOT appear here that this is the architecture's doing" in said


def test_the_verdict_on_the_class_token():
    starts = (class_token.ZERO, class_token.LONG, class_token.BOTH)

    def table(of_patches, *of_all):
        rows = {(class_token.WHOLE, start): [value] * 2 for start, value in zip(starts, of_all, strict=True)}
        rows |= {(class_token.TOKEN, start): [1.0] * 2 for start in starts}
        rows |= {("block 1, MLP", start): [1.5] * 2 for start in starts}
        return table_of(rows | {(class_token.PATCHES, start): [of_patches] * 2 for start in starts})

    assert class_token.verdict(table(4.0, 9.0, 6.0, 5.0)).count("It appears here") == 3
    assert class_token.verdict(table(1.0, 5.0, 6.0, 7.0)).count("It does NOT appear here") == 3


def test_the_verdict_on_two_papers():
    def table(park):
        cells = {}
        for name, chen, other in (("ViT", 9.0, park), ("ResNet", 2.0, 3.0)):
            for by in ("AdamW", "SGD"):
                cells[name, by] = [{"lambda_max": chen, "top": other, "negative": chen / 10, "loss": 0.1}] * 2
        return Table(cells, two_papers.CHEN)

    said = two_papers.verdict(table(1.0))
    assert said.startswith(
        "It appears here that ViT is sharper, measured and trained as Chen et al. did. It appears here"
    )
    assert "It does NOT appear here that it is flatter" in two_papers.verdict(table(4.0))


@pytest.mark.parametrize(("module", "row"), [(sam_minima, "Mixer"), (spectra, "Mixer"), (landscapes, "ViT")])
def test_the_other_verdicts_depend_on_their_tables(module, row):
    lowest, highest = {sam_minima: (0.0, 0.2), spectra: (spectra.BEFORE, spectra.AFTER),
                       landscapes: (landscapes.PLAIN, landscapes.SAM)}[module]  # fmt: skip
    names = ["ViT", "ResNet"] if module is landscapes else ["ViT", "ResNet", "Mixer"]
    reading = module.EXPERIMENT.readings[0]
    key = "negative" if module is spectra else reading.name
    falls = {(name, column): [value] * 2 for name, more in zip(names, (9.0, 3.0, 8.0), strict=False)
             for column, value in ((lowest, more), (highest, 1.0 + (name == "ViT") / 2))}  # fmt: skip
    said = module.verdict(table_of(falls, reading, key))
    assert "NOT" not in said
    rises = falls | {(row, highest): [20.0] * 2}
    assert "It does NOT appear here" in module.verdict(table_of(rises, reading, key))


def test_the_verdict_on_paths():
    said = paths.verdict(table_of({("ViT", "SGD"): [0.5, 0.9]}, paths.EXPLAINED))
    assert said.startswith("It appears here: of all paths at least 40 % lies in two directions")
    assert "70 %, is ViT's by SGD" in said
    assert paths.verdict(table_of({("ViT", "SGD"): [0.3, 0.9]}, paths.EXPLAINED)).startswith("It does NOT")


def test_every_figure_can_be_drawn_from_its_table():
    trial = tiny(spectra, ("Mixer", spectra.BEFORE), steps=3)
    run = {"row": "Mixer", "column": spectra.BEFORE, "found": spectra.measure(trial, 0)}
    figure = spectra.figure(tabled([run], spectra.LARGEST))
    assert "Mixer" in figure.axes[0].get_legend().get_texts()[0].get_text()
