"""What is computed on: models, weights and batches, made from fixed seeds, the same for every contender."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from tinyvit.models.catalogue import create_model
from tinyvit.models.nat import NeighbourhoodAttention
from tinyvit.models.swin import SwinStage
from tinyvit.models.volo import MapAttention, OutlookAttention
from tinyvit.nn.describe import count_macs, example_inputs, input_shape
from tinyvit.nn.module import Identity, Module
from tinyvit.nn.window import WindowAttention, attend_in_windows


@dataclass(frozen=True)
class Images:
    """A model of the catalogue, and a batch of random images for it.

    rate is the learning rate where the workload trains. It is small: after many steps on one batch the loss should
    not be so near zero that the arithmetic meets numbers it would not meet in earnest.
    """

    model: str
    config: dict = field(default_factory=dict)
    batch: int = 1
    rate: float = 1e-4

    def create(self):
        """The model, with the same initial weights on every call."""
        return create_model(self.model, rng=np.random.default_rng(0), **self.config)

    def data(self):
        """Images (B, H, W, C) float32, and labels (B,)."""
        rng, model = np.random.default_rng(1), self.blueprint()
        images = rng.normal(size=input_shape(model, self.batch)).astype(np.float32)
        return images, rng.integers(model.config.num_classes, size=self.batch)

    def directions(self, count: int) -> np.ndarray:
        """Random vectors as long as all parameters together, (count, P) float32."""
        shape = (count, self.blueprint().num_parameters())
        return np.random.default_rng(3).normal(size=shape).astype(np.float32)

    def blueprint(self):
        """The model's shapes without numbers."""
        return create_model(self.model, **self.config)

    def macs(self) -> int:
        """Multiply-accumulates of the forward pass of the whole batch."""
        model = self.blueprint()
        return count_macs(model, input_shape(model, self.batch))


@dataclass(frozen=True)
class Inputs:
    """A model of the catalogue, and a batch of what it takes: random images or clips, texts of the first two tokens."""

    model: str
    batch: int

    def create(self):
        """The model, with the same initial weights on every call."""
        return create_model(self.model, rng=np.random.default_rng(0))

    def data(self) -> list[np.ndarray]:
        """An array for every argument."""
        rng, shapes = np.random.default_rng(1), example_inputs(create_model(self.model), self.batch)
        drawn = (rng.normal(size=x.shape) if x.dtype.kind == "f" else rng.integers(2, size=x.shape) for x in shapes)
        return [x.astype(shape.dtype) for x, shape in zip(drawn, shapes, strict=True)]


@dataclass(frozen=True)
class Convolution:
    """A convolution of stride 1 that keeps the size of its square maps, and a batch of random ones."""

    batch: int
    side: int
    channels: int
    kernel: int
    groups: int = 1

    @property
    def settings(self) -> dict:
        """Padding and groups, by the names that they have everywhere."""
        return {"padding": self.kernel // 2, "groups": self.groups}

    def data(self):
        """Input (B, S, S, C), weight (C, C/groups, k, k), bias (C,), cotangent of the output (B, S, S, C); float32."""
        rng, maps = np.random.default_rng(1), (self.batch, self.side, self.side, self.channels)
        weight = (self.channels, self.channels // self.groups, self.kernel, self.kernel)
        return [rng.normal(size=shape).astype(np.float32) for shape in (maps, weight, (self.channels,), maps)]


@dataclass(frozen=True)
class Windows:
    """Two Swin blocks, the second with its windows shifted by half of one, and a batch of random square maps."""

    batch: int
    side: int
    dim: int
    heads: int
    window: int

    def create(self):
        """The two blocks, with the same initial weights on every call."""
        window, rng = (self.window, self.window), np.random.default_rng(0)
        return SwinStage(self.dim, self.heads, [0.0, 0.0], downsample=Identity(), window=window, rng=rng)

    def data(self):
        """Input and cotangent of the output, both (B, S, S, C) float32."""
        shape = (2, self.batch, self.side, self.side, self.dim)
        return np.random.default_rng(1).normal(size=shape).astype(np.float32)


@dataclass(frozen=True)
class MapLayer:
    """A layer of attention on its own, and a batch of random square maps.

    layer  "MSA": of all places · "W-MSA": in windows of reach × reach · "NA": in neighbourhoods of reach × reach ·
           "OA": outlook attention in windows of reach × reach, with weights at every second place
    """

    layer: str
    batch: int
    side: int
    dim: int
    heads: int
    reach: int

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """Of the maps, (B, S, S, C)."""
        return (self.batch, self.side, self.side, self.dim)

    def create(self):
        """The layer, with the same initial weights on every call."""
        rng = np.random.default_rng(0)
        if self.layer == "MSA":
            return MapAttention(self.dim, self.heads, rng=rng)
        if self.layer == "W-MSA":
            return InWindows(self.dim, self.heads, window=(self.reach, self.reach), rng=rng)
        if self.layer == "OA":
            return OutlookAttention(self.dim, self.heads, kernel_size=self.reach, padding=self.reach // 2, stride=2,
                                    rng=rng)  # fmt: skip
        return NeighbourhoodAttention(self.dim, self.heads, kernel_size=self.reach, rng=rng)

    def data(self):
        """Input and cotangent of the output, both (B, S, S, C) float32."""
        return np.random.default_rng(1).normal(size=(2, *self.shape)).astype(np.float32)

    def macs(self) -> int:
        """Multiply-accumulates of the forward pass of the whole batch."""
        return count_macs(self.create(), self.shape)

    def formula(self) -> int:
        """The same in closed form: Swin's Eqs. 1 and 2, which with K for M is NAT's; VOLO's layer as it is computed.

        4NC² + 2NC·N, 4NC² + 2NC·M², and 2NC² + ⌈H/2⌉²·C·K⁴·(h + 1), of N = H² places
        """
        N, C, K, coarse = self.side**2, self.dim, self.reach, (-(-self.side // 2)) ** 2
        if self.layer == "OA":
            return self.batch * (2 * N * C**2 + coarse * C * K**4 * (self.heads + 1))
        return self.batch * (4 * N * C**2 + 2 * N * C * (N if self.layer == "MSA" else K**2))


class InWindows(Module):
    """Attention in the windows of a map.   (B, H, W, C) -> (B, H, W, C)"""

    def __init__(self, dim, num_heads, *, window, rng):
        self.attn = WindowAttention(dim, num_heads, window=window, rng=rng)

    def forward(self, x):
        return attend_in_windows(x, self.attn, self.attn.window, (0, 0))
