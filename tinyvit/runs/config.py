"""What a training run is told: one flat list of settings, the command's flags and the file beside the result."""

from __future__ import annotations

import difflib
import json
import tomllib
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path

OPTIMISERS = ("adamw", "adam", "sgd", "rmsprop")
PRECISIONS = ("float32", "float64")


def setting(default, about: str, choices=()):
    """A field with its line of help; the command line makes a flag of it."""
    return field(default=default, metadata={"about": about, "choices": tuple(choices)})


@dataclass(frozen=True)
class RunConfig:
    """Everything that a run's result depends on. The defaults are the plain recipe for small models on digits."""

    model: str = setting("vit_digits", "a name that `tinyvit models` lists")
    data: str = setting("digits", "digits, a procedural set such as same_different, or cifar10:FOLDER and the like")
    recipe: str = setting("plain", "which of the other settings have defaults of their own")
    seed: int = setting(0, "where every random number comes from")
    epochs: int = setting(40, "passes through the training images")
    batch_size: int = setting(32, "images of an update")
    train_size: int = setting(0, "only so many training images; 0: all")
    optimizer: str = setting("adamw", "the optimiser", OPTIMISERS)
    rate: float = setting(2e-3, "learning rate at its peak")
    warmup: float = setting(4.0, "epochs of a rising rate, before the cosine")
    floor: float = setting(0.0, "learning rate at the end")
    weight_decay: float = setting(0.05, "on weights, not on biases, norms, tokens and positions")
    layer_decay: float = setting(1.0, "rate factor from a block to the one below it")
    clip: float = setting(1.0, "longest gradient; 0: any")
    augment: bool = setting(False, "DeiT's crops, RandAugment, erasing, mixup and CutMix; of digits, its gentler form")
    repeats: int = setting(1, "versions of an image in an epoch's order, as DeiT's three")
    smoothing: float = setting(0.0, "of the labels")
    drop_path: float = setting(0.0, "stochastic depth of the last block")
    average: float = setting(0.0, "decay of the running average of the weights, which is the result; 0: none")
    rho: float = setting(0.0, "radius of sharpness-aware minimisation; 0: none")
    adaptive: bool = setting(False, "adaptive SAM: weights that are large may move further")
    teacher: str = setting("", "a run folder whose model is distilled")
    temperature: float = setting(0.0, "of soft distillation; 0: the teacher's decision counts")
    lam: float = setting(0.5, "weight of the teacher's word")
    weights: str = setting("", "a file to start from; the head is new if its classes differ")
    positions: str = setting("", "resample the file's positions: timm, deit or jax")
    img_size: int = setting(0, "resize the images to this; 0: as they are")
    dtype: str = setting("float32", "precision", PRECISIONS)

    def __post_init__(self):
        for name, low in LEAST.items():
            if not getattr(self, name) >= low:
                raise ValueError(f"{name}: expected at least {low}, got {getattr(self, name)}")
        for f in fields(self):
            if f.metadata["choices"]:
                known("expected one of", getattr(self, f.name), f.metadata["choices"], f.name)
        known("no such recipe", self.recipe, RECIPES, "recipe")
        if self.warmup >= self.epochs:
            raise ValueError(f"warmup: expected fewer epochs than the run's {self.epochs}, got {self.warmup}")

    def as_toml(self) -> str:
        """The settings as a flat TOML file, one per line."""
        return "".join(f"{name} = {json.dumps(value)}\n" for name, value in asdict(self).items())


LEAST = {"epochs": 1, "batch_size": 1, "train_size": 0, "rate": 0, "warmup": 0, "floor": 0, "weight_decay": 0,
         "clip": 0, "rho": 0, "seed": 0, "repeats": 1, "temperature": 0, "img_size": 0}  # fmt: skip

RECIPES = {
    "plain": {},
    "deit": {"augment": True, "smoothing": 0.1, "clip": 0.0, "drop_path": 0.1, "epochs": 120,
             "repeats": 3, "average": 0.99},
    "sam": {"rho": 0.05},
    "asam": {"rho": 0.5, "adaptive": True},
    "finetune": {"epochs": 10, "warmup": 1.0, "rate": 5e-4, "layer_decay": 0.75},
    "distilled": {"model": "deit_digits"},
}  # fmt: skip


def configured(*, file=None, **given) -> RunConfig:
    """A RunConfig of a recipe or a file, with some settings changed.

    Raises ValueError for a setting, recipe or value that there is not, OSError for a file that cannot be read.
    """
    written = read_config(file) if file else {}
    recipe = given.get("recipe", written.get("recipe", "plain"))
    known("no such recipe", recipe, RECIPES, "recipe")
    settings = {**RECIPES[recipe], **written, **given}
    if "epochs" in given and "warmup" not in written | given:  # a shortened run warms up for a shorter time
        settings["warmup"] = min(settings.get("warmup", RunConfig.warmup), given["epochs"] / 4)
    names = [f.name for f in fields(RunConfig)]
    for name in settings:
        known("no such setting", name, names, str(file or "settings"))
    return replace(RunConfig(), **{name: _typed(name, value) for name, value in settings.items()})


def read_config(path) -> dict:
    """The settings in a TOML file. Raises ValueError naming it for one that is damaged."""
    try:
        with open(Path(path), "rb") as file:
            return tomllib.load(file)
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: not a TOML file of settings: {error}") from error


def _typed(name: str, value):
    """The value as what its default is: whole numbers are also floats, and nothing else is converted."""
    kind = type(getattr(RunConfig(), name))
    if kind is float and type(value) is int:
        return float(value)
    if type(value) is not kind:
        raise ValueError(f"{name}: expected {'text' if kind is str else kind.__name__}, got {value!r}")
    return value


def known(complaint: str, name: str, names, argument: str) -> None:
    """Raise ValueError unless the name is one of the names; it says which come near."""
    if name not in names:
        near = difflib.get_close_matches(str(name), list(names), 3, 0.6) or list(names)
        raise ValueError(f"{argument}: {complaint}, got {name!r}; there is {', '.join(near)}")
