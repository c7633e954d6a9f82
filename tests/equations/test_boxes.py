"""Boxes: what the laws of ops do not see. See test_shapes_and_layouts for boxes drawn at random."""

import numpy as np
import pytest

from tinyvit import Tensor, box_giou, box_iou, decode_boxes, encode_boxes, gradients, nms, roi_align
from tinyvit.autodiff.standin import DeviceArray

BOXES = np.array([[0.0, 0, 4, 4], [1, 0, 5, 4], [6, 6, 8, 9], [0, 0, 4, 4]])
SCORES = np.array([0.5, 0.9, 0.1, 0.5])


def test_overlap_by_hand():
    a, b, c = BOXES[:3]
    assert box_iou(a, b) == pytest.approx(12 / 20)
    assert box_giou(a, b) == pytest.approx(12 / 20)  # the hull is the union
    assert box_iou(a, c) == 0
    assert box_giou(a, c) == pytest.approx(-(72 - 22) / 72)
    np.testing.assert_allclose(box_iou(BOXES[:, None], BOXES)[0], [1, 0.6, 0, 1])


def test_boxes_that_touch_still_pull():
    """As in PyTorch, whose clamp passes derivatives at its edge."""
    x = Tensor(np.array([0.0, 0.0, 2.0, 2.0]), requires_grad=True)
    (g,) = gradients(box_iou(x, np.array([2.0, 0.0, 3.0, 2.0])), x)
    assert g[2] > 0


def test_suppression_keeps_the_best_first():
    assert nms(BOXES, SCORES, threshold=0.5).tolist() == [1, 2]
    assert nms(BOXES, SCORES, threshold=0.7).tolist() == [1, 0, 2]  # of two equal ones the first
    assert nms(BOXES, SCORES, threshold=1.0).tolist() == [1, 0, 3, 2]  # not above: equal to
    assert nms(BOXES[:0], SCORES[:0], threshold=0.5).tolist() == []


def test_suppression_is_a_constant_and_stays_on_the_device():
    assert isinstance(nms(Tensor(BOXES, requires_grad=True), Tensor(SCORES), threshold=0.5), np.ndarray)
    assert isinstance(nms(DeviceArray(BOXES), DeviceArray(SCORES), threshold=0.5), DeviceArray)
    with pytest.raises(ValueError, match=r"nms: expected boxes \(N, 4\) and scores \(N,\), got \(4, 4\) and \(3,\)"):
        nms(BOXES, SCORES[:3], threshold=0.5)


def test_coding_by_hand():
    code = encode_boxes(np.array([1.0, 0, 5, 8]), BOXES[0], weights=(10.0, 10.0, 5.0, 5.0))
    np.testing.assert_allclose(code, [10 / 4, 20 / 4, 0, 5 * np.log(2)])
    huge = decode_boxes(np.array([0.0, 0.0, 99.0, 0.0]), BOXES[0])
    np.testing.assert_allclose(huge[2] - huge[0], 4 * 1000 / 16)


def test_a_box_of_whole_pixels_holds_their_means(rng):
    x = rng.normal(size=(2, 8, 8, 3))
    got = roi_align(x, np.array([[2.0, 4.0, 6.0, 8.0]]), np.array([1]), size=2, sampling=2)
    expected = x[1, 4:8, 2:6].reshape(2, 2, 2, 2, 3).mean((1, 3))
    np.testing.assert_allclose(got[0], expected, rtol=1e-12)


def test_boxes_outside_hold_nothing(rng):
    x = rng.normal(size=(1, 4, 4, 3))
    away = np.array([[20.0, 20.0, 30.0, 30.0], [3.0, 3.0, 3.0, 3.0]])  # the second is empty
    assert not roi_align(x, away, np.array([0, 0]), size=2).any()
    assert roi_align(x, away[:1], np.array([0]), size=2, zero_outside=False)[0, 0, 0].tolist() == x[0, 3, 3].tolist()
    assert roi_align(x, away[:0], np.array([], int), size=(2, 3)).shape == (0, 2, 3, 3)
