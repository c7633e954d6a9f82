"""Initial values. Each takes the generator; without one it makes a Blueprint: a shape and no numbers."""

from __future__ import annotations

import math

import numpy as np

from tinyvit.blueprint import Blueprint


def _or_blueprint(draw):
    """Let an initialiser return a Blueprint when it is given no generator."""

    def initialise(shape, *, rng, **options):
        return Blueprint(shape) if rng is None else draw(shape, rng=rng, **options).astype(np.float32)

    initialise.__name__, initialise.__doc__ = draw.__name__, draw.__doc__
    return initialise


@_or_blueprint
def zeros(shape, *, rng):
    """All zero."""
    return np.zeros(shape)


@_or_blueprint
def ones(shape, *, rng):
    """All one."""
    return np.ones(shape)


@_or_blueprint
def full(shape, *, rng, value):
    """All of one value, or each of its own from an array that broadcasts to the shape."""
    return np.full(shape, value)


@_or_blueprint
def normal(shape, *, rng, std=1.0):
    """Normal with mean 0."""
    return rng.normal(0, std, shape)


@_or_blueprint
def trunc_normal(shape, *, rng, std=0.02, cut=2.0):
    """Normal, drawn again wherever it falls beyond ±cut (an absolute bound, as in timm)."""
    values = rng.normal(0, std, shape)
    while (far := np.abs(values) > cut).any():
        values[far] = rng.normal(0, std, far.sum())
    return values


@_or_blueprint
def xavier_uniform(shape, *, rng):
    """Uniform in ±√(6 / (fan_in + fan_out)) (Glorot & Bengio 2010, Eq. 16)."""
    fan_in, fan_out = _fans(shape)
    bound = math.sqrt(6 / (fan_in + fan_out))
    return rng.uniform(-bound, bound, shape)


@_or_blueprint
def fan_in_uniform(shape, *, rng, fan_in=None):
    """Uniform in ±1/√fan_in: what PyTorch's layers start from, biases too."""
    bound = 1 / math.sqrt(fan_in or _fans(shape)[0])
    return rng.uniform(-bound, bound, shape)


@_or_blueprint
def kaiming_normal(shape, *, rng, fan="out", groups=1):
    """Normal with variance 2/fan_out, which keeps the gradient's size through ReLUs (He et al. 2015, Eq. 14).

    Or, with ``fan="in"``, with 2/fan_in, which keeps the values' size (Eq. 10). An input of a grouped convolution
    reaches the outputs of its group only.
    """
    fan_in, fan_out = _fans(shape)
    return rng.normal(0, math.sqrt(2 / (fan_in if fan == "in" else fan_out // groups)), shape)


@_or_blueprint
def orthogonal(shape, *, rng, gain=1.0):
    """A matrix whose rows (or columns, whichever are fewer) are orthogonal and ``gain`` long (Saxe et al. 2014)."""
    q, r = np.linalg.qr(rng.normal(size=(max(shape), min(shape))))
    q *= np.sign(np.diag(r))  # or the directions would not be drawn evenly
    return gain * (q.T if shape[0] < shape[1] else q)


def start_as_jax(model, rng) -> None:
    """Give every parameter of a model its value from ``jax_initial``; a blueprint stays one."""
    if rng is not None:
        for name, parameter in model.named_parameters():
            parameter.data = jax_initial(name, parameter.data, rng)


def jax_initial(name: str, value, rng):
    """A parameter's initial value in Google's JAX code of ViT and Mixer.

    Xavier's for linear maps, LeCun's for the patch projection and the head's hidden layer, zero for head and class
    token; else ``value`` itself.
    """
    layer = name.rpartition(".")[0].rpartition(".")[2]
    if layer.startswith("head") or name in ("cls_token", "patch_embed.proj.bias", "stem.proj.bias"):
        return zeros(value.shape, rng=rng)
    if name in ("patch_embed.proj.weight", "stem.proj.weight", "pre_logits.fc.weight"):
        return trunc_normal(value.shape, std=math.prod(value.shape[1:]) ** -0.5, rng=rng)  # LeCun's: 1/√fan_in
    if layer == "qkv" and value.ndim == 2:  # three maps in one matrix, each of its own width
        return np.concatenate([xavier_uniform(part.shape, rng=rng) for part in np.split(value, 3)])
    if value.ndim == 2:
        return xavier_uniform(value.shape, rng=rng)
    if layer in ("fc1", "fc2"):
        return normal(value.shape, std=1e-6, rng=rng)
    return value


def _fans(shape) -> tuple[int, int]:
    """How many numbers go into an output, and come out of an input, of a weight (out, in, *window)."""
    window = math.prod(shape[2:])
    return shape[1] * window, shape[0] * window
