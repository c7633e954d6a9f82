"""A trained model's loss around its weights, measured and drawn: `tinyvit sharpness` and `tinyvit landscape`."""

from __future__ import annotations

import math
import time
from dataclasses import asdict
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
from tinyvit.train import classification

MATRICES = {"hessian": curvature, "gauss-newton": gauss_newton, "fisher": empirical_fisher}
OBJECTIVE = classification()
VECTORS = ("svg", "pdf")  # every figure is written as these too
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
    return plots.save(figure, path, found, also=VECTORS)


# landscapes --------------------------------------------------------------------------------


class Slice(NamedTuple):
    """Where a landscape is walked: directions, the steps along each of them, what the axes say, and what they are."""

    directions: list
    steps: np.ndarray
    labels: list[str]
    named: str


def random_slice(model: Module, dimensions: int, points: int, *, span: float | None = None, norm: str = "neuron",
                 seed: int = 0) -> Slice:  # fmt: skip
    """Along random directions as long as the weights."""
    rng = np.random.default_rng(seed)
    directions = [random_direction(model, norm=norm, rng=rng) for _ in range(dimensions)]
    labels = [f"random direction {i + 1} (lengths of the weights)" for i in range(dimensions)]
    return Slice(directions, (span or 1.0) * np.linspace(-1, 1, points), labels, f"random, as long as each {norm}")


def eigen_slice(model: Module, batch: tuple, dimensions: int, points: int, *, span: float | None = None,
                seed: int = 0, chunk: int | None = None, progress: bool = False) -> Slice:  # fmt: skip
    """Along the Hessian's leading eigenvectors; as far, unless told, as the first one's ½λα² needs for four nats."""
    with ticking(curvature(OBJECTIVE, model, batch, chunk=chunk), progress and "hessian products") as hessian:
        eigen = top_eigenvalues(hessian, dimensions, tol=1e-3, rng=np.random.default_rng(seed))
    reach = span or (math.sqrt(2 * RISE / eigen.values[0]) if eigen.values[0] > 0 else 1.0)
    labels = [f"eigenvector {i + 1}, λ = {value:.3g} (Euclidean length)" for i, value in enumerate(eigen.values)]
    directions = [direction_of(vector, model) for vector in eigen.vectors.T]
    return Slice(directions, reach * np.linspace(-1, 1, points), labels, "leading eigenvectors of the Hessian")


def slice_between(model: Module, other: Module, points: int) -> Slice:
    """From one model to another, and a quarter of the way beyond both."""
    return Slice([between(model, other)], np.linspace(-0.25, 1.25, points), ["share of the way (1)"], "interpolation")


def walk(model: Module, batch: tuple, where: Slice, out: Path, *, progress: bool = False, **options) -> dict:
    """The cross-entropy on a slice, drawn into a folder. A walk that was stopped goes on from there.

    options  of ``Surface``: chunk, dtype
    """
    make_folder(out)
    name, file = "points" if progress else None, out / "landscape_points.json"
    axes = [where.steps] * len(where.directions)
    losses = landscape(OBJECTIVE, model, batch, where.directions, axes, progress=name, file=file, **options)
    finite = np.isfinite(losses)
    if not finite.any():
        raise ValueError("the loss is not a finite number anywhere on the slice")
    protocol = Surface(OBJECTIVE, model, batch, **options).protocol("loss")
    found = {"directions": where.named, "labels": where.labels, "steps": where.steps.tolist(),
             "losses": np.where(finite, losses, None).tolist(),  # JSON has no infinity
             "lowest": float(losses[finite].min()), "highest": float(losses[finite].max()),
             "loss": protocol.loss, "n_params": protocol.n_params, "protocol": asdict(protocol)}  # fmt: skip
    return found | {"figures": [str(path) for path in _drawn(losses, where, found, out)]}


def _drawn(losses: np.ndarray, where: Slice, found: dict, out: Path) -> list[Path]:
    if losses.ndim == 1:
        pictures = {"landscape": plots.lines({"": (where.steps, losses)}, x=where.labels[0], y="loss (nats)")}
    else:
        axes = [where.steps, where.steps]
        pictures = {"landscape": plots.loss_contours(losses, axes, labels=where.labels),
                    "landscape_surface": plots.loss_surface(losses, axes, labels=where.labels)}  # fmt: skip
    return [plots.save(figure, out / f"{name}.png", found, also=VECTORS) for name, figure in pictures.items()]
