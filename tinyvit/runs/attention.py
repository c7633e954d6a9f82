"""Where a trained model looks, in pictures and numbers: `tinyvit attention`. What its layers see is in `features`."""

from __future__ import annotations

import math
from itertools import groupby
from pathlib import Path

import numpy as np

from tinyvit import plots
from tinyvit.analysis import (
    AttentionMaps,
    attention_entropy,
    attention_maps,
    head_similarity,
    layer_similarity,
    mean_attention_distance,
    relevance,
    relevance_maps,
    rollout,
    token_grid,
)
from tinyvit.classify import looked_at, preprocessing
from tinyvit.data.photo import framed, load_photo, normalised
from tinyvit.models.catalogue import create_model
from tinyvit.models.config import pair
from tinyvit.nn.module import Module
from tinyvit.runs import features
from tinyvit.runs.training import model_of_run


def of_photo(source, path, *, name: str | None = None) -> tuple[Module, np.ndarray, np.ndarray]:
    """A trained model, a photo as it takes it, and as it is shown.   -> model, (1, H, W, C), (1, H, W, C) from 0 to 1

    source  a run's folder: pixels are given as they are; or a file of weights of the model ``name``: photos in colour
            are normalised as its paper does
    """
    if not source or not (Path(source).is_dir() or name):
        raise ValueError("model: which one? a run's folder, or --weights FILE --model NAME")
    own = Path(source).is_dir()
    model = model_of_run(source) if own else create_model(name, weights=source).eval()
    (height, width), channels = pair(model.config.img_size), model.config.in_chans
    side = max(height, width)
    left, top = (side - width) // 2, (side - height) // 2
    photo = framed(load_photo(path), side, 1.0).crop((left, top, left + width, top + height))
    if channels == 1:
        photo = photo.convert("L")
    shown = np.asarray(photo, np.float32).reshape(1, height, width, channels) / 255
    return model, shown if own or channels != 3 else normalised(photo, preprocessing(name, side)), shown


def attention(model: Module, images: np.ndarray, pictures: np.ndarray, out: Path, *, layer: int | None = None, at=None,
              fusion: str = "mean", discard: float = 0.0, many: np.ndarray | None = None, other: Module | None = None,
              seed: int = 0) -> dict:  # fmt: skip
    """What a model attends to on some images, if it has attention; its filters, positions and receptive fields.

    images, pictures  as the model takes them, and as they are shown, from 0 to 1
    layer             whose heads are drawn one by one, counted from 1; the last if not given
    at                the place that attends, as shares of height and width; what the head reads if not given
    fusion, discard   of the rollout
    many              images by which layers are compared, with each other and with those of the model ``other``

    Raises ValueError for a layer that the model does not have.
    """
    start = type(model)(model.config, rng=np.random.default_rng(seed)).eval()
    maps = _maps(model, images)
    if layer is not None and layer > len(maps):
        raise ValueError(f"layer: the model has {len(maps)} with attention, not {layer}")
    parts = [features.filters(model, out), features.positions(model, images.shape[1:3], out),
             features.fields(model, start, images, out)]  # fmt: skip
    if maps:
        flows = {"rollout": rollout(maps, head_fusion=fusion, discard=discard),
                 "relevance": _brought(relevance_maps(model, images))}  # fmt: skip
        parts = [_looks(model, pictures, maps, flows, layer, at, out),
                 _numbers(maps, _maps(start, images), images, out),
                 *parts]  # fmt: skip
    if many is not None:
        parts.append(features.similarity(model, start, many, out, other=other))
    found = {key: value for part in parts for key, value in part.items()}
    return found | {"images": len(images), "figures": [path for part in parts for path in part.get("figures", ())]}


def _maps(model: Module, images: np.ndarray) -> dict:
    """The attention maps of a model, none of a model without attention."""
    try:
        return attention_maps(model, images)
    except ValueError:
        return {}


def _brought(maps: AttentionMaps) -> np.ndarray:
    """The relevance of the maps, less what every place is to itself without any attention."""
    nothing = AttentionMaps()
    nothing.into = maps.into
    nothing.update({name: np.zeros_like(of) for name, of in maps.items()})
    return relevance(maps) - relevance(nothing)


def _looks(model: Module, pictures: np.ndarray, maps: dict, flows: dict, layer: int | None, at, out: Path) -> dict:
    """Over the images: the mean of the heads of every layer, the flows through all, and the heads of one layer."""
    size, names = pictures.shape[1:3], list(maps)
    shown = {f"layer {i}": looked_at(model, maps[name].mean(axis=1), size, at) for i, name in enumerate(names, 1)}
    shown |= {name: looked_at(model, flow, size, at) for name, flow in flows.items()}
    chosen = maps[names[(layer or len(names)) - 1]]
    heads = {f"head {i}": looked_at(model, chosen[:, i - 1], size, at) for i in range(1, chosen.shape[1] + 1)}
    paths = [_overlaid(pictures, shown, out / "attention.png"), _overlaid(pictures, heads, out / "attention_heads.png")]
    return {"figures": [str(path) for path in paths]}


def _numbers(maps: dict, start: dict, images: np.ndarray, out: Path) -> dict:
    """Distance and entropy of every head, how alike heads and layers are; drawn over the depth."""
    size = images.shape[1:3]
    groups = _groups(maps, start, size)
    layers = {name: _of_layer(maps[name], size) for name in maps}
    paths = []
    distances = [of["distance_px"] for of in layers.values() if of["distance_px"]]
    if distances:
        marks = {"uniform attention": _of_uniform(next(iter(maps.values())), size)}
        figure = plots.heads_by_depth(distances, y="mean attention distance (pixels)", marks=marks)
        paths.append(plots.save(figure, out / "attention_distance.png", {"heads": distances}, also=plots.VECTORS))
    entropies = [of["entropy_of_heads"] for of in layers.values()]
    figure = plots.heads_by_depth(entropies, y="entropy of attention (1: uniform)", marks={"uniform attention": 1.0})
    paths.append(plots.save(figure, out / "attention_entropy.png", {"heads": entropies}, also=plots.VECTORS))
    paths += [_compared(group, out / f"attention_similarity_{i}.png") for i, group in enumerate(groups, 1)]
    return {"layers": layers, "similarity": groups, "figures": [str(path) for path in paths]}


def _of_layer(maps: np.ndarray, size) -> dict:
    """The numbers of one layer. Where only a class token attends there is no distance, and the others are its own."""
    prefix, grid = token_grid(maps.shape[-1], size)
    alone = _of_class_alone(maps, size)
    asked = maps[:, :, :prefix] if alone else maps
    alike = head_similarity(asked)
    h = len(alike)
    entropies = attention_entropy(asked, normalised=True) if maps.shape[-1] > 1 else np.zeros(h)
    distances = None if alone else mean_attention_distance(maps, grid, size[0] / grid[0], prefix).tolist()
    return {
        "tokens": maps.shape[-1],
        "distance_px": distances,
        "entropy": float(entropies.mean()),
        "entropy_of_heads": entropies.tolist(),
        "heads_alike": float((alike.sum() - np.trace(alike)) / max(h * (h - 1), 1)),
    }


def _of_class_alone(maps: np.ndarray, size) -> bool:
    """Whether only tokens that are no patches attend, and patches keep to themselves."""
    prefix, _ = token_grid(maps.shape[-1], size)
    patches = maps[..., prefix:, prefix:]
    return np.array_equal(patches, np.broadcast_to(np.eye(patches.shape[-1]), patches.shape))


def _of_uniform(maps: np.ndarray, size) -> float:
    """The distance if every patch attended to all alike."""
    _, grid = token_grid(maps.shape[-1], size)
    patches = math.prod(grid)
    uniform = np.full((1, 1, patches, patches), 1 / patches)
    return float(mean_attention_distance(uniform, grid, size[0] / grid[0], 0)[0])


def _groups(maps: dict, start: dict, size) -> list[dict]:
    """How alike layers of the same tokens are that follow each other, now and at initialisation.

    Those in which only the class token attends are left out: patches that keep to themselves make them alike.
    """
    found, several = [], [name for name in maps if not _of_class_alone(maps[name], size)]
    for shape, names in groupby(several, key=lambda name: maps[name].shape):
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
    return plots.save(
        plots.attention_overlay(pictures, list(shown.values()), list(shown)), path, shown, also=plots.VECTORS
    )


def _compared(group: dict, path: Path) -> Path:
    """Cosines of layers, trained and at initialisation, as two panels of one scale."""
    panels = {"trained": group["matrix"], "at initialisation": group["matrix_at_init"]}
    names = [str(i + 1) for i in range(len(group["layers"]))]
    figure = plots.heat_maps({title: np.array(matrix) for title, matrix in panels.items()}, names, names, x="layer",
                             y="layer", label="cosine of attention", limits=(0, 1))  # fmt: skip
    return plots.save(figure, path, group, also=plots.VECTORS)
