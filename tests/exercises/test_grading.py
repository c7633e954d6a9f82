"""The grader, graded: every wrong answer is caught and called by its name, every right one passes."""

import ast
import inspect
from types import SimpleNamespace

import numpy as np
import pytest
from exercises.mutants import EDITS, RIGHT_FILES, graded, is_caught_and_named, plain, student

from tinyvit.exercises.course import exercises, hint
from tinyvit.exercises.exercise import POINTS
from tinyvit.exercises.grade import NOT_WRITTEN, RIGHT, WRONG, grade
from tinyvit.exercises.student import Student

EXERCISES = list(exercises().values())
FUNCTIONS = [pytest.param(e, f, id=f"{e.code}-{f.name}") for e in EXERCISES for f in e.functions]
MUTANTS = [pytest.param(e, edit, id=f"{e.code}-{edit.id}") for e in EXERCISES for edit in EDITS[e.number]]
SOFTMAX, LAYER_NORM, ATTENTION = (exercises()[n] for n in (4, 5, 8))


def edited(exercise, *edits):
    """The plain solution with texts replaced."""
    text = plain(exercise)
    for old, new in edits:
        assert old in text
        text = text.replace(old, new)
    return student(text)


# wrong answers -------------------------------------------------------------------------------


@pytest.mark.parametrize(("exercise", "edit"), MUTANTS)
def test_a_wrong_solution_is_caught_and_named(exercise, edit):
    assert is_caught_and_named(exercise, edit) == (True, True), graded(exercise, edit).text


@pytest.mark.parametrize(("exercise", "function"), FUNCTIONS)
def test_every_known_mistake_has_a_wrong_solution_written_without_it(exercise, function):
    known = {(m.name, output) for m in function.mistakes for output in m.gives}
    edits = [edit for edit in EDITS[exercise.number] if edit.function == function.name]
    written = {(edit.name, output) for edit in edits for output in edit.outputs.split()}
    assert known - written == set()


@pytest.mark.parametrize(("exercise", "function"), FUNCTIONS)
def test_no_two_mistakes_have_one_name(exercise, function):
    names = [(m.name, output) for m in function.mistakes for output in m.gives]
    assert len(names) == len(set(names))


def test_an_unknown_mistake_is_given_no_name():
    verdict = grade(LAYER_NORM, "layer_norm_backward", edited(LAYER_NORM, ("dx = (h", "dx = (np.cbrt(h)")))
    assert verdict.state == WRONG
    assert verdict.named == {}
    assert "Your" not in verdict.text
    assert "hint 05 1" in verdict.text


def test_two_mistakes_at_once_are_named_where_they_can_be_told_apart():
    wrong = edited(SOFTMAX, ("e = np.exp(x - x.max(axis, keepdims=True))", "e = np.exp(x)"), ("e.sum(axis", "e.sum(-1"))
    text = grade(SOFTMAX, "softmax", wrong).text
    assert "equals the formula along the LAST axis" in text
    assert "for ordinary logits" in text


# right answers -------------------------------------------------------------------------------


@pytest.mark.parametrize("path", RIGHT_FILES, ids=lambda path: path.stem)
def test_right_solutions_pass_on_twenty_more_seeds(path):
    exercise = exercises()[int(path.name[2:4])]
    for part in exercise.parts:
        verdict = grade(exercise, part, student(path.read_text(encoding="utf-8")), range(100, 120))
        assert (verdict.state, verdict.text) == (RIGHT, "")
        assert verdict.points == verdict.worth


@pytest.mark.parametrize("exercise", EXERCISES, ids=lambda e: e.code)
def test_three_or_more_right_solutions_and_ninety_points(exercise):
    files = [path for path in RIGHT_FILES if path.name.startswith(f"ex{exercise.code}_")]
    assert len(files) >= 3
    verdicts = [grade(exercise, part, student(plain(exercise))) for part in exercise.parts]
    assert sum(v.points for v in verdicts) == pytest.approx(sum(POINTS.values()))


@pytest.mark.parametrize(("exercise", "function"), FUNCTIONS)
def test_the_op_of_the_package_is_what_the_definition_says(exercise, function):
    if function.kind == "forward":
        for seed in range(20):
            for trial in function.trials(seed):
                np.testing.assert_allclose(function.answer(**trial.known), trial.want["y"], rtol=1e-11, atol=1e-12)


# what is said --------------------------------------------------------------------------------


def test_the_message_reads_as_it_should():
    verdict = grade(LAYER_NORM, "layer_norm_backward", edited(LAYER_NORM, (" - along_variance", "")))
    assert verdict.text == (
        "d/dx wrong: max |Δ| 0.36 at x[1, 2, 4]: got 0.205, want -0.16 (relative 2.3)\n"
        "  (uneven shapes, random gains: g (2, 3, 5), x (2, 3, 5), gain (5,), eps 1e-05)\n"
        "d/dgain, d/doffset right.\n"
        "Your d/dx equals the formula WITHOUT the variance path (10 of 10 seeds).\n"
        "Pushing one number of a token also changes the σ of that token.\n"
        "Hint: tinyvit exercises hint 05 2"
    )
    assert verdict.points == pytest.approx(40 * 2 / 3)


ANSWER = "return e / e.sum(axis, keepdims=True)"
START = "e = np.exp(x - x"
PLAIN_WORDS = [
    ("return e / e.sum", "e / e.sum", "softmax returned nothing (None). Is a `return` missing?"),
    (ANSWER, "return e, e", "returned 2 values; it must return one array"),
    (ANSWER, "return 1.5", "returned a float as y; it must be a NumPy array"),
    (ANSWER, "return e.sum(axis)", "its shape is (2, 3), it must be (2, 4, 3)"),
    (START, "x = x.astype(np.float32)\n    " + START, "it is float32, it must be float64, as the inputs are"),
    ("return e", "e = e.astype(np.float32).astype(float)\n    return e", "right in the first digits only"),
    (START, "x -= 1\n    " + START, "softmax wrote into its input x"),
    ("return e / e.sum", "return np.nan * e / e.sum", "nan at y[0, 0, 0], where the right value is"),
    (ANSWER, "return e.cumsum(7)", "softmax stopped with an error.\n  numpy.exceptions.AxisError"),
    (ANSWER, "raise SystemExit('bye')", "SystemExit: bye"),
    ("def softmax(x, axis):", "def softmax(x):", "softmax() takes 1 positional argument but 2 were given"),
    ("def softmax(", "def sotfmax(", "There is no function softmax(…) in the file"),
]  # fmt: skip


@pytest.mark.parametrize(("old", "new", "said"), PLAIN_WORDS, ids=[said for _, _, said in PLAIN_WORDS])
def test_trouble_is_told_in_plain_words(old, new, said):
    verdict = grade(SOFTMAX, "softmax", edited(SOFTMAX, (old, new)))
    assert (verdict.state, verdict.points) == (WRONG, 0)
    assert said in verdict.text


def test_code_that_fails_for_some_shapes_is_still_explained_by_the_others():
    wrong = edited(ATTENTION, ("dq = ds @", "dq = ds.swapaxes(1, 2) @"))
    text = grade(ATTENTION, "attention_backward", wrong).text
    assert "stopped with an error" in text
    assert "3 queries, 4 keys" in text
    assert "Your d/dq equals the formula with dSᵀ in place of dS" in text


def test_two_outputs_with_one_mistake_are_told_in_one_sentence():
    text = grade(ATTENTION, "attention_backward", edited(ATTENTION, ("ds = p * ", "ds = "))).text
    assert "Each of your d/dq, d/dk equals the formula WITHOUT the outer P·" in text
    assert "d/dv right" in text


def test_facts_that_do_not_hold_are_quoted():
    verdict = grade(SOFTMAX, "invariants", edited(SOFTMAX, (" / e.sum(axis, keepdims=True)", "")))
    assert "It should hold that the softmax of a row sums to one, but max |Δ|" in verdict.text
    assert 0 < verdict.points < verdict.worth


# stubs, hints --------------------------------------------------------------------------------


@pytest.mark.parametrize("exercise", EXERCISES, ids=lambda e: e.code)
def test_a_stub_is_not_written_yet_and_is_no_mistake(exercise):
    for part in exercise.parts:
        verdict = grade(exercise, part, student(exercise.stub))
        assert (verdict.state, verdict.points) == (NOT_WRITTEN, 0)
        assert "is not written yet" in verdict.text
        assert "hint " + exercise.code + " 1" in verdict.text


@pytest.mark.parametrize("exercise", EXERCISES, ids=lambda e: e.code)
def test_a_stub_says_what_to_write(exercise):
    tree = ast.parse(exercise.stub)
    stubs = {node.name: node for node in tree.body if isinstance(node, ast.FunctionDef)}
    assert list(stubs) == [f.name for f in exercise.functions]
    for function in exercise.functions:
        assert tuple(a.arg for a in stubs[function.name].args.args) == function.takes
        assert "Return " in ast.get_docstring(stubs[function.name])
    assert ast.get_docstring(tree).startswith(f"Exercise {exercise.code}: ")
    assert "EXPLANATION" in exercise.stub


def test_a_function_that_calls_an_unwritten_one_says_which():
    def unwritten(x):
        raise NotImplementedError

    functions = SimpleNamespace(softmax=lambda x, axis: unwritten(x))
    assert "softmax calls unwritten, which is not written yet" in grade(SOFTMAX, "softmax", Student(functions)).text


@pytest.mark.parametrize("exercise", EXERCISES, ids=lambda e: e.code)
def test_an_exercise_needs_only_earlier_ones(exercise):
    assert all(number < exercise.number for number in exercise.needs)
    assert set(exercise.needs) <= set(exercises())


@pytest.mark.parametrize("exercise", EXERCISES, ids=lambda e: e.code)
def test_there_are_three_hints_that_grow(exercise):
    first, _second, third = (hint(exercise.code, level) for level in (1, 2, 3))
    assert "?" in first
    assert "=" in third
    with pytest.raises(ValueError, match="1 … 3, not 4"):
        hint(exercise.number, 4)


# the questions -------------------------------------------------------------------------------


@pytest.mark.parametrize(("exercise", "function"), FUNCTIONS)
def test_the_first_case_is_uneven(exercise, function):
    """Axes of different lengths, more than one image: a transposition or a missing sum shows."""
    for trial in function.trials(0)[:1]:
        arrays = [trial.known[name] for name in function.takes if isinstance(trial.known[name], np.ndarray)]
        for x in (*arrays, *trial.want.values()):
            assert x.dtype in (np.float64, bool)
            assert min(x.shape) >= 2
            assert len(set(x.shape)) == len(x.shape)


@pytest.mark.parametrize(("exercise", "function"), FUNCTIONS)
def test_a_seed_always_asks_the_same_and_another_asks_something_else(exercise, function):
    first, again, other = function.trials(1)[0], function.trials(1)[0], function.trials(2)[0]
    for name, x in first.want.items():
        assert np.array_equal(x, again.want[name])
        assert not np.array_equal(x, other.want[name])


@pytest.mark.parametrize(("exercise", "function"), FUNCTIONS)
def test_mistakes_read_as_the_end_of_a_sentence_and_give_a_clue(exercise, function):
    for mistake in function.mistakes:
        assert mistake.clue.endswith((".", "?")), mistake.name
        assert not mistake.name.endswith("."), mistake.name
        assert inspect.signature(mistake.wrong).parameters.keys() <= {*function.takes, *function.trials(0)[0].known}
