"""Does attention find the shifts of a convolution by itself? (Cordonnier, Loukas and Jaggi 2020, Sec. 4.)

A layer of attention with the quadratic encoding, its heads anywhere, learns to do to noise what a fixed 3×3
convolution does. Every tap of that convolution looks for one pattern of channels and writes one. Where heads are as
narrow, only the taps themselves will do: T = Σₕ aₕ ⊗ uₕ ⊗ wₕ with nine terms has no second decomposition (Kruskal 1977,
9 + 8 + 8 ≥ 2 · 9 + 2). Wide heads may also be blurs that undo each other's errors.
"""

from __future__ import annotations

import numpy as np

from tinyvit import plots
from tinyvit.analysis.attention_as_convolution import AttentionConv, taps, taps_found
from tinyvit.autodiff.backward import gradients
from tinyvit.equations.convolution import conv2d
from tinyvit.results.experiment import Experiment, Trial
from tinyvit.results.table import Reading, Table, appears
from tinyvit.train import Adam, warmup_cosine

SIZES = {
    "fast": {"seeds": (0, 1), "updates": 150},
    "usual": {"seeds": (0, 1, 2), "updates": 3000},
    "full": {"seeds": (0, 1, 2, 3, 4), "updates": 6000},
}
CHANNELS, KERNEL, SIDE, BATCH, RATE, MOMENTS = 8, 3, 5, 16, 0.02, 16
NARROW, WIDE = "width 1", f"width {CHANNELS}"
FOUND = Reading("taps", "taps found of 9", form=".1f")
ERROR = Reading("error", "error of the outputs", "%", 100, ".1f")


def trials(updates):
    """As many heads as taps, and some to spare; narrow and wide."""
    return {(f"{heads} heads", width): Trial({}, also={"heads": heads, "head_dim": dim, "updates": updates})
            for heads, width, dim in ((9, NARROW, 1), (12, NARROW, 1), (12, WIDE, CHANNELS))}  # fmt: skip


def measure(trial: Trial, seed: int) -> dict[str, dict]:
    """Taps found, relative error for images that it has not seen, and where the heads were on their way."""
    rng = np.random.default_rng(seed)
    reads, writes = rng.normal(size=(2, KERNEL**2, CHANNELS))
    kernel = np.einsum("tc,to->oct", reads, writes).reshape(CHANNELS, CHANNELS, KERNEL, KERNEL).astype(np.float32)

    def convolution(images):
        return conv2d(images, kernel / (KERNEL * CHANNELS**0.5), padding=KERNEL // 2)

    layer = AttentionConv.searching(CHANNELS, CHANNELS, KERNEL, num_heads=trial.also["heads"],
                                    head_dim=trial.also["head_dim"], rng=rng)  # fmt: skip
    way = imitate(layer, convolution, updates=trial.also["updates"], rng=rng)
    images = rng.normal(size=(200, SIDE, SIDE, CHANNELS)).astype(np.float32)
    wanted = convolution(images)
    error = np.linalg.norm(layer(images).data - wanted) / np.linalg.norm(wanted)
    centres, alpha = layer.centres()
    return {"": {"taps": taps_found(centres, alpha, KERNEL), "error": float(error), "alpha": float(np.median(alpha)),
                 "centres": np.round(way, 3).tolist()}}  # fmt: skip


def imitate(layer: AttentionConv, convolution, *, updates: int, rng) -> np.ndarray:
    """Train a layer to do to noise what a convolution does; where its heads looked at MOMENTS, (T, h, 2)."""
    optimizer, schedule = Adam(layer), warmup_cosine(RATE, warmup=updates // 50, total=updates)
    moments, way = set(np.linspace(0, updates - 1, MOMENTS).astype(int)), []
    for update in range(updates):
        if update in moments:
            way.append(layer.centres()[0])
        images = rng.normal(size=(BATCH, SIDE, SIDE, CHANNELS)).astype(np.float32)
        wanted = convolution(images)
        loss = ((layer(images) - wanted) ** 2).mean() / float(np.mean(wanted**2))
        names, parameters = zip(*layer.named_parameters(), strict=True)
        optimizer.step(dict(zip(names, gradients(loss, parameters), strict=True)), schedule(update))
    return np.stack([*way, layer.centres()[0]])


def verdict(table: Table) -> str:
    """Heads that are as narrow as a tap settle on the taps, nearly all of them; wide ones need not."""
    spare, tight, wide = (table.shown(*key) for key in (("12 heads", NARROW), ("9 heads", NARROW), ("12 heads", WIDE)))
    errors = {key: table.shown(*key, ERROR).mean() for key in table.cells}
    return (
        f"{appears(spare.mean() >= 8)}: of 9 taps, 12 narrow heads find {spare.mean():.1f}, as many heads as taps "
        f"{tight.mean():.1f} (some end where another is already); their outputs are off by "
        f"{errors['12 heads', NARROW]:.0f} % and {errors['9 heads', NARROW]:.0f} %. Wide heads imitate to "
        f"{errors['12 heads', WIDE]:.1f} % with {wide.mean():.1f} taps: blurs do as well there."
    )


def figure(table: Table):
    """The first seed's heads."""
    panels = {f"{row}, {column}": np.array(runs[0]["centres"]) for (row, column), runs in table.cells.items()}
    return plots.head_paths(panels, taps(KERNEL))


EXPERIMENT = Experiment(
    title="Attention that finds the shifts",
    claim="Self-attention trained from scratch learns to look where the taps of a convolution are.",
    sizes=SIZES,
    trials=trials,
    verdict=verdict,
    figure=figure,
    measure=measure,
    readings=(FOUND, ERROR),
)
