"""What is in a weight file, and which model of the catalogue it fits. Only headers are read."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from tinyvit.models.catalogue import create_model, list_models
from tinyvit.models.vit import ViT
from tinyvit.nn.conversion import converted
from tinyvit.nn.hub import on_this_machine
from tinyvit.nn.module import Module, StateError
from tinyvit.nn.weights import classes_of, open_weights


@dataclass(frozen=True)
class Fit:
    """A model, with some settings changed, and what of a file does not fit it."""

    name: str
    settings: dict
    matching: int  # arrays that the model has under the same name and of the same shape
    misfits: StateError

    @property
    def parameters(self) -> int:
        """How many the model has."""
        return create_model(self.name, **self.settings).num_parameters()

    @property
    def exact(self) -> bool:
        """Whether strict loading would succeed."""
        error = self.misfits
        return not (error.missing or error.unexpected or error.misshaped or error.mistyped)

    def first_misfits(self, most: int = 3) -> list[str]:
        """What does not fit, a line for each array: at most so many of a kind, and how many more there are."""
        lines = []
        for kind, all_of_it in self.misfits.by_kind().items():
            lines += [f"{kind}: {what}" for what in all_of_it[:most]]
            lines += [f"{kind}: and {len(all_of_it) - most} more"] * (len(all_of_it) > most)
        return lines

    @property
    def call(self) -> str:
        """How the model is made."""
        return f"create_model({', '.join([repr(self.name), *(f'{k}={v!r}' for k, v in self.settings.items())])})"


@dataclass(frozen=True)
class Inspection:
    """The arrays of a file, name -> (shape, dtype), and the models that fit, or the one that comes nearest.

    fits      several, if models differ in no parameter: in how they pool, say
    nearest   the best without changing a setting, or one of the best; None where one fits as it is, or no name is in
              common
    """

    path: Path
    arrays: dict[str, tuple[tuple[int, ...], str]]
    fits: tuple[Fit, ...]
    nearest: Fit | None

    @property
    def size(self) -> int:
        """How many numbers the file holds: parameters and buffers."""
        return sum(math.prod(shape) for shape, _ in self.arrays.values())

    def as_dict(self) -> dict:
        """The same as plain lists, numbers and texts."""
        nearest = self.nearest and {
            "model": self.nearest.name,
            "matching": self.nearest.matching,
            **self.nearest.misfits.by_kind(),
        }
        return {
            "file": str(self.path),
            "arrays": {name: {"shape": list(shape), "dtype": dtype} for name, (shape, dtype) in self.arrays.items()},
            "numbers": self.size,
            "fits": [{"model": f.name, "settings": f.settings, "parameters": f.parameters} for f in self.fits],
            "nearest": nearest,
        }


def inspect_weights(weights) -> Inspection:
    """What a weight file holds and fits.

    weights   a file or a name on the hub, see ``load_weights``

    If no model of the catalogue fits as it is, the nearest are tried with the number of classes, the image size and the
    hidden layer of the head that the file's shapes speak of. Raises WeightFileError and OSError as loading does.
    """
    path = on_this_machine(weights)
    with open_weights(path) as state:
        arrays = {name: (x.shape, x.dtype.name) for name, x in state.items()}
        closeness = {name: _closeness(name, state) for name in list_models()}
        best = max(closeness.values())
        as_near = [_fit(name, state) for name in closeness if closeness[name] == best]
        fits = tuple(fit for fit in as_near if fit.exact)
        nearest = None
        if not fits:
            nearest = as_near[0]
            fits = tuple(fit for near in as_near if (fit := _changed(near, state)) and fit.exact)
    return Inspection(path, arrays, fits, nearest if nearest and not nearest.misfits.strangers else None)


@cache
def _of_the_catalogue(name: str) -> tuple[dict, dict]:
    """The shapes of a model's arrays by name, and its names in files of the paper's own code."""
    model = create_model(name)
    return {key: value.shape for key, value in model.named_state()}, model.original_names


def _closeness(name: str, state: dict) -> tuple:
    """What the nearest model has most of: arrays that fit, then names in common, then no names of its own."""
    shapes, original_names = _of_the_catalogue(name)
    given = {key: x.shape for key, x in converted(state, original_names).items()}
    common = shapes.keys() & given.keys()
    return len(shapes.items() & given.items()), len(common), len(common) - len(shapes)


def _fit(name: str, state: dict, **settings) -> Fit:
    """How a state, under our names or those of the paper's own code, fits one model."""
    model = create_model(name, **settings)
    ours = converted(state, model.original_names)
    misfits = model.misfits(ours)
    matching = len(ours) - len(misfits.unexpected) - len(misfits.misshaped)
    return Fit(name, settings, matching, misfits)


def _changed(fit: Fit, state: dict) -> Fit | None:
    """The same model with the settings that the file speaks of; None if it refuses them."""
    try:
        return _fit(fit.name, state, **_settings(fit, state))
    except ValueError:
        return None


def _settings(fit: Fit, state: dict) -> dict:
    """The settings for which a state that does not fit seems to be made, as far as shapes speak of them."""
    model = create_model(fit.name)
    found = {
        "num_classes": classes_of(model, fit.misfits),
        "img_size": _image_size(model, fit.misfits),
        "representation_size": _hidden(converted(state, model.original_names)),
    }
    known = vars(model.config)
    return {name: value for name, value in found.items() if value is not None and name in known}


def _image_size(model: Module, misfits: StateError) -> int | None:
    """The side of the square images for which a ViT's position table has a row per patch."""
    if not isinstance(model, ViT):
        return None
    for name, got, own in misfits.misshaped:
        if name == "pos_embed" and len(got) == 3 and got[2] == own[2] and got[1] > model.prefix:
            side = math.isqrt(got[1] - model.prefix)
            if side * side == got[1] - model.prefix:
                return side * model.config.patch_size
    return None


def _hidden(state: dict) -> int | None:
    """The width of the hidden layer that a ViT's head has at pre-training."""
    layer = state.get("pre_logits.fc.weight")
    return layer.shape[0] if layer is not None and layer.ndim == 2 else None
