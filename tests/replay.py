"""Replay reference files: build what a file describes from its metadata alone, and compare every array it holds.

    python -m tests.replay FILE.npz …        (--quiet: one line per file)

For each compared array it prints the worst error, relative to the array's largest number. The exit status is 1 when an
error is over 1e-9, when an array was compared with nothing, or when a file's system (or a case of it) is not built yet.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from dataclasses import fields
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))  # references/ lies beside this file, wherever it is run from
from references import MODELS, vit_pytorch
from references.operators import (
    IN_FLOAT32,
    OPERATORS,
    Case,
    coded,
    first,
    last,
    resized_relative_table,
    resized_table,
    roi_align,
    running_statistics,
)

from tinyvit import Module, Tensor, capture, gradients, nms
from tinyvit.models import mpp
from tinyvit.nn.embed import sinusoid_1d
from tinyvit.train import distilled_from

TOLERANCE = 1e-9


class NotBuilt(Exception):
    """The file describes something that tinyvit does not have yet."""


class Replayed:
    """The errors of a file's arrays by key, and the parts of it that are not built yet."""

    def __init__(self):
        self.errors: dict[str, float] = {}
        self.not_built: list[str] = []

    def compare(self, key: str, ours, theirs, digits: int | None = None, scale: float = 1e-300) -> None:
        """Note the largest difference, relative to the reference's largest number, or to ``scale`` if that is larger.

        digits: how many the reference itself has, if it was computed in single precision; smaller differences are none.
        """
        ours, theirs = np.asarray(ours), np.asarray(theirs)
        if ours.shape != theirs.shape:
            raise ValueError(f"{key}: our shape is {ours.shape}, the reference's {theirs.shape}")
        if not theirs.size:
            return
        error = np.max(np.abs(ours - theirs)) / max(np.max(np.abs(theirs)), scale)
        if digits is not None and error < 10.0**-digits:
            error = 0.0
        self.errors[key] = float(error) if np.isfinite(error) else np.inf

    @property
    def worst(self) -> str:
        return max(self.errors, key=self.errors.get)

    @property
    def passed(self) -> bool:
        return bool(self.errors) and not self.not_built and self.errors[self.worst] < TOLERANCE


def replay(path) -> Replayed:
    """Replay one file. Raises NotBuilt if nothing of it can be, OSError or ValueError for a file that is not one."""
    with np.load(path, allow_pickle=False) as file:
        z = {key: file[key] for key in file.files}
    meta = json.loads(str(z.pop("meta")))
    kind = meta["name"].split("-", 1)[1] if "-" in meta["name"] else meta["name"]
    if kind in OPERATORS:
        return replay_operators(z, meta, OPERATORS[kind])
    for pattern, function in OTHER_LAYOUTS.items():
        if re.fullmatch(pattern, kind):
            return function(z, meta)
    if "state/" in "".join(z):
        return replay_model(z, meta)
    raise NotBuilt(f"{meta['name']} ({meta['source']})")


# models ------------------------------------------------------------------------------------


def replay_model(z: dict, meta: dict) -> Replayed:
    """One forward and one backward of our model with the file's parameters, compared at every point the file has."""
    reference, model = build(meta, part(z, "state"))
    names = reference.names(model.config) if callable(reference.names) else reference.names
    named = lambda name: renamed(name, names)  # noqa: E731
    model.load_state_dict({named(k): x for k, x in part(z, "state").items()})
    if meta["mode"] == "train":
        model.train(np.random.default_rng(0))
    others = part(z, "input")
    x = others.pop("x")
    x = Tensor(x, requires_grad=True) if x.dtype.kind == "f" else x  # whole numbers, tokens, have no derivative
    rules = {k: rule for k in part(z, "mid") if (rule := matching(k, reference.computed))}
    inner = {k: named(k) for k in part(z, "mid") if k not in rules}
    with capture(model, *inner.values(), *reference.outputs.values()) as seen:
        returned = model(reference.takes(x), **others)
    returned = iter(returned if isinstance(returned, tuple | list) else [returned])
    outputs = [seen[reference.outputs[k]] if k in reference.outputs else next(returned) for k in part(z, "output")]
    outputs = [reference.gives(y) for y in outputs]
    parameters = dict(model.named_parameters())
    leaves = {k: x if k == "input" else parameters[named(k)] for k in part(z, "grad")}
    derivatives = gradients(outputs, list(leaves.values()), list(part(z, "cotangent").values()))

    result = Replayed()
    result.compare("parameters", model.num_parameters(), meta["n_params"])
    for (name, theirs), got in zip(part(z, "output").items(), outputs, strict=True):
        result.compare(f"output/{name}", got.data, theirs)
    for name, theirs in part(z, "mid").items():
        if name in rules:
            rule, match = rules[name]
            value = rule(model, match)
        else:
            value = in_their_layout(seen[inner[name]], inner[name], re.fullmatch(reference.maps_last, name))
        value = reference.layouts.get(name, lambda x: x)(value)
        result.compare(f"mid/{name}", value, theirs)
    largest = max((np.max(np.abs(g)) for g in part(z, "grad").values() if g.size), default=0.0)
    for name, g in zip(leaves, derivatives, strict=True):  # that of a bias before a norm is nothing but rounding
        result.compare(f"grad/{name}", g, z[f"grad/{name}"], scale=1e-3 * largest)
    for name, theirs in part(z, "after").items():
        result.compare(f"after/{name}", model.state_dict()[named(name)], theirs)
    loss = sum(float(np.sum(y.data * u)) for y, u in zip(outputs, part(z, "cotangent").values(), strict=True))
    result.compare("loss", loss, meta["loss"])
    return result


def build(meta: dict, state: dict):
    """The reference's entry and our model of the file's configuration, a blueprint waiting for its parameters."""
    source, cls = meta["source"].split()[0], meta["config"].get("cls", "")
    block = meta["config"].get("kwargs", {}).get("block")  # a class may be made of other blocks in another paper
    reference, what = MODELS.get((source, f"{cls} of {block}"), MODELS.get((source, cls))), cls or meta["name"]
    if reference is None:
        raise NotBuilt(f"{what} of {meta['source']}")
    known, settings = {f.name for f in fields(reference.config)}, {}
    try:
        for name, value in arguments(meta, reference.fixed).items():
            value = reference.values.get(name, lambda v: v)(value)
            settings[reference.arguments.get(name, name)] = tuple(value) if isinstance(value, list) else value
        if unknown := sorted(settings.keys() - known):
            raise NotBuilt(f"{what} of {meta['source']} with {', '.join(unknown)}")
        if reference.head:
            settings["num_classes"] = len(state[reference.head])
        follow = {name: rule(settings) for name, rule in reference.defaults.items() if settings.get(name) is None}
        return reference, reference.model(reference.config(**settings | follow), rng=None)
    except ValueError as error:
        raise NotBuilt(f"{what} of {meta['source']}: {error}") from error


def arguments(meta: dict, fixed: dict) -> dict:
    """The reference's arguments and what its class is given beside them, without those that change nothing here.

    Noise is off in evaluation; what is fixed has the value that we have, or NotBuilt says which it has.
    """
    given = {k: v for k, v in meta["config"].items() if k not in ("cls", "kwargs")} | meta["config"].get("kwargs", {})
    if meta["mode"] == "eval":
        given = {k: v for k, v in given.items() if not re.fullmatch(r"(\w+_)?drop(out|_path)?(_rate)?", k)}
    for name in fixed.keys() & given.keys():
        if (value := given.pop(name)) != fixed[name]:
            raise NotBuilt(f"{meta['source']}: {name} {value} where ours is {fixed[name]}")
    return given


def in_their_layout(value, name: str, maps_last):
    """A captured value as the reference lays it out: maps channels-first, tokens and attention weights as ours."""
    is_map = value.ndim in (4, 5) and not name.endswith(".weights")
    return first(value).data if is_map and not maps_last else value.data


def matching(name: str, table: dict):
    """What a table of patterns holds for a name, and the match; None where it says nothing."""
    return next(((found, m) for pattern, found in table.items() if (m := re.fullmatch(pattern, name))), None)


def renamed(name: str, table: dict) -> str:
    """Our name for the reference's; the same where the table says nothing."""
    ours, match = matching(name, table) or (name, None)
    return ours(match) if callable(ours) else match.expand(ours) if match else name


def part(z: dict, prefix: str) -> dict:
    """The arrays under ``prefix/``, by the rest of their names."""
    return {key.removeprefix(f"{prefix}/"): x for key, x in z.items() if key.startswith(f"{prefix}/")}


# operators ---------------------------------------------------------------------------------


def replay_operators(z: dict, meta: dict, table: dict) -> Replayed:
    """Every case of an operator file: outputs and the gradients of all inputs."""
    result = Replayed()
    for attributes in meta["cases"]:
        name = attributes["case"]
        if found := matching(name, table):
            function, match = found
            replay_case(result, name, part(z, name), function, match, attributes.get("attrs", {}))
        else:
            result.not_built.append(name)
    for key in [key for key in z if re.fullmatch(r"sincos_1d\w*/table", key)]:
        result.compare(key, sinusoid_1d(*z[key].shape), z[key])
    return result


def replay_case(result: Replayed, name: str, z: dict, function, match, attributes: dict) -> None:
    """One case: values, gradients, and what a training-mode norm leaves behind."""
    inputs = {k: Tensor(x, requires_grad=True) for k, x in part(z, "in").items()}
    attributes = {k: tuple(v) if isinstance(v, list) else v for k, v in attributes.items()}
    case = Case(match, attributes, inputs, part(z, "const") | {"out_shape": z["out0"].shape})
    outputs = function(case)
    outputs = list(outputs) if isinstance(outputs, tuple) else [outputs]
    theirs = [x for key, x in z.items() if re.fullmatch(r"out\d+", key)]
    for i, (ours, out) in enumerate(zip(outputs, theirs, strict=True)):
        result.compare(f"{name}/out{i}", ours.data, out)
    wanted, cotangents = part(z, "grad"), [z[f"cot{i}"] for i in range(len(outputs))]
    for k, g in zip(wanted, gradients(outputs, [inputs[k] for k in wanted], cotangents), strict=True):
        result.compare(f"{name}/grad/{k}", g, wanted[k])
    if "after_rm" in z:
        after = running_statistics(case, {"rm": z["before_rm"], "rv": z["before_rv"]})
        for k, value in after.items():
            result.compare(f"{name}/after_{k}", value, z[f"after_{k}"])


def replay_positions(z: dict, meta: dict) -> Replayed:
    """Position tables resized as DeiT, timm and the JAX original do, and Swin's relative table."""
    result = Replayed()
    grid = meta["cases"][0]["grid"]
    for key, theirs in z.items():
        if match := re.fullmatch(r"(\w+)_(\d+)x(\d+)", key):
            new_grid = int(match[2]), int(match[3])
            ours = resized_table(match[1], z["pos"], grid, new_grid)
            result.compare(key, ours, theirs, digits=6 if match[1] in IN_FLOAT32 else None)
        elif key.startswith("swin_table_resized"):
            result.compare(key, resized_relative_table(z["swin_table"], len(theirs)), theirs)
    return result


def replay_boxes(z: dict, meta: dict) -> Replayed:
    """RoIAlign with its gradient, the box coder, non-maximum suppression."""
    result = Replayed()
    for attributes in meta["cases"]:
        name, arrays = attributes["case"], part(z, attributes["case"])
        if "out" in arrays:
            x = Tensor(z["x"], requires_grad=True)
            out = roi_align(x, z["rois"], attributes)
            result.compare(f"{name}/out", out.data, arrays["out"])
            result.compare(f"{name}/grad_x", gradients(out, x, [arrays["cot"]])[0], arrays["grad_x"])
        elif "encoded" in arrays:
            for key, ours in coded(arrays, attributes).items():
                result.compare(f"{name}/{key}", ours, arrays[key])
        elif name == "nms":
            for key in (key for key in z if re.fullmatch(r"nms_[\d.]+", key)):
                threshold = float(key.removeprefix("nms_"))
                result.compare(key, nms(z["nms_boxes"], z["nms_scores"], threshold=threshold), z[key])
        else:
            result.not_built.append(name)
    return result


def replay_distillation(z: dict, meta: dict) -> Replayed:
    """A student with a distillation token, its teacher, and our objective between them."""
    sizes = arguments(meta, fixed={})
    hard, lam, tau = (sizes.pop(name) for name in ("hard", "alpha", "temperature"))
    head = {"mlp_layernorm": sizes.pop("mlp_layernorm", False)}
    both, ours = Module(), lambda name: renamed(name, vit_pytorch.NAMES)
    both.teacher, both.student = vit_pytorch.TokenLast(**sizes), vit_pytorch.TokenLast(**sizes, **head, distilled=True)
    both.load_state_dict({ours(k): x for k, x in part(z, "state").items()})
    x = Tensor(z["input/x"], requires_grad=True)
    objective = distilled_from(both.teacher, tau=None if hard else tau, lam=lam)
    with capture(both, "student.head", "student.head_dist", "teacher") as seen:
        loss = objective(both.student, (last(x), z["input/labels"]))
    inner = {"student_logits": "student.head", "distill_logits": "student.head_dist", "teacher_logits": "teacher"}
    values = {"output/loss": loss} | {f"mid/{theirs}": seen[name] for theirs, name in inner.items()}
    leaves = dict(both.named_parameters()) | {"input": x}
    result, wanted = Replayed(), part(z, "grad")
    for key, value in values.items():
        result.compare(key, value.data, z[key])
    for k, g in zip(wanted, gradients(loss, [leaves[ours(k)] for k in wanted]), strict=True):
        result.compare(f"grad/{k}", g, wanted[k])
    return result


def replay_masked_patches(z: dict, meta: dict) -> Replayed:
    """Masked patch prediction: mean colours, their classes, the loss over corrupted patches and its gradient."""
    result, config = Replayed(), meta["config"]
    if unknown := sorted(config.keys() - {"patch", "bits"}):
        raise NotBuilt(f"{meta['source']} with {', '.join(unknown)}")
    colours = mpp.mean_colours(last(z["input/image"]), config["patch"])
    classes = mpp.colour_classes(colours, config["bits"])
    logits = Tensor(z["input/pred"], requires_grad=True)
    loss = mpp.masked_loss(logits, classes, z["input/mask"])
    result.compare("mid/mean_colour", colours, z["mid/mean_colour"])
    result.compare("mid/labels", classes, z["mid/labels"])
    result.compare("output/loss", loss.data, z["output/loss"])
    result.compare("grad/pred", gradients(loss, logits)[0], z["grad/pred"])
    return result


OTHER_LAYOUTS = {
    "op-posembed": replay_positions,
    "op-roi": replay_boxes,
    "vp-mpp-loss": replay_masked_patches,
    "vp-distill.*": replay_distillation,
}

# command line ------------------------------------------------------------------------------


def main(arguments=None) -> int:
    """Replay the files named; 0 if all of them pass."""
    parser = argparse.ArgumentParser(prog="python -m tests.replay", description=__doc__.splitlines()[0])
    parser.add_argument("files", nargs="+", metavar="FILE.npz")
    parser.add_argument("--quiet", action="store_true", help="one line per file")
    options = parser.parse_args(arguments)
    passed = [report(path, options.quiet) for path in options.files]
    return 0 if all(passed) else 1


def report(path: str, quiet: bool) -> bool:
    """Replay one file and print what came of it."""
    try:
        result = replay(path)
    except NotBuilt as error:
        print(f"{path}: not built yet: {error}")
        return False
    except (OSError, ValueError, KeyError, TypeError) as error:
        print(f"{path}: cannot be replayed: {error}")
        return False
    if not quiet:
        for key, error in result.errors.items():
            print(f"  {error:8.1e}  {'OVER' if error >= TOLERANCE else '    '}  {key}")
    for name in result.not_built:
        print(f"  not built yet: {name}")
    worst = f"worst {result.errors[result.worst]:.1e} at {result.worst}" if result.errors else "nothing compared"
    print(f"{path}: {'ok' if result.passed else 'FAILED'}, {len(result.errors)} arrays, {worst}")
    return result.passed


if __name__ == "__main__":
    sys.exit(main())
