"""The tour: a vision transformer learns real digits and opens itself up, in under a minute.

Each stop is a function of a few lines that uses the public face of the package and draws one figure.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from tinyvit import plots
from tinyvit.analysis import (
    AttentionConv,
    Crossing,
    attention_maps,
    class_attention,
    curvature,
    position_similarity,
    rollout,
    smoothed,
    spectral_density,
    ticking,
    top_eigenvalues,
)
from tinyvit.data import Epochs, Splits, digits
from tinyvit.equations.convolution import conv2d
from tinyvit.files import make_folder
from tinyvit.machine import blas_threads
from tinyvit.models.catalogue import create_model
from tinyvit.nn.module import Module
from tinyvit.train import AdamW, Score, classification, clipped, evaluate, gradient_of, training, warmup_cosine

MODELS = {"ViT": "vit_digits", "ResNet": "resnet_digits"}
OBJECTIVE = classification()


@dataclass(frozen=True)
class Plan:
    """How long the tour takes: passes through the digits per model, images per Hessian, Lanczos steps per density.

    matched_loss  curvature is compared where the training loss first is this
    """

    epochs: dict[str, int]
    rate: float = 4e-3
    batch_size: int = 32
    matched_loss: float = 0.1
    curvature_images: int = 150
    density_steps: int = 12


FULL = Plan(epochs={"ViT": 12, "ResNet": 5})
FAST = Plan(epochs={"ViT": 3, "ResNet": 2}, rate=6e-3, matched_loss=1.2, curvature_images=40, density_steps=6)


@dataclass
class Trained:
    """A model after training, a copy from where its training loss was the plan's, and its curves."""

    model: Module
    matched: Module | None = None
    matched_loss: float = float("nan")
    steps: list[int] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    accuracies: list[float] = field(default_factory=list)
    test: Score | None = None


@dataclass(frozen=True)
class Report:
    """What the tour found: per model its test accuracy, λmax, residual and the training loss it was measured at."""

    accuracy: dict[str, float]
    sharpness: dict[str, float]
    residual: dict[str, float]
    matched_loss: dict[str, float]
    convolution_error: float
    figures: list[Path]
    plan: Plan


def tour(*, seed: int = 0, out: str | Path = "figures", fast: bool = False, progress: bool = True) -> Report:
    """Train, look inside, draw. The same seed gives the same report on the same machine.

    seed      where every random number comes from
    out       the folder of the figures; made if it is not there (OSError if it cannot be)
    fast      shorter training, smaller Hessians
    progress  show progress bars on stderr
    """
    plan = FAST if fast else FULL
    out = Path(out)
    make_folder(out)
    splits = digits(seed=seed)
    with blas_threads(1):  # models this small are fastest on one, and bits repeat
        figures = [_draw_digits(splits, out)]
        trained = {name: train(name, splits, plan, seed, progress) for name in MODELS}
        figures += [_draw_training(trained, out), _draw_positions(trained["ViT"].model, out)]
        figures += [_draw_attention(trained["ViT"].model, splits, out)]
        spectra = {name: _spectrum(name, t, splits, plan, seed, progress) for name, t in trained.items()}
        figures += [_draw_spectra(spectra, trained, out)]
        error = convolution_error(np.random.default_rng(seed))
        figures += [_draw_convolution(splits, np.random.default_rng(seed), out)]
    return Report(
        accuracy={name: t.test.accuracy for name, t in trained.items()},
        sharpness={name: float(eigen.values[0]) for name, (eigen, _) in spectra.items()},
        residual={name: float(eigen.residuals[0]) for name, (eigen, _) in spectra.items()},
        matched_loss={name: t.matched_loss for name, t in trained.items()},
        convolution_error=error,
        figures=figures,
        plan=plan,
    )


# training ----------------------------------------------------------------------------------


def train(name: str, splits: Splits, plan: Plan, seed: int, progress: bool) -> Trained:
    """Train a model on the digits, keeping its curves and itself from where its training loss first is the plan's."""
    rng = np.random.default_rng(seed)
    model = create_model(MODELS[name], rng=rng)
    epochs = Epochs(splits.train, plan.batch_size, plan.epochs[name], rng=rng)
    schedule = warmup_cosine(plan.rate, warmup=len(epochs) // 10, total=len(epochs))
    gradient = clipped(gradient_of(OBJECTIVE), norm=1.0)
    run, crossing = Trained(model), Crossing(OBJECTIVE, model, _fixed(splits, plan), [plan.matched_loss])
    for step in training(model, epochs, gradient, AdamW(model), schedule, rng=rng, progress=name if progress else None):
        crossing.look(step.number)
        if (step.number + 1) % epochs.per_epoch == 0:
            _keep(run, step.number + 1, splits, plan)
    run.test = evaluate(model, splits.test)
    run.matched = crossing.at.get(plan.matched_loss, model)  # one that never got there, at its end: its loss says so
    run.matched_loss = evaluate(run.matched, _fixed(splits, plan)).loss
    return run


def _keep(run: Trained, step: int, splits: Splits, plan: Plan) -> None:
    """Write down how the model does after an epoch."""
    score = evaluate(run.model, _fixed(splits, plan))
    run.steps.append(step)
    run.losses.append(score.loss)
    run.accuracies.append(evaluate(run.model, splits.validation).accuracy)


def _fixed(splits: Splits, plan: Plan) -> tuple[np.ndarray, np.ndarray]:
    """The training images on which loss and curvature are measured: the first ones, every class in proportion."""
    images, labels = splits.train
    return images[: plan.curvature_images], labels[: plan.curvature_images]


# curvature and convolution -----------------------------------------------------------------


def _spectrum(name: str, run: Trained, splits: Splits, plan: Plan, seed: int, progress: bool):
    """λmax (SciPy's eigsh) and the spectral density of the training loss's Hessian, both from exact products."""
    operator = curvature(OBJECTIVE, run.matched, _fixed(splits, plan))
    with ticking(operator, f"{name}: Hessian products" if progress else None) as operator:
        eigen = top_eigenvalues(operator, tol=1e-2, basis=8, rng=np.random.default_rng(seed))
        density = spectral_density(operator, steps=plan.density_steps, starts=1, rng=np.random.default_rng(seed))
    return eigen, density


def convolution_error(rng: np.random.Generator) -> float:
    """The worst difference between attention built from a kernel and the convolution itself, float64, K = 1 … 5."""
    worst = 0.0
    for K in range(1, 6):
        kernel, images = rng.normal(size=(4, 3, K, K)), rng.normal(size=(2, 8, 9, 3))
        before, after = (K - 1) // 2, K // 2
        exact = conv2d(images, kernel, padding=((before, after), (before, after)))
        worst = max(worst, float(np.abs(AttentionConv.from_kernel(kernel)(images).data - exact).max()))
    return worst


# figures -----------------------------------------------------------------------------------


def _draw_digits(splits: Splits, out: Path) -> Path:
    images, labels = splits.train.images[:8], splits.train.labels[:8]
    return plots.save(plots.digit_patches(images, labels, patch=2), out / "digits_and_patches.png",
                      {"labels": labels, "patch": 2, "mean_ink": images.mean(axis=(1, 2, 3))})  # fmt: skip


def _draw_training(trained: dict[str, Trained], out: Path) -> Path:
    curves = {name: {"loss": (t.steps, t.losses), "accuracy": (t.steps, t.accuracies)} for name, t in trained.items()}
    return plots.save(plots.training_curves(curves), out / "training.png", curves)


def _draw_positions(model: Module, out: Path) -> Path:
    similarity = position_similarity(model.pos_embed.data, model.patch_embed.grid)
    return plots.save(plots.position_similarity_grid(similarity), out / "positions.png", {"similarity": similarity})


def _draw_attention(model: Module, splits: Splits, out: Path) -> Path:
    images, grid = splits.test.images[:6], model.patch_embed.grid
    maps = attention_maps(model, images)
    columns = [class_attention(m, grid).mean(axis=1) for m in maps.values()] + [
        class_attention(rollout(list(maps.values())), grid)
    ]
    titles = [f"block {i + 1}" for i in range(len(maps))] + ["rollout"]
    return plots.save(plots.attention_overlay(images, columns, titles), out / "attention.png",
                      {"labels": splits.test.labels[:6], **dict(zip(titles, columns, strict=True))})  # fmt: skip


def _draw_spectra(spectra: dict, trained: dict[str, Trained], out: Path) -> Path:
    curves = {name: smoothed(density, linear=1.0) for name, (_, density) in spectra.items()}
    leading = {name: float(eigen.values[0]) for name, (eigen, _) in spectra.items()}
    numbers = {"leading": leading, "training_loss": {name: t.matched_loss for name, t in trained.items()},
               "nodes": {name: (d.nodes, d.weights) for name, (_, d) in spectra.items()}}  # fmt: skip
    return plots.save(plots.hessian_spectrum(curves, leading), out / "hessian_spectrum.png", numbers)


def _draw_convolution(splits: Splits, rng: np.random.Generator, out: Path) -> Path:
    image, kernel = splits.test.images[:1].astype(np.float64), rng.normal(size=(1, 1, 3, 3))
    layer = AttentionConv.from_kernel(kernel)
    maps = attention_maps(layer, image, "weights")["weights"]  # (1, 9, 64, 100): keys are the padded pixels
    centre = maps[0, :, 4 * 8 + 4].reshape(9, 10, 10)[:, 1:9, 1:9]
    exact, attended = conv2d(image, kernel, padding=1)[0, ..., 0], layer(image).data[0, ..., 0]
    numbers = {"kernel": kernel, "heads": centre, "worst_difference": np.abs(exact - attended).max()}
    return plots.save(plots.convolution_heads(centre, 3, exact, attended), out / "convolution_heads.png", numbers)


CAPTIONS = {
    "digits_and_patches": "eight digits and the 16 patches of 2×2 pixels that a ViT reads each as",
    "training": "training loss (on the images that the Hessian is taken of) and validation accuracy, epoch by epoch;"
    " the ResNet needs fewer epochs",
    "positions": "for every patch, how like its learned position is to all others (cosine);"
    " so short a training leaves little order in it",
    "attention": "where the class token looks, mean over heads; each map has its own scale, the dots are the digit",
    "hessian_spectrum": "density of the Hessian's eigenvalues, a few nodes smoothed; dotted: λmax;"
    " log axes, linear between -1 and 1",
    "convolution_heads": "where each of 9 heads looks from one pixel; convolution and attention give the same image",
}


def next_steps(seed: int) -> dict[str, str]:
    """Three commands to try after the tour, and why."""
    return {
        "describe vit_base_patch16_224": "a published ViT, module by module, without allocating it",
        "exercises start my_exercises": "write softmax, LayerNorm and attention; pytest grades them",
        f"tour --seed {seed + 1} --out figures/seed{seed + 1}": "how much of this was luck?",
    }
