"""The README's Python runs as printed (with one epoch of training instead of twelve)."""

import re
from pathlib import Path

README = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")


def test_the_python_of_the_readme_runs(capsys):
    blocks = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    code = "\n".join(blocks).replace("splits.train, 32, 12", "splits.train, 32, 1").replace("warmup=48", "warmup=4")
    assert len(blocks) == 4
    names: dict = {}
    exec(compile(code, "README.md", "exec"), names)
    assert names["maps"][0].shape == (32, 4, 17, 17)
    assert names["model"].num_parameters() == 26_762
    assert "632,045,800" in capsys.readouterr().out
