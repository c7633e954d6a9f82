"""What is timed: each workload is one entry of WORKLOADS, made of small functions that set up one contender.

A *contender* is a function of the number of threads it may use. It sets everything up (model, data, optimiser) and
returns ``step``: a function of no arguments that does the work once and returns numbers to be compared with the other
contenders' (the loss before the update, or the logits). A contender runs in a process of its own, so it must be a
function of a module, or a ``partial`` of one; a library that not everybody has is imported inside it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np

from tinyvit.machine import reuse_memory
from tinyvit.models.catalogue import create_model
from tinyvit.train import AdamW, classification, gradient_of, predict, threaded

Step = Callable[[], object]
Contender = Callable[[int], Step]


@dataclass(frozen=True)
class Workload:
    """Some work that several libraries can do.

    name, about  for the table · batch: images that one step takes
    ours, peers  the contenders; peers by the name of the library
    agreement    how far the first step's numbers may differ from ours, relative to the largest of them
    drift        the same for the two steps after it: in training they show that gradient and update agree too
    """

    name: str
    about: str
    batch: int
    ours: Contender
    peers: dict[str, Contender] = field(default_factory=dict)
    agreement: float = 1e-5
    drift: float = 1e-5


@dataclass(frozen=True)
class Images:
    """A model of the catalogue, and a batch of random images for it; the same for every contender.

    rate is the learning rate where the workload trains. It is small: after many steps on one batch the loss should
    not be so near zero that the arithmetic meets numbers it would not meet in earnest.
    """

    model: str
    config: dict
    batch: int
    rate: float = 1e-4

    def create(self):
        """The model, with the same initial weights on every call."""
        return create_model(self.model, rng=np.random.default_rng(0), **self.config)

    def data(self):
        """Images (B, H, W, 3) float32, and labels (B,)."""
        rng, side = np.random.default_rng(1), self.config["img_size"]
        images = rng.normal(size=(self.batch, side, side, 3)).astype(np.float32)
        return images, rng.integers(self.config["num_classes"], size=self.batch)


# our own contenders: the public interface as a user meets it --------------------------------


def training_step(task: Images, threads: int) -> Step:
    """Forward, cross-entropy, backward and the update of AdamW; gives the loss before the update.

    The batch is cut into micro-batches over the threads, as ``threaded`` offers to anybody.
    """
    reuse_memory()  # as training() does
    model, batch = task.create(), task.data()
    gradient = threaded(gradient_of(classification()), workers=threads)
    optimizer, rng = AdamW(model), np.random.default_rng(2)

    def step():
        loss, g = gradient(model.train(rng), batch)
        optimizer.step(g, task.rate)
        return loss

    return step


def inference(task: Images, threads: int) -> Step:
    """Forward without a graph, the batch in parts side by side, as ``predict`` offers to anybody; gives the logits."""
    reuse_memory()
    model, (images, _) = task.create().eval(), task.data()

    def step():
        return predict(model, images, workers=threads)

    return step


# the same in PyTorch ------------------------------------------------------------------------


def torch_training_step(task: Images, threads: int) -> Step:
    """The training step in PyTorch."""
    from tinyvit.bench import torch_vit

    return torch_vit.training_step(task, threads)


def torch_inference(task: Images, threads: int) -> Step:
    """The forward pass in PyTorch."""
    from tinyvit.bench import torch_vit

    return torch_vit.inference(task, threads)


# the table ----------------------------------------------------------------------------------

W1 = Images("vit_tiny_patch16_224", {"img_size": 32, "patch_size": 4, "depth": 6, "num_classes": 10}, batch=64)
VIT = "ViT, 32×32 images in 4×4 patches, width 192, depth 6, 3 heads, batch 64, float32"

WORKLOADS = (
    Workload("W1_train", f"{VIT}: loss, gradient and AdamW", W1.batch,
             partial(training_step, W1), {"torch": partial(torch_training_step, W1)},
             agreement=1e-6),  # a mean loss hides much: with the tanh form of GELU it would differ by only 3e-6
    Workload("W1_forward", f"{VIT}: logits, no gradient", W1.batch,
             partial(inference, W1), {"torch": partial(torch_inference, W1)}),
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
