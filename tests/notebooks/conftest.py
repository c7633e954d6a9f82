"""The numbers behind the figures of the notebooks."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
NOTEBOOKS = HERE.parent.parent / "notebooks"
FIGURES = HERE.parent.parent / "figures"


def pytest_collection_modifyitems(items):
    """These tests last: then nbval has run the notebooks, and left the figures of the fast mode."""
    items.sort(key=lambda item: HERE in item.path.parents)


@pytest.fixture(scope="session")
def fast_figures(request):
    """A function: number of a notebook -> the folder with the figures that it draws in the fast mode.

    They are there if nbval has run the notebook in this session; if not, or if another process of the session may still
    be running it, its script is run now.
    """
    alone = "PYTEST_XDIST_WORKER" not in os.environ
    done = {item.path.stem for item in request.session.items if alone and item.path.suffix == ".ipynb"}

    def folder(number):
        (script,) = NOTEBOOKS.glob(f"{number}_*.py")
        if script.stem not in done:
            fast = {**os.environ, "TINYVIT_FAST": "1", "OPENBLAS_NUM_THREADS": "1"}
            run = subprocess.run([sys.executable, script.name], cwd=NOTEBOOKS, env=fast, text=True, capture_output=True)
            assert run.returncode == 0, run.stderr
            done.add(script.stem)
        return FIGURES / "fast"

    return folder


@pytest.fixture(params=["committed", "fast"])
def numbers(request):
    """A function: name of a figure -> its numbers, as committed and as the fast mode draws it."""

    def read(name):
        folder = FIGURES if request.param == "committed" else request.getfixturevalue("fast_figures")(name[:2])
        return json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))

    return read
