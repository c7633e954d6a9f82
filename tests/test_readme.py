"""The README's Python runs as printed (with one epoch of training instead of twelve)."""

import re
from code import InteractiveConsole
from pathlib import Path

import numpy as np

README = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")


BLOCKS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
QUICK = {"splits.train, 32, 12": "splits.train, 32, 1", "warmup=48": "warmup=4"}


def code():
    """All blocks as one script, with one epoch of training."""
    text = "\n".join(BLOCKS)
    for slow, quick in QUICK.items():
        assert slow in text
        text = text.replace(slow, quick)
    return text


def test_the_python_of_the_readme_runs(capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    exec(compile(code(), "README.md", "exec"), names)
    assert names["maps"][0].shape == (4, 4, 17, 17)
    assert all(np.abs(g).max() > 0 for g in names["attention_gradient"]), "a gradient that is zero teaches nothing"
    assert (tmp_path / "figures" / "mine.png").exists()
    assert np.array_equal(names["again"].head.weight.data, names["model"].head.weight.data)
    assert "632,045,800" in capsys.readouterr().out


def test_the_python_of_the_readme_can_be_typed_line_by_line(monkeypatch, tmp_path):
    """The prompt ends an indented block at an empty line, and nowhere else."""
    monkeypatch.chdir(tmp_path)
    wrong = []

    class Prompt(InteractiveConsole):
        def showsyntaxerror(self, *args, **options):
            wrong.append(self.buffer)

        def runcode(self, compiled):
            """Only what is typed is tested here."""

    prompt = Prompt()
    for line in code().splitlines():
        prompt.push(line)
    assert not wrong, "needs an empty line before: " + wrong[0][-1]
