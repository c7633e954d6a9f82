"""Boxes: how they overlap, how they are coded as differences, what an image holds inside of them.

A box is (x₁, y₁, x₂, y₂), its upper left and lower right corner; arrays of boxes are (..., 4).
"""

from __future__ import annotations

import math

import numpy as np

from tinyvit.autodiff.op import constant, equation
from tinyvit.autodiff.tensor import raw
from tinyvit.backend import like, to_numpy
from tinyvit.blueprint import Blueprint
from tinyvit.equations.convolution import check_images
from tinyvit.primitives.contract import einsum
from tinyvit.primitives.elementwise import absolute, clip, equal, exp, log, maximum, minimum, relu
from tinyvit.primitives.shape import concatenate, getitem, per_axis, reshape, stack

# overlap -----------------------------------------------------------------------------------


@equation
def box_iou(x, y):
    """Intersection over union, 1 for equal boxes and 0 for boxes apart.   (..., 4), (..., 4) -> (...)

    The boxes broadcast: ``box_iou(x[:, None], y)`` compares all of (N, 4) with all of (M, 4). Two empty boxes give 0.
    """
    _check_boxes(x=x, y=y)
    shared, union = _shared_and_union(x, y)
    return shared / _nonzero(union)


@equation
def box_giou(x, y):
    """``IoU - |hull - union| / |hull|``: how far apart, where boxes do not meet (Rezatofighi et al. 2019, Alg. 1).

    (..., 4), (..., 4) -> (...), from -1 to 1; the hull is the smallest box around both
    """
    _check_boxes(x=x, y=y)
    shared, union = _shared_and_union(x, y)
    width, height = (maximum(x[..., i + 2], y[..., i + 2]) - minimum(x[..., i], y[..., i]) for i in (0, 1))
    hull = width * height
    return shared / _nonzero(union) - (hull - union) / _nonzero(hull)


def _shared_and_union(x, y):
    """The areas of the intersection and of the union."""
    width, height = (clip(minimum(x[..., i + 2], y[..., i + 2]) - maximum(x[..., i], y[..., i]), low=0) for i in (0, 1))
    shared = width * height
    return shared, _area(x) + _area(y) - shared


def _area(x):
    return (x[..., 2] - x[..., 0]) * (x[..., 3] - x[..., 1])


def _nonzero(area):
    """One where an area is zero, so that 0/0 becomes 0."""
    return area + equal(area, 0)


@constant
def nms(boxes, scores, *, threshold):
    """The boxes that no better one covers, best first: greedy non-maximum suppression.

    boxes (N, 4), scores (N,) -> the numbers of those kept, (K,) integers: a constant, without derivative
    A box goes when its IoU with a kept box of higher score (or, at a tie, of lower number) is above the threshold.
    """
    if len(boxes.shape) != 2 or boxes.shape[1] != 4 or scores.shape != boxes.shape[:1]:
        raise ValueError(f"nms: expected boxes (N, 4) and scores (N,), got {boxes.shape} and {scores.shape}")
    corners, kept = to_numpy(boxes), []
    left = np.argsort(-to_numpy(scores), kind="stable")
    while left.size:
        best, left = left[0], left[1:]
        kept.append(best)
        left = left[box_iou(corners[best], corners[left]) <= threshold]
    return like(np.array(kept, np.intp), boxes)


# coding ------------------------------------------------------------------------------------


@equation
def encode_boxes(boxes, anchors, *, weights=(1.0, 1.0, 1.0, 1.0)):
    """How to get from anchors to boxes: ``Δx / w, Δy / h, log w'/w, log h'/h`` times weights (Girshick et al. 2014, C).

    boxes (..., 4), anchors (..., 4) -> (..., 4); differences of centres, in widths w and heights h of the anchors
    """
    _check_boxes(boxes=boxes, anchors=anchors)
    centre, size = _centre_and_size(boxes)
    anchor_centre, anchor_size = _centre_and_size(anchors)
    moves = [(c - a) / s for c, a, s in zip(centre, anchor_centre, anchor_size, strict=True)]
    growth = [log(s / a) for s, a in zip(size, anchor_size, strict=True)]
    return stack(*(w * d for w, d in zip(weights, moves + growth, strict=True)), axis=-1)


GROWTH_LIMIT = math.log(1000 / 16)  # from an anchor of 16 pixels to an image of 1000


@equation
def decode_boxes(deltas, anchors, *, weights=(1.0, 1.0, 1.0, 1.0), limit=GROWTH_LIMIT):
    """What ``encode_boxes`` coded; no box grows by more than ``exp(limit)``.   (..., 4), (..., 4) -> (..., 4)"""
    _check_boxes(deltas=deltas, anchors=anchors)
    centre, size = _centre_and_size(anchors)
    dx, dy, dw, dh = (deltas[..., i] / w for i, w in enumerate(weights))
    x, y = (c + d * s for c, d, s in zip(centre, (dx, dy), size, strict=True))
    w, h = (s * exp(clip(d, high=limit)) for d, s in zip((dw, dh), size, strict=True))
    return stack(x - 0.5 * w, y - 0.5 * h, x + 0.5 * w, y + 0.5 * h, axis=-1)


def _centre_and_size(boxes):
    """((x, y) of the centres, (width, height))."""
    size = tuple(boxes[..., i + 2] - boxes[..., i] for i in (0, 1))
    return tuple(boxes[..., i] + 0.5 * size[i] for i in (0, 1)), size


def _check_boxes(**given) -> None:
    """Raise ValueError for arrays that hold no boxes, or that do not broadcast."""
    for name, x in given.items():
        if not len(x.shape) or x.shape[-1] != 4:
            raise ValueError(f"{name}: expected boxes (..., 4), got {x.shape}")
    np.broadcast_shapes(*(x.shape for x in given.values()))


# what is inside ----------------------------------------------------------------------------


@equation
def roi_align(x, boxes, image, *, size, scale=1.0, sampling=0, aligned=True, zero_outside=True):
    """What an image holds inside of boxes: the mean over samples, in size H'×W' (He et al. 2017, Sec. 3).

    x (B, H, W, C), boxes (R, 4), image (R,) the image each box lies on, as integers -> (R, H', W', C)
    scale         pixels of x per unit of the boxes
    sampling      samples per output and axis; 0: as many as it is pixels wide, rounded up
    aligned       pixel centres lie at ½, 1½, …; or else, as in the first implementations, at 0, 1, … and boxes are at
                  least a pixel wide
    zero_outside  samples more than a pixel outside count as zero; or else as the nearest pixel
    Samples lie evenly in each output, and between pixels they are linear.
    """
    check_images(x)
    if len(boxes.shape) != 2 or boxes.shape[1] != 4 or raw(image).shape != boxes.shape[:1]:
        raise ValueError(f"expected boxes (R, 4) and image (R,), got {boxes.shape} and {raw(image).shape}")
    corners = boxes * scale - (0.5 if aligned else 0.0)
    columns, rows = (
        _box_matrix(corners[:, i], corners[:, i + 2], x.shape[2 - i], parts, sampling, aligned, zero_outside)
        for i, parts in enumerate(reversed(per_axis(size, 2)))
    )
    # the mean over a grid of samples is linear along each axis; box by box of each image, then back into order
    on = [np.flatnonzero(to_numpy(raw(image)) == b) for b in range(x.shape[0])]
    if len(order := np.argsort(np.concatenate(on))) != boxes.shape[0]:
        raise ValueError(f"image: must lie in 0 … {x.shape[0] - 1}, the images of x {x.shape}")
    parts = []
    for b, at in enumerate(on):
        rows_inside = einsum(x[b], getitem(rows, index=at), spec="hwc,rph->rpwc")
        parts.append(einsum(rows_inside, getitem(columns, index=at), spec="rpwc,rqw->rpqc"))
    return getitem(concatenate(*parts), index=order)


def _box_matrix(start, end, n: int, parts: int, sampling: int, aligned: bool, zero_outside: bool):
    """What each output along an axis takes of each of its ``n`` pixels.   start, end (R,) -> (R, parts, n)"""
    length = end - start if aligned else maximum(end - start, 1.0)
    start, width = (reshape(x, shape=(-1, 1, 1)) for x in (start, length / parts))
    count = _samples(width, sampling)
    i = _numbers(_most(count), start)
    at_least_one = np.maximum(count, 1)
    places = start + width * (_numbers(parts, start)[:, None] + (i + 0.5) / at_least_one)  # (R, parts, samples)
    used = _inside(places, n, zero_outside) * (i < count) / at_least_one
    held = clip(places, low=0.0, high=float(n - 1))
    tents = relu(1 - absolute(reshape(held, shape=(*held.shape, 1)) - _numbers(n, start)))
    return einsum(tents, used, spec="rpsn,rps->rpn")


@constant
def _inside(places, n: int, zero_outside: bool):
    """Which samples count at all."""
    places = np.real(places)
    return (places >= -1) * (places <= n) if zero_outside else np.ones_like(places)


@constant
def _samples(width, sampling: int):
    """How many samples there are in outputs of some width: a whole number in the width's precision."""
    width = np.real(width)
    return np.full_like(width, sampling) if sampling else np.ceil(width)


def _most(count) -> int:
    """The most samples that any output has; for shapes alone, one will do."""
    return 1 if isinstance(count, Blueprint) or not count.size else max(1, int(np.max(count).item()))


@constant
def _numbers(n: int, reference):
    """0 … n-1 in the library and the precision of another array."""
    return like(np.arange(n).astype(reference.real.dtype), reference)
