"""What is timed: each workload is one entry of WORKLOADS.

A *contender* is a function of the number of threads it may use. It sets everything up (model, data, optimiser) and
returns ``step``: a function of no arguments that does the work once and returns numbers to be compared with the other
contenders': a number, an array, or several. A contender runs in a process of its own, so it must be a function of a
module, or a ``partial`` of one; a library that not everybody has is imported inside it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

from tinyvit.bench.hand_written import vit_gradient
from tinyvit.bench.ours import (
    convolution,
    gradient,
    hessian_products,
    inference,
    on_one_thread,
    other_work,
    training_step,
    window_blocks,
)
from tinyvit.bench.tasks import Convolution, Images, Windows

Step = Callable[[], object]
Contender = Callable[[int], Step]


@dataclass(frozen=True)
class Workload:
    """Some work that several libraries can do.

    name, about  for the table · batch: images that one piece of work takes
    ours, peers  the contenders; peers by the name of the library
    beside       contenders of our own that ours is compared with; one whose steps give no numbers does other work
    pieces       equal pieces that a step does: times are those of one
    threads      how many, where the workload is about that many
    agreement    how far the first step's numbers may differ from ours, relative to the largest of their array
    drift        the same for the two steps after it: in training they show that gradient and update agree too
    """

    name: str
    about: str
    batch: int
    ours: Contender
    peers: dict[str, Contender] = field(default_factory=dict)
    beside: dict[str, Contender] = field(default_factory=dict)
    pieces: int = 1
    threads: int | None = None
    agreement: float = 1e-5
    drift: float = 1e-5


def in_torch(name: str, task, threads: int, **options) -> Step:
    """The contender of that name in PyTorch, which is imported only now."""
    from tinyvit.bench import torch_peer

    return getattr(torch_peer, name)(task, threads, **options)


def and_torch(contender, task, **options) -> dict:
    """A contender of ours, and its namesake in PyTorch: two fields of a Workload, and the batch."""
    theirs = partial(in_torch, contender.__name__, task, **options)
    return {"batch": task.batch, "ours": partial(contender, task, **options), "peers": {"torch": theirs}}


# the table ----------------------------------------------------------------------------------

W1 = Images("vit_tiny_patch16_224", {"img_size": 32, "patch_size": 4, "depth": 6, "num_classes": 10}, batch=64)
W2 = Images("vit_tiny_patch16_224", batch=8)
W3 = Windows(batch=4, side=56, dim=96, heads=3, window=7)
W4a = Convolution(batch=64, side=32, channels=64, kernel=3)
W4b = Convolution(batch=4, side=56, channels=96, kernel=7, groups=96)
W5 = Images("vit_tiny_patch16_224", W1.config | {"embed_dim": 64, "depth": 4, "num_heads": 2}, batch=16)
DIGITS = Images("vit_digits", batch=32)
PRODUCTS = 20

VIT = "ViT, 32×32 images in 4×4 patches, width 192, depth 6, 3 heads, batch 64"
NARROW = "ViT, 32×32 images in 4×4 patches, width 64, depth 4, 2 heads, batch 16"

WORKLOADS = (  # everything in float32
    Workload("W1_train", f"{VIT}: loss, gradient and AdamW", **and_torch(training_step, W1),
             agreement=1e-6),  # a mean loss hides much: with the tanh form of GELU it would differ by only 3e-6
    Workload("W1_forward", f"{VIT}: logits, no gradient", **and_torch(inference, W1)),
    Workload("W2", "ViT-Ti/16, 224×224 images, batch 8: logits, no gradient", **and_torch(inference, W2)),
    Workload("W3", "two Swin blocks, the second shifted, 56×56 tokens, width 96, 3 heads, 7×7 windows, batch 4: "
             "forward and backward", **and_torch(window_blocks, W3)),
    Workload("W4a", "3×3 convolution, 64 to 64 channels, 32×32 maps, batch 64: forward and backward",
             **and_torch(convolution, W4a)),
    Workload("W4b", "depthwise 7×7 convolution, 96 channels, 56×56 maps, batch 4: forward and backward",
             **and_torch(convolution, W4b)),
    Workload("W5_grad", f"{NARROW}: loss and gradient", **and_torch(gradient, W5)),
    Workload("W5_hvp", f"{NARROW}: one of {PRODUCTS} Hessian–vector products; beside it, one gradient",
             **and_torch(hessian_products, W5, count=PRODUCTS), pieces=PRODUCTS,
             beside={"gradient": partial(other_work, gradient, W5, times=PRODUCTS)}),
    Workload("tape", f"{VIT}, one thread: loss and gradient; beside it, the same kernels called by hand",
             W1.batch, partial(gradient, W1), threads=1,
             beside={"by_hand": partial(gradient, W1, by=vit_gradient)}),
    Workload("small", "vit_digits, 8×8 images, batch 32: loss, gradient and AdamW; beside it, on one thread",
             DIGITS.batch, partial(training_step, DIGITS),
             beside={"one_thread": partial(on_one_thread, training_step, DIGITS)}),
)  # fmt: skip


# how to get a peer that is not there
INSTALL = {"torch": "to compare: pip install torch==2.13.0 (its CPU build is enough; pytorch.org says how)"}


def find_workloads(names: Sequence[str] = ()) -> list[Workload]:
    """The workloads of these names, in the table's order; all of them for none, or for "all".

    ``W1-train`` is also understood. Raises ValueError for a name that is not in the table.
    """
    table = {w.name: w for w in WORKLOADS}
    wanted = {name.replace("-", "_") for name in names} or {"all"}
    if unknown := sorted(wanted - {*table, "all"}):
        raise ValueError(f"there is no workload {unknown[0]!r}; there are {', '.join(table)}, and all")
    return [w for w in WORKLOADS if "all" in wanted or w.name in wanted]
