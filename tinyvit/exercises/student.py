"""The student's file: loaded and called with care, and every trouble with it told in plain words."""

from __future__ import annotations

import importlib
import inspect
import sys
import traceback
import warnings
from pathlib import Path

import numpy as np


class TroubleError(Exception):
    """Something about the student's code that keeps an answer from being compared; the text says what."""


class NotWrittenError(TroubleError):
    """The function still raises NotImplementedError."""


class Student:
    """The functions of a student's file. ``student.softmax(x, 1)`` calls theirs, on copies, and raises TroubleError."""

    def __init__(self, functions, folder: Path | None = None):
        self._functions, self._folder = functions, folder

    def __getattr__(self, name: str):
        function = getattr(self._functions, name, None)
        if not callable(function):
            raise TroubleError(f"There is no function {name}(…) in the file; the exercise needs one of this name.")
        return lambda *arguments: _call(function, name, arguments, self._folder)


def load(path: Path) -> Student:
    """Import a student's file. What one file imports from another of its folder is the student's own, too."""
    folder = path.resolve().parent
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))
    try:
        return Student(importlib.import_module(path.stem), folder)
    except (Exception, SystemExit) as error:
        raise TroubleError(f"The file cannot be imported.\n{_told(error, folder)}") from None


def _call(function, name: str, arguments, folder: Path | None):
    """Call a student's function on copies of the arguments."""
    given = [np.array(x) if isinstance(x, np.ndarray) else x for x in arguments]
    try:
        with np.errstate(all="ignore"), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what comes out is judged; a warning would say it less clearly
            value = function(*given)
    except NotImplementedError as error:
        raise NotWrittenError(_not_written(name, error)) from None
    except (Exception, SystemExit) as error:
        raise TroubleError(f"{name} stopped with an error.\n{_told(error, folder)}") from None
    _refuse_changed(function, name, arguments, given)
    return value


def _not_written(name: str, error: NotImplementedError) -> str:
    """Which function is not written: this one, or one that it calls."""
    inner = traceback.extract_tb(error.__traceback__)[-1].name
    return f"{name} is not written yet." if inner == name else f"{name} calls {inner}, which is not written yet."


def _refuse_changed(function, name: str, arguments, given) -> None:
    """An argument belongs to the caller, who may still need it."""
    for i, (before, after) in enumerate(zip(arguments, given, strict=True)):
        if isinstance(before, np.ndarray) and not np.array_equal(before, after, equal_nan=before.dtype.kind == "f"):
            argument = [*inspect.signature(function).parameters, "x"][i]
            raise TroubleError(
                f"{name} wrote into its input {argument}. Whoever called it may still need that array: make a new one "
                f"(y = {argument} - 1, not {argument} -= 1)."
            )


def _told(error: BaseException, folder: Path | None) -> str:
    """An error of the student's code: the innermost line of theirs, and what Python says."""
    said = "".join(traceback.format_exception_only(error)).strip()
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if folder is not None and folder in Path(frame.filename).parents]
    if not own:
        return _indented(said)
    line = own[-1]
    return _indented(f"{Path(line.filename).name}, line {line.lineno}, in {line.name}:\n    {line.line}\n{said}")


def _indented(text: str) -> str:
    return "\n".join(f"  {line}" for line in text.splitlines())


def unpack(value, name: str, gives: tuple[str, ...]) -> dict[str, np.ndarray]:
    """What a function returned, an array for each name that it should give. Raises TroubleError if not."""
    values = value if isinstance(value, tuple | list) else (value,)
    if value is None:
        raise TroubleError(f"{name} returned nothing (None). Is a `return` missing?")
    if len(values) != len(gives):
        wanted = "one array" if len(gives) == 1 else f"{len(gives)} arrays, {', '.join(gives)}"
        returned = "1 value" if len(values) == 1 else f"{len(values)} values"
        raise TroubleError(f"{name} returned {returned}; it must return {wanted}.")
    for output, x in zip(gives, values, strict=True):
        if not isinstance(x, np.ndarray | np.generic):
            raise TroubleError(f"{name} returned a {type(x).__name__} as {output}; it must be a NumPy array.")
    return {output: np.asarray(x) for output, x in zip(gives, values, strict=True)}
