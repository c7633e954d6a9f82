"""Every notebook keeps to the pattern: its size, its parts, its pair, its outputs, its figures."""

import ast
import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
FIGURES = ROOT / "figures"
PUBLIC = {"tinyvit", "tinyvit.analysis", "tinyvit.data", "tinyvit.machine", "tinyvit.models", "tinyvit.train"}
BESIDE = {"numpy", "pathlib", "os", "itertools", "math"}  # what else a notebook may import

every = pytest.mark.parametrize("path", sorted(ROOT.glob("notebooks/*.ipynb")), ids=lambda path: path.stem)


def cells(path, kind=None):
    """The cells of a notebook, all or of one kind: dictionaries whose source is one string."""
    found = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return [{**c, "source": "".join(c["source"])} for c in found if kind in (None, c["cell_type"])]


def source(path):
    return "\n".join(cell["source"] for cell in cells(path, "code"))


def text(path):
    return "\n\n".join(cell["source"] for cell in cells(path, "markdown"))


# ---- a session of an hour ----------------------------------------------------------------------


@every
def test_size(path):
    lines = [line for line in source(path).splitlines() if line.strip() and not line.lstrip().startswith("#")]
    assert 25 <= len(cells(path)) <= 45
    assert len(text(path).split()) <= 2500
    assert len(lines) <= 250


@every
def test_functions_are_short(path):
    """What needs more than ten lines belongs into the package."""
    functions = [n for n in ast.walk(ast.parse(source(path))) if isinstance(n, ast.FunctionDef)]
    long = [f.name for f in functions if lines_of(f) > 10]
    assert long == []


def lines_of(function):
    """The lines of a function's body; a docstring does not count."""
    body = function.body[ast.get_docstring(function) is not None :]
    return body[-1].end_lineno - body[0].lineno + 1 if body else 0


@every
def test_imports_the_public_face_alone(path):
    modules = set()
    for node in ast.walk(ast.parse(source(path))):
        if isinstance(node, ast.Import):
            modules |= {name.name for name in node.names}
        elif isinstance(node, ast.ImportFrom):
            modules.add(node.module)
    assert modules <= PUBLIC | BESIDE


@every
def test_header_and_footer(path):
    first, last = cells(path)[0]["source"], cells(path)[-1]["source"]
    assert re.match(rf"# {path.stem[:2]} · \w", first)
    for part in ("**Slides** · ", "**You will be able to**", "**You need**", "**Time**"):
        assert part in first
    goals = first.partition("**You will be able to**")[2].partition("**You need**")[0]
    assert 3 <= len(re.findall(r"^\d\. ", goals, flags=re.M)) <= 5
    assert "\n## Exercise" in text(path)
    assert re.search(r"exercise \d\d", last)
    questions = last.partition("## Three questions")[2]
    assert re.findall(r"^(\d)\. ", questions, flags=re.M) == ["1", "2", "3"]
    assert questions.count("<details><summary>Answer</summary>\n\n") == questions.count("</details>\n\n") == 3  # folded
    assert "**Next** · " in last


# ---- the pair, and what is shown ---------------------------------------------------------------


@every
def test_the_pair_agrees(path):
    """The .py is the source that is reviewed; `jupytext --update --to ipynb` carries it over."""
    jupytext = pytest.importorskip("jupytext")
    script = jupytext.read(path.with_suffix(".py"))
    kept = [(c["cell_type"], c["source"], tuple(c["metadata"].get("tags", ()))) for c in cells(path)]
    assert kept == [(c.cell_type, c.source, tuple(c.metadata.get("tags", ()))) for c in script.cells]


@every
def test_outputs_are_those_of_one_run_from_the_top(path):
    code = cells(path, "code")
    assert [cell["execution_count"] for cell in code] == list(range(1, len(code) + 1))
    outputs = [output for cell in code for output in cell["outputs"]]
    assert "error" not in {output["output_type"] for output in outputs}
    assert "stderr" not in {output.get("name") for output in outputs}  # no progress bars, no warnings
    for output in outputs:
        assert set(output.get("data", ())) <= {"text/plain", "image/png", "image/svg+xml"}


@every
def test_few_outputs_are_not_compared(path):
    tags = [tag for cell in cells(path) for tag in cell["metadata"].get("tags", ())]
    assert set(tags) <= {"nbval-ignore-output"}
    assert len(tags) <= 5


@every
def test_nothing_of_the_machine_is_left(path):
    notebook = json.loads(path.read_text(encoding="utf-8"))
    assert notebook["metadata"]["kernelspec"]["name"] == "python3"
    assert not [cell["id"] for cell in notebook["cells"] if "execution" in cell["metadata"]]  # times of day


# ---- figures -----------------------------------------------------------------------------------


@every
def test_every_figure_is_saved_with_its_numbers(path):
    """A picture under the name that the notebook saves it by, its numbers, and no picture that nobody draws."""
    drawn = re.findall(r'FIGURES / "([^"]+)"', source(path))
    assert len(drawn) == len(set(drawn))
    assert all(re.fullmatch(rf"{path.stem[:2]}_\w+\.(png|svg)", name) for name in drawn)
    there = {file.name for file in FIGURES.glob(f"{path.stem[:2]}_*") if file.suffix != ".json"}
    assert there == set(drawn)
    for name in drawn:
        assert json.loads((FIGURES / name).with_suffix(".json").read_text(encoding="utf-8"))


@every
def test_every_figure_is_checked(path):
    """By test_figures.py, which reads its numbers by name."""
    checks = (Path(__file__).parent / "test_figures.py").read_text(encoding="utf-8")
    drawn = re.findall(r'FIGURES / "([^".]+)\.', source(path))
    assert [name for name in drawn if f'"{name}"' not in checks] == []
