"""Where a ViT's sharpness sits, block by block, and what the class token's start has to do with it.

A token that starts near zero is lengthened by the first LayerNorm, and curvature grows with the square of that (a loss
that does not feel w's length has λmax ~ 1/‖w‖²). Here only the start differs.
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
    started,
    times,
    unmatched,
)
from tinyvit.results.experiment import Experiment, Trial
from tinyvit.results.minima import redrawn
from tinyvit.results.table import Table, appears

SIZES = {
    "fast": {"seeds": (0, 1), "updates": 120},
    "usual": {"seeds": (0, 1, 2), "updates": 600},
    "full": {"seeds": (0, 1, 2, 3, 4), "updates": 1600},
}
ZERO, SMALL, LONG, NONE = "from 0", "from N(0, 0.02²)", "from N(0, 1)", "none, mean of patches"
STARTS = {ZERO: 0.0, SMALL: 0.02, LONG: 1.0}
WHOLE, TOKEN = "all", "class token and positions"
BLOCKS = {
    WHOLE: ("*",),
    TOKEN: ("cls_token", "pos_embed"),
    "patch embedding": ("patch_embed.*",),
    **{f"block {i + 1}, {says}": (f"blocks.{i}.{norm}.*", f"blocks.{i}.{part}.*")
       for i in range(3) for says, norm, part in (("attention", "norm1", "attn"), ("MLP", "norm2", "mlp"))},
    "last norm and head": ("norm.*", "head.*"),
}  # fmt: skip


def trials(updates):
    """Every start of the class token, and a ViT without one."""
    same = settings(updates, MODELS["ViT"])
    planned = {("ViT", start): Trial(same, also={"token": std}) for start, std in STARTS.items()}
    return planned | {("ViT", NONE): Trial(same, {"class_token": False, "global_pool": "avg"})}


def measure(trial: Trial, seed: int) -> dict[str, dict]:
    """λmax of all and of every block where the training loss first is 0.1."""
    model, task = started(trial, seed)
    redrawn(model, trial.also.get("token"), seed)
    at = matched(model, task, trial, seed)
    return {block: sharpness_of(at, task, seed, names=names) for block, names in BLOCKS.items()}


def verdict(table: Table) -> str:
    """A token that starts short is the sharpest block; with a long one, or none, the loss is flatter."""
    parts = [block for block in table.rows if block != WHOLE]
    sharpest = {start: max(parts, key=lambda block: table.mean(block, start)) for start in table.columns}
    effect = sharpest[ZERO] == TOKEN and larger(table, (WHOLE, ZERO), (WHOLE, LONG))
    told = ", ".join(f"{start}: {block}" for start, block in sharpest.items())
    return (
        f"{appears(effect)} that the token's start is what makes a ViT sharp: λmax with a token from 0 is "
        f"{times(table, (WHOLE, ZERO), (WHOLE, LONG))} that from N(0, 1), and "
        f"{times(table, (WHOLE, ZERO), (WHOLE, NONE))} that without a token. The sharpest block: {told}."
        f"{unmatched(table)}"
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
