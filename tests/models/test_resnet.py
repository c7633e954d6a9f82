"""ResNet and what became of it: blocks from their equations in loops, and what the settings mean."""

from dataclasses import replace

import numpy as np
import pytest
from by_hand import convolution, norm, shaken

from tinyvit import create_model
from tinyvit.models.resnet import BasicBlock, Bottleneck, ResNetConfig, shortcut

TINY = ResNetConfig(in_chans=3, num_classes=4, layers=(1, 2, 1), channels=(4, 8, 8), stem_width=4)
BASIC = replace(TINY, block="basic")


def relu(x):
    return np.maximum(x, 0)


# blocks -------------------------------------------------------------------------------------


@pytest.mark.parametrize("stride", [1, 2])
def test_the_basic_block_is_its_figure(stride, rng):
    block, x = shaken(BasicBlock(BASIC, 4, 8, stride, rng=rng), rng), rng.normal(size=(5, 4, 4))
    y = relu(norm(convolution(x, block.conv1, stride), block.bn1))
    y = norm(convolution(y, block.conv2), block.bn2)
    projection, its_norm = block.downsample
    y = relu(y + norm(convolution(x, projection, stride), its_norm))
    np.testing.assert_allclose(block(x[None]).data[0], y, rtol=1e-10, atol=1e-12)


def test_without_a_change_of_shape_x_itself_is_added(rng):
    block, x = shaken(Bottleneck(TINY, 16, 4, rng=rng), rng), rng.normal(size=(5, 4, 16))
    y = relu(norm(convolution(x, block.conv1), block.bn1))
    y = relu(norm(convolution(y, block.conv2), block.bn2))
    y = relu(norm(convolution(y, block.conv3), block.bn3) + x)
    np.testing.assert_allclose(block(x[None]).data[0], y, rtol=1e-10, atol=1e-12)


def test_a_plain_network_adds_nothing(rng):
    block = shaken(BasicBlock(replace(BASIC, residual=False), 4, 8, 2, rng=rng), rng)
    x = rng.normal(size=(5, 4, 4))
    y = relu(norm(convolution(x, block.conv1, 2), block.bn1))
    y = relu(norm(convolution(y, block.conv2), block.bn2))
    np.testing.assert_allclose(block(x[None]).data[0], y, rtol=1e-10, atol=1e-12)


def test_cardinality_is_a_sum_of_narrow_bottlenecks(rng):
    """ResNeXt's Eq. 3: group i of the 3×3 convolution, its 1×1 before and its columns of the 1×1 behind, are Tᵢ."""
    config = replace(TINY, cardinality=3, base_width=32)
    block, x = shaken(Bottleneck(config, 16, 4, rng=rng), rng), rng.normal(size=(4, 5, 16))
    d = config.inner_width(4) // 3
    assert d == 2
    total = 0
    for i in range(3):
        part = slice(i * d, (i + 1) * d)
        narrow = shaken(Bottleneck(replace(TINY, base_width=32), 16, 4, rng=rng), rng)
        for ours, theirs in ((narrow.conv1, block.conv1), (narrow.conv2, block.conv2)):
            ours.weight.data = theirs.weight.data[part]
        for ours, theirs in ((narrow.bn1, block.bn1), (narrow.bn2, block.bn2)):
            for (_, mine), (_, value) in zip(ours.named_state(), theirs.named_state(), strict=True):
                mine.data = value.data[part] if value.data.ndim else value.data
        narrow.conv3.weight.data = block.conv3.weight.data[:, part]
        y = relu(norm(convolution(x, narrow.conv1), narrow.bn1))
        y = relu(norm(convolution(y, narrow.conv2), narrow.bn2))
        total = total + convolution(y, narrow.conv3)
    np.testing.assert_allclose(block(x[None]).data[0], relu(norm(total, block.bn3) + x), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("size", [(4, 6), (5, 3)])
def test_an_averaging_shortcut_passes_over_nothing(size, rng):
    """Where the last window reaches over the end, it is the mean of what is there."""
    made = shaken(shortcut(replace(TINY, avg_down=True), 4, 8, 2, 1, rng=rng), rng)
    x = rng.normal(size=(*size, 4))
    half = -(-np.array(size) // 2)
    means = np.array([[x[2 * i : 2 * i + 2, 2 * j : 2 * j + 2].mean(axis=(0, 1)) for j in range(half[1])]
                      for i in range(half[0])])  # fmt: skip
    _, projection, its_norm = made
    y = norm(convolution(means, projection), its_norm)
    np.testing.assert_allclose(made(x[None]).data[0], y, rtol=1e-10, atol=1e-12)


# networks -----------------------------------------------------------------------------------


def test_a_deep_stem_sees_more_of_the_image(rng):
    """Three 3×3 convolutions, the first of stride 2, see 11 pixels of a row; one of 7×7 sees 7."""
    seen = {}
    for stem_type in ("", "deep"):
        model = shaken(create_model("resnet50d", **vars(replace(TINY, stem_type=stem_type)), rng=rng), rng)
        x = rng.normal(size=(1, 31, 31, 3))
        base = model.conv1(x).data[0, 8, 8]
        moved = []
        for i in range(31):
            y = x.copy()
            y[0, :, i] += 1
            moved.append(np.abs(model.conv1(y).data[0, 8, 8] - base).max() > 1e-9)
        seen[stem_type] = sum(moved)
    assert seen == {"": 7, "deep": 11}


@pytest.mark.parametrize("block", ["basic", "bottleneck"])
def test_an_output_stride_keeps_the_map_and_the_weights(block, rng):
    """Dilated convolutions see, at every second place, what strided ones see: so the first block's are equal there."""
    config = replace(TINY, block=block, output_stride=8, layers=(1, 1, 1), channels=(4, 6, 8))
    strided = shaken(create_model("resnet18", **vars(replace(config, output_stride=32)), rng=rng), rng)
    dilated = create_model("resnet18", **vars(config)).astype(np.float64)
    dilated.load_state_dict(strided.state_dict())
    x = rng.normal(size=(1, 64, 48, 3))
    few, many = strided.stages(x), dilated.stages(x)
    assert [m.shape[1:3] for m in few] == [(16, 12), (8, 6), (4, 3)]
    assert [m.shape[1:3] for m in many] == [(16, 12), (8, 6), (8, 6)]
    np.testing.assert_allclose(many[2].data[:, ::2, ::2], few[2].data, rtol=1e-9, atol=1e-9)


def test_plain_networks_are_residual_ones_without_shortcuts():
    """Table 1: the same layers. What is missing are the projections of the paper's option B."""
    projections, norms = 64 * 128 + 128 * 256 + 256 * 512, 2 * (128 + 256 + 512)
    for depth in (18, 34):
        plain, residual = (create_model(f"{kind}{depth}") for kind in ("plain", "resnet"))
        assert residual.num_parameters() - plain.num_parameters() == projections + norms
        missing = residual.state_dict().keys() - plain.state_dict().keys()
        assert {name.split(".")[2] for name in missing} == {"downsample"}


def test_twice_as_wide_in_two_ways():
    """What goes from block to block stays 2048 wide where only the bottlenecks' inside is doubled."""
    every, inner = (create_model(name) for name in ("resnet50x2", "wide_resnet50_2"))
    inside = [next(iter(model.layer4)).conv2.weight.shape for model in (every, inner)]
    assert inside == [(1024, 1024, 3, 3)] * 2
    assert (every.fc.weight.shape, inner.fc.weight.shape) == ((1000, 4096), (1000, 2048))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"stem_type": "tiered"}, r"stem_type: expected one of \('', 'deep', 'deep_tiered'\), got 'tiered'"),
        ({"output_stride": 4}, r"output_stride: expected one of \(8, 16, 32\), got 4"),
        ({"stem_type": "deep"}, "small_stem: it is one convolution, and stem_type asks for another, 'deep'"),
        ({"cardinality": 2}, 'block: only a "bottleneck" has a cardinality and a base_width'),
    ],
)
def test_settings_that_cannot_be(changes, message):
    with pytest.raises(ValueError, match=message):
        create_model("resnet_digits", **changes)
