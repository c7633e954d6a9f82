"""Exercise 04: softmax and log-softmax, forward and backward.

A row is what lies along `axis`. Softmax turns a row of any numbers (logits) into a probability distribution:

    softmax:      y_i = exp(x_i) / sum_j exp(x_j)
    log-softmax:  y_i = log(exp(x_i) / sum_j exp(x_j))

Logits may be as large as 1000 or -1000; every probability must still be right. Do not write into the arguments.

A backward is given g, the derivative of some loss by every element of y, and returns its derivative by every
element of x:  dx_i = sum_j g_j dy_j/dx_i.

Grade it, in this folder:  pytest          A hint (levels 1, 2, 3):  tinyvit exercises hint 04 1
"""

import numpy as np


def softmax(x: np.ndarray, axis: int) -> np.ndarray:
    """Return softmax of x along `axis`: an array of x's shape."""
    raise NotImplementedError


def softmax_backward(g: np.ndarray, y: np.ndarray, axis: int) -> np.ndarray:
    """Return dx, given g and y = softmax(x, axis); all three have one shape."""
    raise NotImplementedError


def log_softmax(x: np.ndarray, axis: int) -> np.ndarray:
    """Return log-softmax of x along `axis`: an array of x's shape, exact even where softmax rounds to 0."""
    raise NotImplementedError


def log_softmax_backward(g: np.ndarray, y: np.ndarray, axis: int) -> np.ndarray:
    """Return dx, given g and y = log_softmax(x, axis); all three have one shape."""
    raise NotImplementedError


EXPLANATION = """
Two sentences, for a person to read: why is the Jacobian of softmax not diagonal, and how can you see in your
formula for dx that shifting all the logits of a row changes nothing?
"""
