"""Positions, and what is classified: ViT's ablations (Dosovitskiy et al. 2021, App. D.3 and D.4) on digits."""

from __future__ import annotations

from itertools import combinations

from tinyvit import plots
from tinyvit.results.experiment import Experiment, Trial, of_length
from tinyvit.results.table import Difference, Table, appears

SIZES = {
    "fast": {"seeds": (0, 1), "updates": 40},
    "usual": {"seeds": (0, 1, 2), "updates": 360},
    "full": {"seeds": (0, 1, 2, 3, 4), "updates": 2400},
}
KINDS = {"none": "none", "learned, 1-D": "learn", "learned, 2-D": "learn2d", "fixed, sin-cos": "sincos",
         "relative": "relative"}  # fmt: skip
TOKEN, MEAN = "class token", "mean of patches"
POOLING = {TOKEN: {}, MEAN: {"global_pool": "avg", "class_token": False}}
IMAGES = 1297


def trials(updates):
    """Every kind of positions, with either way to make one vector of many tokens."""
    settings = {"model": "vit_digits"} | of_length(updates, IMAGES)
    return {(kind, pooled): Trial(settings, {"pos_embed": pos_embed, **pooling})
            for kind, pos_embed in KINDS.items() for pooled, pooling in POOLING.items()}  # fmt: skip


def verdict(table: Table) -> str:
    """Any positions are better than none, by far; which ones matters little; so does the pooling."""
    kinds = [kind for kind in KINDS if kind != "none"]
    least = min(kinds, key=lambda kind: table.mean(kind, TOKEN))
    any_of_them = Difference(table, (least, TOKEN), ("none", TOKEN))
    apart = max((Difference(table, (a, TOKEN), (b, TOKEN)) for pair in combinations(kinds, 2)
                 for a, b in (pair, pair[::-1])), key=lambda d: d.mean)  # fmt: skip
    pooled = Difference(table, ("learned, 1-D", MEAN), ("learned, 1-D", TOKEN))
    return (
        f"{appears(any_of_them.clear)}: the weakest positions ({least}) are {any_of_them} better than none. "
        + (f"That the kinds hardly differ does NOT appear: the widest gap is {apart}. " if apart.mean > 2 else
           f"The kinds hardly differ: the widest gap is {apart}. ")
        + f"Mean of patches over class token, with learned positions: {pooled}."
    )  # fmt: skip


EXPERIMENT = Experiment(
    title="Position embeddings, and class token or mean",
    claim="Any positions are much better than none, the kinds hardly differ, and class token and mean do equally well.",
    sizes=SIZES,
    trials=trials,
    verdict=verdict,
    figure=lambda table: plots.run_dots(table.dots(), x="test accuracy (%)"),
)
