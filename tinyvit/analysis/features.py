"""What features are like: where they look from (receptive fields), what they first see (filters), how alike they are.

The first two functions take a model, the others plain NumPy arrays.
"""

from __future__ import annotations

import numpy as np

from tinyvit.analysis.attention_maps import token_grid
from tinyvit.autodiff.backward import gradients
from tinyvit.autodiff.tensor import Tensor, raw
from tinyvit.autodiff.watch import no_grad
from tinyvit.backend import to_numpy
from tinyvit.nn.basic import Conv2d
from tinyvit.nn.capture import capture
from tinyvit.nn.module import Module


def effective_receptive_field(model: Module, images: np.ndarray, name: str, *,
                              at: tuple[int, int] | None = None) -> np.ndarray:  # fmt: skip
    """How much every pixel of the image matters to one place of a module's output.

    images (B, H, W, C), name: of a module that makes a map (B, h, w, D) or tokens (B, N, D), at: row and column in it,
    the middle if not given  ->  (H, W), the largest is 1

    Luo et al. 2016: |∂ Σ_d y[at, d] / ∂x|, summed over channels, in the mean over images. Tokens are a grid behind
    those that are no patches. Raises ValueError for a module that makes neither.
    """
    x = Tensor(model.bring(images), requires_grad=True)
    with capture(model, name) as seen:
        model(x)
    y = seen[name]
    (slope,) = gradients(y, x, _chosen(y, x.shape[1:3], at))
    field = np.abs(to_numpy(slope)).sum(axis=-1).mean(axis=0)
    return field / max(field.max(), np.finfo(field.dtype).tiny)


def field_size(field: np.ndarray) -> float:
    """The side in pixels of a square as large as an effective receptive field.   (H, W) -> a number

    Luo et al. 2016, Sec. 4.1: a pixel belongs to it if it matters more than 1 - 95.45 % of the one that matters most.
    """
    return float(np.sqrt(np.sum(field > (1 - 0.9545) * field.max())))


def _chosen(y: Tensor, size, at) -> np.ndarray:
    """Ones at one place of a map or of tokens, zeros elsewhere."""
    if y.ndim not in (3, 4):
        raise ValueError(f"name: expected a module that makes a map (B, h, w, D) or tokens (B, N, D), got {y.shape}")
    prefix, (h, w) = (0, y.shape[1:3]) if y.ndim == 4 else token_grid(y.shape[1], size)
    row, column = at or (h // 2, w // 2)
    if not (0 <= row < h and 0 <= column < w):
        raise ValueError(f"at: expected a place in a map of {h}×{w}, got {(row, column)}")
    ones = np.zeros(y.shape, y.dtype)
    ones[(slice(None), row, column) if y.ndim == 4 else (slice(None), prefix + row * w + column)] = 1
    return ones


def layers_of(model: Module) -> list[str]:
    """The names of a model's blocks: items of its lists that have modules in them, and no such items below.

    Of a network without, such as VGG, the names of its convolutions.
    """
    modules = [(name, module) for name, module in model.named_modules() if name]
    parents = {name.rpartition(".")[0] for name, _ in modules}
    blocks = [name for name, _ in modules if name.rpartition(".")[2].isdecimal() and name in parents]
    found = [name for name in blocks if not any(other.startswith(f"{name}.") for other in blocks)]
    return found or [name for name, module in modules if isinstance(module, Conv2d)]


def representations(model: Module, images: np.ndarray, *patterns: str) -> dict[str, np.ndarray]:
    """Outputs of modules as one row per image, by name, in the order in which they ran.   name -> (B, D)

    images (B, H, W, C); patterns as in `tinyvit.capture`
    """
    with no_grad(), capture(model, *patterns) as seen:
        model(model.bring(images))
    return {name: to_numpy(raw(value)).reshape(len(images), -1) for name, value in seen.items()}


def linear_cka(x: np.ndarray, y: np.ndarray, *, debiased: bool = False) -> float:
    """How alike two representations of the same images are, whatever the rotation and the scale of either: 0 … 1.

    x (n, D), y (n, E)

    Kornblith et al. 2019, Eq. 3 with a linear kernel: ‖YᵀX‖² / (‖XᵀX‖ ‖YᵀY‖) in Frobenius norms, with centred columns,
    here by the Gram matrices XXᵀ. Where images are not many more than features it comes out too large. ``debiased``
    takes unbiased estimates of all three (Song et al. 2012, Eq. 5), so it may be below 0 (Nguyen, Raghu and Kornblith
    2021). Raises ValueError for another number of images, fewer than four, or features that are constant.
    """
    if x.ndim != 2 or y.ndim != 2 or len(x) != len(y):
        raise ValueError(f"x, y: expected the same images, (n, D) and (n, E), got {x.shape} and {y.shape}")
    a, b = (_gram(part, name, debiased) for part, name in ((x, "x"), (y, "y")))
    return float(np.sum(a * b))


def _gram(x: np.ndarray, name: str, debiased: bool) -> np.ndarray:
    """XXᵀ of centred columns, with a Frobenius norm of 1; debiased without the diagonal, which noise alone fills."""
    centred = x.astype(np.float64) - x.mean(axis=0, dtype=np.float64)
    gram = centred @ centred.T
    if debiased:
        gram = _without_diagonal(gram)
    norm = np.linalg.norm(gram)
    if norm <= 1e-20 * len(x):
        raise ValueError(f"{name}: the features are the same for every image")
    return gram / norm


def _without_diagonal(gram: np.ndarray) -> np.ndarray:
    """The U-centred matrix, with rows that sum to 0: ⟨K̂, L̂⟩ / n(n - 3) is the unbiased estimate of HSIC.   (n, n)"""
    n = len(gram)
    if n < 4:
        raise ValueError(f"x, y: expected at least four images, got {n}")
    hollow = gram - np.diag(np.diag(gram))
    rows = hollow.sum(axis=1) / (n - 2)
    hollow = hollow - rows[:, None] - rows + rows.sum() / (n - 1)
    return hollow - np.diag(np.diag(hollow))


def cka_matrix(ours: dict[str, np.ndarray], theirs: dict[str, np.ndarray], *, debiased: bool = False) -> np.ndarray:
    """Linear CKA of every layer of one model with every layer of another, or of itself.   -> (L, M)"""
    grams, others = ([_gram(x, name, debiased) for name, x in layers.items()] for layers in (ours, theirs))
    return np.array([[np.sum(a * b) for b in others] for a in grams])


def principal_filters(weight: np.ndarray, count: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """The patterns that a patch embedding mostly looks for, and each one's share of the filters' squares.

    weight (D, C, P, P)  ->  filters (n, P, P, C) of length 1, shares (n,) that fall

    Dosovitskiy et al. 2021, Fig. 7 left: left singular vectors of the embedding's matrix E (P²C × D).
    """
    if weight.ndim != 4:
        raise ValueError(f"weight: expected filters of shape (D, C, P, P), got {weight.shape}")
    D, C, P, Q = weight.shape
    matrix = weight.transpose(2, 3, 1, 0).reshape(-1, D)
    vectors, values, _ = np.linalg.svd(matrix, full_matrices=False)
    shares = values**2 / np.sum(values**2)
    return vectors.T[:count].reshape(-1, P, Q, C), shares[:count]
