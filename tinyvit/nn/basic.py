"""The layers everything is built of. Parameters have the names and shapes of timm's and PyTorch's."""

from __future__ import annotations

import math
from functools import partial

import numpy as np

from tinyvit.autodiff.tensor import raw
from tinyvit.equations.activation import gelu
from tinyvit.equations.convolution import conv2d, conv3d, linear
from tinyvit.equations.normalize import (
    batch_norm,
    batch_norm_inference,
    batch_statistics,
    group_norm,
    layer_norm,
)
from tinyvit.nn.init import fan_in_uniform, full, kaiming_normal, ones, trunc_normal, zeros
from tinyvit.nn.module import Buffer, Module, Parameter
from tinyvit.nn.noise import Dropout
from tinyvit.primitives.elementwise import relu


class Linear(Module):
    """``y = x Wᵀ + b``.   (..., i) -> (..., o)"""

    def __init__(self, in_features: int, out_features: int, *, bias: bool = True, rng):
        self.weight = Parameter(trunc_normal((out_features, in_features), std=0.02, rng=rng))
        self.bias = Parameter(zeros((out_features,), rng=rng)) if bias else None

    def forward(self, x):
        return linear(x, self.weight, self.bias)


class Conv2d(Module):
    """Convolution with a bias of its own or none.   (B, H, W, C) -> (B, H', W', O)

    init: "fan_in" (PyTorch's default), "kaiming" (normal, fan out: ResNets), "kaiming_in" (fan in: DenseNets), "normal"
    (σ 0.02: ConvNeXt) or "zeros" (BiT's head); the biases of all but the first are zero.
    """

    axes = 2  # of a map

    def __init__(self, in_chans, out_chans, kernel_size, *, stride=1, padding=0, dilation=1, groups=1,
                 bias=True, init="fan_in", rng):  # fmt: skip
        size = (kernel_size,) * self.axes if isinstance(kernel_size, int) else tuple(kernel_size)
        shape = (out_chans, in_chans // groups, *size)
        weights = {"fan_in": fan_in_uniform, "kaiming": partial(kaiming_normal, groups=groups),
                   "kaiming_in": partial(kaiming_normal, fan="in"), "normal": trunc_normal, "zeros": zeros}  # fmt: skip
        self.weight = Parameter(weights[init](shape, rng=rng))
        biases = partial(fan_in_uniform, fan_in=math.prod(shape[1:])) if init == "fan_in" else zeros
        self.bias = Parameter(biases((out_chans,), rng=rng)) if bias else None
        self.options = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}

    def forward(self, x):
        return conv2d(x, self.weight, self.bias, **self.options)


class Conv3d(Conv2d):
    """The same for clips.   (B, T, H, W, C) -> (B, T', H', W', O)"""

    axes = 3

    def forward(self, x):
        return conv3d(x, self.weight, self.bias, **self.options)


def plain_conv(in_chans, out_chans, kernel_size, *, stride=1, dilation=1, groups=1, init="kaiming", rng) -> Conv2d:
    """A convolution beside a norm, which has the bias: the map stays as large as it is, or shrinks by the stride."""
    return Conv2d(in_chans, out_chans, kernel_size, stride=stride, padding=kernel_size // 2 * dilation,
                  dilation=dilation, groups=groups, bias=False, init=init, rng=rng)  # fmt: skip


class LayerNorm(Module):
    """Normalise every token over its channels.   (..., D) -> (..., D)"""

    def __init__(self, dim: int, *, eps: float = 1e-6, rng):
        self.weight, self.bias = Parameter(ones((dim,), rng=rng)), Parameter(zeros((dim,), rng=rng))
        self.eps = eps

    def forward(self, x):
        return layer_norm(x, self.weight, self.bias, eps=self.eps)


class GroupNorm(Module):
    """Normalise every image over its places and a group of its channels.   (B, ..., C) -> (B, ..., C)"""

    def __init__(self, dim: int, num_groups: int, *, eps: float = 1e-5, rng):
        if num_groups < 1 or dim % num_groups:
            raise ValueError(f"num_groups: {dim} channels cannot be shared out evenly among {num_groups} groups")
        self.weight, self.bias = Parameter(ones((dim,), rng=rng)), Parameter(zeros((dim,), rng=rng))
        self.num_groups, self.eps = num_groups, eps

    def forward(self, x):
        return group_norm(x, self.weight, self.bias, groups=self.num_groups, eps=self.eps)


class BatchNorm(Module):
    """Normalise every channel: by its batch in training, by running statistics in evaluation.   (..., C) -> (..., C)

    Running statistics move by ``momentum`` towards the batch's mean and *unbiased* variance, in training mode only.
    """

    mixes_batch = True

    def __init__(self, dim: int, *, eps: float = 1e-5, momentum: float = 0.1, rng):
        self.weight, self.bias = Parameter(ones((dim,), rng=rng)), Parameter(zeros((dim,), rng=rng))
        self.running_mean, self.running_var = (
            Buffer(zeros((dim,), rng=rng)),
            Buffer(ones((dim,), rng=rng)),
        )
        self.num_batches_tracked = Buffer(np.zeros((), np.int64))
        self.eps, self.momentum = eps, momentum

    def forward(self, x):
        if not self.training:
            return batch_norm_inference(x, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)
        self.follow(raw(x))
        return batch_norm(x, self.weight, self.bias, eps=self.eps)

    def follow(self, x):
        """Move the running statistics towards those of the batch ``x``."""
        mean, var = batch_statistics(np.real(x))
        n = x.size // x.shape[-1]
        for running, batch in (
            (self.running_mean, mean),
            (self.running_var, var * (n / max(n - 1, 1))),
        ):
            running.data = ((1 - self.momentum) * running.data + self.momentum * batch).astype(running.dtype)
        self.num_batches_tracked.data = self.num_batches_tracked.data + 1


class NormAct(BatchNorm):
    """``act(BN(x))``, as one module where the reference has one name for both.   (..., C) -> (..., C)"""

    def __init__(self, dim: int, *, act=relu, rng):
        super().__init__(dim, rng=rng)
        self.act = act

    def forward(self, x):
        return self.act(super().forward(x))


class ReLU(Module):
    """``max(x, 0)``, where a layer is needed: between those of a Sequential."""

    def forward(self, x):
        return relu(x)


class GELU(Module):
    """``x Φ(x)``, where a layer is needed."""

    def forward(self, x):
        return gelu(x)


def layer_scale(dim: int, init: float, *, rng) -> Parameter:
    """LayerScale's γ (Touvron et al. 2021, Eq. 4): a small factor for every channel of a branch, ``x + γ ⊙ F(x)``."""
    return Parameter(full((dim,), value=init, rng=rng))


class Mlp(Module):
    """Two linear layers with GELU (or ``act``) between: ``fc2(gelu(fc1(x)))``.   (..., D) -> (..., D)"""

    def __init__(self, dim: int, hidden: int, *, act=gelu, drop: float = 0.0, rng):
        self.fc1 = Linear(dim, hidden, rng=rng)
        self.drop1 = Dropout(drop)
        self.fc2 = Linear(hidden, dim, rng=rng)
        self.drop2 = Dropout(drop)
        self.act = act

    def forward(self, x):
        return self.drop2(self.fc2(self.drop1(self.act(self.fc1(x)))))
