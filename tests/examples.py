"""Every op of the package with arguments to check it on, and arguments that it must refuse.

A registered op without a row here fails the suite. Shapes are uneven on purpose (no two lengths of an argument agree,
a batch is at least two): a square array hides a transpose, a gain of one hides an omission.
"""

import math
from dataclasses import dataclass, field

import numpy as np


@dataclass(frozen=True)
class Call:
    """Arguments of one call: makers (functions of a generator) or constants, and options."""

    makers: tuple
    options: dict = field(default_factory=dict)

    def inputs(self, rng):
        return tuple(make(rng) if callable(make) else make for make in self.makers)

    def __str__(self):
        told = [*(getattr(m, "told", repr(m)) for m in self.makers), *(f"{k}={v}" for k, v in self.options.items())]
        return " ".join(told).replace("\n", " ")


@dataclass(frozen=True)
class Refused:
    """A call that must raise ``error`` with the op's name and ``fragment`` in its text."""

    call: Call
    error: type
    fragment: str

    def __str__(self):
        return f"{self.fragment}: {self.call}"


def call(*makers, **options):
    return Call(makers, options)


def refused(error, fragment, *makers, **options):
    return Refused(Call(makers, options), error, fragment)


def maker(told):
    """Decorator: a maker with a text that test names are made of."""

    def named(function):
        function.told = told
        return function

    return named


def normal(*shape):
    """Normal numbers."""
    return maker(f"{shape}")(lambda rng: rng.normal(size=shape))


def positive(*shape):
    """Numbers between a half and two."""
    return maker(f"{shape}>0")(lambda rng: rng.uniform(0.5, 2.0, shape))


def apart(*shape):
    """Numbers all different, by 0.01 at least, and none within 0.01 of zero: away from the kinks of max and relu."""

    @maker(f"{shape}apart")
    def make(rng):
        n = math.prod(shape)
        grid = rng.permutation(np.arange(1, n + 1) * 0.02) * rng.choice([-1.0, 1.0], n)
        return grid.reshape(shape)

    return make


def classes(high, *shape):
    """Integers below ``high``."""
    return maker(f"{shape}<{high}")(lambda rng: rng.integers(high, size=shape))


def coins(*shape):
    """Booleans, some true and some false."""
    return maker(f"{shape}bool")(lambda rng: np.resize([True, False, True], shape))


def shares(*shape):
    """Distributions along the last axis."""
    return maker(f"{shape}shares")(lambda rng: rng.dirichlet(np.ones(shape[-1]), shape[:-1]))


def log_shares(*shape):
    """Logarithms of distributions along the last axis."""
    return maker(f"{shape}log")(lambda rng: np.log(rng.dirichlet(np.ones(shape[-1]), shape[:-1])))


def zeros(*shape):
    return maker(f"{shape}=0")(lambda rng: np.zeros(shape))


def words(*shape):
    """Text where numbers should be."""
    return maker("words")(lambda rng: np.full(shape, "word"))


def boxes(*shape):
    """Boxes (..., 4) of some width and height, around zero."""

    @maker(f"{shape}boxes")
    def make(rng):
        corner, size = rng.uniform(-3, 3, (*shape[:-1], 2)), rng.uniform(0.5, 4, (*shape[:-1], 2))
        return np.concatenate([corner, corner + size], -1)

    return make


def signs(*shape):
    """Zeros and ones, as numbers."""
    return maker(f"{shape}0|1")(lambda rng: np.resize([1.0, 0.0, 0.0], shape))


def spread(*shape):
    """Numbers between -8 and 8."""
    return maker(f"{shape}±8")(lambda rng: rng.uniform(-8, 8, shape))


TABLE = np.array([[0, 3, 1], [2, 3, 0]])  # an index table with a row named twice
MASK = np.array([True, False, True, True])
SEEN = np.array([[True, True, False, True, False, True], [False] * 6])[:, None]  # of six keys; the second row: of none

UNARY = [call(normal(2, 3, 5)), call(normal())]
MIXED = [call(normal(2, 3, 5), normal(3, 1)), call(normal(4), normal(2, 1, 4)), call(normal(2, 3), 0.7),
         call(normal(2, 3), normal())]  # fmt: skip

EXAMPLES = {
    # autodiff
    "identity": UNARY,
    "broadcast_to": [call(normal(3, 1), shape=(2, 3, 5)), call(normal(), shape=(2, 3))],
    "sum_to": [call(normal(2, 3, 5), shape=(3, 1)), call(normal(2, 3), shape=()), call(normal(2, 3), shape=(2, 3))],
    # primitives: shape
    "reshape": [call(normal(2, 3, 4), shape=(4, 6)), call(normal(2, 3, 4), shape=(-1, 2)), call(normal(1), shape=())],
    "transpose": [call(normal(2, 3, 5)), call(normal(2, 3, 5), axes=(1, 2, 0)), call(normal(2, 3, 5), axes=(-1, 0, 1))],
    "swapaxes": [call(normal(2, 3, 5), axis1=0, axis2=-1)],
    "astype": [call(normal(2, 3), dtype=np.float64)],
    "getitem": [
        call(normal(4, 3), index=1),
        call(normal(2, 3, 5), index=(slice(None, None, -2), None, ..., 2)),
        call(normal(4, 3), index=TABLE),
        call(normal(4, 3), index=[1, 1, 2]),
        call(normal(4, 3), index=(TABLE, np.array([[1], [1]]))),
        call(normal(4, 3), index=MASK),
        call(normal(2, 4, 3), index=(slice(None), MASK)),
        call(normal(3, 4), index=(slice(2, 2),)),
        call(normal(), index=None),
    ],
    "scatter": [
        call(normal(3), index=1, shape=(4, 3)),
        call(normal(2, 5), index=(slice(None), slice(1, None, 2)), shape=(2, 11)),
        call(normal(2, 3, 5), index=TABLE, shape=(4, 5)),
        call(normal(3, 2), index=MASK, shape=(4, 2)),
        call(normal(1), index=None, shape=()),
    ],
    "take_along_axis": [
        call(normal(2, 5, 3), classes(5, 2, 4, 3), axis=1),
        call(normal(2, 5), classes(5, 2, 1), axis=-1),
        call(normal(2, 5), classes(5, 1, 3), axis=1),
        call(normal(1, 5), classes(5, 2, 3), axis=1),
    ],
    "put_along_axis": [
        call(normal(2, 4, 3), classes(5, 2, 4, 3), axis=1, shape=(2, 5, 3)),
        call(normal(2, 3), classes(5, 2, 3), axis=-1, shape=(2, 5)),
    ],
    "concatenate": [
        call(normal(2, 3), normal(4, 3)),
        call(normal(2, 3), normal(2, 1), normal(2, 5), axis=-1),
        call(normal(2, 3), normal(2, 0), axis=1),
    ],
    "pad": [call(normal(2, 3), widths=((1, 2), (0, 3))), call(normal(2, 3), widths=((0, 0), (2, 1)), value=-1.5)],
    "roll": [call(normal(2, 5, 3), shift=2, axis=1), call(normal(2, 5, 3), shift=(-2, 1), axis=(1, 2))],
    "unfold": [
        call(normal(2, 6, 3), size=(4,)),
        call(normal(2, 7, 6, 3), size=(3, 2), stride=(2, 1)),
        call(normal(2, 8, 7, 3), size=(3, 2), stride=2, dilation=(2, 3)),
        call(normal(2, 4, 5, 6, 3), size=(2, 3, 1), stride=(1, 2, 2)),
    ],
    "fold": [
        call(normal(2, 3, 5, 4), shape=(2, 6, 5)),
        call(normal(2, 3, 5, 4, 3, 2), shape=(2, 7, 6, 4), stride=(2, 1)),
        call(normal(2, 2, 3, 4, 3, 2), shape=(2, 8, 9, 4), stride=2, dilation=(2, 3)),
    ],
    # primitives: elementwise
    "add": MIXED,
    "subtract": MIXED,
    "multiply": MIXED,
    "divide": [call(normal(2, 3, 5), positive(3, 1)), call(2.0, positive(2, 3)), call(normal(2, 3), positive())],
    "negative": UNARY,
    "power": [call(positive(2, 3), exponent=e) for e in (0, 1, 2, 3, -1, 0.5, -0.5, 1.7)]
    + [call(normal(2, 3), exponent=e) for e in (2, 3)],
    "exp": UNARY,
    "log": [call(positive(2, 3, 5)), call(positive())],
    "sqrt": [call(positive(2, 3, 5)), call(positive())],
    "expm1": UNARY,
    "log1p": [call(positive(2, 3, 5)), call(positive())],
    "sin": UNARY,
    "cos": UNARY,
    "tanh": UNARY,
    "erf": UNARY,
    "where": [
        call(coins(2, 3, 5), normal(2, 3, 5), normal(3, 1)),
        call(coins(3, 1), normal(2, 1, 5), 0.5),
        call(coins(4), normal(), normal(2, 4)),
    ],
    "maximum": [call(apart(2, 3, 5), 0.005), call(apart(2, 3, 5), zeros(3, 1))],
    "minimum": [call(apart(2, 3, 5), 0.005), call(zeros(3, 1), apart(2, 3, 5))],
    "absolute": [call(apart(2, 3, 5))],
    "clip": [call(apart(2, 3, 5), low=-0.205, high=0.105), call(apart(4), high=0.0), call(normal(2, 3))],
    "relu": [call(apart(2, 3, 5))],
    # primitives: reduce, contract
    "sum": [call(normal(2, 3, 5)), call(normal(2, 3, 5), axis=1), call(normal(2, 3, 5), axis=(0, -1), keepdims=True)],
    "matmul": [
        call(normal(3, 4), normal(4, 5)),
        call(normal(2, 1, 3, 4), normal(6, 4, 5)),
        call(normal(2, 3, 4), normal(4, 1)),
    ],
    "einsum": [
        call(normal(2, 3, 4), normal(2, 4, 5), spec="bij,bjk->bik"),
        call(normal(2, 3, 4), spec="bij->jb"),
        call(normal(2, 3), normal(3, 4), normal(4, 5), spec="ij,jk,kl->li"),
        call(normal(2, 3), normal(4), spec="ij,k->kj"),
        call(normal(2, 3), spec="ij->"),
    ],
    # equations
    "softmax": [call(normal(2, 3, 5)), call(normal(2, 5, 3), axis=1), call(normal(4))],
    "log_softmax": [call(normal(2, 3, 5)), call(normal(2, 5, 3), axis=1)],
    "gelu": UNARY,
    "gelu_slope": UNARY,
    "gelu_tanh": UNARY,
    "sigmoid": UNARY,
    "silu": UNARY,
    "quick_gelu": UNARY,
    "softplus": [call(spread(2, 3, 5)), call(normal()), call(zeros(2))],
    "log_sigmoid": [call(spread(2, 3, 5)), call(normal()), call(zeros(2))],
    "elu": [call(spread(2, 3, 5)), call(normal(), alpha=0.7)],
    "leaky_relu": [call(apart(2, 3, 5)), call(normal(), slope=0.2)],
    "relu6": [call(spread(2, 3, 5)), call(normal())],
    "hardswish": [call(spread(2, 3, 5)), call(normal())],
    "scaled_dot_product_attention": [
        call(normal(2, 3, 4, 5), normal(2, 3, 6, 5), normal(2, 3, 6, 7)),
        call(normal(2, 3, 4, 5), normal(2, 1, 6, 5), normal(3, 6, 7), normal(3, 4, 6), scale=0.7),
        call(normal(2, 4, 5), normal(2, 6, 5), normal(2, 6, 3), None, positive(2, 4, 6)),
        call(normal(2, 3, 4, 5), normal(2, 3, 6, 5), normal(2, 3, 6, 7), normal(3, 1, 6), positive(2, 1, 4, 6)),
        call(normal(2, 4, 5), normal(2, 6, 5), normal(2, 6, 3), SEEN),
    ],
    "multi_head_attention": [
        call(normal(2, 3, 8), normal(2, 5, 8), normal(2, 5, 8), normal(24, 8), normal(24), normal(8, 8), normal(8),
             num_heads=2),
        call(normal(2, 3, 6), normal(2, 6, 6), normal(2, 6, 6), normal(18, 6), None, normal(6, 6), None,
             SEEN[:, None], positive(2, 3, 3, 6), num_heads=3),
    ],
    "self_attention": [
        call(normal(2, 6, 18), SEEN[:, None], num_heads=3),
        call(normal(2, 4, 30), num_heads=2),
        call(normal(2, 5, 9), normal(5, 5), num_heads=1, scale=0.7),
        call(normal(3, 4, 36), normal(3, 1, 4, 4), positive(3, 2, 4, 4), num_heads=2),
        call(normal(2, 4, 18), None, positive(2, 1, 4, 4), num_heads=3),
        call(normal(6, 4, 18), normal(2, 3, 4, 4), positive(6, 1, 4, 4), num_heads=3),
        call(normal(4, 3, 12), normal(2, 1, 3, 3), num_heads=2),
    ],
    "neighbourhood_attention": [
        call(*[normal(2, 4, 5, 6)] * 3, normal(3, 4, 5, 9), num_heads=3, kernel_size=3),
        call(normal(2, 3, 9, 4), normal(2, 5, 11, 4), normal(2, 5, 11, 4), coins(3, 9, 9), num_heads=2, kernel_size=3,
             scale=0.7),
        call(normal(2, 6, 7, 3), normal(2, 8, 9, 3), normal(2, 8, 9, 3), num_heads=1, kernel_size=5),
    ],
    "outlook_attention": [
        call(normal(2, 5, 4, 6), normal(2, 3, 2, 2 * 81), num_heads=2, stride=2),
        call(normal(2, 3, 4, 3), normal(2, 3, 4, 81), positive(2, 1, 12, 9, 9), num_heads=1),
        call(normal(2, 4, 6, 6), normal(2, 2, 3, 3 * 16), num_heads=3, kernel_size=2, padding=0, stride=2),
    ],
    "linear": [call(normal(2, 3, 4), normal(5, 4), normal(5)), call(normal(3, 4), normal(5, 4))],
    "conv2d": [
        call(normal(2, 6, 5, 3), normal(4, 3, 3, 2), normal(4)),
        call(normal(2, 7, 6, 4), normal(6, 2, 3, 2), normal(6), stride=(2, 1), padding=(1, 2), groups=2),
        call(normal(2, 9, 8, 3), normal(3, 1, 3, 2), stride=2, padding=2, dilation=(2, 3), groups=3),
        call(normal(3, 5, 6, 2), normal(4, 2, 2, 3), padding=((0, 1), (2, 1))),
        call(normal(2, 4, 5, 3), normal(7, 3, 1, 1), normal(7)),  # of every place by itself
        call(normal(2, 5, 4, 3), normal(7, 3, 1, 1), stride=(2, 3)),
        call(normal(2, 7, 9, 3), normal(4, 3, 2, 3), stride=(2, 3)),  # patches, and a row that no patch holds
        call(normal(2, 9, 11, 3), normal(4, 3, 2, 2), stride=(3, 4), padding=1),  # places that no filter meets
        call(normal(2, 5, 6, 3), normal(3, 1, 3, 2), normal(3), padding=(1, 2), groups=3),  # a filter per channel
        call(normal(2, 7, 8, 3), normal(3, 1, 4, 3), normal(3), stride=(3, 1), padding=((0, 3), (2, 0)), groups=3),
        call(normal(2, 5, 6, 2), normal(6, 1, 2, 3), stride=2, padding=1, groups=2),  # three filters per channel
        call(normal(2, 2, 4, 3), normal(3, 1, 2, 1), padding=3, groups=3),  # a border wider than the filter
        call(normal(2, 9, 8, 2), normal(4, 2, 3, 2), stride=(4, 2), padding=(3, 2), dilation=(2, 4)),  # common divisors
        call(normal(2, 3, 2, 2), normal(2, 1, 3, 3), stride=2, padding=((5, 1), (0, 6)), dilation=3, groups=2),
    ],
    "conv1d": [
        call(normal(2, 7, 3), normal(4, 3, 2), normal(4)),
        call(normal(2, 9, 4), normal(6, 2, 3), stride=2, padding=(2,), dilation=2, groups=2),
        call(normal(2, 7, 4), normal(4, 1, 3), normal(4), padding=1, groups=4),
        call(normal(2, 7, 4), normal(4, 1, 3), stride=2, padding=2, groups=4),
    ],
    "conv3d": [
        call(normal(2, 3, 5, 4, 2), normal(3, 2, 2, 3, 1), normal(3)),
        call(normal(2, 4, 6, 5, 4), normal(6, 2, 3, 2, 2), normal(6), stride=(1, 2, 1), padding=(1, 0, 2),
             dilation=(1, 2, 1), groups=2),
        call(normal(2, 3, 5, 4, 2), normal(2, 1, 2, 3, 2), stride=(2, 1, 1), padding=(1, 0, 1), groups=2),
        call(normal(2, 3, 5, 4, 2), normal(2, 1, 2, 3, 2), stride=(1, 1, 2), groups=2),
    ],
    "conv_transpose2d": [
        call(normal(2, 4, 5, 3), normal(3, 4, 2, 3), normal(4)),
        call(normal(2, 3, 5, 4), normal(4, 3, 3, 2), normal(6), stride=(2, 3), padding=1, output_padding=(1, 0),
             dilation=(1, 2), groups=2),
        call(normal(3, 2, 3, 2), normal(2, 1, 2, 2), stride=2, padding=((0, 1), (1, 0))),
    ],
    "max_pool2d": [
        call(apart(2, 6, 5, 3), size=(2, 3)),
        call(apart(2, 7, 8, 3), size=3, stride=2, padding=1),
        call(apart(2, 8, 7, 3), size=(3, 2), stride=(3, 2), padding=(1, 0), ceil_mode=True),
    ],
    "avg_pool2d": [
        call(normal(2, 6, 5, 3), size=(2, 3)),
        call(normal(2, 7, 8, 3), size=3, stride=2, padding=1),
        call(normal(2, 7, 8, 3), size=3, stride=2, padding=(1, 0), count_include_pad=False),
        call(normal(2, 8, 7, 3), size=(3, 2), stride=(3, 2), padding=(1, 0), ceil_mode=True),
        call(normal(2, 8, 7, 3), size=3, stride=2, padding=1, ceil_mode=True, count_include_pad=False),
    ],
    "adaptive_avg_pool2d": [call(normal(2, 7, 5, 3), size=(3, 2)), call(normal(2, 3, 4, 5), size=6)],
    "adaptive_max_pool2d": [call(apart(2, 7, 5, 3), size=(3, 2)), call(apart(2, 3, 4, 5), size=6)],
    "cross_entropy": [
        call(normal(4, 5), classes(5, 4)),
        call(normal(2, 3, 5), classes(5, 2, 3), smoothing=0.1, reduction="none"),
        call(normal(4, 5), shares(4, 5), smoothing=0.3, reduction="sum"),
        call(normal(4, 5), np.array([3, -1, 0, 3]), positive(5), ignore_index=-1, smoothing=0.1),
        call(normal(4, 5), shares(4, 5), positive(5)),
    ],
    "nll": [
        call(log_shares(4, 5), classes(5, 4)),
        call(log_shares(2, 3, 5), np.array([[0, 7, 2], [4, 7, 1]]), positive(5), ignore_index=7),
        call(log_shares(4, 5), classes(5, 4), positive(5), reduction="none"),
    ],
    "distillation": [call(normal(4, 5), normal(4, 5)), call(normal(4, 5), normal(4, 5), tau=3.0, reduction="elements")],
    "soft_distillation": [
        call(normal(4, 5), normal(4, 5), classes(5, 4)),
        call(normal(4, 5), normal(4, 5), shares(4, 5), tau=1.0, lam=0.5, reduction="elements"),
        call(normal(4, 5), normal(4, 5), classes(5, 4), normal(4, 5)),
    ],
    "hard_distillation": [
        call(normal(4, 5), apart(4, 5), classes(5, 4)),
        call(normal(4, 5), apart(4, 5), shares(4, 5), normal(4, 5), lam=0.3),
    ],
    "bce_with_logits": [call(spread(2, 3, 5), signs(2, 3, 5)), call(normal(4), shares(4), reduction="none")],
    "sigmoid_focal": [
        call(normal(2, 3, 5), signs(2, 3, 5)),
        call(normal(4, 5), shares(4, 5), alpha=None, gamma=1.5, reduction="none"),
        call(normal(4), signs(4), gamma=0.0, reduction="sum"),
    ],
    "dice": [call(shares(4, 5), signs(4, 5)), call(shares(2, 3, 5), signs(2, 3, 5), eps=0.1, reduction="none")],
    "l1": [call(apart(2, 3, 5), 0.005), call(apart(2, 3), zeros(3), reduction="sum")],
    "huber": [call(apart(2, 3, 5), zeros(3, 5), delta=0.205), call(normal(4), normal(4), reduction="none")],
    "smooth_l1": [call(apart(2, 3, 5), zeros(3, 5), beta=0.205), call(apart(4), zeros(4), beta=0.0, reduction="sum")],
    "giou_loss": [call(boxes(5, 4), boxes(5, 4)), call(boxes(2, 3, 4), boxes(3, 4), reduction="none")],
    "box_iou": [call(boxes(5, 4), boxes(5, 4)), call(boxes(3, 1, 4), boxes(2, 4))],
    "box_giou": [call(boxes(5, 4), boxes(5, 4)), call(boxes(3, 1, 4), boxes(2, 4))],
    "encode_boxes": [call(boxes(5, 4), boxes(5, 4)), call(boxes(2, 3, 4), boxes(3, 4), weights=(10.0, 10.0, 5.0, 5.0))],
    "decode_boxes": [call(normal(5, 4), boxes(5, 4)), call(spread(2, 3, 4), boxes(3, 4), weights=(2.0, 3.0, 1.0, 5.0))],
    "roi_align": [
        call(normal(2, 6, 5, 3), boxes(4, 4), np.array([1, 0, 1, 1]), size=(3, 2)),
        call(normal(2, 6, 5, 3), boxes(4, 4), np.array([1, 1, 1, 1]), size=2, scale=0.5, sampling=2, aligned=False),
        call(normal(2, 4, 5, 3), boxes(3, 4), np.array([0, 0, 1]), size=(2, 3), scale=2.0, zero_outside=False),
    ],
    "mse": [call(normal(2, 3, 5), normal(2, 3, 5)), call(normal(2, 3), normal(3), reduction="sum"),
            call(normal(2, 3), normal(2, 3), reduction="none")],
    "kl_divergence": [
        call(log_shares(4, 5), shares(4, 5)),
        call(log_shares(2, 3, 5), shares(2, 3, 5), reduction="none"),
        call(log_shares(2, 3, 5), shares(2, 3, 5), reduction="elements"),
    ],
    "layer_norm": [
        call(normal(2, 3, 5), normal(5), normal(5)),
        call(normal(2, 5)),
        call(normal(2, 3, 5), normal(5), eps=0.3),
        call(normal(2, 3, 5), None, normal(3, 5)),
    ],
    "batch_norm": [call(normal(6, 5), normal(5), normal(5)), call(normal(2, 3, 4, 5), normal(5), eps=0.3)],
    "batch_norm_inference": [
        call(normal(6, 5), normal(5), positive(5), normal(5), normal(5)),
        call(normal(2, 3, 4, 5), normal(5), positive(5)),
    ],
    "group_norm": [
        call(normal(2, 3, 5, 6), normal(6), normal(6), groups=2),
        call(normal(2, 6), groups=2, eps=0.3),
        call(normal(2, 3, 4, 5, 6), None, normal(6), groups=3),
    ],
    "instance_norm": [call(normal(2, 3, 5, 4), normal(4), normal(4)), call(normal(2, 5, 4), eps=0.3)],
    "rms_norm": [call(normal(2, 3, 5), normal(5)), call(normal(2, 5), eps=0.3)],
    "weight_standardise": [call(normal(4, 3, 2, 5)), call(normal(4, 6), eps=0.3)],
    "resize": [
        call(normal(2, 4, 3, 5), size=(7, 8)),
        call(normal(2, 7, 6, 3), size=(3, 5), mode="bicubic", antialias=True),
        call(normal(2, 4, 5, 3), size=(6, 3), mode="bicubic", align_corners=True),
        call(normal(2, 4, 5, 3), size=(6, 3), mode="nearest"),
        call(normal(2, 4, 5, 3), scale=(1.6, 0.7), mode="bicubic"),
    ],
    "pixel_shuffle": [call(normal(2, 3, 4, 8), factor=2), call(normal(2, 3, 4, 9), factor=3)],
    "embedding": [call(classes(4, 2, 3), normal(4, 5)), call(np.array(2), normal(4, 5)), call(TABLE, normal(4, 5))],
    "grid_sample": [
        call(normal(2, 6, 5, 3), normal(2, 3, 4, 2)),
        call(normal(2, 4, 5, 3), shares(2, 4, 3, 2), align_corners=True),
    ],
}  # fmt: skip

APART = refused(ValueError, "(2, 3)", normal(2, 3), normal(4, 5))  # shapes that do not broadcast


def binary():
    return [APART, refused(TypeError, "<U4", words(2), normal(2)), refused(TypeError, "argument", normal(2)),
            refused(TypeError, "unexpected argument 'axis'", normal(2), normal(2), axis=1)]  # fmt: skip


def unary():
    return [refused(TypeError, "<U4", words(2)), refused(TypeError, "argument"),
            refused(TypeError, "unexpected argument 'axes'", normal(2), axes=1)]  # fmt: skip


def adaptive():
    return [refused(ValueError, "at least one part", normal(2, 5, 4, 3), size=(0, 2)),
            refused(ValueError, "(5, 4, 3)", normal(5, 4, 3), size=2),
            refused(ValueError, "per spatial axis", normal(2, 5, 4, 3), size=(1, 2, 3))]  # fmt: skip


def overlap():
    return [refused(ValueError, "got (5, 3)", boxes(5, 4), normal(5, 3)),
            refused(ValueError, "got ()", normal(), boxes(3, 4)),
            refused(ValueError, "(2, 4)", boxes(2, 4), boxes(3, 4))]  # fmt: skip


def distance():
    return [APART, refused(ValueError, "reduction", normal(2, 5), normal(2, 5), reduction="average"),
            refused(TypeError, "argument", normal(2))]  # fmt: skip


REFUSED = {
    "identity": [refused(TypeError, "argument"), refused(TypeError, "unexpected argument 'axis'", normal(2), axis=1)],
    "broadcast_to": [
        refused(ValueError, "(2, 3)", normal(2, 3), shape=(2, 4)),
        refused(ValueError, "(2, 3)", normal(2, 3), shape=(3,)),
        refused(TypeError, "shape", normal(2, 3)),
    ],
    "sum_to": [
        refused(ValueError, "(2, 4) does not broadcast to (2, 3)", normal(2, 3), shape=(2, 4)),
        refused(ValueError, "does not broadcast", normal(2, 3), shape=(1, 2, 3)),
        refused(TypeError, "shape", normal(2, 3)),
    ],
    "reshape": [
        refused(ValueError, "(2, 3)", normal(2, 3), shape=(4, 2)),
        refused(ValueError, "unknown dimension", normal(2, 3), shape=(-1, -1)),
        refused(TypeError, "shape", normal(2, 3)),
    ],
    "transpose": [
        refused(ValueError, "axes", normal(2, 3), axes=(0, 1, 2)),
        refused(ValueError, "repeated axis", normal(2, 3), axes=(0, 0)),
        refused(ValueError, "out of bounds", normal(2, 3), axes=(0, 5)),
    ],
    "swapaxes": [
        refused(ValueError, "out of bounds", normal(2, 3), axis1=0, axis2=2),
        refused(TypeError, "axis2", normal(2, 3), axis1=0),
        refused(TypeError, "unexpected argument 'axis3'", normal(2, 3), axis1=0, axis3=1),
    ],
    "astype": [
        refused(TypeError, "no-such", normal(2, 3), dtype="no-such"),
        refused(TypeError, "dtype", normal(2, 3)),
        refused(AttributeError, "astype", 1.5, dtype=np.float32),
    ],
    "getitem": [
        refused(IndexError, "out of bounds", normal(2, 3), index=5),
        refused(IndexError, "too many indices", normal(2, 3), index=(0, 0, 0)),
        refused(IndexError, "boolean index", normal(2, 3), index=np.array([True, False, True])),
    ],
    "scatter": [
        refused(IndexError, "out of bounds", normal(3), index=7, shape=(4, 3)),
        refused(ValueError, "(2,)", normal(2), index=1, shape=(4, 3)),
        refused(TypeError, "shape", normal(3), index=1),
    ],
    "take_along_axis": [
        refused(IndexError, "integer", normal(2, 5), normal(2, 1), axis=1),
        refused(IndexError, "out of bounds", normal(2, 5), maker("7")(lambda rng: np.full((2, 1), 7)), axis=1),
        refused(ValueError, "dimension", normal(2, 5), classes(5, 3), axis=1),
    ],
    "put_along_axis": [
        refused(IndexError, "integer", normal(2, 3), normal(2, 3), axis=1, shape=(2, 5)),
        refused(IndexError, "out of bounds", normal(2, 3), maker("7")(lambda rng: np.full((2, 3), 7)), axis=1,
                shape=(2, 5)),
        refused(TypeError, "shape", normal(2, 3), classes(5, 2, 3), axis=1),
    ],
    "concatenate": [
        refused(ValueError, "(4, 5)", normal(2, 3), normal(4, 5)),
        refused(ValueError, "dimension", normal(2, 3), normal(3)),
        refused(ValueError, "out of bounds", normal(2, 3), normal(2, 3), axis=2),
        refused(ValueError, "at least one array"),
    ],
    "pad": [
        refused(ValueError, "(2, 3)", normal(2, 3), widths=((1, 1), (1, 1), (1, 1))),
        refused(ValueError, "negative", normal(2, 3), widths=((-1, 0), (0, 0))),
        refused(TypeError, "widths", normal(2, 3)),
    ],
    "roll": [
        refused(ValueError, "out of bounds", normal(2, 3), shift=1, axis=4),
        refused(ValueError, "broadcast", normal(2, 3), shift=(1, 2, 3), axis=(0, 1)),
        refused(TypeError, "axis", normal(2, 3), shift=1),
    ],
    "unfold": [
        refused(ValueError, "larger", normal(2, 3, 4, 5), size=(4, 2)),
        refused(ValueError, "one per spatial axis", normal(2, 6, 4, 5), size=(2, 2), stride=(1, 2, 3)),
        refused(ValueError, "zero", normal(2, 6, 4, 5), size=(2, 2), stride=0),
    ],
    "fold": [
        refused(ValueError, "reach over (6,)", normal(2, 3, 5, 4), shape=(2, 4, 5)),
        refused(ValueError, "reach over (3,)", normal(2, 1, 5, 3), shape=(2, 2, 5)),
        refused(ValueError, "one per spatial axis", normal(2, 3, 5, 4), shape=(2, 6, 5), stride=(1, 1)),
        refused(TypeError, "shape", normal(2, 3, 5, 4)),
    ],
    **{name: binary() for name in ("add", "subtract", "multiply", "divide", "maximum", "minimum")},
    **{name: unary() for name in ("negative", "exp", "expm1", "log", "log1p", "sqrt", "sin", "cos", "tanh", "erf",
                                  "absolute", "clip", "relu", "gelu", "gelu_slope", "gelu_tanh", "sigmoid", "silu",
                                  "quick_gelu", "softplus", "log_sigmoid", "elu", "leaky_relu", "relu6", "hardswish")},
    "power": [
        refused(TypeError, "exponent", normal(2)),
        refused(TypeError, "<U4", words(2), exponent=3),
        refused(TypeError, "exponent", normal(2), exponent="two"),
    ],
    "where": [
        refused(ValueError, "(4,)", coins(4), normal(2, 3), normal(2, 3)),
        refused(ValueError, "(5,)", coins(3), normal(2, 3), normal(5)),
        refused(TypeError, "argument", coins(3), normal(3)),
    ],
    "sum": [
        refused(ValueError, "out of bounds", normal(2, 3), axis=2),
        refused(ValueError, "duplicate", normal(2, 3), axis=(0, 0)),
        refused(TypeError, "unexpected argument 'axes'", normal(2, 3), axes=1),
    ],
    "matmul": [
        refused(ValueError, "(3, 4)", normal(2, 5), normal(3, 4)),
        refused(ValueError, "at least two axes", normal(5), normal(5, 4)),
        refused(ValueError, "(2, 3, 4)", normal(2, 3, 4), normal(5, 4, 6)),
    ],
    "einsum": [
        refused(ValueError, "explicit", normal(2, 3), spec="ij"),
        refused(ValueError, "for 1 operands", normal(2, 3), spec="ij,jk->ik"),
        refused(ValueError, "named twice", normal(3, 3), spec="ii->i"),
        refused(ValueError, "axis 'j' has lengths 3 and 4", normal(2, 3), normal(4, 5), spec="ij,jk->ik"),
        refused(ValueError, "axis 'j' has lengths 1 and 3", normal(2, 1), normal(2, 3), spec="ij,ij->i"),
        refused(ValueError, "names 3 axes", normal(2, 3), spec="ijk->k"),
    ],
    "softmax": [
        refused(ValueError, "out of bounds", normal(2, 3), axis=2),
        refused(TypeError, "unexpected argument 'dim'", normal(2, 3), dim=1),
        refused(TypeError, "<U4", words(2)),
    ],
    "log_softmax": [
        refused(ValueError, "out of bounds", normal(2, 3), axis=2),
        refused(TypeError, "unexpected argument 'dim'", normal(2, 3), dim=1),
        refused(TypeError, "<U4", words(2)),
    ],
    "scaled_dot_product_attention": [
        refused(ValueError, "(2, 6, 7)", normal(2, 4, 5), normal(2, 6, 7), normal(2, 6, 7)),
        refused(ValueError, "(2, 5, 5)", normal(2, 4, 5), normal(2, 6, 5), normal(2, 5, 5)),
        refused(ValueError, "(3, 3)", normal(2, 4, 5), normal(2, 6, 5), normal(2, 6, 5), normal(3, 3)),
    ],
    "self_attention": [
        refused(ValueError, "3·2·d", normal(2, 4, 20), num_heads=2),
        refused(ValueError, "(4, 12)", normal(4, 12), num_heads=2),
        refused(ValueError, "(3, 3)", normal(2, 4, 12), normal(3, 3), num_heads=2),
        refused(ValueError, "(2, 2, 4, 4)", normal(3, 4, 12), normal(2, 2, 4, 4), num_heads=2),
    ],
    "multi_head_attention": [
        refused(ValueError, "got (18, 8)", *[normal(2, 3, 8)] * 3, normal(18, 8), None, normal(8, 8), None,
                num_heads=2),
        refused(ValueError, "3 heads", *[normal(2, 3, 8)] * 3, normal(24, 8), None, normal(8, 8), None, num_heads=3),
        refused(ValueError, "(2, 3, 6)", normal(2, 3, 8), normal(2, 3, 6), normal(2, 3, 8), normal(24, 8), None,
                normal(8, 8), None, num_heads=2),
        refused(ValueError, "(4, 5)", *[normal(2, 3, 8)] * 3, normal(24, 8), None, normal(8, 8), None,
                normal(4, 5), num_heads=2),
    ],
    "neighbourhood_attention": [
        refused(ValueError, "an odd number, which has a middle, got 2", *[normal(1, 4, 5, 6)] * 3, num_heads=3,
                kernel_size=2),
        refused(ValueError, "4×5 has no 5×5 neighbours", *[normal(1, 4, 5, 6)] * 3, num_heads=3, kernel_size=5),
        refused(ValueError, "4 heads cannot share a width of 6", *[normal(1, 4, 5, 6)] * 3, num_heads=4, kernel_size=3),
        refused(ValueError, "(1, 6, 5, 6)", normal(1, 4, 5, 6), *[normal(1, 6, 5, 6)] * 2, num_heads=3, kernel_size=3),
        refused(ValueError, "to 1 places", normal(1, 4, 5, 6), *[normal(1, 8, 9, 6)] * 2, num_heads=2, kernel_size=3),
        refused(ValueError, "images (B, H, W, C)", *[normal(4, 5, 6)] * 3, num_heads=3, kernel_size=3),
    ],
    "outlook_attention": [
        refused(ValueError, "2·3⁴", normal(2, 5, 4, 6), normal(2, 3, 2, 81), num_heads=2, stride=2),
        refused(ValueError, "(2, 3, 2, 2·3⁴)", normal(2, 5, 4, 6), normal(2, 5, 4, 162), num_heads=2, stride=2),
        refused(ValueError, "share a width of 5", normal(2, 3, 4, 5), normal(2, 3, 4, 162), num_heads=2),
        refused(ValueError, "(B, H, W, C)", normal(5, 4, 6), normal(3, 2, 162), num_heads=2, stride=2),
    ],
    "linear": [
        refused(ValueError, "(5, 6)", normal(2, 3), normal(5, 6)),
        refused(ValueError, "(4,)", normal(2, 3), normal(5, 3), normal(4)),
        refused(ValueError, "at least two axes", normal(3), normal(5, 3)),
    ],
    "conv2d": [
        refused(ValueError, "channels", normal(2, 6, 5, 4), normal(6, 3, 3, 3)),
        refused(ValueError, "channels", normal(2, 6, 5, 4), normal(6, 4, 3, 3), groups=3),
        refused(ValueError, "groups", normal(2, 6, 5, 4), normal(5, 2, 3, 3), groups=2),
        refused(ValueError, "larger", normal(2, 3, 5, 4), normal(6, 4, 4, 3)),
        refused(ValueError, "(B, H, W, C)", normal(6, 5, 4), normal(6, 4, 3, 3)),
        refused(ValueError, "(7,)", normal(2, 6, 5, 4), normal(6, 4, 3, 3), normal(7)),
        refused(ValueError, "per spatial axis", normal(2, 6, 5, 4), normal(6, 4, 3, 3), stride=(1, 1, 1)),
    ],
    "conv1d": [
        refused(ValueError, "channels", normal(2, 6, 4), normal(6, 3, 3)),
        refused(ValueError, "(B, L, C)", normal(2, 6, 5, 4), normal(6, 4, 3)),
        refused(ValueError, "larger", normal(2, 3, 4), normal(6, 4, 4)),
        refused(ValueError, "per spatial axis", normal(2, 6, 4), normal(6, 4, 3), padding=(1, 1)),
    ],
    "conv3d": [
        refused(ValueError, "channels", normal(2, 4, 6, 5, 4), normal(6, 3, 3, 3, 3)),
        refused(ValueError, "(B, T, H, W, C)", normal(2, 6, 5, 4), normal(6, 4, 3, 3, 3)),
        refused(ValueError, "groups", normal(2, 4, 6, 5, 4), normal(5, 2, 3, 3, 3), groups=2),
    ],
    "conv_transpose2d": [
        refused(ValueError, "(3, 6, 2, 2)", normal(2, 5, 3, 4), normal(3, 6, 2, 2)),
        refused(ValueError, "groups=3", normal(2, 5, 3, 4), normal(4, 6, 2, 2), groups=3),
        refused(ValueError, "(B, H, W, C)", normal(5, 3, 4), normal(4, 6, 2, 2)),
        refused(ValueError, "(7,)", normal(2, 5, 3, 4), normal(4, 6, 2, 2), normal(7)),
    ],
    "adaptive_avg_pool2d": adaptive(),
    "adaptive_max_pool2d": adaptive(),
    "max_pool2d": [
        refused(ValueError, "larger", normal(2, 3, 5, 4), size=4),
        refused(ValueError, "per spatial axis", normal(2, 3, 5, 4), size=(2, 2, 2)),
        refused(ValueError, "(B, H, W, C)", normal(3, 5, 4), size=2),
        refused(TypeError, "size", normal(2, 3, 5, 4)),
    ],
    "avg_pool2d": [
        refused(ValueError, "larger", normal(2, 3, 5, 4), size=4),
        refused(ValueError, "per spatial axis", normal(2, 3, 5, 4), size=(2, 2, 2)),
        refused(ValueError, "(B, H, W, C)", normal(3, 5, 4), size=2),
        refused(TypeError, "size", normal(2, 3, 5, 4)),
    ],
    "cross_entropy": [
        refused(ValueError, "0 … 4", normal(2, 5), maker("5")(lambda rng: np.array([0, 5]))),
        refused(ValueError, "0 … 4", normal(2, 5), maker("-1")(lambda rng: np.array([0, -1]))),
        refused(ValueError, "distributions (2, 5)", normal(2, 5), normal(2, 4)),
        refused(ValueError, "expected classes of shape (2,)", normal(2, 5), classes(5, 3)),
        refused(ValueError, "reduction", normal(2, 5), classes(5, 2), reduction="average"),
    ],
    "nll": [
        refused(ValueError, "0 … 4", log_shares(2, 5), maker("5")(lambda rng: np.array([0, 5])), ignore_index=-1),
        refused(ValueError, "expected classes of shape (2,)", log_shares(2, 5), classes(5, 3)),
        refused(ValueError, "(4,)", log_shares(2, 5), classes(5, 2), positive(4)),
    ],
    **{name: distance() for name in ("mse", "l1", "huber", "smooth_l1", "bce_with_logits", "sigmoid_focal")},
    "dice": [
        refused(ValueError, "(2, 5) and (2, 4)", shares(2, 5), shares(2, 4)),
        refused(ValueError, "() and ()", normal(), normal()),
        refused(ValueError, "reduction", shares(2, 5), shares(2, 5), reduction="average"),
    ],
    "distillation": [
        refused(ValueError, "(2, 5) and (2, 4)", normal(2, 5), normal(2, 4)),
        refused(ValueError, "reduction", normal(2, 5), normal(2, 5), reduction="average"),
        refused(TypeError, "unexpected argument 'temperature'", normal(2, 5), normal(2, 5), temperature=2.0),
    ],
    "soft_distillation": [
        refused(ValueError, "(2, 5) and (2, 4)", normal(2, 5), normal(2, 4), classes(5, 2)),
        refused(ValueError, "0 … 4", normal(2, 5), normal(2, 5), np.array([0, 5])),
        refused(ValueError, "reduction", normal(2, 5), normal(2, 5), classes(5, 2), reduction="average"),
        refused(ValueError, "(2, 4) and (2, 5)", normal(2, 5), normal(2, 5), classes(5, 2), normal(2, 4)),
    ],
    "hard_distillation": [
        refused(ValueError, "0 … 3", normal(2, 5), np.eye(5)[[4, 0]], classes(5, 2), normal(2, 4)),
        refused(ValueError, "expected classes of shape (2,)", normal(2, 5), normal(3, 5), classes(5, 2)),
        refused(ValueError, "0 … 4", normal(2, 5), normal(2, 5), np.array([0, 5])),
        refused(TypeError, "argument", normal(2, 5), normal(2, 5)),
    ],
    "giou_loss": [*overlap(), refused(ValueError, "reduction", boxes(5, 4), boxes(5, 4), reduction="average")],
    "box_iou": overlap(),
    "box_giou": overlap(),
    "encode_boxes": overlap(),
    "decode_boxes": overlap(),
    "roi_align": [
        refused(ValueError, "(B, H, W, C)", normal(6, 5, 3), boxes(4, 4), classes(1, 4), size=2),
        refused(ValueError, "(4, 5)", normal(2, 6, 5, 3), normal(4, 5), classes(2, 4), size=2),
        refused(ValueError, "(3,)", normal(2, 6, 5, 3), boxes(4, 4), classes(2, 3), size=2),
        refused(ValueError, "0 … 1", normal(2, 6, 5, 3), boxes(2, 4), np.array([0, 2]), size=2),
    ],
    "kl_divergence": [
        refused(ValueError, "(2, 3)", normal(2, 3), shares(4, 5)),
        refused(ValueError, "reduction", normal(2, 5), shares(2, 5), reduction="average"),
        refused(TypeError, "argument", normal(2)),
    ],
    "layer_norm": [
        refused(ValueError, "(4,)", normal(2, 3), normal(4)),
        refused(ValueError, "(4,)", normal(2, 3), None, normal(4)),
        refused(TypeError, "unexpected argument 'axis'", normal(2, 3), axis=1),
    ],
    "batch_norm": [
        refused(ValueError, "(4,)", normal(2, 3), normal(4)),
        refused(ValueError, "(4,)", normal(2, 3), None, normal(4)),
        refused(TypeError, "unexpected argument 'momentum'", normal(2, 3), momentum=0.1),
    ],
    "group_norm": [
        refused(ValueError, "groups=4", normal(2, 3, 6), groups=4),
        refused(ValueError, "(5,)", normal(2, 3, 6), normal(5), groups=2),
        refused(ValueError, "(6,)", normal(6), groups=2),
        refused(TypeError, "groups", normal(2, 3, 6)),
    ],
    "instance_norm": [
        refused(ValueError, "(5,)", normal(2, 3, 6), normal(5)),
        refused(ValueError, "(6,)", normal(6)),
        refused(TypeError, "unexpected argument 'momentum'", normal(2, 3, 6), momentum=0.1),
    ],
    "rms_norm": [
        refused(ValueError, "(4,)", normal(2, 3), normal(4)),
        refused(TypeError, "unexpected argument 'axis'", normal(2, 3), axis=1),
        refused(TypeError, "argument", normal(2, 3), normal(3), normal(3)),
    ],
    "weight_standardise": [
        refused(ValueError, "(4,)", normal(4)),
        refused(TypeError, "argument", normal(4, 3), normal(4)),
        refused(TypeError, "unexpected argument 'gain'", normal(4, 3), gain=2.0),
    ],
    "batch_norm_inference": [
        refused(ValueError, "(4,)", normal(2, 3), normal(4), positive(3)),
        refused(ValueError, "(4,)", normal(2, 3), normal(3), positive(4)),
        refused(TypeError, "argument", normal(2, 3)),
    ],
    "resize": [
        refused(ValueError, "mode", normal(2, 4, 5, 3), size=(6, 3), mode="cubic"),
        refused(ValueError, "(B, H, W, C)", normal(4, 5, 3), size=(6, 3)),
        refused(ValueError, "size", normal(2, 4, 5, 3), size=(0, 3)),
        refused(ValueError, "either size or scale", normal(2, 4, 5, 3)),
        refused(ValueError, "either size or scale", normal(2, 4, 5, 3), size=(6, 3), scale=2),
        refused(ValueError, "(0, 1)", normal(2, 4, 5, 3), scale=0.2),
    ],
    "pixel_shuffle": [
        refused(ValueError, "(2, 3, 4, 6)", normal(2, 3, 4, 6), factor=2),
        refused(ValueError, "(3, 4, 8)", normal(3, 4, 8), factor=2),
        refused(TypeError, "factor", normal(2, 3, 4, 8)),
    ],
    "embedding": [
        refused(ValueError, "0 … 3", np.array([0, 4]), normal(4, 5)),
        refused(ValueError, "0 … 3", np.array([0, -1]), normal(4, 5)),
        refused(ValueError, "(4, 5, 6)", np.array([0, 1]), normal(4, 5, 6)),
        refused(ValueError, "float64", normal(2), normal(4, 5)),
    ],
    "grid_sample": [
        refused(ValueError, "(B, H, W, C)", normal(4, 5, 3), normal(2, 3, 4, 2)),
        refused(ValueError, "(2, 3, 4, 3)", normal(2, 4, 5, 3), normal(2, 3, 4, 3)),
        refused(ValueError, "(3, 3, 4, 2)", normal(2, 4, 5, 3), normal(3, 3, 4, 2)),
    ],
}  # fmt: skip

ROWS = [(name, one) for name, calls in EXAMPLES.items() for one in calls]
REFUSALS = [(name, one) for name, calls in REFUSED.items() for one in calls]
