"""MLP-Mixer: the block against its equation in loops, what mixing cannot see, settings that cannot be."""

from dataclasses import replace
from math import erf, pi, sqrt, tanh

import numpy as np
import pytest

from tinyvit import capture, gradients
from tinyvit.models.mixer import Mixer, MixerBlock, MixerConfig
from tinyvit.nn.check import check_model

TINY = MixerConfig(img_size=(8, 12), patch_size=4, in_chans=2, num_classes=3, embed_dim=8, num_blocks=2,
                   mlp_ratio=(0.6, 1.5))  # fmt: skip
SIGMA = {
    "gelu": lambda x: x * (1 + erf(x / sqrt(2))) / 2,
    "gelu_tanh": lambda x: x * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 * x**3))) / 2,
}


def restless(model, rng, std=0.3):
    """The model in float64 with every parameter moved off its initial value."""
    model.astype(np.float64)
    for p in model.parameters():
        p.data = p.data + rng.normal(0, std, p.shape)
    return model


def images_for(config, rng, batch=2):
    return rng.normal(size=(batch, *config.img_size, config.in_chans))


def naive_block(block, x, sigma):
    """Eq. 1 of the paper for one image x (N, D): every column, then every row, through an MLP of its own."""

    def norm(layer, rows):
        centred = rows - rows.mean(1, keepdims=True)
        return centred / np.sqrt((centred**2).mean(1, keepdims=True) + 1e-6) * layer.weight.data + layer.bias.data

    def mlp(layers, v):
        hidden = [sigma(h) for h in layers.fc1.weight.data @ v + layers.fc1.bias.data]
        return layers.fc2.weight.data @ np.array(hidden) + layers.fc2.bias.data

    normed, u = norm(block.norm1, x), x.copy()
    for i in range(x.shape[1]):
        u[:, i] += mlp(block.mlp_tokens, normed[:, i])
    normed, y = norm(block.norm2, u), u.copy()
    for j in range(x.shape[0]):
        y[j] += mlp(block.mlp_channels, normed[j])
    return y


@pytest.mark.parametrize("act_layer", SIGMA)
def test_the_block_is_its_equation(act_layer, rng):
    model = restless(Mixer(replace(TINY, act_layer=act_layer), rng=rng), rng, std=1.0)
    x = rng.normal(size=(2, 6, 8))
    ours = model.blocks[0](x).data
    for one, y in zip(x, ours, strict=True):
        np.testing.assert_allclose(y, naive_block(model.blocks[0], one, SIGMA[act_layer]), rtol=1e-12)
    other = SIGMA["gelu" if act_layer == "gelu_tanh" else "gelu_tanh"]
    assert np.abs(ours[0] - naive_block(model.blocks[0], x[0], other)).max() > 1e-5, "the two forms of GELU are one"


def test_the_mean_is_of_normed_tokens(rng):
    model, x = restless(Mixer(TINY, rng=rng), rng), images_for(TINY, rng)
    with capture(model, "norm") as seen:
        logits = model(x)
    pooled = seen["norm"].data.mean(axis=1)
    np.testing.assert_allclose(logits.data, pooled @ model.head.weight.data.T + model.head.bias.data, rtol=1e-12)


def test_a_mixer_knows_where_a_patch_is(rng):
    """Unlike attention without positions: in another order the tokens become others, unless the token maps follow."""
    block = restless(MixerBlock(8, 6, tokens_dim=5, channels_dim=12, rng=rng), rng)
    x, order = rng.normal(size=(2, 6, 8)), rng.permutation(6)
    before = block(x).data[:, order]
    assert not np.allclose(block(x[:, order]).data, before)
    tokens = block.mlp_tokens
    for parameter, axis in ((tokens.fc1.weight, 1), (tokens.fc2.weight, 0), (tokens.fc2.bias, 0)):
        parameter.data = np.take(parameter.data, order, axis=axis)
    np.testing.assert_allclose(block(x[:, order]).data, before, rtol=1e-12)


def test_no_norm_lets_a_token_s_bias_through(rng):
    """What the module's docstring says of the second bias of the token mixing."""
    model, x = restless(Mixer(TINY, rng=rng), rng), images_for(TINY, rng)
    names, leaves = zip(*model.named_parameters(), strict=True)
    found = dict(zip(names, gradients(model(x), leaves, [rng.normal(size=(2, 3))]), strict=True))
    tiny = {name for name, g in found.items() if np.abs(g).max() < 1e-14}
    assert tiny == {"blocks.0.mlp_tokens.fc2.bias", "blocks.1.mlp_tokens.fc2.bias"}


def test_it_starts_as_the_jax_code_does(rng):
    model = Mixer(replace(TINY, embed_dim=64, mlp_ratio=4.0), rng=rng)
    assert not model.head.weight.data.any()
    bound = sqrt(6 / (64 + 256))
    weight = model.blocks[0].mlp_channels.fc1.weight.data
    assert 0.95 * bound < np.abs(weight).max() <= bound
    assert 0 < np.abs(model.blocks[0].mlp_tokens.fc1.bias.data).max() < 1e-5
    np.testing.assert_allclose(model.stem.proj.weight.data.std(), 32**-0.5, rtol=0.1)


def test_every_kind_of_noise_is_drawn_from_the_generator(rng):
    x = images_for(TINY, rng, batch=4)
    for rate in ("drop_rate", "proj_drop_rate", "drop_path_rate"):
        model = restless(Mixer(replace(TINY, **{rate: 0.5}), rng=rng), rng)
        still, noisy = model(x).data, model.train(np.random.default_rng(1))(x).data
        assert not np.allclose(still, noisy), rate
        assert np.array_equal(noisy, model.train(np.random.default_rng(1))(x).data), rate


def test_noise_obeys_the_laws_too(rng):
    config = replace(TINY, drop_rate=0.1, proj_drop_rate=0.1, drop_path_rate=0.2)
    check_model(lambda rng: Mixer(config, rng=rng), images_for(config, rng, batch=8), rng=rng)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"act_layer": "relu"}, r"act_layer: expected one of \('gelu', 'gelu_tanh'\), got 'relu'"),
        ({"mlp_ratio": (0.5, 2, 4)}, r"mlp_ratio: expected one ratio, or two \(of tokens, of channels\), got"),
        ({"img_size": 30}, r"whole number of patches of 4; the nearest: \(28, 28\) or \(32, 32\)"),
        ({"drop_path_rate": 1.0}, "expected a probability of at least 0 and below 1, got 1.0"),
    ],
)
def test_a_setting_that_cannot_be_is_named(changes, message):
    with pytest.raises(ValueError, match=message):
        Mixer(replace(TINY, **changes), rng=None)


def test_no_classes_means_features(rng):
    assert Mixer(replace(TINY, num_classes=0), rng=rng)(images_for(TINY, rng)).shape == (2, 8)
