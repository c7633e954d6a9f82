"""A trained model's loss around its weights, measured and drawn: `tinyvit sharpness` and `tinyvit landscape`."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from tinyvit import plots
from tinyvit.analysis import (
    Surface,
    between,
    block_eigenvalues,
    curvature,
    direction_of,
    empirical_fisher,
    gauss_newton,
    landscape,
    leading,
    m_sharpness,
    path_plane,
    random_direction,
    smoothed,
    spectral_density,
    ticking,
    top_eigenvalues,
    trace,
)
from tinyvit.analysis.spectrum import Density
from tinyvit.data import Dataset
from tinyvit.files import make_folder
from tinyvit.nn.module import Module
from tinyvit.runs.run import Batches
from tinyvit.runs.training import config_of_run, initial_model, task_for
from tinyvit.runs.updates import updates
from tinyvit.train import classification

MATRICES = {"hessian": curvature, "gauss-newton": gauss_newton, "fisher": empirical_fisher}
OBJECTIVE = classification()
RISE = 4.0  # nats: a slice along eigenvectors goes as far as the first one's parabola needs to rise so much


def first(part: Dataset, images: int | None) -> tuple:
    """The first so many images and labels of a part, or all; what curvature is measured on."""
    return part.images[: images or len(part.labels)], part.labels[: images or len(part.labels)]


# sharpness ---------------------------------------------------------------------------------


def sharpness(model: Module, batch: tuple, *, matrix: str = "hessian", tol: float = 1e-2, blocks: bool = False,
              density: int = 0, training: bool = False, seed: int = 0, progress: bool = False,
              **options) -> dict:  # fmt: skip
    """Both ends of the spectrum of the cross-entropy's curvature, its trace, SAM's sharpness, and the protocol.

    training in training mode, with noise that is drawn once
    blocks   λmax of every module by itself, too
    density  Lanczos steps of a spectral density, too: its nodes and weights
    options  of ``Surface``: names, chunk, dtype
    """
    rng = np.random.default_rng(seed)
    if training:
        model.train(rng)
    make, name = MATRICES[matrix], f"{matrix} products" if progress else None
    start = time.perf_counter()
    with ticking(make(OBJECTIVE, model, batch, **options), name) as operator:
        largest, smallest = (leading(operator, which=which, tol=tol, rng=rng) for which in ("LA", "SA"))
        estimate = trace(operator, samples=10, rng=rng)
        spectrum = spectral_density(operator, steps=density, starts=1, rng=rng) if density else None
        seconds = (time.perf_counter() - start) / operator.products
        found = {
            "lambda_max": largest.value,
            "residual": largest.residual,
            "lambda_min": smallest.value,
            "residual_min": smallest.residual,
            "trace": estimate.value,
            "trace_error": estimate.error,
            "sam_sharpness": m_sharpness(OBJECTIVE, model, batch, rho=0.05, **options),
            "loss": largest.protocol.loss,
            "n_params": largest.protocol.n_params,
            "products": operator.products,
            "seconds_per_product": seconds,
            "protocol": asdict(largest.protocol) | {"tolerance": tol, "sam_rho": 0.05, "trace_samples": 10},
        }
    if blocks:
        rest = {key: value for key, value in options.items() if key != "names"}
        each = block_eigenvalues(OBJECTIVE, model, batch, operator=make, tol=tol, rng=rng, **rest)
        found["blocks"] = {module: {"lambda_max": one.value, "residual": one.residual} for module, one in each.items()}
    if spectrum:
        found["density"] = {"nodes": spectrum.nodes.tolist(), "weights": spectrum.weights.tolist()}
    return found


def draw_spectrum(found: dict, path: Path) -> Path:
    """The spectral density of a report, as PNG, SVG and PDF with its numbers beside it."""
    density = Density(*(np.array(found["density"][key]) for key in ("nodes", "weights")))
    name = f"{found['protocol']['matrix'].capitalize()}, loss {found['loss']:.3g}"
    figure = plots.hessian_spectrum({name: smoothed(density, linear=1.0)}, {name: found["lambda_max"]})
    return plots.save(figure, path, found, also=plots.VECTORS)


# landscapes --------------------------------------------------------------------------------


class Slice(NamedTuple):
    """Where a landscape is walked: directions, the steps along each, what the axes say, what they are; a path on it."""

    directions: list
    axes: list[np.ndarray]
    labels: list[str]
    named: str
    path: np.ndarray | None = None
    explained: np.ndarray | None = None


def random_slice(model: Module, dimensions: int, points: int, *, span: float | None = None, norm: str = "neuron",
                 seed: int = 0) -> Slice:  # fmt: skip
    """Along random directions as long as the weights."""
    rng = np.random.default_rng(seed)
    directions = [random_direction(model, norm=norm, rng=rng) for _ in range(dimensions)]
    labels = [f"random direction {i + 1} (lengths of the weights)" for i in range(dimensions)]
    axes = [(span or 1.0) * np.linspace(-1, 1, points)] * dimensions
    return Slice(directions, axes, labels, f"random, as long as each {norm}")


def eigen_slice(model: Module, batch: tuple, dimensions: int, points: int, *, span: float | None = None,
                seed: int = 0, chunk: int | None = None, progress: bool = False) -> Slice:  # fmt: skip
    """Along the Hessian's leading eigenvectors; as far, unless told, as the first one's ½λα² needs for four nats."""
    with ticking(curvature(OBJECTIVE, model, batch, chunk=chunk), progress and "hessian products") as hessian:
        eigen = top_eigenvalues(hessian, dimensions, tol=1e-3, rng=np.random.default_rng(seed))
    reach = span or (math.sqrt(2 * RISE / eigen.values[0]) if eigen.values[0] > 0 else 1.0)
    labels = [f"eigenvector {i + 1}, λ = {value:.3g} (Euclidean length)" for i, value in enumerate(eigen.values)]
    directions = [direction_of(vector, model) for vector in eigen.vectors.T]
    axes = [reach * np.linspace(-1, 1, points)] * dimensions
    return Slice(directions, axes, labels, "leading eigenvectors of the Hessian")


def slice_between(model: Module, other: Module, points: int) -> Slice:
    """From one model to another, and a quarter of the way beyond both."""
    return Slice([between(model, other)], [np.linspace(-0.25, 1.25, points)], ["share of the way (1)"], "interpolation")


def path_slice(model: Module, states: Sequence[dict], dimensions: int, points: int) -> Slice:
    """The directions that a path lies in best, a fifth further than it goes. Its last state is the model's."""
    plane = path_plane(model, states, k=dimensions)
    axes = []
    for along in plane.coordinates.T:
        margin = 0.2 * (np.ptp(along) or 1.0)
        axes.append(np.linspace(along.min() - margin, along.max() + margin, points))
    labels = [f"main direction {i + 1}, {share:.0%} of the path"
              for i, share in enumerate(plane.explained)]  # fmt: skip
    return Slice(plane.directions, axes, labels, "the optimiser's path", plane.coordinates, plane.explained)


def path_of_run(folder, *, states: int = 40, progress: bool = False) -> tuple[Module, list[dict]]:
    """The model that a run ended with before any averaging, and where it was on the way, at equal distances.

    A run keeps no such states. It is trained again, which takes as long as it took: equal settings give equal bits.
    """
    from tqdm import tqdm

    config = config_of_run(folder)
    task = task_for(config)
    model = initial_model(config, task)
    config = replace(config, average=0.0)
    total = config.epochs * Batches(task.splits.train, config, 0, None).per_epoch
    kept = set(np.linspace(0, total, min(states, total) + 1).round().astype(int).tolist())
    path = [copy.deepcopy(model.state_dict())]
    bar = tqdm(updates(model, config, task), desc="the run again", total=total, unit="step", leave=False,
               disable=None if progress else True, dynamic_ncols=True)  # fmt: skip
    for step in bar:
        if step.number + 1 in kept:
            path.append(copy.deepcopy(model.state_dict()))
    return model, path


def walk(model: Module, batch: tuple, where: Slice, out: Path, *, progress: bool = False, **options) -> dict:
    """The cross-entropy on a slice, drawn into a folder. A walk that was stopped goes on from there.

    options  of ``Surface``: chunk, dtype
    """
    make_folder(out)
    name, file = "points" if progress else None, out / "landscape_points.json"
    losses = landscape(OBJECTIVE, model, batch, where.directions, where.axes, progress=name, file=file, **options)
    finite = np.isfinite(losses)
    if not finite.any():
        raise ValueError("the loss is not a finite number anywhere on the slice")
    protocol = Surface(OBJECTIVE, model, batch, **options).protocol("loss")
    found = {"directions": where.named, "labels": where.labels, "steps": [axis.tolist() for axis in where.axes],
             "losses": np.where(finite, losses, None).tolist(),  # JSON has no infinity
             "lowest": float(losses[finite].min()), "highest": float(losses[finite].max()),
             "loss": protocol.loss, "n_params": protocol.n_params, "protocol": asdict(protocol)}  # fmt: skip
    if where.path is not None:
        found |= {"path": where.path.tolist(), "explained": where.explained.tolist()}
    return found | {"figures": [str(path) for path in _drawn(losses, where, found, out)]}


def _drawn(losses: np.ndarray, where: Slice, found: dict, out: Path) -> list[Path]:
    if losses.ndim == 1:
        pictures = {"landscape": plots.lines({"": (where.axes[0], losses)}, x=where.labels[0], y="loss (nats)")}
    elif losses.ndim == 2:
        pictures = {"landscape": plots.loss_contours(losses, where.axes, labels=where.labels, path=where.path),
                    "landscape_surface": plots.loss_surface(losses, where.axes, labels=where.labels)}  # fmt: skip
    else:
        slices = np.linspace(0, losses.shape[2] - 1, min(5, losses.shape[2])).round().astype(int)
        planes = {f"step 3 = {where.axes[2][i]:.3g}".replace("-", "−"): plots.Plane(losses[..., i], where.axes[:2])
                  for i in slices}  # fmt: skip
        short = [f"step {i + 1}" for i in range(2)]
        pictures = {"landscape": plots.loss_planes(planes, labels=short, columns=5, surfaces=True)}
    return [plots.save(figure, out / f"{name}.png", found, also=plots.VECTORS) for name, figure in pictures.items()]
