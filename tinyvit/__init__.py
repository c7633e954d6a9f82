"""tinyvit: vision transformers from scratch, in NumPy.

The floors, from the ground: ``autodiff`` (tensors and derivatives), ``primitives`` (the alphabet), ``equations`` (the
sentences), ``nn`` (things with parameters), and on top of them ``models``, ``train`` and ``analysis``.
"""

from importlib import import_module as _import_module

from tinyvit.autodiff.backward import gradients
from tinyvit.autodiff.derivatives import complex_step, grad, hessian, hvp, jvp, value_and_grad, vjp
from tinyvit.autodiff.op import constant, equation, primitive
from tinyvit.autodiff.tensor import Tensor
from tinyvit.autodiff.watch import no_grad, tap
from tinyvit.blueprint import Blueprint
from tinyvit.equations.activation import (
    elu,
    gelu,
    gelu_slope,
    gelu_tanh,
    hardswish,
    leaky_relu,
    log_sigmoid,
    log_softmax,
    quick_gelu,
    relu6,
    sigmoid,
    silu,
    softmax,
    softplus,
)
from tinyvit.equations.attention import (
    causal_mask,
    multi_head_attention,
    scaled_dot_product_attention,
    self_attention,
)
from tinyvit.equations.boxes import box_giou, box_iou, decode_boxes, encode_boxes, nms, roi_align
from tinyvit.equations.convolution import conv1d, conv2d, conv3d, conv_transpose2d, linear
from tinyvit.equations.loss import (
    bce_with_logits,
    cross_entropy,
    dice,
    distillation,
    giou_loss,
    hard_distillation,
    huber,
    kl_divergence,
    l1,
    mse,
    nll,
    sigmoid_focal,
    smooth_l1,
    soft_distillation,
)
from tinyvit.equations.neighbourhood import neighbourhood_attention
from tinyvit.equations.normalize import (
    batch_norm,
    batch_norm_inference,
    group_norm,
    instance_norm,
    layer_norm,
    rms_norm,
    weight_standardise,
)
from tinyvit.equations.outlook import outlook_attention
from tinyvit.equations.pooling import adaptive_avg_pool2d, adaptive_max_pool2d, avg_pool2d, max_pool2d
from tinyvit.equations.resize import pixel_shuffle, resize
from tinyvit.equations.sampling import embedding, grid_sample
from tinyvit.nn.capture import capture
from tinyvit.nn.describe import count_macs, describe
from tinyvit.nn.module import Buffer, Frozen, Module, Parameter, Sequential, StateError, swapped
from tinyvit.nn.stored import WeightFileError
from tinyvit.nn.weights import load_weights, save_weights
from tinyvit.primitives.contract import einsum, matmul
from tinyvit.primitives.elementwise import (
    absolute,
    clip,
    cos,
    erf,
    exp,
    expm1,
    log,
    log1p,
    maximum,
    minimum,
    relu,
    sin,
    sqrt,
    tanh,
    where,
)
from tinyvit.primitives.reduce import argmax, max, mean, sum, var
from tinyvit.primitives.shape import (
    concatenate,
    flatten,
    fold,
    pad,
    put_along_axis,
    reshape,
    roll,
    scatter,
    split,
    stack,
    swapaxes,
    take_along_axis,
    transpose,
    unfold,
)

__version__ = "0.1.0"

# What is imported when it is first named, so that ``import tinyvit`` stays light: the wings, and tools for looking.
_WINGS = ("analysis", "data", "models", "nn", "plots", "train")
_TOOLS = {
    "ModelError": "nn.check",
    "OpError": "autodiff.check",
    "check_model": "nn.check",
    "check_op": "autodiff.check",
    "draw": "autodiff.draw",
    "create_model": "models.catalogue",
    "inspect_weights": "models.inspection",
    "list_models": "models.catalogue",
    "profile": "nn.profile",
}


def __getattr__(name: str):
    if name in _WINGS:
        return _import_module(f"tinyvit.{name}")
    if name in _TOOLS:
        return getattr(_import_module(f"tinyvit.{_TOOLS[name]}"), name)
    raise AttributeError(f"module 'tinyvit' has no attribute {name!r}")


def __dir__():
    return sorted([*globals(), *_WINGS, *_TOOLS])
