"""What is minimised. An *objective* is a plain function ``(model, batch) -> loss``.

Objectives that belong to one model are in its paper's file: masked patches in ``models/mpp.py``, the next pixel in
``models/igpt.py``, masked words in ``models/bert.py``.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from tinyvit.autodiff.tensor import Tensor, raw
from tinyvit.autodiff.watch import no_grad
from tinyvit.equations.loss import cross_entropy, hard_distillation, soft_distillation
from tinyvit.nn.mixing import Box, from_partner, random_box, share_kept
from tinyvit.nn.module import Module
from tinyvit.nn.noise import source

Objective = Callable[[Module, tuple], Tensor]


def classification(*, smoothing: float = 0.0) -> Objective:
    """Cross-entropy of the model's logits with the batch's labels, which may be smoothed.

    A batch is ``(images (B, H, W, C), labels (B,))``; labels may also be distributions (B, K), such as mixup makes.
    """

    def objective(model, batch):
        images, labels = batch
        return cross_entropy(model(images), labels, smoothing=smoothing)

    return objective


def distilled_from(teacher: Module, *, tau: float | None = None, lam: float = 0.5, smoothing: float = 0.0) -> Objective:
    """The labels, and the word of a teacher in evaluation mode (DeiT, Touvron et al. 2021, Sec. 4).

    tau        the temperature of ``soft_distillation``; without it the teacher's decision counts, ``hard_distillation``
    lam        the weight of the teacher's word
    smoothing  of the labels; the teacher's word is never smoothed
    A student that returns a pair learns with its second logits from the teacher: the distillation token's. One that
    does so only when asked, as DeiT in training, is asked.
    """

    def objective(model, batch):
        images, labels = batch
        with no_grad():
            taught = raw(teacher(images))
        if hasattr(model, "set_distilled_training"):
            model.set_distilled_training()
        outputs = model(images)
        logits, distilled = outputs if isinstance(outputs, tuple) else (outputs, None)
        if tau is None:
            return hard_distillation(logits, taught, labels, distilled, lam=lam, smoothing=smoothing)
        return soft_distillation(logits, taught, labels, distilled, tau=tau, lam=lam, smoothing=smoothing)

    return objective


def token_labelling(*, weight: float = 0.5, mix: float = 0.0) -> Objective:
    """``CE(z_class, y) + β Σᵢ CE(zᵢ, yᵢ)/N``: every patch has a label too (LV-ViT, Jiang et al. 2021).

    For a model whose ``labelled(images)`` gives logits of the image (B, K) and of its patches (B, N, K): VOLO.
    A batch is ``(images, labels, patch_labels)``: classes (B,) and (B, N), or distributions (B, K) and (B, N, K), as
    an annotating model gives them. Without patch_labels every patch has the image's label.

    weight  β
    mix     α of Beta(α, α), from which MixToken draws in training how much two images are mixed, of tokens and of
            labels; 1 for LV-ViT and VOLO, 0 for none
    """

    def objective(model, batch):
        images, labels, *patch_labels = batch
        box = mixing_box(model, mix) if mix and model.training else None
        logits, patch_logits = model.labelled(images, box)
        of_patches = patch_labels[0] if patch_labels else np.repeat(labels[:, None], patch_logits.shape[1], axis=1)
        if box:
            labels, of_patches = mixed_labels(labels, of_patches, box, model.grid, logits)
        return cross_entropy(logits, labels) + weight * cross_entropy(patch_logits, of_patches)

    return objective


def mixing_box(model: Module, alpha: float) -> Box:
    """Where an image's patches will come from its partner, drawn by a model in training."""
    rng = source(model.rng)
    return random_box(rng, model.grid, rng.beta(alpha, alpha))


def mixed_labels(labels, of_patches, box: Box, grid: tuple[int, int], logits):
    """Labels of images whose patches in a box are their partners': ``λ y + (1-λ) y'``, and each patch's own.

    labels (B,) or (B, K), of_patches (B, N) or (B, N, K), logits (B, K)  ->  distributions (B, K), (B, N, K)
    """
    one_hot = np.eye(logits.shape[-1], dtype=logits.dtype)
    y = one_hot[labels] if labels.ndim == 1 else labels
    patches = one_hot[of_patches] if of_patches.ndim == 2 else of_patches
    share = share_kept(box, grid)
    moved = raw(from_partner(patches.reshape(len(y), *grid, -1), box))
    return share * y + (1 - share) * y[::-1], moved.reshape(patches.shape)
