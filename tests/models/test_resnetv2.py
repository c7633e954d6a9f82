"""Pre-activation ResNets: blocks in loops, what the pooling's zeros do, and the names of BiT's own files."""

from dataclasses import replace

import numpy as np
import pytest
from by_hand import convolution, shaken

from tinyvit import capture, create_model, load_weights
from tinyvit.models.bit import original_names
from tinyvit.models.resnetv2 import PreActBottleneck, ResNetV2Config, StdConv2d, Stem

TINY = ResNetV2Config(in_chans=2, num_classes=3, layers=(1, 2), channels=(32, 64), stem_chs=8, num_groups=2)


def active(x, gn):
    """Group norm of one image and ReLU, group by group."""
    y, width = np.empty_like(x), x.shape[-1] // gn.num_groups
    for g in range(gn.num_groups):
        part = slice(g * width, (g + 1) * width)
        y[..., part] = (x[..., part] - x[..., part].mean()) / np.sqrt(x[..., part].var() + 1e-5)
    return np.maximum(y * gn.weight.data + gn.bias.data, 0)


class Standardised:
    """A convolution's weight, one filter after the other less its mean and over its deviation."""

    def __init__(self, conv):
        w = conv.weight.data
        filters = [(f - f.mean()) / np.sqrt(np.mean((f - f.mean()) ** 2) + conv.eps) for f in w]
        self.weight = type("Weight", (), {"data": np.array(filters)})


@pytest.mark.parametrize(("stride", "projects"), [(1, False), (1, True), (2, True)])
def test_the_block_is_its_equation(stride, projects, rng):
    block = shaken(PreActBottleneck(TINY, 32, 32, stride, projects=projects, rng=rng), rng)
    x = rng.normal(size=(4, 5, 32))
    f = active(x, block.norm1)
    y = convolution(f, Standardised(block.conv1))
    y = convolution(active(y, block.norm2), Standardised(block.conv2), stride)
    y = convolution(active(y, block.norm3), Standardised(block.conv3))
    y += convolution(f, Standardised(block.downsample.conv), stride) if projects else x
    np.testing.assert_allclose(block(x[None]).data[0], y, rtol=1e-9, atol=1e-11)


def test_a_stage_is_a_sum(rng):
    """Eq. 4: behind the first block, which projects, whatever a stage gives is what came in plus what was added."""
    model = shaken(create_model("resnetv2_50", **vars(replace(TINY, layers=(4,), channels=(32,))), rng=rng), rng)
    with capture(model, "stages.0.blocks.*") as seen:
        model(rng.normal(size=(2, 16, 16, 2)))
    added = sum(seen[f"stages.0.blocks.{i}.conv3"].data for i in (1, 2, 3))
    last, first = seen["stages.0.blocks.3"].data, seen["stages.0.blocks.0"].data
    np.testing.assert_allclose(last, first + added, rtol=1e-12)


def test_a_filter_has_mean_0_and_variance_1_and_no_scale_of_its_own(rng):
    conv = StdConv2d(3, 4, 3, eps=0.0, rng=rng).astype(np.float64)
    x = rng.normal(size=(1, 5, 5, 3))
    y = conv(x).data
    conv.weight.data = conv.weight.data * rng.uniform(1, 9, (4, 1, 1, 1)) + rng.normal(size=(4, 1, 1, 1))
    np.testing.assert_allclose(conv(x).data, y, rtol=1e-10)
    ones = np.zeros((1, 5, 5, 3))
    ones[:, 1:4, 1:4] = 1
    np.testing.assert_allclose(conv(ones).data[0, 2, 2], 0, atol=1e-12)


@pytest.mark.parametrize(("stem_type", "largest"), [("", "negative"), ("fixed", "zero")])
def test_zeros_around_the_pooling_take_part(stem_type, largest, rng):
    """On a map of negative numbers, the border's windows have them as the largest, or BiT's zeros."""
    stem = Stem(replace(TINY, stem_type=stem_type, ws_eps=None), rng=rng).astype(np.float64)
    stem.conv.weight.data = -np.ones_like(stem.conv.weight.data)
    y = stem(np.ones((1, 32, 32, 2))).data[0]
    assert y.shape == (8, 8, 8)
    assert (y[1:, 1:] < 0).all()
    assert ((y[0] < 0) if largest == "negative" else (y[0] == 0)).all()


def test_stages_and_any_size(rng):
    model = create_model("resnetv2_50_gn", **vars(TINY), rng=rng)
    maps = model.stages(rng.normal(size=(1, 33, 50, 2)).astype(np.float32))
    assert [m.shape for m in maps] == [(1, 9, 13, 32), (1, 5, 7, 64)]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_groups": 3}, "num_groups: 8 channels cannot be shared out evenly among 3 groups"),
        ({"stem_type": "same"}, r"stem_type: expected one of \('', 'fixed'\), got 'same'"),
        ({"layers": (1,)}, r"channels: expected one width per stage \(1\), got \(32, 64\)"),
    ],
)
def test_settings_that_cannot_be(changes, message):
    with pytest.raises(ValueError, match=message):
        create_model("resnetv2_50", **vars(TINY) | changes)


# the authors' files -------------------------------------------------------------------------


def their_state(model):
    """A BiT's parameters as the authors' code names them and lays them out, their units counted from 01."""
    theirs = {}
    for name, x in model.state_dict().items():
        x = np.moveaxis(x, (0, 1), (3, 2)) if x.ndim == 4 else x
        where, kind = name.rsplit(".", 1)
        kind = {"weight": "kernel" if x.ndim == 4 else "gamma", "bias": "beta"}[kind]
        if where == "stem.conv":
            where = "root_block/standardized_conv2d"
        elif where == "norm":
            where = "group_norm"
        elif where == "head.fc":
            where, kind = "head/conv2d", kind.replace("beta", "bias")
        else:
            _, i, _, j, layer, *_ = where.split(".")
            letter = "a/proj" if layer == "downsample" else "abc"[int(layer[-1]) - 1]
            what = "group_norm" if layer.startswith("norm") else "standardized_conv2d"
            where = f"block{int(i) + 1}/unit{int(j) + 1:02d}/{letter}/{what}"
        theirs[f"resnet/{where}/{kind}"] = x
    return theirs


def test_a_file_of_the_authors_comes_back(rng, tmp_path):
    source = shaken(create_model("bit_digits", layers=(2, 11), rng=rng), rng).astype(np.float32)
    state = their_state(source)
    assert state["resnet/block2/unit11/c/standardized_conv2d/kernel"].shape == (1, 1, 32, 128)
    assert state["resnet/root_block/standardized_conv2d/kernel"].shape == (3, 3, 1, 16)
    np.savez(tmp_path / "BiT-M-R.npz", **state)
    model = load_weights(create_model("bit_digits", layers=(2, 11)), tmp_path / "BiT-M-R.npz")
    for name, value in source.state_dict().items():
        assert np.array_equal(model.state_dict()[name], value), name


def test_every_parameter_has_a_name_of_theirs():
    model = create_model("resnetv2_101x3_bit")
    assert original_names(model.config.layers).keys() == model.state_dict().keys()
    assert model.original_names == original_names((3, 4, 23, 3))
