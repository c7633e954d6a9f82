"""The cases of the operator files: which of our functions each calls, by a pattern of its name."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

import tinyvit as tv
from tinyvit.autodiff.watch import Listener, listening
from tinyvit.models.transformer import DecoderLayer, EncoderDecoder, EncoderLayer, TransformerConfig
from tinyvit.nn.basic import BatchNorm
from tinyvit.nn.embed import resample_positions
from tinyvit.nn.window import resize_bias_table


def last(x):
    """Channels-first to channels-last."""
    return tv.transpose(x, axes=(0, *range(2, len(x.shape)), 1))


def first(x):
    """Channels-last to channels-first."""
    return tv.transpose(x, axes=(0, len(x.shape) - 1, *range(1, len(x.shape) - 1)))


@dataclass(frozen=True)
class Case:
    """A case of an operator file: its name's match, its attributes, and its arrays.

    i  the inputs that are differentiated, as Tensors · c  the constants, as arrays
    """

    match: re.Match
    a: dict
    i: dict
    c: dict


def options(t: Case, *names) -> dict:
    """The attributes of these names that the file gives."""
    return {name: t.a[name] for name in names if name in t.a}


def number(t: Case, name: str, group: int = 1):
    """A number that is an attribute or, failing that, part of the case's name."""
    return t.a[name] if name in t.a else float(t.match[group])


def reduction(t: Case, of_one_number: str = "mean") -> str:
    """What the attributes or the name say; else, if one number comes out, ``of_one_number``."""
    if "reduction" in t.a or (named := re.search("_(sum|none|mean)(_|$)", t.match[0])):
        return t.a.get("reduction") or named[1]
    return "none" if t.c["out_shape"] else of_one_number


def unary(t: Case):
    return getattr(tv, t.match[1])(t.i["x"])


def along_axis(t: Case):
    return getattr(tv, t.match[1])(t.i["x"], axis=int(t.match[2]))


def softmax_large(t: Case):
    return tv.softmax(float(re.search(r"multiplied by ([\d.]+)", t.a["note"])[1]) * t.i["x"])


def convolution(t: Case):
    function = {3: tv.conv1d, 4: tv.conv2d, 5: tv.conv3d}[t.i["x"].ndim]
    return first(function(last(t.i["x"]), t.i["w"], t.i.get("b_"),
                          **options(t, "stride", "padding", "dilation", "groups")))  # fmt: skip


def conv_transpose(t: Case):
    given = options(t, "stride", "padding", "output_padding", "dilation", "groups")
    return first(tv.conv_transpose2d(last(t.i["x"]), t.i["w"], t.i.get("b_"), **given))


def attention(t: Case):
    bias = t.i.get("bias", t.c.get("mask"))  # a mask's True says: may attend
    if "causal" in t.match[0]:
        bias = tv.causal_mask(t.i["q"].shape[-2], t.i["k"].shape[-2])
    return tv.scaled_dot_product_attention(t.i["q"], t.i["k"], t.i["v"], bias, scale=t.a.get("scale"))


class Weights(Listener):
    """Keeps the attention weights that an equation taps, in the graph."""

    def opens(self, op):
        return "weights" in op.taps

    def tapped(self, name, value):
        self.weights = value
        return value


def multi_head_attention(t: Case):
    """The output, and the weights of every head. ``kp`` is True for the keys to leave out."""
    names = ("qx", "kx", "vx", "in_proj_weight", "in_proj_bias", "out_proj__weight", "out_proj__bias")
    may_attend = ~t.c["kp"][:, None, None] if "kp" in t.c else None
    with listening(Weights()) as seen:
        y = tv.multi_head_attention(*map(t.i.get, names), may_attend, num_heads=t.a["heads"])
    return y, seen.weights


def cross_entropy(t: Case):
    """Of logits and classes, or distributions, channels-first where they are maps."""
    z, targets = t.i["z"], t.c["y"] if "y" in t.c else t.c["t"]
    if z.ndim > 2:
        z, targets = last(z), targets if "y" in t.c else last(targets)
    given = options(t, "smoothing", "ignore_index") | {"reduction": reduction(t)}
    if t.match[0].startswith("nll"):
        return tv.nll(tv.log_softmax(z), targets, t.c.get("w"), **given)
    return tv.cross_entropy(z, targets, t.c.get("w"), **given)


def kl_div(t: Case):
    """The file's z are logits. PyTorch's "mean" counts elements, its "batchmean" the first axis alone."""
    how = {"batchmean": "sum", "mean": "elements"}.get(t.match[1], t.match[1])
    total = tv.kl_divergence(tv.log_softmax(t.i["z"]), t.c["t"], reduction=how)
    return total / len(t.c["t"]) if t.match[1] == "batchmean" else total


def two_arrays(t: Case):
    function = {"mse": tv.mse, "l1": tv.l1, "bce_with_logits": tv.bce_with_logits}[t.match[1]]
    return function(t.i["z"], t.c["t"], reduction=reduction(t))


def huber(t: Case):
    return tv.huber(t.i["z"], t.c["t"], delta=number(t, "delta"), reduction=reduction(t))


def smooth_l1(t: Case):
    return tv.smooth_l1(t.i["z"], t.c["t"], beta=number(t, "beta"), reduction=reduction(t))


def focal(t: Case):
    alpha, gamma = number(t, "alpha"), number(t, "gamma", 2)
    return tv.sigmoid_focal(t.i["z"], t.c["t"], alpha=alpha, gamma=gamma, reduction=reduction(t, "sum"))


def layer_norm(t: Case):
    x, w, b = t.i["x"], t.i.get("w"), t.i.get("b_")
    if "channels_first" in t.match[0]:
        return first(tv.layer_norm(last(x), w, b, eps=t.a["eps"]))
    flat = tv.reshape(x, shape=(*x.shape[: len(x.shape) - t.a.get("axes", 1)], -1))
    return tv.reshape(tv.layer_norm(flat, w, b, eps=t.a["eps"]), shape=x.shape)


def group_norm(t: Case):
    return first(tv.group_norm(last(t.i["x"]), t.i.get("w"), t.i.get("b_"), **options(t, "groups", "eps")))


def standardised_conv(t: Case):
    weight = tv.weight_standardise(t.i["w"], eps=t.a["eps"])
    return first(tv.conv2d(last(t.i["x"]), weight, t.i.get("b_"),
                           **options(t, "stride", "padding", "dilation", "groups")))  # fmt: skip


def batch_norm_eval(t: Case):
    return first(tv.batch_norm_inference(last(t.i["x"]), t.c["rm"], t.c["rv"], t.i["w"], t.i["b_"], eps=t.a["eps"]))


def batch_norm_train(t: Case):
    return first(tv.batch_norm(last(t.i["x"]), t.i["w"], t.i["b_"], eps=t.a["eps"]))


def running_statistics(t: Case, before: dict) -> dict:
    """What a BatchNorm in training leaves behind."""
    norm = BatchNorm(len(before["rm"]), eps=t.a["eps"], momentum=t.a["momentum"], rng=np.random.default_rng(0))
    norm.running_mean.data, norm.running_var.data = before["rm"], before["rv"]
    norm.follow(last(t.i["x"]).data)
    return {"rm": norm.running_mean.data, "rv": norm.running_var.data}


def pool(t: Case):
    kind, size, stride, padding, ceil, excluding = t.match.groups()
    given = {"size": int(size), "stride": int(stride), "padding": int(padding or 0), "ceil_mode": bool(ceil)}
    if kind == "max":
        return first(tv.max_pool2d(last(t.i["x"]), **given))
    return first(tv.avg_pool2d(last(t.i["x"]), **given, count_include_pad=not excluding))


def adaptive_pool(t: Case):
    function = {"max": tv.adaptive_max_pool2d, "avg": tv.adaptive_avg_pool2d}[t.match[1]]
    return first(function(last(t.i["x"]), size=t.c["out_shape"][2:]))


def resize(t: Case):
    return first(tv.resize(last(t.i["x"]), **options(t, "size", "mode", "align_corners", "antialias")))


def resize_by_scale(t: Case):
    return first(tv.resize(last(t.i["x"]), mode=t.match[1], scale=number(t, "scale", 2)))


def resize_by_scale_plus(t: Case):
    """DINO's: a little is added to the size, so that the rounding of size / length cannot lose a pixel."""
    more = float(t.match[2])
    scale = [(m + more) / n for m, n in zip(t.c["out_shape"][2:], t.i["x"].shape[2:], strict=True)]
    return first(tv.resize(last(t.i["x"]), mode=t.match[1], scale=scale))


def pixel_shuffle(t: Case):
    return first(tv.pixel_shuffle(last(t.i["x"]), factor=int(t.match[1])))


def grid_sample(t: Case):
    return first(tv.grid_sample(last(t.i["x"]), t.i["g"], **options(t, "align_corners")))


def pad_constant(t: Case):
    """The note tells the widths of the last axis, and of the one before it."""
    pairs = [(int(a), int(b)) for a, b in re.findall(r"\((\d+), ?(\d+)\)", t.a["note"])]
    widths = [*[(0, 0)] * (t.i["x"].ndim - len(pairs)), *reversed(pairs)]
    return tv.pad(t.i["x"], widths=tuple(widths), value=t.a.get("value", 0.0))


def unfold(t: Case):
    """(B, C, H, W) -> (B, C·k², places): channels before taps, as ours within a window."""
    k, s, p = t.a["k"], t.a["s"], t.a["p"]
    padded = tv.pad(last(t.i["x"]), widths=((0, 0), (p, p), (p, p), (0, 0)))
    windows = tv.unfold(padded, size=(k, k), stride=s)  # (B, H', W', C, k, l)
    B, H, W, C, *_ = windows.shape
    return tv.transpose(tv.reshape(windows, shape=(B, H * W, C * k * k)), axes=(0, 2, 1))


def fold(t: Case):
    """The transpose: (B, C·k², places) -> (B, C, H, W), of the size of the file's output."""
    k, s, p = t.a["k"], t.a["s"], t.a["p"]
    B, C, H, W = t.c["out_shape"]
    places = [(n + 2 * p - k) // s + 1 for n in (H, W)]
    windows = tv.reshape(tv.transpose(t.i["x"], axes=(0, 2, 1)), shape=(B, *places, C, k, k))
    whole = tv.fold(windows, shape=(B, H + 2 * p, W + 2 * p, C), stride=s)
    return first(whole[:, p : p + H, p : p + W])


def may_attend(t: Case, name: str, tokens: int, otherwise=None):
    """Where a query may look: PyTorch's mask of that name, an array or a word; ``otherwise`` if the case has none."""
    mask = t.c.get(name, t.a.get(name, otherwise))
    if mask is None:
        return None
    if isinstance(mask, str):
        return {"causal": tv.causal_mask(tokens)}[mask]
    return ~mask if mask.dtype.kind == "b" else mask  # PyTorch's True forbids, numbers are added


def transformer(t: Case):
    """A layer, or both stacks, of PyTorch's Transformer, on vectors; stacks are causal unless the case says how."""
    known = {"heads", "ff", "norm_first", "src_mask", "tgt_mask", "memory_mask", "note"}
    if unknown := t.a.keys() - known:
        raise ValueError(f"{t.match[0]} with {', '.join(unknown)}")
    norm_first = t.a.get("norm_first", "prenorm" in t.match[0])
    given = {k: x for k, x in t.i.items() if k not in ("x", "mem", "src", "tgt")}
    width, both = given[next(k for k in given if k.endswith("norm1__weight"))].shape[0], t.match[0].startswith("transf")
    stacks = ("encoder__layers", "decoder__layers")
    depths = [len({k.split("__")[2] for k in given if k.startswith(stack)}) for stack in stacks]
    config = TransformerConfig(d_model=width, nhead=t.a["heads"], dim_feedforward=t.a["ff"], norm_first=norm_first,
                               num_encoder_layers=depths[0], num_decoder_layers=depths[1], final_norm=True)  # fmt: skip
    kind = EncoderDecoder if both else DecoderLayer if "mem" in t.i else EncoderLayer
    model = kind(config, rng=None)
    for name, parameter in model.named_parameters():
        owner, _, leaf = name.rpartition(".")
        holder = dict(model.named_modules())[owner]
        assert getattr(holder, leaf) is parameter
        setattr(holder, leaf, given.pop(name.replace(".", "__")))
    assert not given, f"no parameter of ours is called {', '.join(given)}"
    inputs = [t.i[k] for k in ("x", "mem", "src", "tgt") if k in t.i]
    read = may_attend(t, "src_mask", inputs[0].shape[1])
    if kind is EncoderLayer:
        return model(*inputs, read)
    ahead = may_attend(t, "tgt_mask", inputs[both].shape[1], otherwise="causal" if both else None)
    if kind is DecoderLayer:
        return model(*inputs, ahead, may_attend(t, "memory_mask", inputs[1].shape[1]))
    return model.decoder(inputs[1], model.encoder(inputs[0], read), ahead, may_attend(t, "memory_mask", 0))


# file -> patterns of case names -> our function; what no pattern meets is not built yet
OPERATORS: dict[str, dict[str, Callable]] = {
    "op-act": {
        r"(gelu|gelu_tanh|quick_gelu|silu|sigmoid|tanh|erf|relu|softplus|elu|hardswish|log_sigmoid|relu6)": unary,
        r"leaky_relu_([\d.]+)": lambda t: tv.leaky_relu(t.i["x"], slope=number(t, "slope")),
        r"(softmax|log_softmax)_axis(-?\d+)": along_axis,
        r"softmax_large": softmax_large,
    },
    "op-attention": {r"sdpa(_.*|)": attention, r"mha_cross(_.*|)": multi_head_attention},
    "op-conv": {r"conv_transpose.*": conv_transpose, r".*": convolution},
    "op-loss": {
        r"cross_entropy.*|nll.*": cross_entropy,
        r"kl_div_(batchmean|mean|sum|none)": kl_div,
        r"deit_soft_distill.*": lambda t: tv.soft_distillation(
            t.i["z"], t.c["T"], t.c["y"], **options(t, "tau", "lam")
        ),
        r"deit_repo_soft.*": lambda t: tv.distillation(t.i["z"], t.c["T"], tau=t.a["tau"], reduction="elements"),
        r"deit_hard_distill.*": lambda t: tv.hard_distillation(t.i["z"], t.c["T"], t.c["y"]),
        r"(mse|l1|bce_with_logits)(?:_(?:sum|none|mean))?": two_arrays,
        r"huber_(?:delta)?([\d.]+).*": huber,
        r"smooth_l1_(?:beta)?([\d.]+).*": smooth_l1,
        r"sigmoid_focal_a([\d.]+)_g([\d.]+).*": focal,
        r"iou_pairs": lambda t: tv.box_iou(t.i["x"][:, None], t.i["y"]),
        r"giou_pairs": lambda t: tv.box_giou(t.i["x"][:, None], t.i["y"]),
    },
    "op-norm": {
        r"layer_norm_.*": layer_norm,
        r"batch_norm_eval_\dd": batch_norm_eval,
        r"batch_norm_train_\dd": batch_norm_train,
        r"group_norm.*": group_norm,
        r"weight_standardised_conv.*": standardised_conv,
    },
    "op-transformer": {r"(encoder_layer|decoder_layer|transformer)_.*": transformer},
    "op-pool_resize": {
        r"(max|avg)_k(\d+)s(\d+)(?:p(\d+))?(_ceil)?(_excl)?": pool,
        r"adaptive_(avg|max)_\d+x\d+": adaptive_pool,
        r"(bilinear|bicubic|nearest)_\d+x\d+(_half|_align|_antialias)?": resize,
        r"(bilinear|bicubic|nearest)_scale_factor_([\d.]+)": resize_by_scale,
        r"(bilinear|bicubic|nearest)_scale_plus_([\d.]+)": resize_by_scale_plus,
        r"unfold_k(\d+)s(\d+)p(\d+)": unfold,
        r"fold_k(\d+)s(\d+)p(\d+)": fold,
        r"pixel_shuffle(\d+)": pixel_shuffle,
        r"grid_sample.*": grid_sample,
        r"roll.*": lambda t: tv.roll(t.i["x"], shift=tuple(t.a["shift"]), axis=tuple(t.a["axes"])),
        r"pad_constant.*": pad_constant,
    },
}

# boxes -------------------------------------------------------------------------------------


def roi_align(x, rois, attributes: dict):
    """RoIs are rows of (image, box); maps are channels-first. The file is of torchvision's fallback in Python."""
    inside = tv.roi_align(last(x), rois[:, 1:], rois[:, 0].astype(int), size=tuple(attributes["output"]),
                          scale=attributes["spatial_scale"], sampling=attributes["sampling_ratio"],
                          aligned=attributes["aligned"], zero_outside=False)  # fmt: skip
    return first(inside)


def coded(z: dict, attributes: dict) -> dict:
    """What a case of the box coder holds, by name."""
    weights = tuple(attributes["weights"])
    return {
        "encoded": tv.encode_boxes(z["gt"], z["proposals"], weights=weights),
        "decoded": tv.decode_boxes(z["deltas"], z["proposals"], weights=weights, limit=attributes["dwh_clip"]),
    }


# position tables ---------------------------------------------------------------------------

POSITIONS = {  # pattern of the key -> (how the grid is resized); see resample_positions and resize
    r"bicubic_noaa": {"mode": "bicubic"},
    r"bicubic_aa": {"mode": "bicubic", "antialias": True},
    r"bilinear_noaa": {"mode": "bilinear"},
    r"bilinear_aa": {"mode": "bilinear", "antialias": True},
}
IN_FLOAT32 = ("timm",)  # timm resizes in single precision, and its table holds no more digits
POSITION_METHODS = {"timm": "timm", "scipy_zoom_order1": "jax", "bicubic_noaa": "deit"}


def resized_table(kind: str, table, grid, new_grid):
    """A position table resized as the file's key says, its class row kept."""
    if kind in POSITION_METHODS:
        return resample_positions(table, grid, new_grid, method=POSITION_METHODS[kind])
    rows = tv.resize(table[:, 1:].reshape(1, *grid, -1), size=tuple(new_grid), **POSITIONS[kind])
    return np.concatenate([table[:, :1], rows.reshape(1, -1, table.shape[-1])], axis=1)


def resized_relative_table(table, new_rows: int):
    """Swin's relative-position table for another window, of which the table has a number of rows."""
    side = (round(new_rows**0.5) + 1) // 2
    return resize_bias_table(table, (side, side))
