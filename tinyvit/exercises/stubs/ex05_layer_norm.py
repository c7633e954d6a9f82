"""Exercise 05: LayerNorm, forward and backward.

Every token is normalised by the mean and the variance of its own features, then stretched and shifted:

    mean = sum_d x_d / D        variance = sum_d (x_d - mean)^2 / D
    y_d  = (x_d - mean) / sqrt(variance + eps) * gain_d + offset_d

x has the shape (B, N, D): images, tokens, features. gain and offset have the shape (D,) and are shared by all tokens.
Do not write into the arguments.

The backward is given g, the derivative of some loss by every element of y, and returns its derivatives by x, gain
and offset. Mind that the mean and the variance are functions of x, too.

Grade it, in this folder:  pytest          A hint (levels 1, 2, 3):  tinyvit exercises hint 05 1
"""

import numpy as np


def layer_norm(x: np.ndarray, gain: np.ndarray, offset: np.ndarray, eps: float) -> np.ndarray:
    """Return y (B, N, D), given x (B, N, D), gain (D,), offset (D,) and eps."""
    raise NotImplementedError


def layer_norm_backward(
    g: np.ndarray, x: np.ndarray, gain: np.ndarray, eps: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return dx (B, N, D), dgain (D,) and doffset (D,), given g (B, N, D) and what the forward was given."""
    raise NotImplementedError


EXPLANATION = """
Two sentences, for a person to read: by which paths does one number of x reach y, and why do they all vanish
from d/dgain and d/doffset?
"""
