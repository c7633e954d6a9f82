"""Wrong solutions, as students write them: one edit each to a right one. And what the grader makes of them, as a table.

    python tests/exercises/mutants.py        prints the table

The package's own wrong answers are functions of their own; these are written without them, so that a name is not
recognised merely because it is compared with itself.
"""

from __future__ import annotations

import re
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

from tinyvit.exercises.course import exercises
from tinyvit.exercises.exercise import Exercise
from tinyvit.exercises.grade import RIGHT, SEEDS, WRONG, Verdict, grade
from tinyvit.exercises.student import Student

RIGHT_FILES = sorted(Path(__file__).parent.joinpath("right").glob("ex*.py"))


@dataclass(frozen=True)
class Edit:
    """A wrong solution.

    function  whose text is edited
    name      how the mistake must be called in the message
    outputs   what is wrong then: "dq dk"
    edits     pairs of what is replaced and by what, in ``within``
    within    the function whose text holds it, where that is a helper
    """

    function: str
    name: str
    outputs: str
    edits: tuple[tuple[str, str], ...]
    within: str = ""

    @property
    def id(self) -> str:
        return f"{self.function}: {self.name}"

    def applied_to(self, text: str) -> str:
        """The wrong solution's text."""
        where = self.within or self.function
        part = re.search(rf"^def {where}\(.*?(?=^def |\Z)", text, re.MULTILINE | re.DOTALL)
        edited = part[0]
        for old, new in self.edits:
            assert old in edited, f"{self.id}: {old!r} is not in {where}"
            edited = edited.replace(old, new)
        return text[: part.start()] + edited + text[part.end() :]


def wrong(function, name, outputs, *edits, within=""):
    return Edit(function, name, outputs, edits, within)


LAST, FIRST = "{} LAST axis, whatever `axis` says", "{} FIRST axis, whatever `axis` says"

EDITS: dict[int, list[Edit]] = {
    4: [
        wrong("softmax", LAST.format("with the sum over the"), "y", ("e.sum(axis", "e.sum(-1")),
        wrong("softmax", LAST.format("along the"), "y", ("max(axis", "max(-1"), ("sum(axis", "sum(-1")),
        wrong("softmax", FIRST.format("along the"), "y", ("max(axis", "max(0"), ("sum(axis", "sum(0")),
        wrong(
            "softmax",
            "with the sum over the WHOLE array",
            "y",
            ("x.max(axis, keepdims=True)", "x.max()"),
            ("e.sum(axis, keepdims=True)", "e.sum()"),
        ),
        wrong("softmax", "WITHOUT subtracting the maximum", "y", (" - x.max(axis, keepdims=True)", "")),
        wrong(
            "softmax", "with the maximum of the WHOLE array subtracted", "y", ("x.max(axis, keepdims=True)", "x.max()")
        ),
        wrong("softmax", "WITHOUT the division by the sum", "y", (" / e.sum(axis, keepdims=True)", "")),
        wrong(
            "softmax_backward",
            "WITHOUT the sum over j (the Jacobian taken as diagonal)",
            "dx",
            ("(g * y).sum(axis, keepdims=True)", "g * y"),
        ),
        wrong(
            "softmax_backward",
            "WITHOUT the second term, − y Σⱼ gⱼ yⱼ",
            "dx",
            (" - (g * y).sum(axis, keepdims=True)", ""),
        ),
        wrong("softmax_backward", "WITHOUT the outer y·", "dx", ("return y * ", "return ")),
        wrong("softmax_backward", "WITHOUT y inside the sum", "dx", ("(g * y).sum", "g.sum")),
        wrong("softmax_backward", LAST.format("with the sum over the"), "dx", ("sum(axis", "sum(-1")),
        wrong("softmax_backward", FIRST.format("with the sum over the"), "dx", ("sum(axis", "sum(0")),
        wrong("softmax_backward", "with the sum over the WHOLE array", "dx", ("sum(axis, keepdims=True)", "sum()")),
        wrong("softmax_backward", "with the MEAN in place of the sum over j", "dx", ("sum(", "mean(")),
        wrong("softmax_backward", "with PLUS before the second term", "dx", ("(g - ", "(g + ")),
        wrong("softmax_backward", "zeros", "dx", ("return y", "return 0 * y")),
        wrong("softmax_backward", "factor", "dx", ("return y", "return 3 * y")),
        wrong("softmax_backward", "sign", "dx", ("return y", "return -y")),
        wrong(
            "log_softmax",
            "of log(softmax(x)), taken literally",
            "y",
            ("return shifted - np.log(", "return np.log(np.exp(shifted) / "),
        ),
        wrong(
            "log_softmax",
            "of log(softmax(x)) WITHOUT subtracting the maximum",
            "y",
            (" - x.max(axis, keepdims=True)", ""),
            ("return shifted - np.log(", "return np.log(np.exp(shifted) / "),
        ),
        wrong(
            "log_softmax",
            "of x − log Σ exp(x) WITHOUT subtracting the maximum",
            "y",
            (" - x.max(axis, keepdims=True)", ""),
        ),
        wrong("log_softmax", "with the maximum subtracted inside the sum ONLY", "y", ("return shifted", "return x")),
        wrong("log_softmax", "WITHOUT the logarithm of the sum", "y", ("np.log(", "(")),
        wrong("log_softmax", LAST.format("with the sum over the"), "y", ("sum(axis", "sum(-1")),
        wrong("log_softmax", LAST.format("along the"), "y", ("max(axis", "max(-1"), ("sum(axis", "sum(-1")),
        wrong(
            "log_softmax",
            "of softmax, WITHOUT any logarithm",
            "y",
            ("return shifted - np.log(", "return np.exp(shifted) / ("),
        ),
        wrong(
            "log_softmax_backward",
            "WITHOUT the sum over j (the Jacobian taken as diagonal)",
            "dx",
            ("g.sum(axis, keepdims=True)", "g"),
        ),
        wrong("log_softmax_backward", "with y in place of exp(y)", "dx", ("np.exp(y)", "y")),
        wrong("log_softmax_backward", "WITHOUT exp(y) before the sum", "dx", ("np.exp(y) * ", "")),
        wrong(
            "log_softmax_backward", "WITHOUT the second term", "dx", (" - np.exp(y) * g.sum(axis, keepdims=True)", "")
        ),
        wrong(
            "log_softmax_backward",
            "of softmax's backward, applied to exp(y)",
            "dx",
            ("g - np.exp(y) * g.sum(", "np.exp(y) * g - np.exp(y) * (g * np.exp(y)).sum("),
        ),
        wrong("log_softmax_backward", "with exp(y) inside the sum as well", "dx", ("g.sum", "(g * np.exp(y)).sum")),
        wrong("log_softmax_backward", LAST.format("with the sum over the"), "dx", ("sum(axis", "sum(-1")),
        wrong("log_softmax_backward", "with PLUS before the second term", "dx", ("g - ", "g + ")),
        wrong("log_softmax_backward", "zeros", "dx", ("return ", "return np.zeros_like(y)  # ")),
    ],
    5: [
        wrong("layer_norm", "normalised over the TOKENS", "y", ("(-1", "(-2")),
        wrong("layer_norm", "normalised over the BATCH", "y", ("(-1", "(0")),
        wrong("layer_norm", "normalised over batch AND tokens, which is BatchNorm", "y", ("(-1", "((0, 1)")),
        wrong("layer_norm", "normalised over tokens AND features", "y", ("(-1", "((1, 2)")),
        wrong(
            "layer_norm",
            "with ddof=1: the variance divided by D − 1",
            "y",
            ("((x - mean) ** 2).mean(-1, keepdims=True)", "x.var(-1, keepdims=True, ddof=1)"),
        ),
        wrong("layer_norm", "with ε OUTSIDE the root", "y", ("np.sqrt(variance + eps)", "(np.sqrt(variance) + eps)")),
        wrong("layer_norm", "WITHOUT ε", "y", (" + eps", "")),
        wrong(
            "layer_norm",
            "WITHOUT the root: divided by the variance",
            "y",
            ("np.sqrt(variance + eps)", "(variance + eps)"),
        ),
        wrong("layer_norm", "with the gain applied TWICE", "y", ("* gain", "* gain * gain")),
        wrong("layer_norm", "WITHOUT the gain", "y", (" * gain", "")),
        wrong("layer_norm", "WITHOUT the offset", "y", (" + offset", "")),
        wrong(
            "layer_norm",
            "with the offset multiplied by the gain",
            "y",
            ("normal * gain + offset", "gain * (normal + offset)"),
        ),
        wrong(
            "layer_norm",
            "WITHOUT subtracting the mean above the fraction line",
            "y",
            ("normal = (x - mean)", "normal = x"),
        ),
        wrong("layer_norm", "of RMSNorm: no mean is subtracted anywhere", "y", ("(x - mean)", "x")),
        wrong("layer_norm_backward", "WITHOUT the variance path", "dx", (" - along_variance", "")),
        wrong("layer_norm_backward", "WITHOUT the mean path", "dx", (" - along_mean", "")),
        wrong(
            "layer_norm_backward",
            "WITHOUT the mean path and the variance path",
            "dx",
            (" - along_mean - along_variance", ""),
        ),
        wrong("layer_norm_backward", "WITHOUT the gain", "dx", ("h = g * gain", "h = g")),
        wrong(
            "layer_norm_backward",
            "with the gain multiplied LAST, outside the means",
            "dx",
            ("h = g * gain", "h = g"),
            ("dx = ", "dx = gain * "),
        ),
        wrong("layer_norm_backward", "with the gain applied TWICE", "dx", ("h = g * gain", "h = g * gain**2")),
        wrong("layer_norm_backward", "WITHOUT the division by σ", "dx", ("along_variance) / root", "along_variance)")),
        wrong(
            "layer_norm_backward",
            "with SUMS in place of the means",
            "dx",
            ("h.mean(", "h.sum("),
            ("(h * normal).mean(", "(h * normal).sum("),
        ),
        wrong(
            "layer_norm_backward", "with PLUS before the variance path", "dx", ("- along_variance", "+ along_variance")
        ),
        wrong(
            "layer_norm_backward",
            "with x − μ in place of x̂ in the variance path",
            "dx",
            ("along_variance = normal * (h * normal)", "along_variance = (x - mean) * (h * (x - mean))"),
        ),
        wrong(
            "layer_norm_backward",
            "with the means over the TOKENS",
            "dx",
            ("h.mean(-1", "h.mean(-2"),
            ("(h * normal).mean(-1", "(h * normal).mean(-2"),
        ),
        wrong(
            "layer_norm_backward",
            "with ddof=1: the variance divided by D − 1",
            "dx dgain",
            ("(((x - mean) ** 2).mean(-1, keepdims=True)", "(x.var(-1, keepdims=True, ddof=1)"),
            (
                "normal * (h * normal).mean(-1, keepdims=True)",
                "normal * (h * normal).sum(-1, keepdims=True) / (x.shape[-1] - 1)",
            ),
        ),
        wrong("layer_norm_backward", "with the gain applied TWICE", "dgain", ("(g * normal)", "(h * normal)")),
        wrong("layer_norm_backward", "with x in place of x̂", "dgain", ("(g * normal)", "(g * x)")),
        wrong("layer_norm_backward", "with x − μ in place of x̂", "dgain", ("(g * normal)", "(g * (x - mean))")),
        wrong("layer_norm_backward", "WITHOUT x̂: the sum of g alone", "dgain", ("(g * normal)", "g")),
        wrong("layer_norm_backward", "multiplied by the gain", "doffset", ("doffset = g", "doffset = h")),
        wrong(
            "layer_norm_backward",
            "with the MEAN over batch and tokens",
            "dgain doffset",
            ("sum((0, 1))", "mean((0, 1))"),
        ),
        wrong(
            "layer_norm_backward",
            "with the mean over the batch, the sum over the tokens",
            "dgain doffset",
            ("sum((0, 1))", "sum((0, 1)) / len(x)"),
        ),
        wrong("layer_norm_backward", "WITHOUT the sum over batch and tokens", "dgain doffset", (".sum((0, 1))", "")),
        wrong("layer_norm_backward", "WITHOUT the sum over the batch", "dgain doffset", ("sum((0, 1))", "sum(1)")),
        wrong("layer_norm_backward", "WITHOUT the sum over the tokens", "dgain doffset", ("sum((0, 1))", "sum(0)")),
    ],
    8: [
        wrong("attention", "WITHOUT 1/√d", "y", (" / np.sqrt(q.shape[-1])", ""), within="weights"),
        wrong("attention", "with 1/d in place of 1/√d", "y", ("np.sqrt(q.shape[-1])", "q.shape[-1]"), within="weights"),
        wrong("attention", "with √d MULTIPLIED", "y", ("/ np.sqrt", "* np.sqrt"), within="weights"),
        wrong("attention", "with 1/√N, N the number of QUERIES", "y", ("q.shape[-1]", "q.shape[1]"), within="weights"),
        wrong("attention", "with 1/√M, M the number of KEYS", "y", ("q.shape[-1]", "k.shape[1]"), within="weights"),
        wrong(
            "attention",
            "with 1/√ of the width of v",
            "y",
            ("weights(q, k, mask)", "weights(q * np.sqrt(q.shape[-1] / v.shape[-1]), k, mask)"),
        ),
        wrong(
            "attention",
            "with the softmax over the QUERIES",
            "y",
            ("max(-1", "max(-2"),
            ("sum(-1", "sum(-2"),
            within="weights",
        ),
        wrong(
            "attention",
            "with the mask AFTER the softmax",
            "y",
            ("    scores = np.where(mask, scores, -np.inf)\n", ""),
            ("return e /", "return mask * e /"),
            within="weights",
        ),
        wrong(
            "attention",
            "with the mask the other way ROUND (an additive mask of the wrong sign)",
            "y",
            ("scores, -np.inf", "-np.inf, scores"),
            within="weights",
        ),
        wrong(
            "attention",
            "with the mask the other way ROUND (an additive mask of the wrong sign)",
            "y",
            ("np.where(mask, scores, -np.inf)", "scores + (1 - mask) * 1e9"),
            within="weights",
        ),
        wrong(
            "attention",
            "WITHOUT the mask",
            "y",
            ("    scores = np.where(mask, scores, -np.inf)\n", ""),
            within="weights",
        ),
        wrong(
            "attention",
            "with forbidden scores set to 0, not −∞",
            "y",
            ("np.where(mask, scores, -np.inf)", "scores * mask"),
            within="weights",
        ),
        wrong(
            "attention",
            "with Sᵀ in place of S",
            "y",
            ("q @ k.swapaxes(-1, -2)", "k @ q.swapaxes(-1, -2)"),
            within="weights",
        ),
        wrong("attention", "with the weights transposed, Pᵀ v", "y", ("mask) @", "mask).swapaxes(1, 2) @")),
        wrong(
            "attention",
            "with the weights NOT divided by their sum",
            "y",
            (" / e.sum(-1, keepdims=True)", ""),
            within="weights",
        ),
        wrong(
            "attention",
            "with a softmax that does not subtract the maximum",
            "y",
            (" - scores.max(-1, keepdims=True)", ""),
            within="weights",
        ),
        wrong("attention_backward", "WITHOUT 1/√d", "dq dk", ("scale = 1 / np.sqrt(q.shape[-1])", "scale = 1.0")),
        wrong(
            "attention_backward",
            "with 1/√d TWICE",
            "dq dk",
            ("scale = 1 / np.sqrt(q.shape[-1])", "scale = 1 / q.shape[-1]"),
        ),
        wrong(
            "attention_backward",
            "WITHOUT the sum in softmax's backward (the Jacobian taken as diagonal)",
            "dq dk",
            ("(dp * p).sum(-1, keepdims=True)", "dp * p"),
        ),
        wrong(
            "attention_backward",
            "WITHOUT the second term of softmax's backward",
            "dq dk",
            (" - (dp * p).sum(-1, keepdims=True)", ""),
        ),
        wrong("attention_backward", "WITHOUT the outer P· of softmax's backward", "dq dk", ("ds = p * ", "ds = ")),
        wrong(
            "attention_backward",
            "WITHOUT softmax's backward",
            "dq dk",
            ("ds = p * (dp - (dp * p).sum(-1, keepdims=True))", "ds = dp"),
        ),
        wrong("attention_backward", "with softmax's backward over the QUERIES", "dq dk", ("sum(-1", "sum(-2")),
        wrong("attention_backward", "with dSᵀ in place of dS", "dq", ("dq = ds @", "dq = ds.swapaxes(1, 2) @")),
        wrong("attention_backward", "with dS in place of dSᵀ", "dk", ("dk = ds.swapaxes(-1, -2) @", "dk = ds @")),
        wrong("attention_backward", "with q in place of k", "dq", ("dq = ds @ k", "dq = ds @ q")),
        wrong("attention_backward", "with k in place of q", "dk", ("swapaxes(-1, -2) @ q", "swapaxes(-1, -2) @ k")),
        wrong("attention_backward", "with P in place of Pᵀ", "dv", ("dv = p.swapaxes(-1, -2) @", "dv = p @")),
        wrong(
            "attention_backward",
            "with the scores S in place of the weights P",
            "dv",
            ("dv = p.swap", "dv = (q @ k.swapaxes(-1, -2) * scale).swap"),
        ),
        wrong("attention_backward", "WITHOUT the mask", "dq dk dv", ("weights(q, k, mask)", "weights(q, k, True)")),
        wrong(
            "attention_backward",
            "with 1/d in place of 1/√d",
            "dq dk dv",
            ("weights(q, k, mask)", "weights(q / np.sqrt(q.shape[-1]), k, mask)"),
            ("1 / np.sqrt(q.shape[-1])", "1 / q.shape[-1]"),
        ),
    ],
}


def plain(exercise: Exercise) -> str:
    """The right solution that the edits are made to."""
    return Path(__file__).parent.joinpath("right", f"ex{exercise.code}_plain.py").read_text(encoding="utf-8")


def student(text: str) -> Student:
    """A student whose file has this text."""
    namespace: dict = {}
    exec(compile(text, "student.py", "exec"), namespace)
    return Student(SimpleNamespace(**namespace))


def graded(exercise: Exercise, edit: Edit, seeds=SEEDS) -> Verdict:
    """The verdict on a wrong solution."""
    return grade(exercise, edit.function, student(edit.applied_to(plain(exercise))), seeds)


def is_caught_and_named(exercise: Exercise, edit: Edit, seeds=SEEDS) -> tuple[bool, bool]:
    verdict = graded(exercise, edit, seeds)
    named = verdict.named == dict.fromkeys(edit.outputs.split(), edit.name)
    return verdict.state == WRONG, named and all(name in verdict.text for name in _said(edit))


def _said(edit: Edit) -> list[str]:
    """What the message must contain: the mistake's name; of the nameless kinds, their words."""
    words = {"zeros": "zero everywhere", "sign": "sign turned round", "factor": "the right one times"}
    return [words.get(edit.name, edit.name)]


def table(false_alarm_seeds=range(100, 120)) -> list[tuple[str, ...]]:
    """Rows: exercise, wrong solutions, caught, named, right solutions, passed, gradings of right ones, false alarms."""
    rows = []
    for exercise in exercises().values():
        found = [is_caught_and_named(exercise, edit) for edit in EDITS[exercise.number]]
        files = [path for path in RIGHT_FILES if path.name.startswith(f"ex{exercise.code}")]
        right = [[grade(exercise, part, student(path.read_text(encoding="utf-8")), [seed]).state == RIGHT
                  for part in exercise.parts for seed in false_alarm_seeds] for path in files]  # fmt: skip
        known = sum(len(mistake.gives) for f in exercise.functions for mistake in f.known_mistakes())
        gradings = sum(map(len, right))
        rows.append((f"ex{exercise.code}", known, len(found), sum(c for c, _ in found), sum(n for _, n in found),
                     len(files), sum(map(all, right)), gradings, gradings - sum(map(sum, right))))  # fmt: skip
    return [tuple(map(str, row)) for row in rows]


HEADER = ("exercise", "known", "mutants", "caught", "named", "right files", "passed", "gradings", "false alarms")


def printed(rows) -> str:
    return "\n".join("  ".join(cell.rjust(12) for cell in row) for row in (HEADER, *rows))


if __name__ == "__main__":
    start = time.perf_counter()
    print(printed(table()))
    print(f"{time.perf_counter() - start:.1f} s")
    sys.exit(0)
