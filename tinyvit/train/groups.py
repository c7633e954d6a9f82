"""Which parameters decay, and how fast each learns.

A *group* is a function of a parameter's name and array that gives two factors: of the optimiser's weight decay and of
its learning rate.

    AdamW(model, groups=layer_decay(model, 0.75))
"""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np

from tinyvit.nn.module import Module

Groups = Callable[[str, np.ndarray], tuple[float, float]]  # name, array -> factor of the decay, factor of the rate

NO_MATRICES = {  # they have two dimensions and are not what a linear map multiplies by
    "cls_token", "dist_token", "mask_token", "pos_embed", "pos_layer_embed", "relative_pos",
    "relative_position_bias_table", "rpb",
}  # fmt: skip


def decays(name: str, array: np.ndarray) -> bool:
    """Whether weight decay is customary: on weights; not on biases, norms, tokens and positions (DeiT, Swin, timm)."""
    return array.ndim >= 2 and not NO_MATRICES & set(name.split("."))


def weights_decay(name: str, array: np.ndarray) -> tuple[float, float]:
    """What is customary: weights decay, and all parameters learn at one rate."""
    return float(decays(name, array)), 1.0


def all_decay(name: str, array: np.ndarray) -> tuple[float, float]:
    """Every parameter decays, and all learn at one rate: what an optimiser does when it is told nothing else."""
    return 1.0, 1.0


def layer_decay(model: Module, factor: float = 0.75, groups: Groups = weights_decay) -> Groups:
    """The rate falls by ``factor`` with every layer down from the head (BEiT, Bao et al. 2022).

    The head learns at the full rate, block l of L at factor^(L + 1 - l), what stands before the blocks at
    factor^(L + 1); so the fine-tuned model keeps what its first layers learned. See ``depths``.
    """
    if not 0 < factor <= 1:
        raise ValueError(f"factor: expected a number over 0 and at most 1, got {factor}")
    depth = depths(model)
    top = max(depth.values())

    def group(name, array):
        decay, rate = groups(name, array)
        return decay, rate * factor ** (top - depth[name])

    return group


# blocks.3 of a ViT · layers.1.blocks.2 of Swin · levels.1.blocks.2 of NAT · stages.1.blocks.2 of ConvNeXt · layer1.0 of
# a ResNet · network.0.2 of VOLO · blocks.1.0 of EfficientNet · s1.b2 of RegNet · denseblock1.denselayer2 ·
# encoder.layers.3 · transformer.h.3
_BLOCK = re.compile(
    r"(?P<list>(?:\w+\.)*?(?:\w*(?:blocks?|layers?|levels|stages|network)|blocks_token_only|h|s))"
    r"\.?(?P<i>\d+)(?:\.(?:blocks\.|b|denselayer)?(?P<j>\d+))?(?:\.|$)"
)


def depths(model: Module) -> dict[str, int]:
    """How deep every parameter stands, told from its name: 0 before the blocks, 1 … L in them, L + 1 in the head.

    As in timm, the norm behind the blocks counts with the last of them, and what joins two stages with the first block
    of the second, if it bears that stage's number, or else with the block before it. Where a model has two lists of
    blocks, the second is deeper. Raises ValueError for a model without numbered blocks.
    """
    names = [name for name, _ in model.named_parameters()]
    places = {name: _place(match) for name in names if (match := _BLOCK.match(name))}
    if not places:
        raise ValueError("model: its parameters' names tell of no blocks, such as blocks.0 or layers.0.blocks.1")
    lists = list(dict.fromkeys(first for first, *_ in places.values()))  # in the order they were made
    in_order = sorted(set(places.values()), key=lambda place: (lists.index(place[0]), *place[1:]))
    depth = {place: number for number, place in enumerate(in_order, 1)}
    final, found, before = max(map(names.index, places)), {}, 0
    for at, name in enumerate(names):
        if name in places:
            before = depth[places[name]]
        behind = name.startswith("head") or (at > final and not name.startswith("norm."))
        found[name] = len(in_order) + 1 if behind else before
    return found


def _place(match: re.Match) -> tuple[str, int, int]:
    """A block's list, its number there, and its number in that. A NAT's level ends with what makes the next's maps."""
    ends = match["list"] == "levels" and match["j"] is None
    return match["list"], int(match["i"]) + ends, int(match["j"] or 0)
