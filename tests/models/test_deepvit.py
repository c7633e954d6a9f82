"""DeepViT: re-attention against its equation in loops, the stronger residual, what its options change."""

from dataclasses import replace

import numpy as np
import pytest

from tinyvit import capture, create_model
from tinyvit.analysis import attention_maps
from tinyvit.models.deepvit import ConvPatchEmbed, DeepBlock, DeepViT, DeepViTConfig, ReAttention
from tinyvit.models.vit import ViT, ViTConfig
from tinyvit.nn.attention import Attention, Block
from tinyvit.nn.check import check_model

TINY = DeepViTConfig(img_size=(8, 12), patch_size=4, in_chans=2, num_classes=3, embed_dim=12, depth=2, num_heads=3)


def restless(model, rng):
    """The model in float64 with parameters and running statistics moved off their initial values."""
    model.astype(np.float64)
    for p in model.parameters():
        p.data = p.data + rng.normal(0, 0.3, p.shape)
    for name, buffer in model.named_state():
        if "running" in name:
            buffer.data = buffer.data + rng.uniform(0.1, 1, buffer.shape)
    return model


def re_attention(s, x, heads, *, scale, eps=1e-5):
    """Norm(Θᵀ softmax(QKᵀ/√d)) V, one image, head and query at a time; the statistics of evaluation."""
    B, N, D = x.shape
    d = D // heads
    q, k, v = np.split(x @ s["qkv.weight"].T + s["qkv.bias"], 3, axis=-1)
    theta, bias = s["reatten_matrix.weight"][:, :, 0, 0], s["reatten_matrix.bias"]
    mean, std = s["var_norm.running_mean"], np.sqrt(s["var_norm.running_var"] + eps)
    out = np.zeros((B, N, D))
    for b in range(B):
        maps = np.zeros((heads, N, N))
        for h in range(heads):
            part = slice(h * d, (h + 1) * d)
            for i in range(N):
                row = np.exp([q[b, i, part] @ k[b, j, part] / np.sqrt(d) for j in range(N)])
                maps[h, i] = row / row.sum()
        for g in range(heads):
            mixed = sum(theta[g, h] * maps[h] for h in range(heads)) + bias[g]
            mixed = (mixed - mean[g]) / std[g] * s["var_norm.weight"][g] + s["var_norm.bias"][g]
            out[b, :, g * d : (g + 1) * d] = scale * mixed @ v[b, :, g * d : (g + 1) * d]
    return out @ s["proj.weight"].T + s["proj.bias"]


@pytest.mark.parametrize("transform_scale", [False, True])
def test_re_attention_is_its_equation(transform_scale, rng):
    layer = restless(ReAttention(12, 3, transform_scale=transform_scale, rng=rng), rng)
    x = rng.normal(size=(2, 5, 12))
    wanted = re_attention(layer.state_dict(), x, 3, scale=4**-0.5 if transform_scale else 1.0)
    np.testing.assert_allclose(layer(x).data, wanted, rtol=1e-11, atol=1e-13)


def test_in_training_every_head_is_normalised_over_images_queries_and_keys(rng):
    layer = restless(ReAttention(12, 3, rng=rng), rng).train(rng)
    layer.var_norm.weight.data, layer.var_norm.bias.data = np.ones(3), np.zeros(3)
    with capture(layer, "var_norm") as seen:
        layer(rng.normal(size=(2, 5, 12)))
    maps = seen["var_norm"].data  # (B, N, N, h)
    np.testing.assert_allclose(maps.mean(axis=(0, 1, 2)), 0, atol=1e-12)
    assert (maps.var(axis=(0, 1, 2)) > 0.9).all()


def test_the_weights_are_the_softmax_and_the_mixed_maps_are_not(rng):
    layer = restless(ReAttention(12, 3, rng=rng), rng)
    with capture(layer, "weights", "var_norm") as seen:
        layer(rng.normal(size=(2, 5, 12)))
    np.testing.assert_allclose(seen["weights"].data.sum(axis=-1), 1, rtol=1e-12)
    assert seen["var_norm"].data.min() < 0


def test_without_mixing_it_is_attention(rng):
    """Θ the identity, no bias, a norm that leaves its argument."""
    layer, plain = restless(ReAttention(12, 3, rng=rng), rng), Attention(12, 3, rng=rng).astype(np.float64)
    plain.load_state_dict(layer.state_dict(), strict=False)
    norm = layer.var_norm
    layer.reatten_matrix.weight.data, layer.reatten_matrix.bias.data = np.eye(3)[:, :, None, None], np.zeros(3)
    norm.weight.data, norm.bias.data = np.ones(3), np.zeros(3)
    norm.running_mean.data, norm.running_var.data = np.zeros(3), np.full(3, 1 - norm.eps)
    x = rng.normal(size=(2, 5, 12))
    np.testing.assert_allclose(layer(x).data, plain(x).data, rtol=1e-12)


def test_dropout_of_the_weights_is_drawn_before_they_are_mixed(rng):
    layer = restless(ReAttention(12, 3, attn_drop=0.5, rng=rng), rng).train(np.random.default_rng(0))
    with capture(layer, "reatten_matrix.input") as seen:
        layer(rng.normal(size=(2, 5, 12)))
    assert 0.2 < (seen["reatten_matrix.input"].data == 0).mean() < 0.8


def test_the_residual_is_stronger_by_the_adjustment(rng):
    """z + F(LN(a z)) / a, twice."""
    block = restless(DeepBlock(12, 3, scale_adjustment=0.5, rng=rng), rng)
    z = rng.normal(size=(2, 5, 12))
    y = z + 2 * block.attn(block.norm1(0.5 * z)).data
    np.testing.assert_allclose(block(z).data, y + 2 * block.mlp(block.norm2(0.5 * y)).data, rtol=1e-12)
    plain = Block(12, 3, rng=rng).astype(np.float64)
    plain.load_state_dict(block.state_dict())
    block.scale_adjustment = 1.0
    assert np.array_equal(block(z).data, plain(z).data)


def test_only_the_blocks_that_are_told_to_re_attend(rng):
    model = DeepViT(replace(TINY, apply_transform=(False, True)), rng=rng)
    assert [type(block.attn) for block in model.blocks] == [Attention, ReAttention]
    assert {type(block.attn) for block in DeepViT(TINY, rng=rng).blocks} == {ReAttention}
    plain = DeepViT(replace(TINY, apply_transform=False), rng=rng).astype(np.float64)
    vit = ViT(ViTConfig(**{k: getattr(TINY, k) for k in ViTConfig.__dataclass_fields__}), rng=rng).astype(np.float64)
    vit.load_state_dict(plain.state_dict())
    x = rng.normal(size=(2, 8, 12, 2))
    assert np.array_equal(plain(x).data, vit(x).data)


def test_every_block_has_maps_to_look_at(rng):
    model = restless(DeepViT(replace(TINY, apply_transform=(False, True)), rng=rng), rng)
    maps = attention_maps(model, rng.normal(size=(2, 8, 12, 2)))
    assert {name: m.shape for name, m in maps.items()} == {f"blocks.{i}.attn.weights": (2, 3, 7, 7) for i in range(2)}
    assert all(np.allclose(m.sum(axis=-1), 1) for m in maps.values())


def test_the_convolutions_halve_the_image_and_the_patches(rng):
    stem = ConvPatchEmbed((8, 12), 4, 2, 5, rng=rng)
    x = rng.normal(size=(2, 8, 12, 2)).astype(np.float32)
    with capture(stem, "conv1", "proj") as seen:
        tokens = stem(x)
    assert seen["conv1"].shape == (2, 4, 6, 64)
    assert np.array_equal(tokens.data, seen["proj"].data.reshape(2, 6, 5)), "tokens go along rows"


def test_the_whole_family_obeys_every_law(rng):
    config = replace(TINY, img_size=8, in_chans=1, apply_transform=(False, True), transform_scale=True,
                     scale_adjustment=0.5, use_cnn_embed=True, attn_drop_rate=0.1, drop_path_rate=0.1)  # fmt: skip
    check_model(lambda rng: DeepViT(config, rng=rng), rng.normal(size=(8, 8, 8, 1)), rng=rng)


def test_positions_at_another_resolution_with_the_convolution_stem(rng):
    source = create_model("deepvit_digits", use_cnn_embed=True, depth=1, rng=rng)
    state = create_model("deepvit_digits", use_cnn_embed=True, depth=1, img_size=(4, 10)).fitted(source.state_dict())
    assert state["pos_embed"].shape == (1, 1 + 2 * 5, 32)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"apply_transform": (True,)}, "apply_transform: expected one boolean for each of 2 blocks, .*, got 1"),
        ({"pos_embed": "relative"}, 'pos_embed: re-attention has no place for "relative" positions'),
        ({"scale_adjustment": 0.0}, "scale_adjustment: expected a positive number, got 0.0"),
        ({"use_cnn_embed": True, "patch_size": 5}, "patch_size: .* expected an even size, got 5"),
        ({"num_heads": 5}, "num_heads: 5 heads cannot share a width of 12 evenly"),
        ({"img_size": 10}, r"img_size: \(10, 10\) is not a whole number of patches of 4"),
    ],
)
def test_a_setting_that_cannot_be_is_named(changes, message, rng):
    with pytest.raises(ValueError, match=message):
        DeepViT(replace(TINY, **changes), rng=rng)
