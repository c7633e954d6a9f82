"""The student's side of the exercises: which there are, the files to write in, the hints."""

from __future__ import annotations

import pkgutil
import re
from functools import cache
from importlib import import_module
from pathlib import Path

import tinyvit.exercises as package
from tinyvit.exercises.exercise import Exercise
from tinyvit.files import make_folder

PYTEST_INI = """\
# With this file `pytest` grades the exercises in this folder.
[pytest]
addopts = -p tinyvit.exercises.plugin -p no:cacheprovider -v -rN --no-header
python_files = ex[0-9][0-9]_*.py
"""


@cache
def exercises() -> dict[int, Exercise]:
    """Every exercise by its number: the modules here that are called ex04_…"""
    names = sorted(m.name for m in pkgutil.iter_modules(package.__path__) if re.fullmatch(r"ex\d\d_\w+", m.name))
    found = [import_module(f"tinyvit.exercises.{name}").EXERCISE for name in names]
    return {exercise.number: exercise for exercise in found}


def find(number: str) -> Exercise:
    """An exercise by what a student may call it: "05", "5", "ex05". Raises ValueError if there is none."""
    digits = number.removeprefix("ex")
    known = exercises()
    if not digits.isdecimal() or int(digits) not in known:
        codes = ", ".join(exercise.code for exercise in known.values())
        raise ValueError(f"there is no exercise {number!r}; there are {codes}")
    return known[int(digits)]


def start(folder: Path, only: list[str] | None = None) -> list[Path]:
    """Write the student's files into a folder and return them. What is there already is never written over.

    only  the numbers of some exercises; all, if left out
    """
    chosen = [find(number) for number in only] if only else list(exercises().values())
    paths = {folder / exercise.file: exercise.stub for exercise in chosen}
    _refuse_existing(folder, list(paths))
    make_folder(folder)
    if not (folder / "pytest.ini").exists():
        paths[folder / "pytest.ini"] = PYTEST_INI
    for path, text in paths.items():
        with open(path, "x", encoding="utf-8") as file:  # "x": even now, nothing is written over
            file.write(text)
    return list(paths)


def _refuse_existing(folder: Path, paths: list[Path]) -> None:
    """Raise FileExistsError, before anything is written, for a student's work and for a pytest.ini of somebody's."""
    there = [path for path in paths if path.exists()]
    if there:
        names = ", ".join(map(str, there))
        raise FileExistsError(f"{names}: there already, left as it is; nothing was written. Take another folder, "
                              "or --only the exercises that are not there")  # fmt: skip
    ini = folder / "pytest.ini"
    if ini.exists() and "tinyvit.exercises.plugin" not in ini.read_text(encoding="utf-8", errors="replace"):
        raise FileExistsError(f"{ini} belongs to something else; take another folder")


def hint(number: str | int, level: int = 1) -> str:
    """A hint: 1 asks a question, 2 gives the formula, 3 the term that is usually missing."""
    exercise = find(str(number))
    if not 1 <= level <= len(exercise.hints):
        raise ValueError(f"exercise {exercise.code} has the hints 1 … {len(exercise.hints)}, not {level}")
    return exercise.hints[level - 1]
