"""Pooling where a layer is needed: in stems, between stages, before the head."""

from __future__ import annotations

from tinyvit.equations.pooling import adaptive_avg_pool2d, avg_pool2d, max_pool2d
from tinyvit.nn.basic import Linear
from tinyvit.nn.module import Identity, Module
from tinyvit.nn.noise import Dropout
from tinyvit.primitives.reduce import mean


class MaxPool(Module):
    """The largest of every ``size`` × ``size`` window.   (B, H, W, C) -> (B, H', W', C)"""

    def __init__(self, size: int, *, stride: int, padding: int = 0):
        self.size, self.stride, self.padding = size, stride, padding

    def forward(self, x):
        return max_pool2d(x, size=self.size, stride=self.stride, padding=self.padding)


class AvgPool(MaxPool):
    """The mean of every window.   (B, H, W, C) -> (B, H', W', C)

    ceil_mode  whether a window that reaches over the end counts; it is the mean of what is there
    """

    def __init__(self, size: int, *, stride: int, padding=0, ceil_mode: bool = False):
        super().__init__(size, stride=stride, padding=padding)
        self.ceil_mode = ceil_mode

    def forward(self, x):
        return avg_pool2d(x, size=self.size, stride=self.stride, padding=self.padding, ceil_mode=self.ceil_mode)


class AdaptiveAvgPool(Module):
    """The mean of every part of a map cut into ``size`` × ``size``.   (B, H, W, C) -> (B, size, size, C)"""

    def __init__(self, size: int):
        self.size = size

    def forward(self, x):
        return adaptive_avg_pool2d(x, size=self.size)


class GlobalPool(Module):
    """The mean over the map.   (B, H, W, C) -> (B, C)"""

    def forward(self, x):
        return mean(x, axis=(1, 2))


class PooledHead(Module):
    """A linear map of the mean over the map.   (B, H, W, C) -> (B, num_classes)"""

    def __init__(self, dim, num_classes, *, drop=0.0, rng):
        self.drop = Dropout(drop)
        self.fc = Linear(dim, num_classes, rng=rng) if num_classes else Identity()

    def forward(self, x):
        return self.fc(self.drop(mean(x, axis=tuple(range(1, len(x.shape) - 1)))))
