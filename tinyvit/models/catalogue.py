"""Every model by name: ``create_model("vit_base_patch16_224", rng=rng)``."""

from __future__ import annotations

from dataclasses import fields, replace
from fnmatch import fnmatchcase

import numpy as np

from tinyvit.models import (
    alexnet,
    bert,
    bit,
    cait,
    ceit,
    convnext,
    deepvit,
    deit,
    densenet,
    efficientnet,
    igpt,
    mixer,
    nat,
    regnet,
    resnest,
    resnet,
    resnet_d,
    resnet_x2,
    resnetv2,
    resnext,
    sasa,
    simple_vit,
    swin,
    t2t_vit,
    transformer,
    vgg,
    video_swin,
    vit,
    volo,
    wide_resnet,
)
from tinyvit.models.config import Paper
from tinyvit.nn.module import Module
from tinyvit.nn.weights import load_weights

PAPERS = (
    vit,
    deit,
    deepvit,
    cait,
    simple_vit,
    resnet,
    resnet_d,
    resnet_x2,
    resnext,
    resnetv2,
    bit,
    convnext,
    mixer,
    swin,
    video_swin,
    nat,
    volo,
    ceit,
    t2t_vit,
    sasa,
    regnet,
    efficientnet,
    transformer,
    bert,
    igpt,
    densenet,
    alexnet,
    vgg,
    resnest,
    wide_resnet,
)


def create_model(name: str, *, rng: np.random.Generator | None = None, weights=None, positions: str | None = None,
                 **config) -> Module:  # fmt: skip
    """A model from the catalogue.

    name       one of ``list_models()``
    rng        where initial values come from; without it the model is a blueprint: shapes and no numbers, whose
               parameters can be counted and which can be given weights
    weights    a file whose names and shapes fit, or a name on the hub, see ``load_weights``
    positions  how position tables of another image size are resampled, see ``load_weights``
    config     fields to change, under timm's names: ``num_classes=10, img_size=32``

    Raises ValueError for an unknown name (naming any near it), TypeError for an unknown field.
    """
    if rng is not None and not isinstance(rng, np.random.Generator):
        raise TypeError(f"rng: expected np.random.default_rng(seed), got {rng!r}")
    if positions is not None and weights is None:
        raise ValueError("positions: it says how to fit a weight file's tables; pass weights too")
    paper, settings = _find(name)
    known = [field.name for field in fields(settings)]
    if unknown := [field for field in config if field not in known]:
        raise TypeError(f"{name} has no setting {unknown[0]!r}; it has {', '.join(known)}")
    model = paper.MODEL(replace(settings, **config), rng=rng)
    if weights is not None:
        load_weights(model, weights, positions=positions)
    return model


def list_models(pattern: str = "*") -> list[str]:
    """The names of all models that match a shell pattern such as ``"vit_*"``, sorted."""
    names = [name for paper in PAPERS for table in (paper.PUBLISHED, paper.SMALL) for name in table]
    return sorted(name for name in names if fnmatchcase(name, pattern))


def published() -> dict:
    """Name -> Published, for every variant that a paper's table has."""
    return {name: row for paper in PAPERS for name, row in paper.PUBLISHED.items()}


def counted() -> dict:
    """Name of a counted row -> its paper's module and config: published variants, and what is counted beside them."""
    rows = {}
    for paper in PAPERS:
        rows |= {row.counted_as: (paper, row.config) for row in paper.PUBLISHED.values() if row.counted_as}
        rows |= {name: (paper, config) for name, config in paper.ALSO_COUNTED.items()}
    return rows


def paper_of(name: str) -> Paper:
    """The paper that a model comes from. Raises ValueError for an unknown name."""
    return _find(name)[0].PAPER


def _find(name: str):
    """The paper and the config that a name stands for."""
    for paper in PAPERS:
        if name in paper.PUBLISHED:
            return paper, paper.PUBLISHED[name].config
        if name in paper.SMALL:
            return paper, paper.SMALL[name]
    near = f"did you mean {', '.join(meant)}? " if (meant := _near(name)) else ""
    raise ValueError(f"there is no model {name!r}; {near}`tinyvit models --all` lists them all")


def _near(name: str) -> list[str]:
    """Up to three names that a wrong one may have meant: those it begins, those it is in, or those spelt alike."""
    import difflib

    names = list_models()
    begun = [n for n in names if n.startswith(name)] or [n for n in names if name in n]
    return (begun or difflib.get_close_matches(name, names))[:3]
