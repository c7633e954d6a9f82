"""EfficientNet: the scaling rule, the blocks against loops, maps of every size, stochastic depth, the laws."""

import math
from dataclasses import replace

import numpy as np
import pytest
from by_hand import convolution, norm, shaken
from reference import variants

from tinyvit import capture, create_model
from tinyvit.models.config import divisible
from tinyvit.models.efficientnet import (
    PUBLISHED,
    EfficientNet,
    EfficientNetConfig,
    MBConv,
    SeparableConv,
    Stage,
    scaled,
)
from tinyvit.nn.check import check_model

TINY = EfficientNetConfig(in_chans=2, num_classes=3, stem_size=6, num_features=10,
                          stages=(Stage(1, 3, 1, 6, 1), Stage(2, 5, 2, 8, 2), Stage(3, 3, 2, 10, 1)))  # fmt: skip

# scaling ------------------------------------------------------------------------------------


def test_a_step_doubles_the_operations():
    """Eq. 3's constraint holds for its α, β and γ to 4 %."""
    assert abs(1.2 * 1.1**2 * 1.15**2 / 2 - 1) < 0.04


@pytest.mark.parametrize(("name", "phi"), [("efficientnet_b0", 0), ("efficientnet_b1", 0.5), ("efficientnet_b2", 1),
                                           ("efficientnet_b3", 2)])  # fmt: skip
def test_the_published_multipliers_are_the_rule_rounded_up_to_b3(name, phi):
    c = PUBLISHED[name].config
    assert (c.depth_multiplier, c.channel_multiplier) == (round(1.2**phi, 1), round(1.1**phi, 1))
    assert abs(c.img_size - 224 * 1.15**phi) < 5


def test_from_b4_on_they_are_larger_than_the_rule():
    for phi in (3, 4, 5, 6):
        c = PUBLISHED[f"efficientnet_b{phi + 1}"].config
        assert c.depth_multiplier > 1.2**phi
        assert c.channel_multiplier > 1.1**phi
        assert c.img_size > 224 * 1.15**phi


def test_published_rows_are_those_of_the_reference():
    rows = {row["name"]: row for row in variants()}
    for published in PUBLISHED.values():
        c, row = published.config, rows[published.counted_as]["config"]
        assert (c.channel_multiplier, c.depth_multiplier) == (row["width"], row["depth"])
        assert c.drop_rate == row.get("dropout", 0.5)
        assert c.drop_path_rate == row.get("drop_path", 0.2)


def test_channels_are_rounded_to_eights_but_never_below_nine_tenths():
    for channels in np.arange(1, 200, 0.25):
        n = divisible(channels)
        assert n % 8 == 0
        assert n >= 0.9 * channels
        assert n == 8 or n - 8 < 0.9 * channels or abs(n - channels) <= abs(n - 8 - channels), f"{n} for {channels}"
    assert [divisible(n) for n in (1, 11, 12, 19, 20, 1.1 * 40, 1.4 * 16)] == [8, 16, 16, 24, 24, 48, 24]


def test_scaling_multiplies_channels_and_repeats():
    c = scaled(PUBLISHED["efficientnet_b4"].config)
    assert (c.stem_size, c.num_features) == (48, 1792)
    assert [stage.channels for stage in c.stages] == [24, 32, 56, 112, 160, 272, 448]
    assert [stage.repeats for stage in c.stages] == [2, 4, 4, 6, 6, 8, 2]
    assert scaled(TINY) == TINY, "a network that is not scaled keeps channels that are no eights"


# blocks -------------------------------------------------------------------------------------


def silu(x):
    return x / (1 + np.exp(-x))


def mbconv(x, block, gate, stride):
    """Expand, filter, weigh, project."""
    y = silu(norm(convolution(x, block.conv_pw), block.bn1))
    y = silu(norm(convolution(y, block.conv_dw, stride), block.bn2))
    return norm(convolution(gate * y, block.conv_pwl), block.bn3)


def separable(x, block, gate, stride):
    """Filter, weigh, mix the channels."""
    y = silu(norm(convolution(x, block.conv_dw, stride), block.bn1))
    return norm(convolution(gate * y, block.conv_pw), block.bn2)


@pytest.mark.parametrize(("kind", "by_hand"), [(MBConv, mbconv), (SeparableConv, separable)])
@pytest.mark.parametrize(("size", "stride", "channels"), [(3, 1, 6), (5, 2, 6), (3, 1, 4)])
def test_a_block_is_its_equation(kind, by_hand, size, stride, channels, rng):
    stage = Stage(expand=2, kernel_size=size, stride=stride, channels=channels, repeats=1)
    block = shaken(kind(6, stage, stride, drop_path=0.0, rng=rng), rng)
    x = rng.normal(size=(2, 5, 4, 6))
    with capture(block, "se.gate") as seen:
        y = block(x).data
    for image, gate, out in zip(x, seen["se.gate"].data, y, strict=True):
        wanted = by_hand(image, block, gate, stride)
        same = stride == 1 and channels == 6
        np.testing.assert_allclose(out, wanted + image if same else wanted, rtol=1e-10, atol=1e-12)


def test_squeeze_and_excitation_is_as_wide_as_a_quarter_of_the_blocks_input():
    model = create_model("efficientnet_b0")
    shapes = {name: x.shape for name, x in model.named_state()}
    hidden = [shapes[f"blocks.{i}.{j}.se.conv_reduce.weight"][:2] for i, j in ((0, 0), (1, 0), (1, 1), (6, 0))]
    assert hidden == [(32 // 4, 32), (16 // 4, 6 * 16), (24 // 4, 6 * 24), (192 // 4, 6 * 192)]


def test_a_stage_may_do_without_it():
    stages = tuple(stage._replace(se_ratio=0) for stage in TINY.stages)
    names = [name for name, _ in EfficientNet(replace(TINY, stages=stages), rng=None).named_state()]
    assert names == [name for name, _ in EfficientNet(TINY, rng=None).named_state() if ".se." not in name]


# the model ----------------------------------------------------------------------------------


def test_stages_are_the_last_maps_of_every_size(rng):
    """B0 has seven rows and five sizes."""
    maps = EfficientNet(TINY, rng=rng).stages(rng.normal(size=(2, 21, 32, 2)))
    assert [m.shape for m in maps] == [(2, 11, 16, 6), (2, 6, 8, 8), (2, 3, 4, 10)]
    model = create_model("efficientnet_b0", rng=rng)
    with capture(model, "blocks.*") as seen:
        maps = model.stages(np.zeros((1, 32, 32, 3), np.float32))
    assert maps == [seen[f"blocks.{i}"] for i in (0, 1, 2, 4, 6)]


def test_a_first_stage_with_a_stride_leaves_the_stems_map(rng):
    model = EfficientNet(replace(TINY, stages=TINY.stages[1:]), rng=rng)
    assert [m.shape for m in model.stages(rng.normal(size=(1, 8, 8, 2)))] == [(1, 4, 4, 6), (1, 2, 2, 8), (1, 1, 1, 10)]


def test_stochastic_depth_grows_with_the_block():
    model = create_model("efficientnet_b1", drop_path_rate=0.3)
    rates = [m.drop_path.p for _, m in model.named_modules() if isinstance(m, MBConv | SeparableConv)]
    assert len(rates) == sum(math.ceil(1.1 * n) for n in (1, 2, 2, 3, 3, 4, 1))
    np.testing.assert_allclose(rates, 0.3 * np.arange(len(rates)) / len(rates), rtol=1e-12)


def test_in_training_a_branch_is_dropped_for_a_whole_image(rng):
    block = shaken(MBConv(4, Stage(2, 3, 1, 4, 1), 1, drop_path=0.5, rng=rng), rng)
    x = rng.normal(size=(16, 3, 3, 4))
    same = np.isclose(block.train(rng)(x).data, x).all(axis=(1, 2, 3))
    assert 0 < same.sum() < 16


def test_depthwise_convolutions_start_with_the_variance_of_their_channel(rng):
    model = create_model("efficientnet_digits", rng=rng)
    assert abs(getattr(model.blocks[1], "0").conv_dw.weight.data.std() / math.sqrt(2 / 9) - 1) < 0.15


def test_a_setting_that_cannot_be_is_named(rng):
    with pytest.raises(ValueError, match="stages: expected odd kernel sizes, got 4"):
        replace(TINY, stages=(Stage(1, 4, 1, 6, 1),))
    with pytest.raises(ValueError, match="drop_path_rate: expected a probability of at least 0 and below 1"):
        replace(TINY, drop_path_rate=1.5)
    with pytest.raises(ValueError, match=r"images: expected shape \(B, H, W, 2\), got .*; channels come last here"):
        EfficientNet(TINY, rng=rng)(np.zeros((1, 2, 8, 8), np.float32))


def test_another_configuration_obeys_every_law(rng):
    config = replace(TINY, drop_rate=0.2, drop_path_rate=0.4)
    check_model(lambda rng: EfficientNet(config, rng=rng), rng.normal(size=(8, 11, 14, 2)), rng=rng)
