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
    gelu,
    gelu_tanh,
    log_softmax,
    quick_gelu,
    sigmoid,
    silu,
    softmax,
)
from tinyvit.equations.attention import scaled_dot_product_attention, self_attention
from tinyvit.equations.convolution import avg_pool2d, conv2d, linear, max_pool2d
from tinyvit.equations.loss import cross_entropy, kl_divergence, mse
from tinyvit.equations.normalize import batch_norm, batch_norm_inference, layer_norm
from tinyvit.equations.resize import resize
from tinyvit.models.catalogue import create_model, list_models
from tinyvit.nn.capture import capture
from tinyvit.nn.describe import count_macs, describe
from tinyvit.nn.module import Buffer, Module, Parameter, Sequential, StateError, swapped
from tinyvit.nn.weights import WeightFileError, load_weights, save_weights
from tinyvit.primitives.contract import einsum, matmul
from tinyvit.primitives.elementwise import (
    absolute,
    cos,
    erf,
    exp,
    log,
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
    reshape,
    roll,
    split,
    stack,
    swapaxes,
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
