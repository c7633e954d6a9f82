"""The table of an experiment: rows, columns, and in every cell the runs of all seeds."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tinyvit.runs.sweep import spread

Cell = list[dict]  # the numbers of every run, by seed


class Table:
    """{(row, column): the numbers of its runs}, always in the same order of seeds."""

    def __init__(self, cells: dict[tuple, Cell]):
        self.cells = cells
        self.rows = list(dict.fromkeys(row for row, _ in cells))
        self.columns = list(dict.fromkeys(column for _, column in cells))

    def values(self, row, column, name: str = "test_accuracy") -> np.ndarray:
        """One number of every run."""
        return np.array([numbers[name] for numbers in self.cells[row, column]])

    def mean(self, row, column, name: str = "test_accuracy") -> float:
        """The mean over the runs."""
        return float(self.values(row, column, name).mean())

    def of_row(self, row) -> list:
        """The columns that a row has."""
        return [column for r, column in self.cells if r == row]

    def curves(self, name: str = "test_accuracy", rows: Sequence | None = None) -> dict:
        """Row -> (columns, values (columns, runs)) in percent, for ``plots.run_lines``."""
        return {row: (self.of_row(row), np.array([100 * self.values(row, c, name) for c in self.of_row(row)]))
                for row in rows or self.rows}  # fmt: skip

    def dots(self, name: str = "test_accuracy") -> dict:
        """Row -> column -> values in percent, for ``plots.run_dots``."""
        return {row: {str(c): 100 * self.values(row, c, name) for c in self.of_row(row)} for row in self.rows}

    def as_numbers(self) -> list[dict]:
        """Every cell as plain numbers: mean, standard deviation and runs of all that was measured, but for curves."""
        return [{"row": row, "column": column} | {name: spread([numbers[name] for numbers in cell])
                 for name in cell[0] if not isinstance(cell[0][name], list)}
                for (row, column), cell in self.cells.items()]  # fmt: skip

    def as_text(self, name: str = "test_accuracy") -> list[tuple[str, ...]]:
        """Lines of cells, in percent: mean ± standard deviation over the seeds."""

        def cell(row, column):
            if (row, column) not in self.cells:
                return ""
            found = spread(100 * self.values(row, column, name))
            return f"{found['mean']:.1f}" + ("" if found["std"] is None else f" ± {found['std']:.1f}")

        head = ("", *(str(column) for column in self.columns))
        return [head, *((str(row), *(cell(row, column) for column in self.columns)) for row in self.rows)]


class Difference:
    """How much more one cell has than another, in points, seed by seed (each seed has its split and its start)."""

    def __init__(self, table: Table, one: tuple, other: tuple, name: str = "test_accuracy"):
        self.points = 100 * (table.values(*one, name) - table.values(*other, name))
        self.mean = float(self.points.mean())
        self.std = float(self.points.std(ddof=1)) if len(self.points) > 1 else 0.0

    @property
    def clear(self) -> bool:
        """Whether it is above zero by more than it varies, over more than one seed."""
        return len(self.points) > 1 and self.mean > self.std

    def __str__(self) -> str:
        return f"{self.mean:+.1f} ± {self.std:.1f} points".replace("-", "−")


def appears(clear: bool) -> str:
    """How a verdict begins."""
    return "It appears here" if clear else "It does NOT appear here"
