"""Where the time goes, by op and by module."""

import time

import numpy as np
import pytest

import tinyvit as tv
from tinyvit.autodiff.cost import pull_macs_of
from tinyvit.autodiff.op import equation, primitive
from tinyvit.autodiff.watch import Listener, listening, watch
from tinyvit.nn.module import Module
from tinyvit.nn.profile import MODEL, OUTSIDE, Row, Table


@pytest.fixture
def model(rng):
    return tv.create_model("vit_digits", rng=rng)


@pytest.fixture
def images(rng):
    return rng.normal(size=(2, 8, 8, 1)).astype(np.float32)


def step(model, images):
    """One forward and one backward run."""
    loss = tv.cross_entropy(model(images), np.array([1, 2]))
    return tv.gradients(loss, model.parameters())


def found(table, **facts) -> list:
    return [row for row in table.rows if all(getattr(row, key) == value for key, value in facts.items())]


@primitive
def slow(x):
    """``x``, late."""
    time.sleep(0.01)
    return x * 1


@slow.pullback
def _(g, out, x):
    time.sleep(0.02)
    return (g,)


@equation
def slowly(x):
    """``x``, late."""
    return slow(x)


@slowly.kernel
def _(x):
    return slow(x), lambda g: (slow(g),)


class Slow(Module):
    """A module that is late, and calls another that is."""

    def __init__(self, inner=None):
        if inner:
            self.inner = inner

    def forward(self, x):
        x = slow(x)
        return self.inner(x) if hasattr(self, "inner") else x


# what is counted ---------------------------------------------------------------------------


def test_every_op_is_in_the_row_of_the_module_that_called_it(model, images):
    with tv.profile(model) as table:
        step(model, images)
    assert {(row.op, row.calls) for row in found(table, module="blocks.1.attn", sweep="forward")} == {
        ("self_attention", 1)
    }
    assert [row.op for row in found(table, module="blocks.0.attn.qkv")] == ["linear", "linear"]
    assert "log_softmax" in {row.op for row in found(table, module=OUTSIDE)}
    assert {"add", "concatenate"} <= {row.op for row in found(table, module=MODEL)}


def test_pullbacks_are_in_the_row_of_the_module_that_made_the_value(model, images):
    """Though they run when the model is long done."""
    with tv.profile(model) as table:
        step(model, images)
    forward = {(row.module, row.op): row.calls for row in found(table, sweep="forward")}
    for row in found(table, sweep="backward"):
        assert row.calls <= forward[row.module, row.op]
    assert found(table, module="blocks.2.mlp.fc1", op="linear", sweep="backward")[0].calls == 1


def test_what_was_made_before_the_block_is_outside(model, images):
    loss = tv.sum(model(images))
    with tv.profile(model) as table:
        tv.gradients(loss, model.parameters())
    assert {(row.module, row.sweep) for row in table.rows} == {(OUTSIDE, "backward")}


def test_multiplications_are_those_of_describe(model, images):
    with tv.profile(model) as table:
        model(images)
    assert table.total.macs == len(images) * tv.count_macs(model)
    rows = {row.name: len(images) * row.macs for row in tv.nn.describe.measure(model, (1, 8, 8, 1))}
    assert {row.module: row.macs for row in table.by_module(2).rows if row.module.startswith("blocks.")} == {
        name: macs for name, macs in rows.items() if name.startswith("blocks.") and name.count(".") == 1
    }


def test_the_pullback_of_a_product_multiplies_once_per_factor(rng):
    x, w = tv.Tensor(rng.normal(size=(5, 4)), True), tv.Tensor(rng.normal(size=(3, 4)), True)
    fixed = rng.normal(size=(5, 4))
    for inputs, factors in ((x, w), 2), ((fixed, w), 1):
        with tv.profile() as table:
            tv.gradients(tv.sum(tv.linear(*inputs)), w)
        assert {row.sweep: row.macs for row in found(table, op="linear")} == {"forward": 60, "backward": 60 * factors}


def test_kernels_and_equations_multiply_alike_backwards(rng):
    q, k, v = (tv.Tensor(rng.normal(size=(2, 5, 4)), True) for _ in range(3))
    macs = []
    for pattern in ([], ["weights"]):
        module = Attend()
        with tv.profile() as table, tv.capture(module, *pattern):
            tv.gradients(tv.sum(module(q, k, v)), [q, k, v])
        macs.append({row.sweep: row.macs for row in table.by_module(0).rows})
    assert macs[0] == macs[1] == {"forward": 2 * 200, "backward": 4 * 200}


class Attend(Module):
    """Nothing but the equation."""

    def forward(self, q, k, v):
        return tv.scaled_dot_product_attention(q, k, v)


def test_a_product_of_three(rng):
    xs = [tv.Tensor(rng.normal(size=(2, 3)), True) for _ in range(3)]
    y = tv.einsum(*xs, spec="ij,ij,ij->i")
    assert pull_macs_of(y.op, y.inputs, y.options, y) == 3 * 6


def test_bytes_are_those_of_the_outputs(rng):
    x = tv.Tensor(rng.normal(size=(3, 4)).astype(np.float32), True)
    with tv.profile() as table:
        tv.gradients(tv.sum(tv.exp(x)), x)
    assert found(table, op="exp", sweep="forward")[0].bytes == 48
    assert found(table, op="exp", sweep="backward")[0].bytes == 48
    assert found(table, op="sum", sweep="forward")[0].bytes == 4


# seconds -----------------------------------------------------------------------------------


def test_seconds_are_attributed_once():
    x = tv.Tensor(np.ones(2), True)
    model = Slow(Slow())
    with tv.profile(model) as table:
        tv.gradients(tv.sum(model(x)), x)
    inner, outer = (found(table, module=name, op="slow", sweep="forward")[0] for name in ("inner", MODEL))
    assert min(inner.seconds, outer.seconds) >= 0.01
    backward = found(table, op="slow", sweep="backward")
    assert sorted(row.module for row in backward) == [MODEL, "inner"]
    assert min(row.seconds for row in backward) >= 0.02
    assert table.total.seconds <= table.elapsed  # or a part would have been counted twice


def test_an_op_inside_a_kernel_or_a_pullback_is_not_counted_twice():
    x = tv.Tensor(np.ones(2), True)
    with tv.profile() as table:
        tv.gradients(tv.sum(slowly(x)), x)
    assert {row.op for row in table.rows} == {"slowly", "sum"}
    assert table.total.seconds < table.elapsed


def test_a_convolutions_kernel_is_one_call(rng):
    """It pads and unfolds by ops."""
    with tv.profile() as table:
        tv.conv2d(rng.normal(size=(1, 4, 4, 2)), rng.normal(size=(3, 2, 3, 3)), padding=1)
    assert [(row.op, row.calls) for row in table.rows] == [("conv2d", 1)]


def test_rows_add_up_to_less_than_what_has_elapsed(model, images):
    start = time.perf_counter()
    with tv.profile(model) as table:
        step(model, images)
    wall = time.perf_counter() - start
    assert 0 < table.total.seconds <= table.elapsed <= wall


def test_second_derivatives_are_counted_once(rng):
    x = tv.Tensor(rng.normal(size=3), True)
    with tv.profile() as table:
        first = tv.gradients(tv.sum(tv.exp(x)), x, differentiable=True)[0]
        tv.gradients(tv.sum(first), x)
    assert table.total.seconds <= table.elapsed
    assert found(table, op="exp", sweep="forward")[0].calls == 1


# names -------------------------------------------------------------------------------------


def test_without_a_model_names_start_at_the_outermost(model, images):
    with tv.profile(model) as given:
        model(images)
    with tv.profile() as guessed:
        model(images)
    assert {row.module for row in guessed.rows} == {row.module for row in given.rows}


def test_a_second_model_has_its_class_before_its_names(model, images):
    with tv.profile() as table:
        model(images)
        Slow(Slow())(images)
    assert {row.module for row in found(table, op="slow")} == {"Slow", "Slow.inner"}


def test_a_part_of_a_model(model, images):
    with tv.profile(model.blocks[1]) as table:
        model(images)
    assert {"attn.qkv", "mlp", MODEL, OUTSIDE} <= {row.module for row in table.rows}
    assert found(table, module="attn.qkv")[0].calls == 1


# the table ---------------------------------------------------------------------------------

ROWS = [
    Row("a.b", "matmul", "forward", 2, 0.004, 8_000_000, 1_000_000),
    Row("a.b", "matmul", "backward", 2, 0.008, 16_000_000, 2_000_000),
    Row("a.c", "exp", "forward", 1, 0.001, 0, 500_000),
    Row(MODEL, "exp", "forward", 1, 0.003, 0, 500_000),
]


def test_rows_are_sorted_by_seconds():
    assert [row.seconds for row in Table(ROWS).rows] == [0.008, 0.004, 0.003, 0.001]


def test_grouping_keeps_the_total():
    table = Table(ROWS, elapsed=0.02)
    by_op, by_module, by_part = table.by_op(), table.by_module(), table.by_module(1)
    assert [(row.op, row.sweep, row.calls) for row in by_op.rows] == [
        ("matmul", "backward", 2), ("matmul", "forward", 2), ("exp", "forward", 2),
    ]  # fmt: skip
    assert {row.module for row in by_module.rows} == {"a.b", "a.c", MODEL}
    assert {(row.module, row.sweep): row.calls for row in by_part.rows} == {
        ("a", "forward"): 3, ("a", "backward"): 2, (MODEL, "forward"): 1,
    }  # fmt: skip
    for grouped in (by_op, by_module, by_part):
        assert (grouped.total.calls, grouped.total.macs, grouped.total.bytes) == (6, 24_000_000, 4_000_000)
        assert grouped.total.seconds == pytest.approx(0.016)
        assert grouped.elapsed == 0.02
    assert ROWS[0].calls == 2  # grouping counts in rows of its own


def test_the_table_as_text():
    assert str(Table(ROWS, elapsed=0.02)).splitlines() == [
        "module   op      sweep     calls      ms   share   MMACs  GMAC/s    MB",
        "───────  ──────  ────────  ─────  ──────  ──────  ──────  ──────  ────",
        "a.b      matmul  backward      2   8.000   50.0%  16.000    2.00  2.00",
        "a.b      matmul  forward       2   4.000   25.0%   8.000    2.00  1.00",
        "(model)  exp     forward       1   3.000   18.8%                  0.50",
        "a.c      exp     forward       1   1.000    6.2%                  0.50",
        "───────  ──────  ────────  ─────  ──────  ──────  ──────  ──────  ────",
        "total                          6  16.000  100.0%  24.000    1.50  4.00",
        "20.00 ms elapsed, 80% of it in ops",
    ]


def test_a_long_table_is_cut_and_says_so():
    lines = Table(ROWS).text(top=1).splitlines()
    assert lines[3].split() == ["3", "more", "4", "8.000", "50.0%", "8.000", "1.00", "2.00"]
    assert len(Table(ROWS).text(top=None).splitlines()) == 9
    assert Table(ROWS).by_op().text().splitlines()[0].split()[:2] == ["op", "sweep"]


def test_nothing_ran():
    with tv.profile() as table:
        pass
    assert table.rows == []
    assert "total" in str(table)
    assert "0% of it in ops" in str(table)


# leaving no trace --------------------------------------------------------------------------


def test_an_exception_inside_leaves_the_table_and_nothing_else(model, images):
    before = watch()
    with pytest.raises(ZeroDivisionError), tv.profile(model) as table:
        raise ZeroDivisionError
    assert watch() is before
    assert table.elapsed > 0
    model(images)
    assert table.rows == []


def test_values_and_derivatives_are_the_same_when_profiled(model, images):
    alone = step(model, images)
    with tv.profile(model):
        watched = step(model, images)
    assert all(np.array_equal(a, b) for a, b in zip(alone, watched, strict=True))


def test_with_a_capture_the_opened_ops_are_profiled(model, images):
    with tv.profile(model) as table, tv.capture(model, "blocks.0.attn.weights"):
        model(images)
    assert [row.module for row in found(table, op="softmax")] == ["blocks.0.attn"]
    assert table.total.macs == len(images) * tv.count_macs(model)


def test_two_profiles_at_once(model, images):
    with tv.profile(model) as outer, tv.profile(model) as inner:
        step(model, images)
    for table in (outer, inner):
        assert table.total.seconds <= table.elapsed
    rows = {(row.module, row.op, row.sweep): row for row in outer.rows}
    for row in inner.rows:
        assert row == rows[row.module, row.op, row.sweep]  # of the same moments, to the last digit


def test_listeners_hear_one_call_of_a_kernel(rng):
    class Names(Listener):
        def __init__(self):
            self.names = []

        def called(self, op, inputs, options, value, seconds):
            self.names.append(op.name)

    with listening(Names()) as heard:
        tv.conv2d(rng.normal(size=(1, 4, 4, 2)), rng.normal(size=(3, 2, 3, 3)), padding=1)
    assert heard.names == ["conv2d"]
