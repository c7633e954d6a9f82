"""The ledger: our counts as data, the slides' figures beside them, and a reason for each that differs."""

import json

import pytest
from reference import variants

from tinyvit import cli
from tinyvit.models.catalogue import PAPERS, counted, create_model
from tinyvit.models.ledger import count, differences, ledger, verdict
from tinyvit.models.slides import FIGURES

ROWS = {row["name"]: row for row in variants()}


@pytest.mark.parametrize("row", counted())
def test_parameters_and_macs_are_exact(row):
    """Here rather than beside the names, since the ledger counts every row anyway, and each is counted once."""
    assert count(row)["params"] == ROWS[row]["params"]
    assert count(row)["macs"] == ROWS[row]["macs"]


@pytest.mark.parametrize(
    ("printed", "exact", "wanted"),
    [("87M", 86_567_656, "agrees"), ("86M", 86_567_656, "truncated"), ("85M", 86_567_656, "differs"),
     ("9.4G", 9_350_000_000, "agrees"), ("9.3G", 9_349_999_999, "agrees"), ("12.0M", 11_956_264, "agrees"),
     ("12M", 11_956_264, "agrees"), ("296M", 295_455_584, "differs")],
)  # fmt: skip
def test_a_figure_agrees_if_the_count_rounds_to_it(printed, exact, wanted):
    assert verdict(printed, exact) == wanted


@pytest.mark.parametrize("figure", FIGURES, ids=lambda figure: f"{figure.table}-{figure.row}-{figure.what}")
def test_every_figure_is_one_of_the_references_rows_and_explained_where_it_differs(figure):
    row = ROWS[figure.row]
    assert figure.printed in row["slide_params" if figure.what == "params" else "slide_flops"]
    if verdict(figure.printed, row[figure.what]) == "differs":
        assert figure.why


def test_every_figure_that_the_references_have_is_there():
    """For the families that the ledger is about."""
    families = {"vit", "deit", "cait", "volo", "swin", "mixer", "regnet", "efficientnet", "bit", "resnet"}
    told = {(figure.row, figure.what) for figure in FIGURES}
    for row in ROWS.values():
        if row["family"] in families:
            assert ((row["name"], "params") in told) == bool(row["slide_params"]), row["name"]
            assert ((row["name"], "macs") in told) == bool(row["slide_flops"]), row["name"]
    assert len({(f.row, f.table, f.what) for f in FIGURES}) == len(FIGURES), "one is there twice"


def test_the_json_has_every_count_of_every_family(tmp_path, capsys):
    assert cli.main(["ledger", "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert {row["name"] for row in printed} == set(counted())
    assert {row["family"] for row in printed} == {ROWS[name]["family"] for name in counted()}
    for row in printed:
        assert row == {key: ROWS[row["name"]][key] for key in ("name", "family", "resolution", "params", "macs")}
    assert cli.main(["ledger", "--json", str(tmp_path / "counts.json")]) == 0
    assert json.loads((tmp_path / "counts.json").read_text(encoding="utf-8")) == printed


def test_the_ledger_flags_and_explains(capsys):
    assert cli.main(["ledger"]) == 0
    out = capsys.readouterr().out
    assert len(ledger()) == sum(figure.row in counted() for figure in FIGURES)
    wanted = [line for line in out.splitlines() if line.startswith("ViT-L/16@224") and "307M" in line]
    assert len(wanted) == 1
    assert "304,326,632" in wanted[0]
    assert "differs: that is L with patches of 32" in wanted[0]
    assert "truncated" in next(line for line in out.splitlines() if line.startswith("Mixer-S/16@224"))


def test_describe_says_where_slides_differ(capsys):
    assert [entry.figure.printed for entry in differences("vit_huge_patch14_224")] == []
    assert [entry.figure.printed for entry in differences("vit_large_patch16_384")] == ["307M", "190.7G"]
    assert differences("vit_digits") == []
    assert cli.main(["describe", "vit_large_patch16_384", "--depth", "0"]) == 0
    assert "190.7G" in capsys.readouterr().out


@pytest.mark.parametrize("paper", PAPERS, ids=lambda paper: paper.__name__.rpartition(".")[2])
def test_every_model_is_described(paper, capsys):
    for name in [*paper.PUBLISHED, *paper.SMALL][:2]:
        assert cli.main(["describe", name, "--depth", "1"]) == 0
        assert type(create_model(name)).__name__ in capsys.readouterr().out
