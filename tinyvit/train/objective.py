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
from tinyvit.nn.module import Module

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


def token_labelling(*, weight: float = 0.5) -> Objective:
    """``CE(z_class, y) + β Σᵢ CE(zᵢ, yᵢ)/N``: every patch has a label too (LV-ViT, Jiang et al. 2021).

    For a model whose ``labelled(images)`` gives logits of the image (B, K) and of its patches (B, N, K): VOLO.
    A batch is ``(images, labels, patch_labels)``: classes (B,) and (B, N), or distributions (B, K) and (B, N, K), as
    an annotating model gives them. Without patch_labels every patch has the image's label.

    weight  β
    """

    def objective(model, batch):
        images, labels, *patch_labels = batch
        logits, patch_logits = model.labelled(images)
        of_patches = patch_labels[0] if patch_labels else np.repeat(labels[:, None], patch_logits.shape[1], axis=1)
        return cross_entropy(logits, labels) + weight * cross_entropy(patch_logits, of_patches)

    return objective
