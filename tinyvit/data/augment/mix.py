"""Two images in one, and their labels mixed as much: mixup and CutMix.

Every image's partner is the one at the same place from the end of the batch, and one share λ holds for the whole batch,
as in timm. Labels become distributions (B, K). Smoothing them is the objective's, since it makes no difference whether
labels are smoothed before they are mixed or after.
"""

from __future__ import annotations

import numpy as np

from tinyvit.data.augment.chain import Augmentation, check_floats, check_images, check_probability
from tinyvit.nn.mixing import Box, random_box, share_kept


def mixup_or_cutmix(
    classes: int, *, mixup: float = 0.8, cutmix: float = 1.0, p: float = 1.0, switch: float = 0.5
) -> Augmentation:
    """With probability p one of the two, on a whole batch: CutMix with probability ``switch``, else mixup (DeiT).

    mixup, cutmix  the α of Beta(α, α), from which λ is drawn (papers print them as "Mixup prob. 0.8, Cutmix prob.
                   1.0"); 0 leaves one out
    """
    check_probability("p", p)
    check_probability("switch", switch)
    if mixup < 0 or cutmix < 0:
        raise ValueError(f"mixup and cutmix: expected α of Beta(α, α) or 0, got {mixup} and {cutmix}")
    switch = switch if mixup and cutmix else float(cutmix > 0)

    def augment(images, labels, rng):
        _, H, W, _ = check_images(images)
        check_floats(images)
        labels = distributions(labels, classes, images.dtype)
        if rng.random() >= p or not (mixup or cutmix):
            return images, labels
        if rng.random() < switch:
            return pasted(images, labels, random_box(rng, (H, W), rng.beta(cutmix, cutmix)))
        return mixed(images, labels, rng.beta(mixup, mixup))

    return augment


def mixed(images: np.ndarray, labels: np.ndarray, share: float) -> tuple[np.ndarray, np.ndarray]:
    """``x̃ = λ x + (1-λ) x'``, ``ỹ = λ y + (1-λ) y'`` (mixup, Zhang et al. 2018).   labels (B, K)"""
    return tuple(share * part + (1 - share) * part[::-1] for part in (images, labels))


def pasted(images: np.ndarray, labels: np.ndarray, box: Box) -> tuple[np.ndarray, np.ndarray]:
    """The partner's pixels in a box; λ is the share of pixels that stay (CutMix, Yun et al. 2019, Eq. 1)."""
    top, bottom, left, right = box
    y = images.copy()
    y[:, top:bottom, left:right] = images[::-1, top:bottom, left:right]
    share = share_kept(box, images.shape[1:3])
    return y, share * labels + (1 - share) * labels[::-1]


def distributions(labels: np.ndarray, classes: int, dtype=np.float32) -> np.ndarray:
    """Classes (B,) as distributions (B, K); those that are distributions already, as they are.

    Raises ValueError for a class outside 0 … K-1 or distributions over another number of classes.
    """
    labels = np.asarray(labels)
    if labels.ndim == 2 and labels.shape[1] == classes:
        return labels
    if labels.ndim != 1 or labels.dtype.kind not in "iu" or not np.all((labels >= 0) & (labels < classes)):
        raise ValueError(f"labels: expected classes (B,) in 0 … {classes - 1} or distributions (B, {classes}), "
                         f"got {labels.dtype} of shape {labels.shape}")  # fmt: skip
    return np.eye(classes, dtype=dtype)[labels]
