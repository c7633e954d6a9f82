"""RegNet: the rule of widths, the block against loops, maps of every stage, the laws."""

import re
from dataclasses import replace

import numpy as np
import pytest
from by_hand import convolution, norm, shaken
from reference import variants

from tinyvit import capture, create_model, describe
from tinyvit.models.regnet import PUBLISHED, RegNet, RegNetConfig, YBlock, block_widths, stages_of
from tinyvit.nn.check import check_model

TINY = RegNetConfig(in_chans=2, num_classes=3, depth=4, w0=8, wa=6.0, wm=1.8, group_size=4, stem_width=8)


# widths -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PUBLISHED)
def test_six_numbers_give_the_published_widths(name):
    """And depths: the paper's Table 4 states them beside the six."""
    row = next(row["config"] for row in variants() if row["name"] == PUBLISHED[name].counted_as)
    assert stages_of(PUBLISHED[name].config) == [
        (depth, width, row["group_width"]) for depth, width in zip(row["depths"], row["widths"], strict=True)
    ]


def test_a_width_is_the_nearest_step_of_its_line_in_the_logarithm(rng):
    """Eqs. 2-4 the other way round: of all steps w₀ w_mˢ, the one whose logarithm is nearest to that of the line."""
    for _ in range(50):
        depth, w0 = int(rng.integers(1, 20)), 8 * int(rng.integers(1, 20))
        wa, wm = rng.uniform(0, 100), rng.uniform(1.4, 3.0)
        steps = w0 * wm ** np.arange(30.0)
        line = w0 + wa * np.arange(depth)
        nearest = steps[np.argmin(np.abs(np.log(steps) - np.log(line)[:, None]), axis=1)]
        assert block_widths(depth, w0, wa, wm) == (8 * np.round(nearest / 8)).tolist()


def test_a_stage_has_whole_groups_and_a_group_no_more_than_the_stage():
    assert [width for _, width, _ in stages_of(TINY)] == [8, 16, 24], "the rule alone"
    assert stages_of(replace(TINY, group_size=12)) == [(1, 8, 8), (1, 12, 12), (2, 24, 12)]


# the block ----------------------------------------------------------------------------------


def convolved(x, layer, stride=1):
    """A convolution and its norm."""
    return norm(convolution(x, layer.conv, stride), layer.bn)


@pytest.mark.parametrize(("in_chans", "stride"), [(8, 1), (8, 2), (5, 1)])
def test_a_block_is_its_equation(in_chans, stride, rng):
    block = shaken(YBlock(in_chans, 8, stride, group_size=2, se_ratio=0.25, rng=rng), rng)
    x = rng.normal(size=(2, 5, 4, in_chans))
    with capture(block, "se.gate") as seen:
        y = block(x).data
    for image, gate, out in zip(x, seen["se.gate"].data, y, strict=True):
        inner = np.maximum(convolved(image, block.conv1), 0)
        inner = np.maximum(convolved(inner, block.conv2, stride), 0)
        inner = convolved(gate * inner, block.conv3)
        same = in_chans == 8 and stride == 1
        shortcut = image if same else convolved(image, block.downsample, stride)
        np.testing.assert_allclose(out, np.maximum(inner + shortcut, 0), rtol=1e-11, atol=1e-13)


def test_squeeze_and_excitation_is_as_wide_as_a_quarter_of_the_blocks_input():
    shapes = {name: x.shape for name, x in create_model("regnety_040").named_state()}
    hidden = [shapes[f"s{i}.b{j}.se.fc1.weight"][0] for i, j in ((1, 1), (1, 2), (2, 1), (2, 2), (4, 1))]
    assert hidden == [32 // 4, 128 // 4, 128 // 4, 192 // 4, 512 // 4]


def test_without_squeeze_and_excitation_it_is_regnetx():
    names = [name for name, _ in RegNet(replace(TINY, se_ratio=0), rng=None).named_state()]
    with_it = [name for name, _ in RegNet(TINY, rng=None).named_state()]
    assert names == [name for name in with_it if ".se." not in name]
    assert len(names) < len(with_it)


# the model ----------------------------------------------------------------------------------


def test_stages_are_the_maps_from_fine_to_coarse(rng):
    model = RegNet(TINY, rng=rng)
    maps = model.stages(rng.normal(size=(2, 33, 20, 2)))
    assert [m.shape for m in maps] == [(2, 9, 5, 8), (2, 5, 3, 16), (2, 3, 2, 24)]
    assert RegNet(replace(TINY, num_classes=0), rng=rng)(rng.normal(size=(2, 9, 9, 2))).shape == (2, 24)


def test_grouped_convolutions_start_with_the_variance_of_their_group(rng):
    model = create_model("regnety_digits", rng=rng)
    assert abs(model.s2.b1.conv2.conv.weight.data.std() / np.sqrt(2 / (8 * 9)) - 1) < 0.1
    assert not model.s1.b1.se.fc1.bias.data.any()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"w0": 12}, "w0: expected a positive multiple of 8, got 12"),
        ({"wm": 1.0}, "wa, wm: expected a slope of at least 0 and a ratio over 1, got 6.0, 1.0"),
        ({"depth": 0}, "depth, group_size, stem_width: expected at least 1, got 0, 4, 8"),
        ({"se_ratio": 0.01}, "hidden: squeeze-and-excitation needs at least one channel"),
    ],
)
def test_a_setting_that_cannot_be_is_named(changes, message):
    with pytest.raises(ValueError, match=message):
        RegNet(replace(TINY, **changes), rng=None)


def test_images_with_channels_first(rng):
    with pytest.raises(ValueError, match=r"images: expected shape \(B, H, W, 2\), got .*; channels come last here"):
        RegNet(TINY, rng=rng)(np.zeros((1, 2, 8, 8), np.float32))


def test_the_description_names_stages_and_gates():
    table = describe(create_model("regnety_digits"), depth=3)
    assert re.search(r"^s2\.b2\.se +SqueezeExcite +1×1×64", table, re.M)


@pytest.mark.parametrize("changes", [{"se_ratio": 1.0, "stem_width": 12}, {"se_ratio": 0, "group_size": 12}])
def test_other_configurations_obey_every_law(changes, rng):
    check_model(lambda rng: RegNet(replace(TINY, **changes), rng=rng), rng.normal(size=(8, 19, 21, 2)), rng=rng)
