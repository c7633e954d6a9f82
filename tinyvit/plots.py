"""Figures for slides: arrays in, a matplotlib Figure out.

Nothing is computed here and no window opens: every function draws the numbers it is given and
returns the figure, `save` writes it with those numbers beside it. This is the only file that knows
matplotlib, and it imports it in the functions, because `import tinyvit` should not wait for it.
Figures are made for half the width of a slide, in colours that the colour-blind can tell apart.
"""

from __future__ import annotations

import contextlib
import functools
import io
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tinyvit.files import make_folder, write_atomically

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.colorbar import Colorbar
    from matplotlib.figure import Figure
    from matplotlib.image import AxesImage

Curve = tuple[Sequence[float], Sequence[float]]  # x and y

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")  # Okabe and Ito 2008
MARK = "#D55E00"  # grids over images, the query of an attention map
INK = "gray_r"  # digits are dark ink on white paper
DPI, SCREEN = 150, 96  # dots per inch of a file, and of a web page

STYLE = {
    "font.size": 11,
    "axes.titlesize": 11.5,
    "axes.labelsize": 11,
    "axes.edgecolor": "0.3",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "xtick.color": "0.3",
    "ytick.color": "0.3",
    "xtick.labelcolor": "0.15",
    "ytick.labelcolor": "0.15",
    "grid.color": "0.9",
    "lines.linewidth": 1.6,
    "legend.frameon": False,
    "image.interpolation": "nearest",
    "image.cmap": "viridis",
    "svg.hashsalt": "tinyvit",  # the same names in the file every time
}


@contextlib.contextmanager
def _style() -> Iterator[None]:
    """The style of the house, whatever the user's own settings are."""
    import matplotlib

    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(STYLE)
        yield


def _styled(draw: Callable[..., Figure]) -> Callable[..., Figure]:
    """Make a function draw in the style of the house."""

    @functools.wraps(draw)
    def styled(*args: Any, **kwargs: Any) -> Figure:
        with _style():
            return draw(*args, **kwargs)

    return styled


# --------------------------------------------------------------------------------------------------
# Images and patches
# --------------------------------------------------------------------------------------------------


@_styled
def digit_patches(images: np.ndarray, labels: Sequence[int], patch: int) -> Figure:
    """Digits under the grid that cuts them, and below them their patches pulled apart.

    images: (n, H, W) or (n, H, W, 1), labels: (n,), patch: the side of a patch in pixels.

    Raises ValueError when the patches do not tile the images.
    """
    images = _grey(images)
    n, height, width = images.shape
    if height % patch or width % patch:
        raise ValueError(f"patch: expected a divisor of {height} and {width}, got {patch}")
    rows, columns = height // patch, width // patch
    tiles = images.reshape(n, rows, patch, columns, patch).swapaxes(2, 3)
    ink = {"cmap": INK, "vmin": images.min(), "vmax": images.max()}
    figure = _figure(1.1 * n + 0.3, 2.5)
    figure.get_layout_engine().set(wspace=0.08)
    axes = figure.subplots(2, n, squeeze=False)
    for above, below, image, tile, label in zip(*axes, images, tiles, labels, strict=True):
        above.imshow(image, **ink)
        above.set_title(str(label))
        below.imshow(_mosaic(tile), **ink)
        for row, column in np.ndindex(rows, columns):
            _outline(above, row * patch, column * patch, patch, patch)
            _outline(below, row * (patch + 1), column * (patch + 1), patch, patch)
        _bare(above, below)
    axes[0, 0].set_ylabel("image")
    axes[1, 0].set_ylabel(f"{rows * columns} patches")
    return figure


@_styled
def position_similarity_grid(
    similarity: np.ndarray,
    *,
    limits: tuple[float, float] = (-1.0, 1.0),
    axes: Axes | None = None,
) -> Figure:
    """For every patch, a small map of how similar its position embedding is to all others.

    similarity: (gh, gw, gh, gw), cosines; limits: the ends of the colour scale. After Dosovitskiy
    et al. 2021, Fig. 7 centre.
    """
    rows, columns, height, width = np.shape(similarity)
    figure, axes = _one(axes, 4.8, 4.1)
    low, high = limits
    picture = axes.imshow(_mosaic(similarity), vmin=low, vmax=high)
    axes.set_xticks([(width + 1) * c + (width - 1) / 2 for c in range(columns)])
    axes.set_yticks([(height + 1) * r + (height - 1) / 2 for r in range(rows)])
    axes.set_xticklabels(range(1, columns + 1))
    axes.set_yticklabels(range(1, rows + 1))
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    axes.set(xlabel="patch column", ylabel="patch row")
    _colour_bar(picture, axes, "cosine similarity of positions", [low, (low + high) / 2, high])
    return figure


@_styled
def attention_overlay(images: np.ndarray, maps: Sequence[np.ndarray], titles: Sequence[str]) -> Figure:
    """Images, and what a query token attends to in each of them; a digit is laid over it in dots, a photo under it.

    images: (n, H, W), (n, H, W, 1) or, in colour from 0 to 1, (n, H, W, 3), maps: m arrays (n, gh, gw),
    titles: m names such as "layer 1" or "rollout", one for each column. The colours of a map run from
    no attention to its own largest value: they say where, not how much.
    """
    images = np.asarray(images)
    in_colour = images.ndim == 4 and images.shape[-1] == 3
    images = images if in_colour else _grey(images)
    n, height, width = images.shape[:3]
    frame = {"extent": (0, width, height, 0)}  # pixels, whatever the grid of the map
    figure = _figure(1.1 * (1 + len(maps)) + 0.7, 1.1 * n + 0.25)
    axes = figure.subplots(n, 1 + len(maps), squeeze=False)
    axes[0, 0].set_title("image")
    for axis, image in zip(axes[:, 0], images, strict=True):
        axis.imshow(image, cmap=INK, **frame)
    for column, title, of_images in zip(axes.T[1:], titles, maps, strict=True):
        column[0].set_title(title)
        for axis, image, weights in zip(column, images, of_images, strict=True):
            picture = axis.imshow(weights, vmin=0, **frame)
            if in_colour:
                axis.imshow(image, alpha=0.35, **frame)
            else:
                _ink_dots(axis, image, side=1.0)
    _bare(*axes.flat)
    bar = _colour_bar(picture, axes[:, -1], "attention", [0, picture.norm.vmax])
    bar.ax.set_yticklabels(["0", "max"])
    return figure


@_styled
def photo_attention(picture: np.ndarray, weights: np.ndarray) -> Figure:
    """A photo, and beside it again under the attention that it got, from none (dark) to the largest.

    picture: (H, W, 3), weights: (gh, gw)
    """
    height, width, _ = picture.shape
    figure = _figure(6.0, 3.0)
    left, right = figure.subplots(1, 2)
    left.imshow(picture)
    right.imshow(picture)
    right.imshow(weights, vmin=0, alpha=0.65, extent=(-0.5, width - 0.5, height - 0.5, -0.5), interpolation="bilinear")
    left.set_title("image")
    right.set_title("attention")
    _bare(left, right)
    return figure


@_styled
def pictures(images: Mapping[str, np.ndarray], *, columns: int, side: float = 1.15) -> Figure:
    """Images in rows of ``columns``, each under its title.

    images: title -> (H, W, 3) or, drawn as ink on paper, (H, W, 1), from 0 to 1; side: of one, in inches.
    """
    rows = math.ceil(len(images) / columns)
    figure = _figure(columns * side, rows * (side + 0.28))
    figure.get_layout_engine().set(wspace=0.04, hspace=0.04)
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    _bare(*axes)
    for axis, (title, image) in zip(axes, images.items(), strict=False):
        ink = {"cmap": INK, "vmin": 0, "vmax": 1} if image.shape[-1] == 1 else {}
        axis.imshow(image, **ink)
        axis.set_title(title, fontsize=8.5)
    return figure


@_styled
def filters(panels: Mapping[str, np.ndarray], *, columns: int = 7) -> Figure:
    """Sets of filters side by side, each filter on a scale of its own, with zero in the middle.

    panels: title -> (n, P, Q, C); three channels are drawn in colour, zero as grey; one from orange to violet, zero
    as white.
    """
    most = max(math.ceil(len(tiles) / columns) for tiles in panels.values())
    figure = _figure(2.8 * len(panels), 0.4 * most + 0.35)
    figure.get_layout_engine().set(wspace=0.12)
    axes = figure.subplots(1, len(panels), squeeze=False)[0]
    for axis, (title, tiles) in zip(axes, panels.items(), strict=True):
        scaled = tiles / np.maximum(np.abs(tiles).max(axis=(1, 2, 3), keepdims=True), np.finfo(float).tiny)
        whole = np.full((most * columns, *tiles.shape[1:]), np.nan)
        whole[: len(tiles)] = scaled
        whole = whole.reshape(most, columns, *tiles.shape[1:])
        mosaic = np.stack([_mosaic(channel) for channel in np.moveaxis(whole, -1, 0)], axis=-1)
        if mosaic.shape[-1] == 3:
            axis.imshow(np.where(np.isnan(mosaic), 1.0, 0.5 + mosaic / 2))
        else:
            axis.imshow(mosaic[..., 0], cmap="PuOr", vmin=-1, vmax=1)
        axis.set_title(title, fontsize=10)
    _bare(*axes)
    return figure


@_styled
def receptive_fields(rows: Mapping[str, Sequence[np.ndarray]], titles: Sequence[str]) -> Figure:
    """Effective receptive fields over the pixels of the image, on one logarithmic scale.

    rows: what a row is of -> a field (H, W) for each of `titles`, the largest number of each 1. What matters less than
    a thousandth of the most is drawn as a thousandth.
    """
    from matplotlib.colors import LogNorm

    height, width = np.shape(next(iter(rows.values()))[0])
    figure = _figure(1.35 * len(titles) + 1.0, (1.2 * height / width + 0.1) * len(rows) + 0.35)
    axes = figure.subplots(len(rows), len(titles), squeeze=False)
    for along, (name, fields) in zip(axes, rows.items(), strict=True):
        along[0].set_ylabel(name, fontsize=9.5)
        for axis, field in zip(along, fields, strict=True):
            picture = axis.imshow(np.maximum(field, 1e-3), norm=LogNorm(1e-3, 1))
    for axis, title in zip(axes[0], titles, strict=True):
        axis.set_title(title, fontsize=9)
    _bare(*axes.flat)
    bar = _colour_bar(picture, axes, "gradient, of the largest", [1e-3, 1e-2, 1e-1, 1])
    bar.ax.minorticks_off()
    return figure


# --------------------------------------------------------------------------------------------------
# Curves
# --------------------------------------------------------------------------------------------------


@_styled
def hessian_spectrum(
    curves: Mapping[str, Curve],
    eigenvalues: Mapping[str, float],
    *,
    linear: float = 1.0,
    axes: Axes | None = None,
) -> Figure:
    """Spectral densities of the loss Hessians of one or several models, with λmax marked.

    curves: model -> (eigenvalues, densities), eigenvalues: model -> λmax. The eigenvalue axis is
    linear from −`linear` to `linear` and logarithmic beyond, the density axis logarithmic.
    """
    figure, axes = _one(axes, 6.0, 3.4)
    lowest = []
    for index, (model, (grid, density)) in enumerate(curves.items()):
        largest, colour = eigenvalues[model], COLOURS[index % len(COLOURS)]
        label = f"{model}, $\\lambda_{{\\max}}$ = {largest:.3g}"
        axes.plot(grid, density, color=colour, label=label)
        axes.fill_between(grid, density, color=colour, alpha=0.1, linewidth=0)
        axes.axvline(largest, color=colour, linestyle=":", linewidth=1.4)
        lowest.append(max(np.interp(largest, grid, density), 1e-9 * np.max(density)))
    axes.set_xscale("symlog", linthresh=linear)
    axes.set_yscale("log")
    axes.set_ylim(bottom=min(lowest) / 10)  # below the rarest eigenvalue there are only Gaussian tails
    axes.set(xlabel="eigenvalue of the Hessian", ylabel="density of eigenvalues")
    _plain_numbers(axes.xaxis)
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2)
    return figure


@_styled
def hessian_spectra(panels: Mapping[str, Mapping[str, tuple[Curve, float]]], *, linear: float = 0.1) -> Figure:
    """Spectral densities at several times or in several ways, below each other on the same axis.

    panels: what they are of -> model -> (its curve, its λmax), as in ``hessian_spectrum``.
    """
    figure = _figure(7.4, 0.3 + 2.8 * len(panels))
    axes = figure.subplots(len(panels), 1, squeeze=False, sharex=True)[:, 0]
    for axis, (title, models) in zip(axes, panels.items(), strict=True):
        curves, largest = ({name: pair[i] for name, pair in models.items()} for i in (0, 1))
        hessian_spectrum(curves, largest, linear=linear, axes=axis)
        told = {"title": title, "alignment": "left", "fontsize": 9.5, "ncols": len(models)}
        axis.legend(loc="lower left", bbox_to_anchor=(0, 1), **told)
        axis.set_xlabel("")
    axes[-1].set_xlabel("eigenvalue of the Hessian")
    return figure


@_styled
def training_curves(records: Mapping[str, Mapping[str, Curve]], *, axes: Sequence[Axes] | None = None) -> Figure:
    """Loss and accuracy of one or several models while they learn.

    records: model -> {"loss": (steps, losses), "accuracy": (steps, shares from 0 to 1)}, each pair
    with steps of its own; axes: two of them, for the loss and for the accuracy.
    """
    loss, accuracy = _figure(7.0, 2.9).subplots(1, 2) if axes is None else axes
    for index, (model, record) in enumerate(records.items()):
        colour = COLOURS[index % len(COLOURS)]
        steps, shares = record["accuracy"]
        loss.plot(*record["loss"], color=colour, linewidth=1.1)
        accuracy.plot(steps, 100 * np.asarray(shares), color=colour, label=model)
    loss.set_yscale("log")
    _plain_numbers(loss.yaxis)
    loss.set(xlabel="step", ylabel="training loss (nats)")
    accuracy.set(xlabel="step", ylabel="validation accuracy (%)")
    accuracy.legend(loc="lower right")
    for axis in (loss, accuracy):
        axis.grid(axis="y")
        axis.set_xlim(left=0)
    return loss.figure


@_styled
def lines(
    curves: Mapping[str, Curve],
    *,
    x: str,
    y: str,
    theory: Mapping[str, Curve] | None = None,
    log: str = "",
    axes: Axes | None = None,
) -> Figure:
    """Measured curves as points joined by lines, and what theory says as dashed ones.

    curves, theory: what is drawn -> (xs, ys), under "" if it needs no name; x, y: what the axes say,
    with units; log: "", "x", "y" or "xy", the axes that are logarithmic (zeros are left out there).
    """
    names = [name for name in (*curves, *(theory or {})) if name]
    figure, axes = _one(axes, 5.6, 3.0 + 0.2 * math.ceil(len(names) / 2))
    axes.set_xscale("log" if "x" in log else "linear")
    axes.set_yscale("log" if "y" in log else "linear")
    for index, (name, (xs, ys)) in enumerate(curves.items()):
        many = len(xs) > 60  # too many to tell one point from the next
        marker = {} if many else {"marker": "o", "markersize": 3.5}
        axes.plot(xs, ys, color=COLOURS[index % len(COLOURS)], label=name, **marker)
    for index, (name, (xs, ys)) in enumerate((theory or {}).items()):
        axes.plot(xs, ys, color="0.25", linewidth=1.2, linestyle=("--", ":", "-.")[index % 3], label=name)
    places = sorted({place for xs, _ in curves.values() for place in xs})
    if "x" in log and len(places) <= 8:
        _ticks_at(axes, places)
    axes.set(xlabel=x, ylabel=y)
    axes.grid(axis="y")
    if names:
        axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2)
    return figure


@_styled
def run_lines(curves: Mapping[str, tuple[Sequence[float], np.ndarray]], *, x: str, y: str, log: str = "") -> Figure:
    """Several runs at each of some places: a dot for each run, a line through their means.

    curves: what is drawn -> (xs, values), values of shape (places, runs); x, y, log as for ``lines``.
    """
    figure, axes = _one(None, 5.6, 3.0 + 0.2 * math.ceil(len(curves) / 2))
    _draw_runs(axes, curves, x, y, log)
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2)
    return figure


@_styled
def run_panels(panels: Mapping[str, Mapping[str, tuple]], *, x: str, log: str = "") -> Figure:
    """Several numbers of the same runs side by side, each as in ``run_lines``.

    panels: what is measured, with its unit -> curves of ``run_lines``; x, log as for ``lines``.
    """
    figure = _figure(4.0 * len(panels), 3.2)
    axes = figure.subplots(1, len(panels), squeeze=False)[0]
    for axis, (y, curves) in zip(axes, panels.items(), strict=True):
        _draw_runs(axis, curves, x, y, log)
    axes[0].legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=len(next(iter(panels.values()))))
    return figure


def _draw_runs(axes: Axes, curves: Mapping[str, tuple], x: str, y: str, log: str) -> None:
    """A dot for each run, a line through the means of those at one place."""
    for index, (name, (xs, values)) in enumerate(curves.items()):
        colour, values = COLOURS[index % len(COLOURS)], np.asarray(values)
        axes.plot(xs, values.mean(axis=1), color=colour, label=name)
        axes.plot(xs, values, "o", color=colour, markersize=3, alpha=0.5, markeredgewidth=0)
    axes.set_xscale("log" if "x" in log else "linear")
    axes.set_yscale("log" if "y" in log else "linear")
    if "y" in log:
        _plain_numbers(axes.yaxis)
    if len(xs) <= 8:
        _ticks_at(axes, xs)
    axes.set(xlabel=x, ylabel=y)
    axes.grid(axis="y")


@_styled
def heads_by_depth(
    heads: Sequence[Sequence[float]],
    *,
    y: str,
    marks: Mapping[str, float] | None = None,
    axes: Axes | None = None,
) -> Figure:
    """A number of every head of every layer, as a point over the layer's depth, and the layers' means as a line.

    heads: for each layer a number per head; y: what they are, with the unit; marks: what is drawn as a
    dashed line across -> its height. After Dosovitskiy et al. 2021, Fig. 7 right.
    """
    figure, axes = _one(axes, 4.6, 3.2)
    depths = range(1, len(heads) + 1)
    for depth, numbers in zip(depths, heads, strict=True):
        axes.plot([depth] * len(numbers), numbers, "o", color=COLOURS[0], markersize=5, alpha=0.7, markeredgewidth=0,
                  label="a head" if depth == 1 else None)  # fmt: skip
    axes.plot(depths, [np.mean(numbers) for numbers in heads], color=COLOURS[1], label="mean of the heads")
    for index, (name, height) in enumerate((marks or {}).items()):
        axes.axhline(height, color="0.25", linewidth=1.2, linestyle=("--", ":", "-.")[index % 3], label=name)
    axes.set(xlabel="layer", ylabel=y)
    axes.set_xticks(depths)
    axes.set_ylim(0, 1.08 * max(*(marks or {}).values(), *(max(numbers) for numbers in heads), 0))
    axes.grid(axis="y")
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2)
    return figure


@_styled
def run_dots(rows: Mapping[str, Mapping[str, Sequence[float]]], *, x: str, log: bool = False) -> Figure:
    """Runs as dots, a line of them for each row and a colour for each column of a table; ticks are the means.

    rows: row -> column -> values; columns that a row lacks are left out; x: what the values are; log: whether their
    axis is logarithmic.
    """
    columns = list(dict.fromkeys(column for row in rows.values() for column in row))
    figure, axes = _one(None, 6.4, 1.1 + 0.15 * len(rows) * (1 + len(columns)) + 0.2 * (len(columns) > 3))
    for index, column in enumerate(columns):
        colour, shift = COLOURS[index % len(COLOURS)], 0.7 * ((index + 0.5) / len(columns) - 0.5)
        found = [(place + shift, row[column]) for place, row in enumerate(rows.values()) if column in row]
        places = np.concatenate([np.full(len(values), place) for place, values in found])
        axes.plot(np.concatenate([values for _, values in found]), places, "o", color=colour, markersize=4.5,
                  alpha=0.6, markeredgewidth=0, label=column)  # fmt: skip
        axes.plot([np.mean(values) for _, values in found], [place for place, _ in found], "|", color=colour,
                  markersize=10, markeredgewidth=2)  # fmt: skip
    axes.set_yticks(range(len(rows)), list(rows))
    axes.set_ylim(len(rows) - 0.5, -0.5)
    if log:
        axes.set_xscale("log")
        _plain_numbers(axes.xaxis)
    axes.set_xlabel(x)
    axes.grid(axis="x")
    if len(columns) > 1:  # of the figure: one of the axes would narrow them to its own width
        figure.legend(loc="outside upper left", ncols=3 if len(columns) <= 3 else 2)
    return figure


# --------------------------------------------------------------------------------------------------
# Loss landscapes
# --------------------------------------------------------------------------------------------------


@_styled
def loss_contours(
    losses: np.ndarray,
    coordinates: Sequence[Sequence[float]],
    *,
    labels: Sequence[str] = ("step along direction 1", "step along direction 2"),
    path: np.ndarray | None = None,
    levels: int = 12,
    log: bool = True,
    axes: Axes | None = None,
) -> Figure:
    """A plane through the loss, from above: contours, a cross where the weights are, an optimiser's path.

    losses: (A, B), coordinates: the A steps along the horizontal and the B along the vertical axis, labels: what these
    are, with units; path: (T, 2) in these coordinates, drawn from a ring to the cross; levels: how many contours, at
    equal ratios of the loss or, without `log`, at equal differences. Points that are not finite stay white.
    """
    figure, axes = _one(axes, 4.6, 3.8)
    scale = _loss_scale([losses], levels, log)
    picture = _draw_plane(axes, Plane(losses, coordinates, path), scale)
    axes.set(xlabel=labels[0], ylabel=labels[1])
    _loss_bar(picture, axes, scale)
    return figure


@dataclass(frozen=True)
class Plane:
    """A plane through the loss: losses (A, B), the A steps across and the B steps up, an optimiser's path (T, 2)."""

    losses: np.ndarray
    coordinates: Sequence[Sequence[float]]
    path: np.ndarray | None = None


@_styled
def loss_planes(
    planes: Mapping[str, Plane],
    *,
    labels: Sequence[str] = ("step along direction 1", "step along direction 2"),
    surfaces: bool = False,
    columns: int = 4,
    levels: int = 12,
) -> Figure:
    """Planes through several losses, or several through one, side by side on one scale of colours.

    planes: title -> Plane; labels: what the steps are; surfaces: whether each is drawn in perspective, too, with
    heights that are logarithms, below; columns: planes in a row; levels as of ``loss_contours``.
    """
    across = min(columns, len(planes))
    rows = math.ceil(len(planes) / across)
    figure = _figure(2.5 * across + 1.0, rows * (5.0 if surfaces else 2.75))
    grid = figure.add_gridspec(rows * (2 if surfaces else 1), across)
    scale, flat = _loss_scale([plane.losses for plane in planes.values()], levels, log=True), []
    for index, (title, plane) in enumerate(planes.items()):
        row, column = divmod(index, across)
        flat.append(figure.add_subplot(grid[row * (2 if surfaces else 1), column]))
        picture = _draw_plane(flat[-1], plane, scale)
        flat[-1].set_title(title, fontsize=10)
        flat[-1].set(xlabel=labels[0], ylabel=labels[1] if column == 0 else "")
        if surfaces:
            below = figure.add_subplot(grid[2 * row + 1, column], projection="3d")
            _draw_heights(below, plane, scale)
            below.set_xlabel(labels[0], fontsize=8, labelpad=-5)
            below.set_ylabel(labels[1], fontsize=8, labelpad=-5)
            below.set_zlabel("loss (nats)", fontsize=8, labelpad=2)
    _loss_bar(picture, flat[across - 1 :: across], scale)
    return figure


def _loss_scale(every: Sequence[np.ndarray], levels: int, log: bool) -> dict[str, Any]:
    """Contours from the least to the largest finite loss, at equal ratios or, without ``log``, differences."""
    finite = [np.asarray(losses)[np.isfinite(losses)] for losses in every]
    low, high = min(float(x.min()) for x in finite), max(float(x.max()) for x in finite)
    log = log and low > 0
    high = high if high > low else low + 1  # a flat plane has one colour, and still a scale
    steps = np.geomspace(low, high, levels) if log else np.linspace(low, high, levels)
    return {"levels": steps, "norm": "log" if log else "linear", "extend": "neither"}


def _draw_plane(axes: Axes, plane: Plane, scale: dict) -> Any:
    """Contours, a cross where the weights are, the path from a ring to the cross."""
    finite = np.ma.masked_invalid(plane.losses).T
    picture = axes.contourf(*plane.coordinates, finite, cmap="viridis", **scale)
    axes.contour(*plane.coordinates, finite, colors="white", linewidths=0.5, alpha=0.6, **scale)
    if plane.path is not None:
        across, up = np.transpose(plane.path)
        axes.plot(across, up, color="white", linewidth=3.2)
        axes.plot(across, up, color=MARK, linewidth=1.6, marker="o", markersize=3)
        axes.plot(
            across[0], up[0], marker="o", markersize=7, color="none", markeredgecolor="white", markeredgewidth=1.6
        )
    axes.plot(0, 0, marker="+", markersize=11, markeredgewidth=2, color="white")
    return picture


def _draw_heights(axes: Any, plane: Plane, scale: dict) -> None:
    """A plane in perspective, its heights and colours on a logarithmic scale."""
    across, up = np.meshgrid(*plane.coordinates, indexing="ij")
    losses = np.asarray(plane.losses, dtype=float)
    log = scale["norm"] == "log"
    low, high = (np.log10(scale["levels"][[0, -1]]) if log else scale["levels"][[0, -1]]).tolist()
    heights = np.log10(losses) if log else losses
    axes.plot_surface(across, up, heights, cmap="viridis", vmin=low, vmax=high, rcount=60, ccount=60, linewidth=0.2,
                      edgecolor=(1, 1, 1, 0.35))  # fmt: skip
    axes.set_zlim(low, high)
    axes.view_init(30, -58)
    axes.set_box_aspect((1, 1, 0.75), zoom=0.95)
    ticks = np.linspace(low, high, 3)
    axes.set_zticks(ticks, [f"{10**tick if log else tick:.3g}" for tick in ticks])
    for name, axis in (("x", axes.xaxis), ("y", axes.yaxis), ("z", axes.zaxis)):
        if name != "z":
            axes.locator_params(name, nbins=3)
        axis.pane.set_alpha(0)
        axis.set_tick_params(pad=-2, labelsize=8)


def _loss_bar(picture: Any, axes: Any, scale: dict) -> None:
    """The colours, with the least loss, the middle and the largest."""
    low, high = scale["levels"][[0, -1]].tolist()
    ticks = [low, (low * high) ** 0.5 if scale["norm"] == "log" else (low + high) / 2, high]
    bar = _colour_bar(picture, axes, f"loss (nats{', logarithmic' if scale['norm'] == 'log' else ''})", ticks)
    bar.ax.minorticks_off()
    bar.ax.set_yticklabels([f"{tick:.3g}".replace("-", "−") for tick in ticks])


@_styled
def loss_surface(
    losses: np.ndarray,
    coordinates: Sequence[Sequence[float]],
    *,
    labels: Sequence[str] = ("direction 1", "direction 2"),
    z: str = "loss (nats)",
    limit: float | None = None,
    view: tuple[float, float] = (32.0, -58.0),
    axes: Axes | None = None,
) -> Figure:
    """A plane through the loss as a landscape, in perspective.

    losses: (A, B), coordinates: the A and the B steps, labels: what these are, their unit in brackets; z: what the
    height is, with its unit; limit: where it is cut off, so that walls do not hide the valley; view: elevation and
    azimuth in degrees; axes: must have a `3d` projection.
    """
    if axes is None:
        axes = _figure(4.8, 4.0).add_subplot(projection="3d")
    across, up = np.meshgrid(*coordinates, indexing="ij")
    heights = np.where(np.isfinite(losses), losses, np.nan)
    ceiling = np.nanmax(heights) if limit is None else limit
    heights = np.minimum(heights, ceiling)
    axes.plot_surface(
        across, up, heights, cmap="viridis", rcount=60, ccount=60, linewidth=0.2, edgecolor=(1, 1, 1, 0.35),
        vmin=np.nanmin(heights), vmax=ceiling,
    )  # fmt: skip
    axes.view_init(*view)
    across_says, up_says = (label.replace(" (", "\n(") for label in labels)  # in one line they would meet in the corner
    axes.set_xlabel(across_says, fontsize=9.5, labelpad=10)
    axes.set_ylabel(up_says, fontsize=9.5, labelpad=10)
    axes.set_zlabel(z)
    axes.set_box_aspect((1, 1, 0.7), zoom=0.88)
    for name, axis in (("x", axes.xaxis), ("y", axes.yaxis), ("z", axes.zaxis)):
        axes.locator_params(name, nbins=5)
        axis.pane.set_alpha(0)
        axis.set_tick_params(pad=0, labelsize=9)
    return axes.figure


# --------------------------------------------------------------------------------------------------
# Tables
# --------------------------------------------------------------------------------------------------


@_styled
def heat_maps(
    panels: Mapping[str, np.ndarray],
    rows: Sequence[str],
    columns: Sequence[str],
    *,
    x: str = "",
    y: str = "",
    label: str = "",
    written: str = "",
    zeros: bool = True,
    limits: tuple[float, float] | None = None,
    cell: tuple[float, float] = (0.6, 0.45),
) -> Figure:
    """Matrices with named rows and columns, side by side on one scale of colours.

    panels: title -> (R, C); rows: R names, columns: C names; x, y: what the columns and the rows are;
    label: what the colours say (no colour bar without it); written: how the numbers are written into
    the cells, such as ".2f" (they are not without it); zeros: whether those that would read 0 are
    written too; limits: the ends of the colour scale, from 0 to the largest number if not given;
    cell: the width and height of a cell in inches.
    """
    low, high = limits or (0.0, max(float(np.max(values)) for values in panels.values()))
    letter = 0.09  # inches, roughly
    width = len(panels) * (cell[0] * len(columns) + 0.15) + letter * max(map(len, rows)) + (0.3 if y else 0)
    longest = letter * max(map(len, columns))
    tilt = {"rotation": 45, "ha": "right", "rotation_mode": "anchor"} if longest > cell[0] else {}
    height = cell[1] * len(rows) + (0.75 * longest if tilt else 0.2) + 0.35 + (0.25 if x else 0)
    figure = _figure(width + (0.9 if label else 0.1), height)
    axes = figure.subplots(1, len(panels), squeeze=False, sharey=True)[0]
    for axis, (title, values) in zip(axes, panels.items(), strict=True):
        picture = axis.imshow(values, vmin=low, vmax=high, aspect="auto")
        axis.set_title(title)
        axis.set_xticks(range(len(columns)), columns, **tilt)
        axis.set_yticks(range(len(rows)), rows)
        axis.tick_params(length=0)
        axis.spines[:].set_visible(False)
        axis.set_xlabel(x)
        if written:
            _write_into(axis, picture, np.asarray(values), written, zeros)
    axes[0].set_ylabel(y)
    if label:
        _colour_bar(picture, axes, label, [low, high])
    return figure


@_styled
def stacked_bars(
    parts: Mapping[str, Sequence[float]],
    names: Sequence[str],
    *,
    y: str,
    marks: Mapping[str, Sequence[float]] | None = None,
    axes: Axes | None = None,
) -> Figure:
    """What a whole is made of: a bar for each name, a piece of it for each part, the total on top.

    parts: part -> a number for each of `names`, from the bottom up; marks: what somebody else says
    that the totals are -> a number for each name, drawn as a line across the bar and written on it.
    """
    figure, axes = _one(axes, 1.3 * len(names) + 2.6, 3.4)
    places, base = np.arange(len(names)), np.zeros(len(names))
    for index, (part, values) in enumerate(parts.items()):
        axes.bar(places, values, bottom=base, width=0.6, color=COLOURS[index % len(COLOURS)], label=part)
        base = base + np.asarray(values, dtype=float)
    for place, total in zip(places, base, strict=True):
        axes.annotate(f"{total:,.1f}", (place, total), (0, 3), textcoords="offset points", ha="center", va="bottom")
    for name, values in (marks or {}).items():
        axes.hlines(values, places - 0.42, places + 0.42, color="black", linewidth=1.2, linestyle="--", label=name)
    axes.set_xticks(places, names)
    axes.margins(y=0.12)
    axes.set_ylabel(y)
    axes.tick_params(axis="x", length=0)
    axes.legend(loc="upper left", bbox_to_anchor=(1, 1), reverse=True)
    return figure


# --------------------------------------------------------------------------------------------------
# Convolution
# --------------------------------------------------------------------------------------------------


@_styled
def convolution_heads(
    attention: np.ndarray,
    kernel_size: int,
    convolution: np.ndarray,
    output: np.ndarray,
    *,
    query: tuple[int, int] | None = None,
) -> Figure:
    """K² heads that look where the taps of a K×K convolution are, and the outputs of both.

    attention: (K², gh, gw), where each head looks from one query pixel, in the order of the taps;
    query: row and column of that pixel (the centre if not given); convolution, output: (H, W), one
    channel of the convolution and of the attention layer. Their difference is drawn on the scale
    of the outputs, and its largest value written above it.

    Raises ValueError when there are not K² heads.
    """
    heads, height, width = np.shape(attention)
    if heads != kernel_size**2:
        raise ValueError(f"attention: expected {kernel_size**2} heads, got {heads}")
    row, column = query or (height // 2, width // 2)
    figure = _figure(6.0, 4.0)
    grid = figure.add_gridspec(3, 2, width_ratios=(3, 1))
    left = figure.add_subplot(grid[:, 0])
    tiles = np.reshape(attention, (kernel_size, kernel_size, height, width))
    weights = left.imshow(_mosaic(tiles), vmin=0, vmax=1)
    for r, c in np.ndindex(kernel_size, kernel_size):
        _outline(left, r * (height + 1) + row, c * (width + 1) + column, 1, 1, colour="white")
    left.set_title(f"where {heads} heads look from the outlined pixel")
    _bare(left)
    difference = np.subtract(output, convolution)
    panels = {
        f"convolution {kernel_size}×{kernel_size}": convolution,
        f"attention, {heads} heads": output,
        f"difference ≤ {np.abs(difference).max():.2g}": difference,
    }
    largest = np.abs(convolution).max()
    right = [figure.add_subplot(grid[place, 1]) for place in range(3)]
    for axis, (title, values) in zip(right, panels.items(), strict=True):
        picture = axis.imshow(values, cmap="PuOr", vmin=-largest, vmax=largest)
        axis.set_title(title)
        axis.set(xticks=[], yticks=[])
        axis.spines[:].set_visible(True)
    _colour_bar(weights, left, "attention weight", [0, 1], location="bottom", shrink=0.6)
    bar = _colour_bar(picture, right, "output", [-largest, 0, largest], location="bottom")
    bar.ax.set_xticklabels([f"{tick:.2g}".replace("-", "−") for tick in (-largest, 0, largest)])
    return figure


@_styled
def head_paths(panels: Mapping[str, np.ndarray], taps: Sequence[tuple[int, int]]) -> Figure:
    """Where heads look while they learn, from a ring to a dot, over the pixels around the query.

    panels: title -> (T, h, 2), rows and columns of T moments relative to the query; taps: the pixels (row, column)
    that there are to find, drawn as squares.
    """
    figure = _figure(2.5 * len(panels) + 0.3, 3.2)
    axes = figure.subplots(1, len(panels), squeeze=False, sharey=True)[0]
    for axis, (title, paths) in zip(axes, panels.items(), strict=True):
        for row, column in taps:
            _outline(axis, row, column, 1, 1, colour="0.55")
        for index, path in enumerate(np.moveaxis(paths, 1, 0)):
            colour = COLOURS[index % len(COLOURS)]
            axis.plot(path[:, 1], path[:, 0], color=colour, linewidth=1.1, alpha=0.8)
            (start,) = axis.plot(*path[0, ::-1], "o", color="white", markeredgecolor=colour, markersize=4)
            (end,) = axis.plot(*path[-1, ::-1], "o", color=colour, markersize=6)
        axis.set_title(title, fontsize=10)
        axis.set_aspect("equal")
        axis.set(xlim=(-3, 3), ylim=(3, -3), xticks=range(-2, 3), yticks=range(-2, 3), xlabel="columns from the query")
    axes[0].set_ylabel("rows from the query")
    ends = {"where a head starts": start, "and ends": end}
    figure.legend(ends.values(), ends, loc="outside upper left", ncols=2)
    return figure


# --------------------------------------------------------------------------------------------------
# Tokens
# --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Tokens:
    """Tokens as squares, row by row.

    groups: (R, C), whole numbers that choose the squares' colours, negative where there is none; texts:
    (R, C), what is written into them; frames: (row, column, height, width) of squares to frame.
    """

    groups: np.ndarray
    texts: np.ndarray | None = None
    frames: Sequence[tuple[int, int, int, int]] = ()


@_styled
def token_maps(panels: Mapping[str, Tokens], *, columns: int, legend: Sequence[str] = (), side: float = 1.9) -> Figure:
    """Steps of a computation on tokens, drawn as squares, panel after panel.

    panels: title -> Tokens; columns: panels in a row; legend: what the groups 0, 1, … are, told where
    the next panel would be; side: of a panel, in inches.
    """
    rows = math.ceil((len(panels) + bool(legend)) / columns)
    figure = _figure(columns * side, rows * (side + 0.35))
    figure.get_layout_engine().set(wspace=0.06, hspace=0.06)
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    _bare(*axes)
    for axis, (title, tokens) in zip(axes, panels.items(), strict=False):
        axis.set_title(title, loc="left", fontsize=10)
        _draw_tokens(axis, tokens, side)
    if legend:
        from matplotlib.patches import Patch

        squares = [Patch(color=_pale(group), label=label) for group, label in enumerate(legend)]
        axes[len(panels)].legend(handles=squares, loc="center", fontsize=9, handlelength=1, handleheight=1)
    return figure


def _draw_tokens(axes: Axes, tokens: Tokens, side: float) -> None:
    """The squares, what is written into them, and the frames; the centre of token (i, j) is at x = j, y = i."""
    from matplotlib.colors import ListedColormap

    groups = np.ma.masked_less(tokens.groups, 0)
    rows, columns = groups.shape
    colours = ListedColormap([_pale(group) for group in range(len(COLOURS))])
    edges = np.arange(columns + 1) - 0.5, np.arange(rows + 1) - 0.5
    gap = 0.02 * 72 * side / max(rows, columns)  # white between squares, in points
    axes.pcolormesh(*edges, groups, cmap=colours, vmin=0, vmax=len(COLOURS), edgecolors="white", linewidth=gap)
    axes.set_aspect("equal")
    axes.invert_yaxis()
    size = min(9.0, 0.42 * 72 * side / max(rows, columns))  # points; a number of two digits is as wide as it is high
    for (row, column), text in np.ndenumerate(np.asarray([] if tokens.texts is None else tokens.texts)):
        axes.text(column, row, str(text), ha="center", va="center", fontsize=size)
    for frame in tokens.frames:
        _outline(axes, *frame, colour="0.15", linewidth=1.5)


def _pale(group: int) -> str:
    """The colour of a group, light enough to write on in black."""
    from matplotlib.colors import to_hex, to_rgb

    return to_hex(0.45 + 0.55 * np.asarray(to_rgb(COLOURS[group % len(COLOURS)])))


# --------------------------------------------------------------------------------------------------
# Parts
# --------------------------------------------------------------------------------------------------


def _figure(width: float, height: float) -> Figure:
    """An empty figure, in inches, that no window and no global state knows of."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    figure._repr_png_ = functools.partial(_shown, figure)
    return figure


def _shown(figure: Figure) -> tuple[bytes, dict[str, int]]:
    """What a notebook shows where a figure is the last value of a cell: its PNG, and its size there.

    IPython asks every object for this method, so no pyplot and no `%matplotlib inline` is needed.
    """
    picture = _picture(figure, "png")
    width, height = (int.from_bytes(picture[at : at + 4]) for at in (16, 20))  # from the header of the PNG
    return picture, {"width": round(width * SCREEN / DPI), "height": round(height * SCREEN / DPI)}


# Without the version of matplotlib and the time in the files, equal figures are equal files.
UNSAID = {"png": ("Software",), "svg": ("Date", "Creator"), "pdf": ("Creator", "Producer", "CreationDate")}


def _picture(figure: Figure, kind: str) -> bytes:
    """The file of a figure: png, svg or pdf."""
    picture = io.BytesIO()
    with _style():
        figure.savefig(picture, format=kind, dpi=DPI, bbox_inches="tight", metadata=dict.fromkeys(UNSAID[kind]))
    return picture.getvalue()


def _one(axes: Axes | None, width: float, height: float) -> tuple[Figure, Axes]:
    if axes is None:
        axes = _figure(width, height).subplots()
    return axes.figure, axes


def _grey(images: np.ndarray) -> np.ndarray:
    images = np.asarray(images)
    if images.ndim == 4 and images.shape[-1] == 1:
        images = images[..., 0]
    if images.ndim != 3:
        raise ValueError(f"images: expected shape (n, H, W) or (n, H, W, 1), got {images.shape}")
    return images


def _mosaic(tiles: np.ndarray) -> np.ndarray:
    """Tiles (r, c, h, w) side by side in one image, a pixel of NaN (drawn as nothing) between."""
    gap = ((0, 0), (0, 0), (0, 1), (0, 1))
    apart = np.pad(np.asarray(tiles, dtype=float), gap, constant_values=np.nan)
    rows, columns, height, width = apart.shape
    return apart.swapaxes(1, 2).reshape(rows * height, columns * width)[:-1, :-1]


def _outline(
    axes: Axes, row: int, column: int, height: int, width: int, colour: str = MARK, linewidth: float = 0.9
) -> None:
    """A frame around some pixels of an image (the centre of pixel i is at i)."""
    from matplotlib.patches import Rectangle

    corner = (column - 0.5, row - 0.5)
    frame = Rectangle(corner, width, height, fill=False, edgecolor=colour, linewidth=linewidth)
    frame.set_clip_on(False)
    axes.add_patch(frame)


def _ink_dots(axes: Axes, image: np.ndarray, side: float) -> None:
    """A digit as dots whose area is the ink of their pixel, on axes of `side` inches."""
    ink = (image - image.min()) / max(np.ptp(image), np.finfo(float).tiny)
    rows, columns = np.nonzero(ink)
    diameter = 0.5 * 72 * side / image.shape[1]  # of full ink, in points
    dots = {"color": "white", "edgecolor": "black", "linewidth": 0.4}
    axes.scatter(columns + 0.5, rows + 0.5, s=diameter**2 * ink[rows, columns], **dots)


def _bare(*axes: Axes) -> None:
    for axis in axes:
        axis.set(xticks=[], yticks=[])
        axis.spines[:].set_visible(False)


def _colour_bar(picture: AxesImage, axes: Any, label: str, ticks: Sequence[float], **where: Any) -> Colorbar:
    bar = picture.figure.colorbar(picture, ax=axes, label=label, ticks=ticks, aspect=30, **where)
    bar.outline.set_visible(False)
    bar.ax.tick_params(length=0)
    return bar


def _write_into(axes: Axes, picture: AxesImage, values: np.ndarray, how: str, zeros: bool) -> None:
    """The numbers of a matrix in its cells, black or white, whichever can be read on their colour."""
    for (row, column), value in np.ndenumerate(values):
        text = format(value, how).replace("-", "−")
        if not (zeros or text.strip("−0.%")):
            continue
        *rgb, _ = picture.cmap(picture.norm(value))
        light = np.dot(rgb, (0.299, 0.587, 0.114)) > 0.5
        axes.text(column, row, text, ha="center", va="center", fontsize=9, color="black" if light else "white")


def _ticks_at(axes: Axes, places: Sequence[float]) -> None:
    """The places that were measured, and no others."""
    axes.set_xticks(places, [f"{place:g}" for place in places])
    axes.xaxis.minorticks_off()


def _plain_numbers(axis: Axis) -> None:
    """0.1 and 10 instead of powers of ten."""
    from matplotlib.ticker import FuncFormatter

    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}".replace("-", "−")))


# --------------------------------------------------------------------------------------------------
# Saving
# --------------------------------------------------------------------------------------------------


VECTORS = ("svg", "pdf")  # kinds for `also` that stay sharp on slides and in papers


def save(fig: Figure | str, path: str | Path, numbers: Mapping[str, Any], *, also: Sequence[str] = ()) -> Path:
    """Write a figure as PNG, and beside it a JSON file of the same stem with the numbers it shows.

    fig: a Figure, or a string that is SVG already (`tinyvit.draw`) and goes into a file of that kind;
    numbers: names -> numbers, arrays, strings, or mappings and sequences of these; also: "svg" and
    "pdf", for files of these kinds too. Arrays become
    lists, floats are rounded to 6 significant digits, NaN and infinities become null. All files
    appear whole or not at all, the folder is made if it is missing. Returns the path of the picture.

    Raises ValueError for a name that does not end in .png (.svg for a string), OSError for a folder
    that cannot be written into.
    """
    path = Path(path)
    kind = ".svg" if isinstance(fig, str) else ".png"
    if path.suffix != kind:
        raise ValueError(f"path: expected a name that ends in {kind}, got {path.name!r}")
    pictures = {path: fig.encode() if isinstance(fig, str) else _picture(fig, "png")}
    pictures |= {path.with_suffix(f".{kind}"): _picture(fig, kind) for kind in also}
    text = json.dumps(_plain(numbers), ensure_ascii=False, allow_nan=False) + "\n"
    make_folder(path.parent)
    for file, picture in pictures.items():
        write_atomically(file, picture)
    write_atomically(path.with_suffix(".json"), text.encode())
    return path


def _plain(value: Any) -> Any:
    """What JSON can say: lists instead of arrays, six digits, null for what is not a number."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, np.ndarray | np.generic):
        return _plain(value.tolist())
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float):
        return float(f"{value:.6g}") if np.isfinite(value) else None
    return value
