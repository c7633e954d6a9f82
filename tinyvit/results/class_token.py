"""Where a ViT's sharpness sits, block by block, and what the start of class token and positions has to do with it.

A token that is near zero is lengthened by the first LayerNorm, and curvature grows with the square of that (a loss that
does not feel w's length has λmax ~ 1/‖w‖²). Such are a class token that starts at zero and, on digits, empty patches:
of them the first LayerNorm sees nothing but the position. Here only the starts differ.
"""

from __future__ import annotations

from tinyvit import plots
from tinyvit.results.around import (
    MATCHED,
    MODELS,
    RESIDUAL,
    SHARPNESS,
    larger,
    matched,
    settings,
    sharpness_of,
    times,
    unmatched,
)
from tinyvit.results.experiment import Experiment, Trial, started
from tinyvit.results.minima import redrawn
from tinyvit.results.table import Table, appears

SIZES = {
    "fast": {"seeds": (0, 1), "updates": 120},
    "usual": {"seeds": (0, 1, 2), "updates": 600},
    "full": {"seeds": (0, 1, 2, 3, 4), "updates": 1600},
}
ZERO, SMALL, LONG, NONE = "from 0", "from N(0, 0.02²)", "from N(0, 1)", "none, mean of patches"
BOTH = "from N(0, 1), positions too"
STARTS = {ZERO: {"token": 0.0}, SMALL: {"token": 0.02}, LONG: {"token": 1.0}, BOTH: {"token": 1.0, "positions": 1.0}}
WHOLE, TOKEN, PATCHES = "all", "class token and positions", "patch embedding"
BLOCKS = {
    WHOLE: ("*",),
    TOKEN: ("cls_token", "pos_embed"),
    PATCHES: ("patch_embed.*",),
    **{f"block {i + 1}, {says}": (f"blocks.{i}.{norm}.*", f"blocks.{i}.{part}.*")
       for i in range(3) for says, norm, part in (("attention", "norm1", "attn"), ("MLP", "norm2", "mlp"))},
    "last norm and head": ("norm.*", "head.*"),
}  # fmt: skip


def trials(updates):
    """Every start of the class token, and a ViT without one."""
    same = settings(updates, MODELS["ViT"])
    planned = {("ViT", start): Trial(same, also=stds) for start, stds in STARTS.items()}
    return planned | {("ViT", NONE): Trial(same, {"class_token": False, "global_pool": "avg"})}


def measure(trial: Trial, seed: int) -> dict[str, dict]:
    """λmax of all and of every block where the training loss first is 0.1."""
    model, task = started(trial, seed)
    redrawn(model, trial.also, seed)
    at = matched(model, task, trial, seed)
    return {block: sharpness_of(at, task, seed, names=names) for block, names in BLOCKS.items()}


def verdict(table: Table) -> str:
    """The embedding is the sharpest block at the usual starts; and tokens that start long make it flatter."""
    parts = [block for block in table.rows if block != WHOLE]
    sharpest = {start: max(parts, key=lambda block: table.mean(block, start)) for start in table.columns}
    early = {sharpest[start] for start in table.columns if start != BOTH} <= {TOKEN, PATCHES}
    told = "; ".join(f"{start}: {block}" for start, block in sharpest.items())
    token, positions = larger(table, (WHOLE, ZERO), (WHOLE, LONG)), larger(table, (WHOLE, LONG), (WHOLE, BOTH))
    return (
        f"{appears(early)} that the embedding is the sharpest block ({told}). {appears(token)} that a class token from "
        f"0 makes a ViT sharper than one from N(0, 1): λmax is {times(table, (WHOLE, ZERO), (WHOLE, LONG))} as large, "
        f"that of token and positions {times(table, (TOKEN, ZERO), (TOKEN, LONG))}. {appears(positions)} that long "
        f"positions, which lengthen empty patches too, make it flatter: without them λmax is "
        f"{times(table, (WHOLE, LONG), (WHOLE, BOTH))} as large.{unmatched(table)}"
    )


EXPERIMENT = Experiment(
    title="Sharpness by block, and the class token's start",
    claim="Curvature sits in a ViT's first layers, its embedding above all.",
    sizes=SIZES,
    trials=trials,
    verdict=verdict,
    figure=lambda table: plots.run_dots(table.dots(), x=SHARPNESS.label, log=True),
    measure=measure,
    readings=(SHARPNESS, RESIDUAL, MATCHED),
)
