"""Squeeze-and-excitation against its equations."""

import numpy as np
import pytest

from tinyvit import capture, silu
from tinyvit.nn.squeeze import SqueezeExcite
from tinyvit.primitives.elementwise import relu


@pytest.mark.parametrize("act", [relu, silu])
def test_a_channel_is_weighed_by_what_the_whole_map_says(act, rng):
    se = SqueezeExcite(5, 3, act=act, rng=rng).astype(np.float64)
    for p in se.parameters():
        p.data = rng.normal(size=p.shape)
    x = rng.normal(size=(2, 4, 3, 5))
    with capture(se, "gate") as seen:
        y = se(x).data
    for image, gate, out in zip(x, seen["gate"].data, y, strict=True):
        z = np.array([np.mean([image[i, j, c] for i in range(4) for j in range(3)]) for c in range(5)])
        hidden = act(se.fc1.weight.data[:, :, 0, 0] @ z + se.fc1.bias.data)
        s = 1 / (1 + np.exp(-(se.fc2.weight.data[:, :, 0, 0] @ hidden + se.fc2.bias.data)))
        np.testing.assert_allclose(gate, s[None, None], rtol=1e-12)
        np.testing.assert_allclose(out, image * s, rtol=1e-12)


def test_its_maps_have_the_names_asked_for(rng):
    se = SqueezeExcite(4, 2, names=("conv_reduce", "conv_expand"), rng=rng)
    assert {name: p.shape for name, p in se.named_parameters()} == {
        "conv_reduce.weight": (2, 4, 1, 1), "conv_reduce.bias": (2,),
        "conv_expand.weight": (4, 2, 1, 1), "conv_expand.bias": (4,)}  # fmt: skip


def test_it_needs_a_channel_between():
    with pytest.raises(ValueError, match="hidden: squeeze-and-excitation needs at least one channel between, got 0"):
        SqueezeExcite(4, 0, rng=None)
