"""ConvNeXt: its block in loops, what its stages make of odd sizes, how it starts, errors."""

from dataclasses import replace
from math import erf

import numpy as np
import pytest
from by_hand import convolution, shaken

from tinyvit import create_model
from tinyvit.models.convnext import ConvNeXtBlock, ConvNeXtConfig

TINY = ConvNeXtConfig(in_chans=2, num_classes=3, depths=(1, 2), dims=(4, 6), kernel_sizes=3)


def norm(x, ln):
    """A layer norm of every place."""
    centred = x - x.mean(axis=-1, keepdims=True)
    return centred / np.sqrt(np.mean(centred**2, axis=-1, keepdims=True) + 1e-6) * ln.weight.data + ln.bias.data


@pytest.mark.parametrize(("kernel_size", "ls_init_value"), [(7, 1e-6), (3, None)])
def test_the_block_is_its_equation(kernel_size, ls_init_value, rng):
    block = shaken(ConvNeXtBlock(5, kernel_size, ls_init_value=ls_init_value, rng=rng), rng)
    x = rng.normal(size=(4, 6, 5))
    y = norm(convolution(x, block.conv_dw) + block.conv_dw.bias.data, block.norm)
    y = y @ block.mlp.fc1.weight.data.T + block.mlp.fc1.bias.data
    y = y * (1 + np.vectorize(erf)(y / np.sqrt(2))) / 2
    y = y @ block.mlp.fc2.weight.data.T + block.mlp.fc2.bias.data
    gamma = 1 if ls_init_value is None else block.gamma.data
    np.testing.assert_allclose(block(x[None]).data[0], x + gamma * y, rtol=1e-10, atol=1e-12)


def test_places_meet_in_the_depthwise_convolution_only(rng):
    """A block changes what is at most k//2 away, and channels do not meet before the norm."""
    block = shaken(ConvNeXtBlock(5, 7, ls_init_value=1.0, rng=rng), rng)
    x = rng.normal(size=(1, 11, 11, 5))
    moved = x.copy()
    moved[0, 5, 5, 2] += 1
    changed = np.abs(block(moved).data - block(x).data).max(axis=(0, 3)) > 1e-12
    assert changed[2:9, 2:9].all()
    assert changed.sum() == 49
    depthwise = np.abs(block.conv_dw(moved).data - block.conv_dw(x).data).max(axis=(0, 1, 2)) > 1e-12
    assert depthwise.tolist() == [False, False, True, False, False]


def test_between_stages_the_norm_comes_before_the_convolution(rng):
    model = shaken(create_model("convnext_tiny", **vars(TINY), rng=rng), rng)
    ln, conv = getattr(model, "stages.1").downsample
    x = norm(rng.normal(size=(5, 6, 4)), ln)
    y = [[np.einsum("klc,ockl->o", x[2 * i : 2 * i + 2, 2 * j : 2 * j + 2], conv.weight.data) for j in range(3)]
         for i in range(2)]  # fmt: skip
    np.testing.assert_allclose(conv(x[None]).data[0], y + conv.bias.data, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(("patch_size", "maps"), [
    (4, [(8, 11), (4, 5)]),
    (2, [(8, 11), (4, 5)]),
    (3, [(11, 15), (5, 7)]),
])  # fmt: skip
def test_stages_and_any_size(patch_size, maps, rng):
    """What does not fill a patch or a pair is left out; patches of 2 are halved by the first stage, as in timm."""
    model = create_model("convnext_tiny", **vars(replace(TINY, patch_size=patch_size)), rng=rng)
    got = [m.shape for m in model.stages(rng.normal(size=(1, 35, 46, 2)).astype(np.float32))]
    assert got == [(1, *size, dim) for size, dim in zip(maps, (4, 6), strict=True)]


def test_it_starts_as_its_paper_says(rng):
    """Convolutions and linear maps alike from σ 0.02, biases 0; γ from 1e-6, so that a block is nearly x itself."""
    model = create_model("convnext_tiny", dims=(96, 96, 96, 96), depths=(1, 1, 1, 1), rng=rng)
    for name, p in model.named_parameters():
        if p.ndim >= 2:
            assert abs(p.data.std() / 0.02 - 1) < 0.1, name
        else:
            start = {"gamma": np.float32(1e-6), "weight": 1, "bias": 0}[name.rpartition(".")[2]]
            assert (p.data == start).all(), name
    x = rng.normal(size=(1, 64, 64, 3)).astype(np.float32)
    first = next(iter(getattr(model, "stages.0").blocks))
    np.testing.assert_allclose(first(model.stem(x)).data, model.stem(x).data, atol=1e-5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dims": (4,)}, r"dims: expected one width per stage \(2\), got \(4,\)"),
        ({"kernel_sizes": 4}, "kernel_sizes: expected an odd number, or 2 of them, got 4"),
        ({"kernel_sizes": (3, 3, 3)}, r"kernel_sizes: expected an odd number, or 2 of them, got \(3, 3, 3\)"),
        ({"drop_path_rate": 1.5}, "drop_path_rate"),
    ],
)
def test_settings_that_cannot_be(changes, message):
    with pytest.raises(ValueError, match=message):
        replace(TINY, **changes)
