"""A student's way: start, write, run pytest, read; and what must never happen to their work or their machine."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from exercises.mutants import EDITS, plain

from tinyvit import cli
from tinyvit.exercises.course import PYTEST_INI, exercises, find, start
from tinyvit.exercises.grade import NOT_WRITTEN, RIGHT, STOPPED, WRONG
from tinyvit.exercises.worker import Worker

ROOT = Path(__file__).parent.parent.parent
LAYER_NORM = exercises()[5]


def run_pytest(*arguments, cwd, plugins=False):
    """Pytest as a student calls it, in a process of its own; ``plugins``: with all that are installed (3 s to load)."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    if not plugins:
        environment["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
    return subprocess.run([sys.executable, "-m", "pytest", *arguments], cwd=cwd, env=environment, text=True,
                          encoding="utf-8", capture_output=True, check=False, timeout=120)  # fmt: skip


@pytest.fixture
def folder(tmp_path):
    start(tmp_path / "mine", ["05"])
    return tmp_path / "mine"


def test_stub_then_wrong_then_right(folder):
    file = folder / LAYER_NORM.file
    result = run_pytest("mine", cwd=folder.parent)
    assert result.returncode == 1
    assert result.stdout.count("NOT WRITTEN YET") == 3
    assert "ex05 layer_norm   not written yet" in result.stdout
    assert "FAILURES" not in result.stdout

    wrong = next(edit for edit in EDITS[5] if edit.name == "WITHOUT the variance path")
    file.write_text(wrong.applied_to(plain(LAYER_NORM)), encoding="utf-8")
    result = run_pytest("mine", cwd=folder.parent)
    assert result.returncode == 1
    assert "layer_norm PASSED" in result.stdout
    assert "Your d/dx equals the formula WITHOUT the variance path (10 of 10 seeds)." in result.stdout
    assert re.search(r"forward 30/30 +gradient 26\.7/40 +invariants 20/20 +76\.7/90", result.stdout)
    assert "Traceback" not in result.stdout + result.stderr
    assert "plugin.py" not in result.stdout + result.stderr

    file.write_text(plain(LAYER_NORM), encoding="utf-8")
    result = run_pytest(cwd=folder, plugins=True)  # from inside, this time
    assert result.returncode == 0, result.stdout + result.stderr
    assert result.stdout.count("PASSED") == 3
    assert re.search(r"20/20 +90/90", result.stdout)


def test_after_a_file_that_cannot_be_read_the_rest_of_it_is_not_looked_at(folder):
    (folder / LAYER_NORM.file).write_text("def layer_norm(x, gain, offset, eps)\n    return x\n", encoding="utf-8")
    result = run_pytest(f"mine/{LAYER_NORM.file}", cwd=folder.parent)  # named: pytest would import it itself
    assert result.returncode == 1
    assert "SyntaxError" in result.stdout
    assert 'ex05_layer_norm.py", line 1' in result.stdout
    assert result.stdout.count("NOT LOOKED AT") == 2
    assert result.stdout.count("SyntaxError") == 1


def test_one_function_can_be_graded_alone(folder):
    result = run_pytest("mine", "-k", "layer_norm_backward", cwd=folder.parent)
    assert "3 deselected" not in result.stdout
    assert result.stdout.count("NOT WRITTEN YET") == 1


# in a process of its own ---------------------------------------------------------------------


def verdict_on(folder, text, part="layer_norm", limit=20.0):
    (folder / LAYER_NORM.file).write_text(text, encoding="utf-8")
    with Worker(limit) as worker:
        return worker.grade(5, folder / LAYER_NORM.file, part)


def forward(body):
    return f"import os, sys\nimport numpy as np\n\n\ndef layer_norm(x, gain, offset, eps):\n    {body}\n"


@pytest.mark.parametrize(
    ("body", "state", "said"),
    [
        ("return x.men(-1)", WRONG, "ex05_layer_norm.py, line 6, in layer_norm:\n      return x.men(-1)\n  Attribute"),
        ("os._exit(3)", STOPPED, "ended Python itself"),
        ("sys.exit('enough')", WRONG, "SystemExit: enough"),
        ("return layer_norm(x, gain, offset, eps)", WRONG, "RecursionError"),
        ("return input('x? ')", WRONG, "EOFError"),
        ("print('shape', x.shape)", WRONG, "Your code printed:\n  shape (2, 3, 5)"),
        ("raise NotImplementedError", NOT_WRITTEN, "not written yet"),
    ],
)
def test_whatever_the_code_does_is_told(folder, body, state, said):
    verdict = verdict_on(folder, forward(body))
    assert verdict.state == state
    assert said in verdict.text


@pytest.mark.parametrize(
    "text", [forward("while True: pass"), "while True: pass"], ids=["in the function", "on import"]
)
def test_a_loop_that_never_ends_is_ended(folder, text):
    with Worker(1.0) as worker:
        (folder / LAYER_NORM.file).write_text(text, encoding="utf-8")
        verdict = worker.grade(5, folder / LAYER_NORM.file, "layer_norm")
        assert verdict.state == STOPPED
        assert "did not come to an end within 1 s" in verdict.text
        worker.limit = 20.0
        (folder / LAYER_NORM.file).write_text(plain(LAYER_NORM), encoding="utf-8")
        assert worker.grade(5, folder / LAYER_NORM.file, "layer_norm").state == RIGHT, "a new process goes on"


def test_one_exercise_may_use_what_was_written_in_another(tmp_path):
    start(tmp_path / "mine", ["04", "08"])
    mine = "from ex04_softmax import softmax\n\n\ndef attention(q, k, v, mask):\n    return softmax(q, -1)\n"
    (tmp_path / "mine" / find("08").file).write_text(mine, encoding="utf-8")
    with Worker(20.0) as worker:
        verdict = worker.grade(8, tmp_path / "mine" / find("08").file, "attention")
    assert "attention calls softmax, which is not written yet" in verdict.text


# the command line ----------------------------------------------------------------------------


def test_start_writes_every_file_and_says_what_next(tmp_path, capsys):
    assert cli.main(["exercises", "start", str(tmp_path / "new" / "mine")]) == 0
    said = capsys.readouterr().out
    names = {exercise.file for exercise in exercises().values()} | {"pytest.ini"}
    assert {path.name for path in (tmp_path / "new" / "mine").iterdir()} == names
    assert all(name in said for name in names)
    assert f"pytest {tmp_path / 'new' / 'mine'}" in said


def test_a_students_work_is_never_written_over(folder, capsys):
    work = folder / LAYER_NORM.file
    work.write_text("my work", encoding="utf-8")
    assert cli.main(["exercises", "start", str(folder)]) == 1
    error = capsys.readouterr().err
    assert str(work) in error
    assert "nothing was written" in error
    assert work.read_text(encoding="utf-8") == "my work"
    assert {path.name for path in folder.iterdir()} == {LAYER_NORM.file, "pytest.ini"}

    assert cli.main(["exercises", "start", str(folder), "--only", "4", "ex08"]) == 0, "others may be added"
    assert work.read_text(encoding="utf-8") == "my work"
    assert (folder / "pytest.ini").read_text(encoding="utf-8") == PYTEST_INI


def test_a_pytest_ini_of_something_else_is_left_alone(tmp_path, capsys):
    (tmp_path / "pytest.ini").write_text("[pytest]\n", encoding="utf-8")
    assert cli.main(["exercises", "start", str(tmp_path)]) == 1
    assert "belongs to something else" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["pytest.ini"]


def test_a_folder_that_is_a_file_is_named(tmp_path, capsys):
    (tmp_path / "file").write_text("", encoding="utf-8")
    assert cli.main(["exercises", "start", str(tmp_path / "file")]) == 1
    assert str(tmp_path / "file") in capsys.readouterr().err


def test_exercises_are_listed_with_what_they_need(capsys):
    assert cli.main(["exercises", "list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(exercises())
    assert "08  scaled dot-product attention, forward and backward  (after 04)" in lines


@pytest.mark.parametrize("number", ["05", "5", "ex05"])
def test_hints_are_printed(number, capsys):
    assert cli.main(["exercises", "hint", number, "2"]) == 0
    assert "Let h = g · gain" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["hint", "99", "1"], "there is no exercise '99'; there are 04, 05, 08"),
        (["hint", "layernorm"], "there is no exercise 'layernorm'"),
        (["hint", "05", "4"], "exercise 05 has the hints 1 … 3, not 4"),
        (["start", "mine", "--only", "99"], "there is no exercise '99'"),
    ],
)
def test_what_there_is_not_is_said_in_a_line(arguments, said, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["exercises", *arguments]) == 1
    assert said in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_the_package_does_not_import_pytest():
    code = "import sys; import tinyvit.exercises.course as c; c.exercises(); import tinyvit.exercises.worker; "
    code += "print('pytest' in sys.modules, 'tinyvit.exercises.plugin' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, text=True, capture_output=True, check=True)
    assert result.stdout.split() == ["False", "False"]
