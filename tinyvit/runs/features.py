"""What a trained model first looks for, from where its layers see, and how alike they are: `tinyvit attention`.

For any model of images, with attention or without. Every function measures one thing and draws it, and gives what it
found, or nothing where the model has no such thing.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from tinyvit import plots
from tinyvit.analysis import (
    cka_matrix,
    effective_receptive_field,
    field_size,
    layers_of,
    position_correlation,
    position_similarity,
    principal_filters,
    representations,
    token_grid,
)
from tinyvit.autodiff.tensor import raw
from tinyvit.backend import to_numpy
from tinyvit.nn.basic import Conv2d
from tinyvit.nn.module import Module

FILTERS = 28  # as many as Dosovitskiy et al. show
FIELDS = 5  # layers whose receptive fields are drawn


def filters(model: Module, out: Path) -> dict:
    """The largest filters of the patch embedding, or of a network's first convolution, and their principal ones."""
    first = next((module for _, module in model.named_modules() if isinstance(module, Conv2d)), None)
    if first is None or first.weight.shape[1] not in (1, 3):  # channels of images, grey or in colour
        return {}
    weight = to_numpy(first.weight.data)
    principal, shares = principal_filters(weight)
    largest = np.argsort(-np.sum(weight**2, axis=(1, 2, 3)), kind="stable")[:FILTERS]
    shown = {"the largest filters": weight[largest].transpose(0, 2, 3, 1),
             f"principal ones: {shares[0]:.0%}, {shares[1:2].sum():.0%}, …": principal[:FILTERS]}  # fmt: skip
    path = plots.save(plots.filters(shown), out / "filters.png", shown | {"shares": shares}, also=plots.VECTORS)
    return {"filters": {"count": len(weight), "shares": shares.tolist()}, "figures": [str(path)]}


def positions(model: Module, size, out: Path) -> dict:
    """The cosine similarity of position embeddings, where the model has one for every patch."""
    table = getattr(model, "pos_embed", None)
    if table is None or table.ndim not in (3, 4):
        return {}
    table = to_numpy(raw(table))
    table = table.reshape(1, -1, table.shape[-1])
    prefix, grid = token_grid(table.shape[1], size)
    similarity = position_similarity(table, grid, prefix)
    path = plots.save(plots.position_similarity_grid(similarity), out / "positions.png", {"similarity": similarity},
                      also=plots.VECTORS)  # fmt: skip
    return {"positions": {"correlation": position_correlation(similarity)}, "figures": [str(path)]}


def fields(model: Module, start: Module, images: np.ndarray, out: Path) -> dict:
    """How far the middle of every layer effectively sees, now and at initialisation; of some of them in a figure."""
    names = layers_of(model)
    seen = {when: {name: effective_receptive_field(net, images, name) for name in names}
            for when, net in (("trained", model), ("at initialisation", start))}  # fmt: skip
    chosen = [names[i] for i in np.unique(np.linspace(0, len(names) - 1, FIELDS).round().astype(int))]
    rows = {when: [of[name] for name in chosen] for when, of in seen.items()}
    path = plots.save(plots.receptive_fields(rows, chosen), out / "receptive_fields.png", seen, also=plots.VECTORS)
    sizes = {when: {name: field_size(field) for name, field in of.items()} for when, of in seen.items()}
    return {"fields_px": {name: {"trained": sizes["trained"][name], "at_init": sizes["at initialisation"][name]}
                          for name in names}, "figures": [str(path)]}  # fmt: skip


def similarity(model: Module, start: Module, images: np.ndarray, out: Path, *, other: Module | None = None) -> dict:
    """Linear CKA, debiased, of all layers with each other, now and at initialisation, and with those of another."""
    ours = _seen(model, images)
    matrix = cka_matrix(ours, ours, debiased=True)
    before = _seen(start, images)
    found = {"images": len(images), "layers": list(ours), "matrix": matrix.tolist(),
             "neighbours": np.diag(matrix, 1).tolist(),
             "matrix_at_init": cka_matrix(before, before, debiased=True).tolist()}  # fmt: skip
    panels = {"trained": matrix, "at initialisation": np.array(found["matrix_at_init"])}
    figure = plots.heat_maps(panels, list(ours), list(ours), **_of_size(len(ours)))
    paths = [plots.save(figure, out / "similarity.png", found, also=plots.VECTORS)]
    if other is not None:
        theirs = _seen(other, images)
        across = cka_matrix(ours, theirs, debiased=True)
        found["other"] = {"layers": list(theirs), "matrix": across.tolist()}
        figure = plots.heat_maps({"": across}, list(ours), list(theirs), x="layer of the other model",
                                 y="layer of this model", **_of_size(max(across.shape)))  # fmt: skip
        paths.append(plots.save(figure, out / "similarity_other.png", found["other"], also=plots.VECTORS))
    return {"cka": found, "figures": [str(path) for path in paths]}


def _of_size(layers: int) -> dict:
    """How CKA is drawn: the numbers are written into the cells of small matrices."""
    how = {"label": "linear CKA", "limits": (0, 1)}
    return how | ({"written": ".2f"} if layers <= 8 else {"cell": (0.25, 0.25)})


def _seen(model: Module, images: np.ndarray) -> dict[str, np.ndarray]:
    return representations(model, images, *layers_of(model))
