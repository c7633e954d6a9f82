"""Figures for slides, each made by one command: ``tinyvit figures swin_shifted_windows --out slides``.

A figure is a function that runs the package's own code on something small, and returns what `plots` drew of it and the
numbers that are shown. FIGURES lists them by name; the first line of a docstring is the caption.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise, product
from pathlib import Path

import numpy as np

from tinyvit import plots
from tinyvit.analysis import effective_receptive_field
from tinyvit.analysis.attention_as_convolution import fitted_heads, least_error, value_maps
from tinyvit.data import digits
from tinyvit.data.augment import (
    DEIT,
    DIGITS,
    chained,
    deit,
    mixup_or_cutmix,
    rand_augment,
    random_crop,
    random_erasing,
    random_flip,
    random_resized_crop,
)
from tinyvit.data.procedural import shapes
from tinyvit.equations.neighbourhood import neighbours
from tinyvit.models import nat
from tinyvit.models.catalogue import create_model
from tinyvit.models.swin import merge_neighbours
from tinyvit.nn.attention import offset_index
from tinyvit.nn.window import region_mask, shifted_windows, window_regions, window_reverse
from tinyvit.plots import Tokens


def swin_shifted_windows():
    """Swin's shifted windows: roll the map, keep what was apart from each other by a mask, attend, roll back."""
    size, window, shift = (6, 6), (3, 3), (1, 1)
    tokens = np.arange(36).reshape(size)
    regions = window_regions(size, window, shift)
    mask = region_mask(regions)
    rolled = _map_of(shifted_windows(tokens[None, ..., None], window, shift), window, size)
    region_rolled = _map_of(regions[..., None], window, size)
    region = np.roll(region_rolled, shift, axis=(0, 1))
    allowed = np.where(mask == 0, regions[:, :, None], -1)  # in the colour of the query's region
    panels = {
        "1  W-MSA": Tokens(np.full(size, -1), tokens, _frames(size, window)),
        "2  SW-MSA: shifted by 1": Tokens(region, tokens, _frames(size, window, shift)),
        "3  rolled by −1": Tokens(region_rolled, rolled, _frames(size, window)),
        "4  masks; white is −100": _side_by_side(allowed, columns=2),
        "5  attended, rolled back": Tokens(region, tokens, _frames(size, window, shift)),
    }
    legend = ["stayed on this side", "rows that came round", "columns that did", "both did"]
    return plots.token_maps(panels, columns=3, legend=legend), {"rolled": rolled, "region": region, "mask": mask}


def swin_patch_merging():
    """Swin's patch merging: four neighbours become one token of four times, then twice the width."""
    tokens = np.arange(16).reshape(4, 4)
    merged = merge_neighbours(tokens[None, ..., None])[0]  # (2, 2, 4): the four neighbours of every new token
    place = np.empty_like(tokens)
    place.flat[merged] = np.arange(4)  # which of the four a token is
    parts = np.moveaxis(merged, -1, 0)
    order = [0, 2, 1, 3]  # drawn where they are among neighbours, not as they follow each other
    apart = _side_by_side(place.flat[parts[order]], parts[order], columns=2)
    row = merged.reshape(4, 4)
    panels = {
        "1  4×4 tokens, width C": Tokens(place, tokens, _frames((4, 4), (2, 2))),
        "2  one of every four": apart,
        "3  side by side: width 4C": Tokens(place.flat[row], row, _frames((4, 4), (1, 4))),
        "4  LN, linear: width 2C": Tokens(np.full((2, 2), 4), np.arange(4).reshape(2, 2), _frames((2, 2), (1, 1))),
    }
    legend = ["row 0, column 0", "row 1, column 0", "row 0, column 1", "row 1, column 1", "merged"]
    return plots.token_maps(panels, columns=3, legend=legend), {"merged": merged, "place": place}


def neighbourhoods():
    """What a corner, an edge and an inner token see: in NAT, in stand-alone self-attention (SASA), in Swin's windows.

    The numbers say which entry of the layer's table of biases, or of offset embeddings, a pair of tokens has.
    """
    size, K, M, queries = (8, 8), 3, (4, 4), ((0, 0), (0, 5), (5, 3))
    places = np.stack(np.indices((10, 10)), axis=-1) - 1  # row and column, those of a border too
    inside = places[1:-1, 1:-1]
    moved, bordered = (neighbours(x[None], size, K)[0].reshape(*size, 2, -1) for x in (inside, places))
    rows, columns = (nat.offset_index(n, K) for n in size)
    table = np.arange((2 * K - 1) ** 2).reshape(2 * K - 1, -1)
    whole, regular, shifted = [(0, 0, *size)], _frames(size, M), _frames(size, M, (2, 2))
    seen = {  # title -> frames, and for each query the places and the numbers
        "NAT: 3×3, moved inwards": (whole, [(moved[r, c], table[np.ix_(rows[r], columns[c])]) for r, c in queries]),
        "SASA: 3×3, and zeros": (whole, [(bordered[at], np.arange(K * K)) for at in queries]),
        "Swin: windows of 4×4": (regular, _in_windows(inside, M, (0, 0), queries)),
        "Swin: shifted by 2": (shifted, _in_windows(inside, M, (2, 2), queries)),
    }
    own = [(r, c, 1, 1) for r, c in queries]
    panels = {title: _looks(looks, [*frames, *own]) for title, (frames, looks) in seen.items()}
    wide = np.pad(table, (2, 3), constant_values=-1)  # as large as the maps and their borders
    panels["NAT's biases, by offset"] = Tokens(np.where(wide < 0, -1, 4), np.where(wide < 0, "", wide), [(4, 4, 1, 1)])
    legend = ["the corner sees", "the edge sees", "the inner token sees", "zeros beyond the map", "one for each offset"]
    numbers = {title: [np.transpose(at) for at, _ in looks] for title, (_, looks) in seen.items()}
    return plots.token_maps(panels, columns=3, legend=legend, side=2.5), {"queries": queries, "seen": numbers}


def rand_augment_operations():
    """RandAugment: the fifteen operations that DeiT draws from, at magnitude 9, and how much of each that is."""
    image = (255 * _scenes(1)).astype(np.uint8)
    nine, more = np.array([9.0]), np.array([1.0])
    amounts = {name: operation.amount(nine, more).item() for name, operation in DEIT.items()
               if name not in ("AutoContrast", "Equalize", "Invert")}  # fmt: skip
    made = {"image": image}
    for name, operation in DEIT.items():
        title = f"{name} {amounts[name]:g}" if name in amounts else name
        made[title] = operation(image, nine, more, GREY)
    return plots.pictures({title: x[0] / 255 for title, x in made.items()}, columns=4), amounts


def deit_augmentation():
    """DeiT's recipe on an image, step by step and all at once; and versions of a digit, as in a batch of repeats."""
    rng = np.random.default_rng(2)
    scenes, labels = _scenes(2), np.arange(2)
    mean, std = scenes.mean(axis=(0, 1, 2)), scenes.std(axis=(0, 1, 2))
    everything = deit(64, 2, mean=mean, std=std)
    steps = {
        "cropped, resized": random_resized_crop(64, scale=(0.2, 0.6)),
        "flipped": random_flip(1.0),
        "RandAugment": rand_augment(p=1.0, fill=mean),
        "erased": random_erasing(1.0, area=(0.1, 1 / 3), mean=mean, std=std),
        "mixup": mixup_or_cutmix(2, cutmix=0),
        "CutMix": mixup_or_cutmix(2, mixup=0),
        "all": everything,
        "again": everything,
    }
    made, shares = {"image": scenes[0], "its partner": scenes[1]}, {}
    for name, augmentation in steps.items():
        images, given = augmentation(scenes, labels, rng)
        if given.ndim == 2:  # the labels of the two are mixed
            shares[name] = given[0, 0]
        made[f"{name}, λ = {shares[name]:.2f}" if name in shares else name] = np.clip(images[0], 0, 1)
    digit = digits().train.images[:1]
    gentle = chained(random_crop(1), rand_augment(DIGITS, fill=0.0))
    versions, _ = gentle(np.repeat(digit, 4, axis=0), np.zeros(4, int), rng)
    made |= {"a digit": digit[0]} | {f"version {i}": version for i, version in enumerate(versions, 1)}
    return plots.pictures(made, columns=5, side=1.3), {"share of the image's own label": shares}


def necessary_heads():
    """How near so many heads, found by fitting, come to a convolution of patches, and the bound that none undercuts."""
    rng = np.random.default_rng(0)
    kinds = {"P = 1, K = 3, 3 to 3 channels": (1, 3, 3), "P = 2, K = 3, 1 channel": (2, 3, 1),
             "P = 4, K = 5, 1 channel": (4, 5, 1)}  # fmt: skip
    heads, found, bounds = np.arange(1, 10), {}, {}
    for name, (P, K, C) in kinds.items():
        maps = value_maps(rng.normal(size=(C, C, K, K)), P)
        found[name] = heads, np.array([fitted_heads(maps, n, rng=rng, rounds=60)[1] for n in heads])
        bounds[f"bound, {name.split(',')[0]}"] = heads, np.array([least_error(maps, n) for n in heads])
    return plots.lines(found, x="heads", y="relative error (1)", theory=bounds), {"found": found, "bounds": bounds}


def receptive_fields():
    """What the middle of a map sees of the image before any training: a CNN, a ViT and Swin, on 32×32 pixels.

    White is the pixel that matters most, black is a thousandth of that or less; in between the scale is logarithmic.
    """
    rng = np.random.default_rng(0)
    images = rng.normal(size=(4, 32, 32, 1))
    models = {"ResNet": ("resnet_digits", "layer1"), "ViT, block 1": ("vit_digits", "blocks.0"),
              "ViT, block 3": ("vit_digits", "blocks.2"), "Swin, block 1": ("swin_digits", "layers.0.blocks.0"),
              "Swin, block 2": ("swin_digits", "layers.0.blocks.1")}  # fmt: skip
    fields = {}
    for title, (model, place) in models.items():
        net = create_model(model, img_size=32, rng=rng) if model != "resnet_digits" else create_model(model, rng=rng)
        fields[title] = effective_receptive_field(net.astype(np.float64).eval(), images, place)
    drawn = {title: -np.log10(np.maximum(field, 1e-3)) / 3 for title, field in fields.items()}  # ink: 1 is black
    return plots.pictures({title: x[..., None] for title, x in drawn.items()}, columns=5, side=1.3), fields


FIGURES: dict[str, Callable] = {
    function.__name__: function
    for function in (
        swin_shifted_windows,
        swin_patch_merging,
        neighbourhoods,
        rand_augment_operations,
        deit_augmentation,
        necessary_heads,
        receptive_fields,
    )
}


def make_figure(name: str, out: str | Path = "figures") -> Path:
    """Draw one of FIGURES into a folder: a PNG, the same as SVG and PDF, and a JSON file of its numbers.

    Raises ValueError for an unknown name, OSError for a folder that cannot be written into.
    """
    if name not in FIGURES:
        raise ValueError(f"there is no figure {name!r}; there are {', '.join(FIGURES)}")
    figure, numbers = FIGURES[name]()
    return plots.save(figure, Path(out) / f"{name}.png", numbers, also=("svg", "pdf"))


def caption(name: str) -> str:
    """What a figure shows, in a line."""
    return FIGURES[name].__doc__.splitlines()[0]


# their parts -------------------------------------------------------------------------------

GREY = 128  # what comes from outside an image


def _scenes(n: int) -> np.ndarray:
    """Coloured shapes, (n, 64, 64, 3) in 0 … 1, always the same."""
    return shapes(n, rng=np.random.default_rng(3), size=64, noise=0.02).images


def _map_of(tokens: np.ndarray, window, size) -> np.ndarray:
    """The map (H, W) whose windows these are, of numbers (W, M, 1)."""
    return window_reverse(tokens, window, size)[0, ..., 0].astype(int)


def _frames(size, window, shift=(0, 0)) -> list[tuple[int, int, int, int]]:
    """The rectangles that windows, moved by ``shift``, cut a map into: (row, column, height, width)."""
    ends = [sorted({0, n, *range(s, n, m)}) for n, m, s in zip(size, window, shift, strict=True)]
    spans = product(*map(pairwise, ends))
    return [(top, left, bottom - top, right - left) for (top, bottom), (left, right) in spans]


def _in_windows(places: np.ndarray, window, shift, queries) -> list[tuple[np.ndarray, np.ndarray]]:
    """For each query the places (2, n) that share its window and region, and their entries of the bias table (n,)."""
    windows = shifted_windows(places[None], window, shift)
    regions = window_regions(places.shape[:2], window, shift)
    seen = []
    for query in queries:
        ((w, i),) = np.argwhere((windows == query).all(axis=-1))
        together = regions[w] == regions[w, i]
        seen.append((windows[w][together].T, offset_index(window)[i][together]))
    return seen


def _looks(seen, frames) -> Tokens:
    """A map of 8×8 tokens with a border: places (2, n) and numbers (n,) in a colour for each query, grey dots else."""
    groups, texts = np.full((10, 10), -1), np.full((10, 10), "", dtype=object)
    texts[1:-1, 1:-1] = "·"
    for group, ((rows, columns), numbers) in enumerate(seen):
        beyond = (np.minimum(rows, columns) < 0) | (np.maximum(rows, columns) > 7)
        groups[rows + 1, columns + 1] = np.where(beyond, len(seen), group)
        texts[rows + 1, columns + 1] = np.ravel(numbers)
    return Tokens(groups, texts, [(top + 1, left + 1, height, width) for top, left, height, width in frames])


def _side_by_side(groups: np.ndarray, texts: np.ndarray | None = None, *, columns: int) -> Tokens:
    """Several maps of tokens (n, R, C) as one, in rows of ``columns``, framed, with a square's gap between."""
    n, R, C = groups.shape
    corners = [(r * (R + 1), c * (C + 1)) for r, c in np.ndindex(n // columns, columns)]
    shape = (corners[-1][0] + R, corners[-1][1] + C)
    together, written = np.full(shape, -1), np.full(shape, "", dtype=object)
    for i, (top, left) in enumerate(corners):
        together[top : top + R, left : left + C] = groups[i]
        if texts is not None:
            written[top : top + R, left : left + C] = texts[i]
    return Tokens(together, written, [(*corner, R, C) for corner in corners])
