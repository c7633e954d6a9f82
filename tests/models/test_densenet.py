"""DenseNet: a block against its equation, what its layers see and share, the counts of both tables, settings."""

import numpy as np
import pytest
from by_hand import convolution, norm, shaken

from tinyvit import capture, create_model, gradients
from tinyvit.models.densenet import DenseBlock, DenseNet, DenseNetConfig, Transition

TINY = DenseNetConfig(in_chans=2, num_classes=3, growth_rate=3, block_config=(2, 1), bn_size=2)


def activated(x, bn):
    """BN and ReLU."""
    return np.maximum(norm(x, bn), 0)


def test_every_layer_sees_all_maps_before_it(rng):
    """Eq. 2, with H as in the paper's Sec. 3."""
    block, x = shaken(DenseBlock(3, 4, 2, 3, rng=rng), rng), rng.normal(size=(3, 5, 4))
    wanted = x
    for i in (1, 2, 3):
        layer = getattr(block, f"denselayer{i}")
        assert layer.conv1.weight.shape == (6, wanted.shape[-1], 1, 1)
        narrow = convolution(activated(wanted, layer.norm1), layer.conv1)
        new = convolution(activated(narrow, layer.norm2), layer.conv2)
        wanted = np.concatenate([wanted, new], axis=-1)
    y = block(x[None]).data[0]
    np.testing.assert_allclose(y, wanted, rtol=1e-12, atol=1e-13)
    assert np.array_equal(y[..., :4], x), "what came in goes on to the end, unchanged"


def test_the_gradient_reaches_every_layer_directly(rng):
    """Deep supervision (Sec. 5): with the last layers silenced, the first one still learns."""
    block = shaken(DenseBlock(3, 4, 2, 3, rng=rng), rng)
    for layer in (block.denselayer2, block.denselayer3):
        layer.conv2.weight.data = np.zeros(layer.conv2.weight.shape)
    y = block(rng.normal(size=(2, 3, 5, 4)))
    assert gradients(y, block.denselayer1.conv1.weight, [rng.normal(size=y.shape)])[0].any()


@pytest.mark.parametrize("size", [(4, 6), (5, 7)])
def test_a_transition_halves_channels_and_map(size, rng):
    layer, x = shaken(Transition(5, 2, rng=rng), rng), rng.normal(size=(*size, 5))
    y = convolution(activated(x, layer.norm), layer.conv)
    rows, columns = (n // 2 for n in size)
    cells = y[: 2 * rows, : 2 * columns].reshape(rows, 2, columns, 2, 2)
    np.testing.assert_allclose(layer(x[None]).data[0], cells.mean(axis=(1, 3)), rtol=1e-12)


def test_the_stages_are_what_dense_blocks_give_and_the_last_is_normalised(rng):
    model, images = shaken(DenseNet(TINY, rng=rng), rng), rng.normal(size=(2, 21, 34, 2))
    with capture(model, "features.denseblock*", "features") as seen:
        logits = model(images)
    maps = model.stages(images)
    assert [m.shape for m in maps] == [(2, 6, 9, 12), (2, 3, 4, 9)]
    assert np.array_equal(maps[0].data, seen["features.denseblock1"].data)
    assert np.array_equal(maps[1].data, seen["features"].data)
    np.testing.assert_allclose(maps[1].data, activated(seen["features.denseblock2"].data, model.features.norm5))
    head = model.classifier
    np.testing.assert_allclose(logits.data, maps[1].data.mean((1, 2)) @ head.weight.data.T + head.bias.data)


def test_norm_and_relu_are_one_layer_as_in_timm(rng):
    model = shaken(DenseNet(TINY, rng=rng), rng)
    with capture(model, "features.conv0", "features.norm0") as seen:
        model(rng.normal(size=(1, 20, 20, 2)))
    np.testing.assert_allclose(
        seen["features.norm0"].data, activated(seen["features.conv0"].data, model.features.norm0)
    )


# Table 2's last rows: DenseNet-BC on CIFAR, millions of parameters
@pytest.mark.parametrize(("L", "k", "printed"), [(100, 12, 0.8), (250, 24, 15.3), (190, 40, 25.6)])
def test_the_networks_of_table_2_have_their_depth_and_size(L, k, printed):
    model = create_model(f"densenet{L}_{k}_bc")
    depth = sum(value.ndim in (2, 4) for _, value in model.named_parameters())
    assert depth == L
    assert round(model.num_parameters() / 1e6, 1) == printed


def test_dropout_stands_behind_every_layer_and_before_the_classifier(rng):
    images = rng.random((4, 8, 8, 1))
    for changes in ({"proj_drop_rate": 0.5}, {"drop_rate": 0.5}):
        model = create_model("densenet_digits", rng=np.random.default_rng(0), **changes)
        quiet = create_model("densenet_digits", rng=np.random.default_rng(0))
        assert np.array_equal(model(images).data, quiet(images).data)
        inner, plain = (m.train(rng).features(images).data for m in (model, quiet))
        assert np.array_equal(inner, plain) == ("drop_rate" in changes)
        assert not np.allclose(model(images).data, quiet(images).data)


@pytest.mark.parametrize("blocks", [(), (2, 0)])
def test_a_block_without_layers_is_refused(blocks):
    with pytest.raises(ValueError, match="block_config: expected at least one layer in every block"):
        create_model("densenet_digits", block_config=blocks)


def test_it_takes_any_size_but_not_any_channels():
    model = create_model("densenet121", rng=None)
    with pytest.raises(ValueError, match=r"expected shape \(B, H, W, 3\)"):
        model(np.zeros((1, 32, 32, 1)))
