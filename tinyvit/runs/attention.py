"""Where a trained model looks, in pictures and numbers: `tinyvit attention`."""

from __future__ import annotations

from itertools import groupby
from pathlib import Path

import numpy as np

from tinyvit import plots
from tinyvit.analysis import (
    attention_entropy,
    attention_maps,
    head_similarity,
    layer_similarity,
    mean_attention_distance,
    relevance,
    relevance_maps,
    rollout,
)
from tinyvit.classify import looked_at, preprocessing, squares
from tinyvit.data.photo import framed, load_photo, normalised
from tinyvit.models.catalogue import create_model
from tinyvit.nn.module import Module
from tinyvit.runs.training import model_of_run

VECTORS = ("svg", "pdf")  # every figure is written as these too


def of_photo(source, path, *, name: str | None = None) -> tuple[Module, np.ndarray, np.ndarray]:
    """A trained model, a photo as it takes it, and as it is shown.   -> model, (1, H, W, C), (1, H, W, C) from 0 to 1

    source  a run's folder: pixels are given as they are; or a file of weights of the model ``name``: photos in colour
            are normalised as its paper does
    """
    if not source or not (Path(source).is_dir() or name):
        raise ValueError("model: which one? a run's folder, or --weights FILE --model NAME")
    own = Path(source).is_dir()
    model = model_of_run(source) if own else create_model(name, weights=source).eval()
    size, channels = model.config.img_size, model.config.in_chans
    size = size if isinstance(size, int) else min(size)
    photo = framed(load_photo(path), size, 1.0)
    if channels == 1:
        photo = photo.convert("L")
    shown = np.asarray(photo, np.float32).reshape(1, size, size, channels) / 255
    return model, shown if own or channels != 3 else normalised(photo, preprocessing(name, size)), shown


def attention(model: Module, images: np.ndarray, pictures: np.ndarray, out: Path, *, layer: int | None = None, at=None,
              seed: int = 0) -> dict:  # fmt: skip
    """Maps of every layer over the images, and of every head: distance, entropy, how alike heads and layers are.

    images, pictures  as the model takes them, and as they are shown, from 0 to 1
    layer             whose heads are drawn one by one, counted from 1; the last if not given
    at                the place that attends, as shares of height and width; what the head reads if not given

    Raises ValueError for a model without attention, or a layer that it does not have.
    """
    maps = attention_maps(model, images)
    names = list(maps)
    if layer is not None and layer > len(names):
        raise ValueError(f"layer: the model has {len(names)} with attention, not {layer}")
    start = type(model)(model.config, rng=np.random.default_rng(seed)).eval()
    groups = _groups(maps, attention_maps(start, images))
    found = {"layers": {name: _of_layer(maps[name], images.shape[1]) for name in names}, "similarity": groups}
    flows = {"rollout": rollout(maps), "relevance": relevance(relevance_maps(model, images))}
    shown = {f"layer {i}": looked_at(model, maps[name].mean(axis=1), at) for i, name in enumerate(names, 1)}
    shown |= {name: looked_at(model, flow, at) for name, flow in flows.items()}
    chosen = maps[names[(layer or len(names)) - 1]]
    heads = {f"head {i}": looked_at(model, chosen[:, i - 1], at) for i in range(1, chosen.shape[1] + 1)}
    paths = [_overlaid(pictures, shown, out / "attention.png"), _overlaid(pictures, heads, out / "attention_heads.png")]
    distances = [of["distance_px"] for of in found["layers"].values() if of["distance_px"]]
    if distances:
        uniform = [_of_uniform(maps[name], images.shape[1]) for name in names[:1]]
        figure = plots.heads_by_depth(distances, y="mean attention distance (pixels)",
                                      marks={"uniform attention": uniform[0]})  # fmt: skip
        paths.append(plots.save(figure, out / "attention_distance.png", {"heads": distances}, also=VECTORS))
    paths += [_compared(group, out / f"attention_similarity_{i}.png") for i, group in enumerate(groups, 1)]
    return found | {"images": len(images), "figures": [str(path) for path in paths]}


def _of_layer(maps: np.ndarray, height: int) -> dict:
    """The numbers of one layer; a class token's layer, in which patches keep to themselves, has no distance."""
    prefix, side = squares(maps.shape[-1])
    patches = maps[..., prefix:, prefix:]
    alone = np.array_equal(patches, np.broadcast_to(np.eye(side * side), patches.shape))
    alike = head_similarity(maps)
    h = len(alike)
    return {
        "tokens": maps.shape[-1],
        "distance_px": None if alone else mean_attention_distance(maps, (side, side), height / side, prefix).tolist(),
        "entropy": float(attention_entropy(maps, normalised=True).mean()) if maps.shape[-1] > 1 else 0.0,
        "heads_alike": float((alike.sum() - np.trace(alike)) / max(h * (h - 1), 1)),
    }


def _of_uniform(maps: np.ndarray, height: int) -> float:
    """The distance if every patch attended to all alike."""
    _, side = squares(maps.shape[-1])
    uniform = np.full((1, 1, side * side, side * side), 1 / side**2)
    return float(mean_attention_distance(uniform, (side, side), height / side, 0)[0])


def _groups(maps: dict, start: dict) -> list[dict]:
    """How alike layers of the same tokens are that follow each other, now and at initialisation."""
    found = []
    for shape, names in groupby(maps, key=lambda name: maps[name].shape):
        names = list(names)
        if len(names) == 1:
            continue
        group = {"layers": names, "tokens": shape[-1]}
        for when, of in (("", maps), ("_at_init", start)):
            for kind, centred in (("", False), ("_centred", True)):
                matrix = layer_similarity([of[name] for name in names], centred=centred)
                group[f"matrix{kind}{when}"] = matrix.tolist()
                group[f"neighbours{kind}{when}"] = float(np.diag(matrix, 1).mean())
        found.append(group)
    return found


def _overlaid(pictures: np.ndarray, shown: dict, path: Path) -> Path:
    return plots.save(plots.attention_overlay(pictures, list(shown.values()), list(shown)), path, shown, also=VECTORS)


def _compared(group: dict, path: Path) -> Path:
    """Cosines of layers, trained and at initialisation, as two panels of one scale."""
    panels = {"trained": group["matrix"], "at initialisation": group["matrix_at_init"]}
    names = [str(i + 1) for i in range(len(group["layers"]))]
    figure = plots.heat_maps({title: np.array(matrix) for title, matrix in panels.items()}, names, names, x="layer",
                             y="layer", label="cosine of attention", limits=(0, 1))  # fmt: skip
    return plots.save(figure, path, group, also=VECTORS)
