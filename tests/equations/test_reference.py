"""Ops against reference implementations (PyTorch, float64): values and gradients of every stored case.

The stored arrays are channels-first; a case turns its images to tinyvit's channels-last and back, by ops, so that the
gradients come out in the stored layout. A case is either expressed here or named in NOT_BUILT: none is skipped unseen.
"""

import math
from itertools import chain

import numpy as np
import pytest
from reference import cases, fixture, part

from tinyvit import (
    Tensor,
    absolute,
    avg_pool2d,
    batch_norm,
    batch_norm_inference,
    conv2d,
    cross_entropy,
    einsum,
    erf,
    exp,
    fold,
    gelu,
    gelu_tanh,
    gradients,
    kl_divergence,
    layer_norm,
    linear,
    log,
    log_softmax,
    max_pool2d,
    maximum,
    mean,
    minimum,
    mse,
    pad,
    quick_gelu,
    relu,
    resize,
    roll,
    scaled_dot_product_attention,
    sigmoid,
    silu,
    softmax,
    split,
    tanh,
    unfold,
    var,
    where,
)
from tinyvit import sum as total
from tinyvit.autodiff.watch import Listener, listening
from tinyvit.equations.normalize import batch_statistics

FILES = ("act", "attention", "conv", "loss", "norm", "pool_resize")
CLOSE = {"rtol": 1e-10, "atol": 1e-10}

NOT_BUILT = {
    "giou_pairs": "box losses come with detection",
    "iou_pairs": "box losses come with detection",
    **dict.fromkeys(
        [f"adaptive_{kind}_{size}" for kind in ("avg", "max") for size in ("2x3", "6x5", "3x3")],
        "pooling to a size that does not divide comes with the segmentation head",
    ),
    "bicubic_scale_factor_1.5": "resize goes by size; a ratio of its own is asked for by no published model yet",
    "bicubic_scale_plus_0.1": "resize goes by size; DINO's +0.1 is a ratio of its own",
    "grid_sample": "sampling at given places comes with deformable attention",
}


def last(x):
    """Channels-first to channels-last."""
    return x.transpose(0, *range(2, x.ndim), 1)


def first(x):
    """Channels-last to channels-first."""
    return x.transpose(0, x.ndim - 1, *range(1, x.ndim - 1))


def pairs(attrs, *names):
    """Options as keyword arguments; JSON's lists are tuples here."""
    return {
        name: tuple(attrs[name]) if isinstance(attrs[name], list) else attrs[name] for name in names if name in attrs
    }


# one function for each case: (inputs, constants, attributes) -> output(s), all in the stored layout


def act(f):
    return lambda i, c, a: f(i["x"], **pairs(a, "axis"))


def softplus(x):
    """``log(1 + eˣ)``."""
    return log(1 + exp(x))


ACT = {
    **{f.__name__: act(f) for f in (gelu, gelu_tanh, quick_gelu, silu, sigmoid, tanh, erf, relu)},
    **{f"{f.__name__}_axis{i}": act(f) for f in (softmax, log_softmax) for i in (-1, 1)},
    "softmax_large": act(lambda x: softmax(300 * x)),
    "softplus": act(softplus),
    "log_sigmoid": act(lambda x: -softplus(-x)),
    "elu": act(lambda x: where(x > 0, x, exp(x * (x <= 0)) - 1)),
    "hardswish": act(lambda x: x * minimum(maximum(x + 3, 0), 6) / 6),
    "leaky_relu_0.2": act(lambda x: where(x > 0, x, 0.2 * x)),
    "relu6": act(lambda x: minimum(maximum(x, 0), 6)),
}


def forbid(pairs_):
    """-inf where a pair is forbidden, else 0."""
    return np.where(pairs_, -np.inf, 0.0)


def sdpa(bias=lambda i, c: None):
    return lambda i, c, a: scaled_dot_product_attention(i["q"], i["k"], i["v"], bias(i, c), **pairs(a, "scale"))


class Weights(Listener):
    """Keeps the attention weights that the equation taps, in the graph."""

    def opens(self, op):
        return "weights" in op.taps

    def tapped(self, name, value):
        self.weights = value
        return value


def multi_head(i, c, a):
    """Cross-attention with three projections in one matrix; its weights are the second output."""
    h = a["heads"]
    projections = zip(split(i["in_proj_weight"], 3, 0), split(i["in_proj_bias"], 3, 0), strict=True)
    heads = []
    for x, (weight, bias) in zip((i["qx"], i["kx"], i["vx"]), projections, strict=True):
        y = linear(x, weight, bias)
        heads.append(y.reshape(*y.shape[:2], h, -1).swapaxes(1, 2))
    ignored = forbid(c["kp"])[:, None, None] if "kp" in c else None
    with listening(Weights()) as seen:
        y = scaled_dot_product_attention(*heads, ignored)
    y = y.swapaxes(1, 2).reshape(*i["qx"].shape)
    return linear(y, i["out_proj__weight"], i["out_proj__bias"]), seen.weights


ATTENTION = {
    "sdpa": sdpa(),
    "sdpa_bool_mask": sdpa(lambda i, c: forbid(~c["mask"])),
    "sdpa_float_bias": sdpa(lambda i, c: i["bias"]),
    "sdpa_causal": sdpa(lambda i, c: forbid(np.triu(np.ones((4, 4), bool), 1))),
    "sdpa_scale0.7": sdpa(),
    "mha_cross": multi_head,
    "mha_cross_keypad": multi_head,
}


def conv(i, c, a):
    return first(conv2d(last(i["x"]), i["w"], i.get("b_"), **pairs(a, "stride", "padding", "dilation", "groups")))


def conv_open(i, c, a):
    """The same by the equation."""
    options = pairs(a, "stride", "padding", "dilation", "groups")
    return first(conv2d.function(last(i["x"]), i["w"], i.get("b_"), **options))


def conv1d(i, c, a):
    """A convolution of images one pixel high."""
    x, w = last(i["x"])[:, None], i["w"][:, :, None]
    return first(conv2d(x, w, i["b_"], stride=(1, a["stride"]), padding=(0, a["padding"]))[:, 0])


def conv3d(i, c, a):
    windows = unfold(last(i["x"]), size=i["w"].shape[2:], stride=tuple(a["stride"]))
    return first(einsum(windows, i["w"], spec="bthwcklm,ocklm->bthwo") + i["b_"])


def conv_transpose(i, c, a):
    """Every input pixel spreads a weighted window over the output: the pullback of a convolution."""
    s, p, x = a["stride"], a.get("padding", 0), last(i["x"])
    windows = einsum(x, i["w"], spec="bhwc,cokl->bhwokl")
    B, H, W, O, k, l = windows.shape
    y = fold(windows, shape=(B, (H - 1) * s + k, (W - 1) * s + l, O), stride=s)
    y = y[:, p : y.shape[1] - p, p : y.shape[2] - p]
    return first(y + i["b_"] if "b_" in i else y)


CONV = {
    name: conv for name in cases("shared-op-conv") if name.startswith(("k", "patch", "groups", "dep", "dil", "asym"))
}
CONV |= {f"{name} open": conv_open for name in CONV}
CONV |= {"conv1d": conv1d, "conv3d_2x4x4": conv3d,
         "conv_transpose_k2s2": conv_transpose, "conv_transpose_k4s2p1": conv_transpose}  # fmt: skip


def ce(**options):
    return lambda i, c, a: cross_entropy(i["z"], c["y"], **options)


def kl(i, c, a, tau=1.0):
    """KL(teacher ‖ student) at a temperature, a number per row."""
    return kl_divergence(log_softmax(i["z"] / tau), softmax(c["T"] / tau), reduction="none")


def soft_distillation(i, c, a):
    """(1 - λ) CE(student, y) + λ τ² KL(teacher ‖ student) (DeiT, Eq. 2)."""
    lam, tau = a["lam"], a["tau"]
    return (1 - lam) * cross_entropy(i["z"], c["y"]) + lam * tau * tau * mean(kl(i, c, a, tau))


def binary_entropy(z, t):
    """``-t log σ(z) - (1 - t) log(1 - σ(z))``."""
    return softplus(z) - t * z


def focal(i, c, a):
    z, t = i["z"], c["t"]
    missed = sigmoid(z) * (1 - t) + (1 - sigmoid(z)) * t
    weight = a["alpha"] * t + (1 - a["alpha"]) * (1 - t)
    return total(weight * missed ** a["gamma"] * binary_entropy(z, t))


def huber(delta, scale):
    """Half the square within δ, straight beyond."""

    def loss(i, c, a):
        d = absolute(i["z"] - c["t"])
        return mean(where(d < delta, 0.5 * d * d, delta * (d - 0.5 * delta))) * scale

    return loss


def weighted(i, c, a):
    w = c["w"][c["y"]]
    return (w * cross_entropy(i["z"], c["y"], reduction="none")).sum() / w.sum()


LOSS = {
    "cross_entropy": ce(),
    "cross_entropy_smooth0.1": ce(smoothing=0.1),
    "cross_entropy_smooth0.3": ce(smoothing=0.3),
    "cross_entropy_sum": ce(reduction="sum"),
    "cross_entropy_none": ce(reduction="none"),
    "cross_entropy_soft_targets": lambda i, c, a: cross_entropy(i["z"], c["t"]),
    "cross_entropy_2d": lambda i, c, a: cross_entropy(last(i["z"]), c["y"]),
    "cross_entropy_ignore": lambda i, c, a: cross_entropy(i["z"][c["y"] != -100], c["y"][c["y"] != -100]),
    "cross_entropy_weighted": weighted,
    "nll": lambda i, c, a: -mean(log_softmax(i["z"])[np.arange(5), c["y"]]),
    "kl_div_batchmean": lambda i, c, a: kl_divergence(log_softmax(i["z"]), c["t"]),
    "kl_div_mean": lambda i, c, a: kl_divergence(log_softmax(i["z"]), c["t"]) / 6,
    "kl_div_sum": lambda i, c, a: kl_divergence(log_softmax(i["z"]), c["t"], reduction="sum"),
    "deit_soft_distill_tau1": soft_distillation,
    "deit_soft_distill_tau3": soft_distillation,
    "deit_repo_soft_tau1": lambda i, c, a: mean(kl(i, c, a, a["tau"])) * a["tau"] ** 2 / 6,
    "deit_repo_soft_tau3": lambda i, c, a: mean(kl(i, c, a, a["tau"])) * a["tau"] ** 2 / 6,
    "deit_hard_distill": lambda i, c, a: (
        0.5 * cross_entropy(i["z"], c["y"]) + 0.5 * cross_entropy(i["z"], c["T"].argmax(-1))
    ),
    "bce_with_logits": lambda i, c, a: mean(binary_entropy(i["z"], c["t"])),
    "mse": lambda i, c, a: mse(i["z"], c["t"]),
    "l1": lambda i, c, a: mean(absolute(i["z"] - c["t"])),
    "smooth_l1_beta0.5": huber(0.5, 2.0),
    "huber_1": huber(1.0, 1.0),
    "sigmoid_focal_a.25_g2": focal,
}


def norm(op, *constants):
    """A normalisation over the last axis, or over channels for images."""

    def case(i, c, a):
        image = i["x"].ndim == 4
        x = last(i["x"]) if image else i["x"]
        y = op(x, *(c[name] for name in constants), i["w"], i["b_"], **pairs(a, "eps"))
        return first(y) if image else y

    return case


def group_norm(i, c, a):
    B, C, H, W = i["x"].shape
    y = layer_norm(i["x"].reshape(B, a["groups"], -1), eps=a["eps"]).reshape(B, C, H, W)
    return first(last(y) * i["w"] + i["b_"])


def standardised_conv(i, c, a):
    """A convolution whose filters have mean 0 and variance 1 (Qiao et al. 2019)."""
    w, axes = i["w"], (1, 2, 3)
    w = (w - mean(w, axis=axes, keepdims=True)) * (var(w, axis=axes, keepdims=True) + a["eps"]) ** -0.5
    return first(conv2d(last(i["x"]), w, padding=a["padding"]))


NORM = {
    "layer_norm_eps1e-05": norm(layer_norm),
    "layer_norm_eps1e-06": norm(layer_norm),
    "layer_norm_noaffine_2axes": lambda i, c, a: layer_norm(i["x"].reshape(2, 24), eps=a["eps"]).reshape(2, 4, 6),
    "layer_norm_channels_first": norm(layer_norm),
    "group_norm": group_norm,
    "batch_norm_eval_1d": norm(batch_norm_inference, "rm", "rv"),
    "batch_norm_eval_2d": norm(batch_norm_inference, "rm", "rv"),
    "batch_norm_train_1d": norm(batch_norm),
    "batch_norm_train_2d": norm(batch_norm),
    "weight_standardised_conv3x3": standardised_conv,
}


def images(f):
    return lambda i, c, a: first(f(last(i["x"]), a))


def own_count(x, **window):
    """Mean pooling that divides by how many pixels of the image a window holds."""
    return avg_pool2d(x, **window) / avg_pool2d(np.ones(x.shape), **window)


def torch_unfold(i, c, a):
    """Torch's columns: (B, C·k·k, places)."""
    p = a["p"]
    windows = unfold(pad(last(i["x"]), widths=((0, 0), (p, p), (p, p), (0, 0))), size=(a["k"],) * 2, stride=a["s"])
    return windows.transpose(0, 3, 4, 5, 1, 2).reshape(windows.shape[0], a["k"] ** 2 * windows.shape[3], -1)


def torch_fold(i, c, a):
    (H, W), k, s, p = a["out"], a["k"], a["s"], a["p"]
    h, w = ((n + 2 * p - k) // s + 1 for n in (H, W))
    windows = i["x"].reshape(2, -1, k, k, h, w).transpose(0, 4, 5, 1, 2, 3)
    y = fold(windows, shape=(2, H + 2 * p, W + 2 * p, windows.shape[3]), stride=s)
    return first(y[:, p : p + H, p : p + W])


def pixel_shuffle(i, c, a):
    """Channels become pixels: (B, C·2·2, H, W) -> (B, C, 2H, 2W)."""
    B, C, H, W = i["x"].shape
    return i["x"].reshape(B, C // 4, 2, 2, H, W).transpose(0, 1, 4, 2, 5, 3).reshape(B, C // 4, 2 * H, 2 * W)


CEIL = ((0, 0), (0, 1))  # the last window of an odd row reaches one column over the edge
POOL_RESIZE = {
    "max_k3s2p1": images(lambda x, a: max_pool2d(x, size=3, stride=2, padding=1)),
    "max_k2s2": images(lambda x, a: max_pool2d(x, size=2)),
    "max_k2s2_ceil": images(lambda x, a: max_pool2d(x, size=2, padding=CEIL)),
    "avg_k3s2p1": images(lambda x, a: avg_pool2d(x, size=3, stride=2, padding=1)),
    "avg_k3s2p1_excl": images(lambda x, a: own_count(x, size=3, stride=2, padding=1)),
    "avg_k2s2_ceil": images(lambda x, a: own_count(x, size=2, padding=CEIL)),
    "avg_k2s2_ceil_excl": images(lambda x, a: own_count(x, size=2, padding=CEIL)),
    "adaptive_avg_1x1": lambda i, c, a: mean(i["x"], axis=(2, 3), keepdims=True),
    "adaptive_max_1x1": images(lambda x, a: max_pool2d(x, size=x.shape[1:3])),
    **{name: images(lambda x, a: resize(x, **pairs(a, "size", "mode", "align_corners", "antialias")))
       for name in cases("shared-op-pool_resize") if name.endswith(("_half", "_align", "_antialias"))
       or name.startswith("nearest")},
    **dict.fromkeys(("unfold_k3s1p1", "unfold_k3s2p1", "unfold_k2s2p0", "unfold_k7s4p2"), torch_unfold),
    **dict.fromkeys(("fold_k3s1p1", "fold_k3s2p1", "fold_k2s2p0", "fold_k7s4p2"), torch_fold),
    "pixel_shuffle2": pixel_shuffle,
    "roll": lambda i, c, a: roll(i["x"], shift=tuple(a["shift"]), axis=tuple(a["axes"])),
    "pad_constant": lambda i, c, a: pad(i["x"], widths=((0, 0), (0, 0), (0, 3), (1, 2)), value=pad_value()),
}  # fmt: skip


def pad_value():
    """The constant that the stored case was padded with: the last number of its last row is border."""
    return float(fixture("shared-op-pool_resize")["pad_constant/out0"][0, 0, -1, -1])


BUILT = dict(zip(FILES, (ACT, ATTENTION, CONV, LOSS, NORM, POOL_RESIZE), strict=True))
ALL = [(file, name) for file in FILES for name in BUILT[file]]


def test_every_stored_case_is_built_or_listed_as_not_built():
    stored = set(chain.from_iterable(cases(f"shared-op-{file}") for file in FILES))
    built = {name.removesuffix(" open") for _, name in ALL}
    assert stored - built == set(NOT_BUILT)
    assert built <= stored
    assert all(NOT_BUILT.values())


@pytest.mark.parametrize(("file", "name"), ALL, ids=[f"{file}/{name}" for file, name in ALL])
def test_values_and_gradients(file, name):
    stored_name = name.removesuffix(" open")
    arrays = fixture(f"shared-op-{file}")
    stored = part(arrays, stored_name)
    attrs = next(case["attrs"] for case in arrays["meta"]["cases"] if case["case"] == stored_name)
    inputs = {key: Tensor(x, requires_grad=True) for key, x in part(stored, "in").items()}
    outputs = BUILT[file][name](inputs, part(stored, "const"), attrs)
    outputs = outputs if isinstance(outputs, tuple) else (outputs,)
    for k, out in enumerate(outputs):
        np.testing.assert_allclose(out.data, stored[f"out{k}"], **CLOSE, err_msg=f"out{k}")
    assert f"out{len(outputs)}" not in stored
    got = gradients(list(outputs), list(inputs.values()), [stored[f"cot{k}"] for k in range(len(outputs))])
    for key, g in zip(inputs, got, strict=True):
        np.testing.assert_allclose(g, stored[f"grad/{key}"], **CLOSE, err_msg=f"gradient of {key}")


@pytest.mark.parametrize("case", ["1d", "2d"])
def test_batch_statistics_move_the_running_ones(case):
    stored = part(fixture("shared-op-norm"), f"batch_norm_train_{case}")
    x = np.moveaxis(stored["in/x"], 1, -1)
    n = x.size // x.shape[-1]
    m, v = batch_statistics(x)
    np.testing.assert_allclose(0.9 * stored["before_rm"] + 0.1 * m, stored["after_rm"], **CLOSE)
    np.testing.assert_allclose(0.9 * stored["before_rv"] + 0.1 * v * n / (n - 1), stored["after_rv"], **CLOSE)


def test_softmax_where_nothing_may_be_attended_to_is_zero_and_so_is_its_gradient():
    x = Tensor(np.array([[-math.inf, -math.inf], [0.0, -math.inf]]), requires_grad=True)
    y = softmax(x)
    np.testing.assert_array_equal(y.data, [[0, 0], [1, 0]])
    np.testing.assert_array_equal(gradients(y, x, [np.ones((2, 2))])[0], np.zeros((2, 2)))
