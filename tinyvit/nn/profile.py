"""Where the time goes: every op that runs, by the module it ran in, with its multiplications and bytes.

with profile(model) as table:
    loss = cross_entropy(model(images), labels)
    gradients(loss, model.parameters())
print(table)                     # or table.by_op(), table.by_module(depth=2)
"""

from __future__ import annotations

import time
from contextlib import contextmanager
from dataclasses import dataclass, replace

from tinyvit.autodiff.cost import macs_of, pull_macs_of
from tinyvit.autodiff.tensor import raw
from tinyvit.autodiff.watch import Listener, listening, watch
from tinyvit.nn.module import Module

MODEL, OUTSIDE = "(model)", "(outside)"


@dataclass
class Row:
    """What one op did in one module.

    module   the module's dotted name, "(model)" for the outermost, "(outside)" for what no module called
    op       its name · sweep: "forward", or "backward" for its pullback
             ("" in a table that takes several together)
    calls    how often it ran · seconds: in all of them
    macs     multiply-accumulates · bytes: of what it computed (views count as if they were written)
    """

    module: str
    op: str
    sweep: str
    calls: int = 0
    seconds: float = 0.0
    macs: int = 0
    bytes: int = 0

    def add(self, calls: int, seconds: float, macs: int, size: int) -> None:
        """Count some more."""
        self.calls += calls
        self.seconds += seconds
        self.macs += macs
        self.bytes += size


class Table:
    """Rows, slowest first. Every moment is in one row at most, so their seconds add up to less than ``elapsed``."""

    def __init__(self, rows=(), elapsed: float = 0.0):
        self._rows = {(row.module, row.op, row.sweep): row for row in rows}
        self.elapsed = elapsed

    @property
    def rows(self) -> list[Row]:
        """The rows, slowest first."""
        return sorted(self._rows.values(), key=lambda row: -row.seconds)

    @property
    def total(self) -> Row:
        """All rows in one."""
        total = Row("", "total", "")
        for row in self._rows.values():
            total.add(row.calls, row.seconds, row.macs, row.bytes)
        return total

    def count(self, module: str, op: str, sweep: str, *amounts) -> None:
        """Add calls, seconds, MACs and bytes to a row."""
        self._rows.setdefault((module, op, sweep), Row(module, op, sweep)).add(*amounts)

    def by_op(self) -> Table:
        """The same with the modules taken together: one row per op and sweep."""
        return self._grouped(lambda row: replace(row, module=""))

    def by_module(self, depth: int | None = None) -> Table:
        """The same with the ops taken together. With ``depth``, modules below so many names count for their parent."""
        return self._grouped(lambda row: replace(row, op="", module=".".join(row.module.split(".")[:depth])))

    def _grouped(self, coarse) -> Table:
        table = Table(elapsed=self.elapsed)
        for row in map(coarse, self._rows.values()):
            table.count(row.module, row.op, row.sweep, row.calls, row.seconds, row.macs, row.bytes)
        return table

    def __str__(self):
        return self.text()

    def text(self, top: int | None = 30) -> str:
        """The table as text: the ``top`` slowest rows, what the others come to, and the total."""
        rows, total = self.rows, self.total
        shown, others = rows[:top], rows[len(rows[:top]) :]
        names = [name for name in ("module", "op", "sweep") if any(getattr(row, name) for row in rows)] or ["op"]
        body = [[*(getattr(row, name) for name in names), *_numbers(row, total)] for row in shown]
        blanks = [""] * (len(names) - 1)
        more = [[f"{len(others)} more", *blanks, *_numbers(Table(others).total, total)]] if others else []
        end = f"{1e3 * self.elapsed:,.2f} ms elapsed, {self._busy():.0%} of it in ops"
        return "\n".join([*_aligned([*names, *NUMBERS], body + more, ["total", *blanks, *_numbers(total, total)]), end])

    def _busy(self) -> float:
        return self.total.seconds / self.elapsed if self.elapsed else 0.0


NUMBERS = ("calls", "ms", "share", "MMACs", "GMAC/s", "MB")


def _numbers(row: Row, total: Row) -> list[str]:
    """A row's numbers in words; where nothing is multiplied there is no speed of multiplying."""
    share = row.seconds / total.seconds if total.seconds else 0.0
    macs = f"{row.macs / 1e6:,.3f}" if row.macs else ""
    speed = f"{row.macs / row.seconds / 1e9:,.2f}" if row.macs and row.seconds else ""
    return [f"{row.calls:,}", f"{1e3 * row.seconds:,.3f}", f"{share:.1%}", macs, speed, f"{row.bytes / 1e6:,.2f}"]


def _aligned(head, body, total) -> list[str]:
    """The lines of a table: words to the left, numbers to the right, and a rule around the body."""
    widths = [max(map(len, column)) for column in zip(head, total, *body, strict=True)]
    words = len(head) - len(NUMBERS)
    rule = ["─" * width for width in widths]
    return [
        "  ".join(c.ljust(w) if i < words else c.rjust(w) for i, (c, w) in enumerate(zip(cells, widths, strict=True)))
        for cells in (head, rule, *body, rule, total)
    ]


# filling it --------------------------------------------------------------------------------


class Profiler(Listener):
    """Fills a Table with what it hears. What itself costs is taken off the time that the table says has elapsed."""

    def __init__(self, model: Module | None):
        self.table, self.started, self.own = Table(), time.perf_counter(), 0.0
        self.roots, self.names = [], {}
        self.born: dict[int, str] = {}  # birth of a Tensor -> the module that it was made in
        self.follows = model is None
        if model is not None:
            self.learn(model, "")

    def learn(self, root: Module, prefix: str) -> None:
        """Note the names of a module and of all below it."""
        self.roots.append(root)  # kept, so that no other module gets its identity
        self.names |= {id(module): name or MODEL for name, module in root.named_modules(prefix)}

    def entered(self, module, inputs):
        """Without a model to go by, names start at the outermost module; at its class, if it is not the first."""
        root = watch().modules[0]
        if self.follows and id(root) not in self.names:
            self.learn(root, type(root).__name__ if self.roots else "")
        return inputs

    def called(self, op, inputs, options, value, seconds):
        start = time.perf_counter()
        place = self.place()
        if getattr(value, "requires_grad", False):
            self.born[value.birth] = place
        self.table.count(place, op.name, "forward", 1, seconds, macs_of(op, inputs, options, value), _bytes(value))
        self.own += time.perf_counter() - start

    def pulled(self, node, seconds):
        start = time.perf_counter()
        macs = pull_macs_of(node.op, node.inputs, node.options, node)
        size = sum(_bytes(x) for x in node.inputs if getattr(x, "requires_grad", False))
        self.table.count(self.born.get(node.birth, OUTSIDE), node.op.name, "backward", 1, seconds, macs, size)
        self.own += time.perf_counter() - start

    def place(self) -> str:
        """The name of the innermost running module that has one."""
        return next((self.names[id(m)] for m in reversed(watch().modules) if id(m) in self.names), OUTSIDE)

    def stop(self) -> None:
        """Note how long it took."""
        self.table.elapsed = time.perf_counter() - self.started - self.own


def _bytes(value) -> int:
    return getattr(raw(value), "nbytes", 0)


@contextmanager
def profile(model: Module | None = None):
    """Time every op that runs in the block, forwards and backwards; gives a Table.

    model  whose names to use; left out, those of the outermost module that runs

    Kernels stay kernels. Seconds are those of the op itself, on the host: an asynchronous device must be waited for
    by the reader. The time between ops (Python, the other work of the block) is in no row.
    """
    profiler = Profiler(model)
    try:
        with listening(profiler):
            yield profiler.table
    finally:
        profiler.stop()
