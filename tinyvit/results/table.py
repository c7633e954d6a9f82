"""The table of an experiment: rows, columns, and in every cell the runs of all seeds."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tinyvit.runs.sweep import spread

Cell = list[dict]  # the numbers of every run, by seed


@dataclass(frozen=True)
class Reading:
    """A number that every run measures, and how tables and axes show it.

    name   what ``measure`` calls it · says  what it is, in words · unit  of what is shown, ``scale`` times the number
    form   how it is written
    """

    name: str
    says: str
    unit: str = ""
    scale: float = 1.0
    form: str = ".3g"

    @property
    def label(self) -> str:
        """What an axis says."""
        return f"{self.says} ({self.unit})" if self.unit else self.says

    def written(self, mean: float, std: float | None, sign: str = "") -> str:
        """Mean ± standard deviation, of numbers as they are shown."""
        spread = "" if std is None else f" ± {std:{self.form}}"
        return f"{mean:{sign}{self.form}}{spread}".replace("-", "−")


ACCURACY = Reading("test_accuracy", "test accuracy", "%", 100, ".1f")


class Table:
    """{(row, column): the numbers of its runs}, always in the same order of seeds; ``reading`` is the one meant."""

    def __init__(self, cells: dict[tuple, Cell], reading: Reading = ACCURACY):
        self.cells, self.reading = cells, reading
        self.rows = list(dict.fromkeys(row for row, _ in cells))
        self.columns = list(dict.fromkeys(column for _, column in cells))

    def values(self, row, column, name: str = "") -> np.ndarray:
        """One number of every run, as it was measured."""
        return np.array([numbers[name or self.reading.name] for numbers in self.cells[row, column]])

    def mean(self, row, column, name: str = "") -> float:
        """The mean over the runs."""
        return float(self.values(row, column, name).mean())

    def shown(self, row, column, reading: Reading | None = None) -> np.ndarray:
        """One number of every run, in the unit that it is shown in."""
        reading = reading or self.reading
        return reading.scale * self.values(row, column, reading.name)

    def of_row(self, row) -> list:
        """The columns that a row has."""
        return [column for r, column in self.cells if r == row]

    def curves(self, reading: Reading | None = None) -> dict:
        """Row -> (columns, values (columns, runs)) as shown, for ``plots.run_lines``."""
        return {row: (self.of_row(row), np.array([self.shown(row, c, reading) for c in self.of_row(row)]))
                for row in self.rows}  # fmt: skip

    def dots(self, reading: Reading | None = None) -> dict:
        """Row -> column -> values as shown, for ``plots.run_dots``."""
        return {row: {str(c): self.shown(row, c, reading) for c in self.of_row(row)} for row in self.rows}

    def as_numbers(self) -> list[dict]:
        """Every cell as plain numbers: mean, standard deviation and runs of all that was measured, but for curves."""
        return [{"row": row, "column": column} | {name: spread([numbers[name] for numbers in cell])
                 for name in cell[0] if not isinstance(cell[0][name], list)}
                for (row, column), cell in self.cells.items()]  # fmt: skip

    def as_text(self, reading: Reading | None = None) -> list[tuple[str, ...]]:
        """Lines of cells: mean ± standard deviation over the seeds, as shown."""
        reading = reading or self.reading

        def cell(row, column):
            if (row, column) not in self.cells:
                return ""
            found = spread(self.shown(row, column, reading))
            return reading.written(found["mean"], found["std"])

        head = ("", *(str(column) for column in self.columns))
        return [head, *((str(row), *(cell(row, column) for column in self.columns)) for row in self.rows)]


class Difference:
    """How much more one cell has than another, as shown, seed by seed (each seed has its split and its start)."""

    def __init__(self, table: Table, one: tuple, other: tuple, reading: Reading | None = None):
        self.reading = reading or table.reading
        self.points = table.shown(*one, self.reading) - table.shown(*other, self.reading)
        self.mean = float(self.points.mean())
        self.std = float(self.points.std(ddof=1)) if len(self.points) > 1 else 0.0

    @property
    def clear(self) -> bool:
        """Whether it is above zero by more than it varies, over more than one seed."""
        return len(self.points) > 1 and self.mean > self.std

    def __str__(self) -> str:
        unit = "points" if self.reading.unit == "%" else self.reading.unit  # 2 % more could be a ratio
        return f"{self.reading.written(self.mean, self.std, '+')} {unit}".rstrip()


def appears(clear: bool) -> str:
    """How a verdict begins."""
    return "It appears here" if clear else "It does NOT appear here"
