"""What the references call things, and what we call them: one declarative table per reference.

A model of a reference is named by its source and class; it says which of our configs it becomes, under which names
its arguments, parameters and inner values go, and nothing else. A case of an operator file is named by a pattern; it
says which of our functions it calls. There is no layer code here: everything is built of tinyvit's public face.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

import tinyvit as tv
from tinyvit.models.resnet import ResNet, ResNetConfig
from tinyvit.models.simple_vit import SimpleViT, SimpleViTConfig
from tinyvit.models.vit import ViT, ViTConfig
from tinyvit.nn.basic import BatchNorm
from tinyvit.nn.embed import resample_positions, sincos_2d

# models ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Reference:
    """A reference's model: ours, and the names.

    arguments  their argument -> ours, where they differ
    values     their argument -> how its value becomes ours
    defaults   settings of ours (by our names) that follow from the others where the file gives none
    names      patterns of their parameter and module names -> ours
    computed   inner values that are no module's output -> how our model gives them
    """

    model: type
    config: type
    arguments: dict = field(default_factory=dict)
    values: dict = field(default_factory=dict)
    defaults: dict = field(default_factory=dict)
    names: dict = field(default_factory=dict)
    computed: dict = field(default_factory=dict)


MODELS: dict[tuple[str, str], Reference] = {
    ("timm", "VisionTransformer"): Reference(
        ViT,
        ViTConfig,
        values={"pos_embed": lambda kind: {"": "none"}.get(kind, kind)},
        defaults={"fc_norm": lambda given: given.get("global_pool", "token") == "avg"},
        names={
            r"(blocks\.\d+\.attn)\.attn_drop": r"\1.weights",  # after its dropout, which is off
            r"(blocks\.\d+\.mlp)\.(?:act|norm)": r"\1.drop1",
            r"(blocks\.\d+)\.ls1": r"\1.attn",
            r"(blocks\.\d+)\.ls2": r"\1.mlp",
            r"patch_drop|norm_pre": "pos_drop",
            r"head_drop": "fc_norm",
        },
    ),
    ("timm", "ResNet"): Reference(
        ResNet, ResNetConfig, values={"block": lambda name: name.removesuffix("Block").lower()}
    ),
    ("vit-pytorch", "SimpleViT64"): Reference(
        SimpleViT,
        SimpleViTConfig,
        arguments={"image_size": "img_size", "dim": "embed_dim", "heads": "num_heads", "dim_head": "head_dim",
                   "channels": "in_chans"},
        names={
            r"to_patch_embedding": "patch_embed",
            r"to_patch_embedding\.([123])((?:\.\w+)?)": lambda m: f"patch_embed.{int(m[1]) - 1}{m[2]}",
            r"transformer": "norm",
            r"transformer\.norm((?:\.\w+)?)": r"norm\1",
            r"transformer\.layers\.(\d+)\.0": r"blocks.\1.attn",
            r"transformer\.layers\.(\d+)\.0\.norm((?:\.\w+)?)": r"blocks.\1.norm1\2",
            r"transformer\.layers\.(\d+)\.0\.attend": r"blocks.\1.attn.weights",
            r"transformer\.layers\.(\d+)\.0\.to_qkv((?:\.\w+)?)": r"blocks.\1.attn.qkv\2",
            r"transformer\.layers\.(\d+)\.0\.to_out((?:\.\w+)?)": r"blocks.\1.attn.proj\2",
            r"transformer\.layers\.(\d+)\.1": r"blocks.\1.mlp",
            r"transformer\.layers\.(\d+)\.1\.net\.0((?:\.\w+)?)": r"blocks.\1.norm2\2",
            r"transformer\.layers\.(\d+)\.1\.net\.1((?:\.\w+)?)": r"blocks.\1.mlp.fc1\2",
            r"transformer\.layers\.(\d+)\.1\.net\.2": r"blocks.\1.mlp.drop1",
            r"transformer\.layers\.(\d+)\.1\.net\.3((?:\.\w+)?)": r"blocks.\1.mlp.fc2\2",
            r"linear_head((?:\.\w+)?)": r"head\1",
        },
        computed={"pos_embedding": lambda model: sincos_2d(model.grid, model.config.embed_dim)},
    ),
}  # fmt: skip

# operators ---------------------------------------------------------------------------------


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


def unary(t: Case):
    return getattr(tv, t.match[1])(t.i["x"])


def along_axis(t: Case):
    return getattr(tv, t.match[1])(t.i["x"], axis=int(t.match[2]))


def conv2d(t: Case):
    options = {k: t.a[k] for k in ("stride", "padding", "dilation", "groups") if k in t.a}
    return first(tv.conv2d(last(t.i["x"]), t.i["w"], t.i.get("b_"), **options))


def attention(t: Case):
    bias = t.i.get("bias")
    if "mask" in t.c:
        bias = np.where(t.c["mask"], 0.0, -np.inf)
    if "causal" in t.match[0]:
        n, m = t.i["q"].shape[-2], t.i["k"].shape[-2]
        bias = np.where(np.tri(n, m, dtype=bool), 0.0, -np.inf)
    return tv.scaled_dot_product_attention(t.i["q"], t.i["k"], t.i["v"], bias, scale=t.a.get("scale"))


def cross_entropy(t: Case):
    targets = t.c["y"] if "y" in t.c else t.c["t"]
    logits = last(t.i["z"]) if t.match[0].endswith("_2d") else t.i["z"]
    reduction = t.match[2] if t.match[2] in ("sum", "none") else "mean"
    return tv.cross_entropy(logits, targets, smoothing=t.a.get("smoothing", 0.0), reduction=reduction)


def kl_div(t: Case):
    total = tv.kl_divergence(log_q(t), t.c["t"], reduction="sum")
    return total / {"sum": 1, "batchmean": len(t.c["t"]), "mean": t.c["t"].size}[t.match[1]]


def log_q(t: Case):
    """The file's z are logits where its note says nothing else."""
    return tv.log_softmax(t.i["z"])


def layer_norm(t: Case):
    x, w, b = t.i["x"], t.i.get("w"), t.i.get("b_")
    if "channels_first" in t.match[0]:
        return first(tv.layer_norm(last(x), w, b, eps=t.a["eps"]))
    flat = tv.reshape(x, shape=(*x.shape[: len(x.shape) - t.a.get("axes", 1)], -1))
    return tv.reshape(tv.layer_norm(flat, w, b, eps=t.a["eps"]), shape=x.shape)


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
    function = {"max": tv.max_pool2d, "avg": tv.avg_pool2d}[t.match[1]]
    size, stride, padding = (int(g or 0) for g in t.match.groups()[1:])
    return first(function(last(t.i["x"]), size=size, stride=stride, padding=padding))


def resize(t: Case):
    options = {k: t.a[k] for k in ("mode", "align_corners", "antialias") if k in t.a}
    return first(tv.resize(last(t.i["x"]), size=tuple(t.a["size"]), **options))


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


# file -> patterns of case names -> our function; what no pattern meets is not built yet
OPERATORS: dict[str, dict[str, Callable]] = {
    "op-act": {
        r"(gelu|gelu_tanh|quick_gelu|silu|sigmoid|tanh|erf|relu)": unary,
        r"(softmax|log_softmax)_axis(-?\d+)": along_axis,
        r"(softmax)_large": lambda t: tv.softmax(300 * t.i["x"]),
    },
    "op-attention": {r"sdpa(_bool_mask|_float_bias|_causal|_scale[\d.]+)?": attention},
    "op-conv": {r"(?!conv1d|conv3d|conv_transpose).*": conv2d},
    "op-loss": {
        r"cross_entropy(_(sum|none|2d|soft_targets|smooth[\d.]+))?": cross_entropy,
        r"kl_div_(batchmean|mean|sum)": kl_div,
        r"mse": lambda t: tv.mse(t.i["z"], t.c["t"]),
    },
    "op-norm": {
        r"layer_norm_.*": layer_norm,
        r"batch_norm_eval_\dd": batch_norm_eval,
        r"batch_norm_train_\dd": batch_norm_train,
    },
    "op-pool_resize": {
        r"(max|avg)_k(\d+)s(\d+)(?:p(\d+))?": pool,
        r"(bilinear|bicubic|nearest)_\d+x\d+(_half|_align|_antialias)?": resize,
        r"unfold_k(\d+)s(\d+)p(\d+)": unfold,
        r"fold_k(\d+)s(\d+)p(\d+)": fold,
        r"roll": lambda t: tv.roll(t.i["x"], shift=tuple(t.a["shift"]), axis=tuple(t.a["axes"])),
        r"pad_constant": lambda t: tv.pad(t.i["x"], widths=((0, 0), (0, 0), (0, 3), (1, 2))),
    },
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
    """Swin's relative-position table for another window: bicubic, half-pixel."""
    side, new_side = round(len(table) ** 0.5), round(new_rows**0.5)
    return tv.resize(table.reshape(1, side, side, -1), size=(new_side, new_side), mode="bicubic").reshape(new_rows, -1)
