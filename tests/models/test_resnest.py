"""ResNeSt: split attention from its equations in loops, what one split and groups are, where a block halves the map."""

from dataclasses import replace

import numpy as np
import pytest
from by_hand import convolution, norm, shaken

from tinyvit import Blueprint, capture, create_model
from tinyvit.models.resnest import ResNeStBottleneck, ResNeStConfig, SplitAttention

TINY = ResNeStConfig(num_classes=4, layers=(1, 2), channels=(4, 8), stem_width=4)


def relu(x):
    return np.maximum(x, 0)


def split_attention(x, layer, R, K):
    """Sec. 3.1 for one image, a group and a channel of it at a time."""
    C = x.shape[-1]
    u = relu(norm(convolution(x, layer.conv), layer.bn0)).reshape(*x.shape[:2], R, C)  # [split][group][channel]
    s = u.sum(axis=2).mean(axis=(0, 1))[None, None]
    hidden = relu(norm(convolution(s, layer.fc1) + layer.fc1.bias.data, layer.bn1))
    logits = (convolution(hidden, layer.fc2) + layer.fc2.bias.data).reshape(K, R, C // K)  # [group][split][channel]
    v, weights = np.zeros(x.shape), np.empty((R, C))
    for k, c in np.ndindex(K, C // K):
        e = np.exp(logits[k, :, c])
        channel = k * (C // K) + c
        weights[:, channel] = e / (e.sum() if R > 1 else 1 + e.sum())
        v[..., channel] = u[:, :, :, channel] @ weights[:, channel]
    return v, weights


@pytest.mark.parametrize(("R", "K"), [(2, 1), (3, 2), (1, 2), (2, 4)])
def test_split_attention_is_its_equation(R, K, rng):
    layer, x = shaken(SplitAttention(R * K * 2, R, K, rng=rng), rng), rng.normal(size=(3, 4, R * K * 2))
    layer.fc2.weight.data = 3 * layer.fc2.weight.data  # weights that differ
    with capture(layer, "weights") as seen:
        y = layer(x[None]).data[0]
    wanted, weights = split_attention(x, layer, R, K)
    np.testing.assert_allclose(y, wanted, rtol=1e-11, atol=1e-13)
    np.testing.assert_allclose(seen["weights"].data[0], weights, rtol=1e-11)
    if R > 1:
        np.testing.assert_allclose(weights.sum(axis=0), 1)
        assert weights.std(axis=0).min() > 1e-3


def test_splits_that_see_the_same_are_one_convolution_of_their_sum(rng):
    """Equal logits weigh every split alike: R times less of the sum."""
    layer, x = shaken(SplitAttention(4, 2, rng=rng), rng), rng.normal(size=(2, 3, 5, 4))
    layer.fc2.weight.data, layer.fc2.bias.data = np.zeros((8, 16 * 2, 1, 1)), np.zeros(8)
    with capture(layer, "bn0") as seen:
        y = layer(x).data
    np.testing.assert_allclose(y, relu(seen["bn0"].data).reshape(2, 3, 5, 2, 4).mean(axis=3), rtol=1e-12)


def averaged(x):
    """The mean of 3×3 places at every second one, the border's zeros among them."""
    H, W, _ = x.shape
    bordered = np.pad(x, ((1, 1), (1, 1), (0, 0)))
    return np.array([[bordered[i : i + 3, j : j + 3].mean((0, 1)) for j in range(0, W, 2)] for i in range(0, H, 2)])


@pytest.mark.parametrize("avd_first", [True, False])
def test_a_block_halves_the_map_by_averaging(avd_first, rng):
    config = replace(TINY, avd_first=avd_first)
    block, x = shaken(ResNeStBottleneck(config, 6, 4, 2, rng=rng), rng), rng.normal(size=(5, 6, 6))
    y = relu(norm(convolution(x, block.conv1), block.bn1))
    y, _ = split_attention(averaged(y) if avd_first else y, block.conv2, 2, 1)
    y = norm(convolution(y if avd_first else averaged(y), block.conv3), block.bn3)
    _, projection, its_norm = block.downsample
    cells = np.array([[x[i : i + 2, j : j + 2].mean((0, 1)) for j in range(0, 6, 2)] for i in range(0, 5, 2)])
    y = relu(y + norm(convolution(cells, projection), its_norm))
    np.testing.assert_allclose(block(x[None]).data[0], y, rtol=1e-10, atol=1e-12)


def test_without_averaging_the_convolution_has_the_stride(rng):
    block = shaken(ResNeStBottleneck(replace(TINY, avd=False), 6, 4, 2, rng=rng), rng)
    with capture(block, "conv1", "conv2") as seen:
        block(rng.normal(size=(1, 5, 6, 6)))
    assert (seen["conv1"].shape, seen["conv2"].shape) == ((1, 5, 6, 4), (1, 3, 3, 4))


def test_stages_and_attention_of_an_odd_image():
    """On shapes alone: a stem of three convolutions, pooling, and a block for every layer."""
    model = create_model("resnest50d_4s2x40d", layers=(1, 2), channels=(64, 128), in_chans=2)
    with capture(model, "*.weights") as seen:
        maps = model.stages(Blueprint((1, 45, 70, 2)))
    assert [m.shape for m in maps] == [(1, 12, 18, 256), (1, 6, 9, 512)]
    assert {name: w.shape for name, w in seen.items()} == {
        "layer1.0.conv2.weights": (1, 4, 80),
        "layer2.0.conv2.weights": (1, 4, 160),
        "layer2.1.conv2.weights": (1, 4, 160),
    }


# in millions, as the paper's tables and its code's ablation print them
@pytest.mark.parametrize(("name", "printed"), [("resnest50d", 27.5), ("resnest101e", 48.3), ("resnest200e", 70.2),
                                               ("resnest269e", 110.9), ("resnest50d_4s2x40d", 30.4),
                                               ("resnest50d_1s4x24d", 25.7)])  # fmt: skip
def test_the_sizes_are_the_papers(name, printed):
    assert round(create_model(name).num_parameters() / 1e6, 1) == printed


@pytest.mark.parametrize(("changes", "message"), [
    ({"radix": 0}, "radix: expected at least one split, got 0"),
    ({"radix": 3}, "radix: 16 channels cannot be shared evenly by 1 groups of 3 splits"),
    ({"block": "basic"}, r"block: expected one of \('bottleneck',\), got 'basic'"),
    ({"residual": False}, r"residual: expected one of \(True,\), got False"),
])  # fmt: skip
def test_settings_that_cannot_be(changes, message):
    with pytest.raises(ValueError, match=message):
        create_model("resnest_digits", **changes)
