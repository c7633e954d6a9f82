"""CaiT: talking heads and class attention against their equations in loops, LayerScale, who sees whom."""

from dataclasses import replace

import numpy as np
import pytest

from tinyvit import capture, create_model, gradients, save_weights
from tinyvit.analysis import attention_maps
from tinyvit.models.cait import CaiT, CaiTConfig, ClassAttention, ClassBlock, LayerScaleBlock, TalkingHeadAttention
from tinyvit.models.catalogue import published
from tinyvit.nn.attention import Attention
from tinyvit.nn.check import check_model
from tinyvit.nn.embed import resample_positions

TINY = CaiTConfig(img_size=(8, 12), patch_size=4, in_chans=2, num_classes=3, embed_dim=12, depth=2, num_heads=3,
                  init_values=0.5)  # fmt: skip


def restless(model, rng):
    """The model in float64 with every parameter moved off its initial value."""
    model.astype(np.float64)
    for p in model.parameters():
        p.data = p.data + rng.normal(0, 0.3, p.shape)
    return model


def softmax(x):
    e = np.exp(x - x.max())
    return e / e.sum()


# the layers ---------------------------------------------------------------------------------


def talking_heads(s, x, heads):
    """Every map a mixture of all heads' scores, every head's output a mixture of all maps."""
    B, N, D = x.shape
    d = D // heads
    q, k, v = (a.reshape(B, N, heads, d) for a in np.split(x @ s["qkv.weight"].T + s["qkv.bias"], 3, axis=-1))
    out = np.zeros((B, N, heads, d))
    for b in range(B):
        for i in range(N):
            scores = np.array([[q[b, i, h] @ k[b, j, h] / np.sqrt(d) for h in range(heads)] for j in range(N)])
            mixed = scores @ s["proj_l.weight"].T + s["proj_l.bias"]
            weights = np.stack([softmax(mixed[:, h]) for h in range(heads)], axis=1)
            weights = weights @ s["proj_w.weight"].T + s["proj_w.bias"]
            out[b, i] = np.einsum("jh,jhd->hd", weights, v[b])
    return out.reshape(B, N, D) @ s["proj.weight"].T + s["proj.bias"]


def test_talking_heads_are_their_equation(rng):
    layer = restless(TalkingHeadAttention(12, 3, rng=rng), rng)
    x = rng.normal(size=(2, 5, 12))
    np.testing.assert_allclose(layer(x).data, talking_heads(layer.state_dict(), x, 3), rtol=1e-11, atol=1e-13)


def test_heads_that_do_not_talk_are_attention(rng):
    layer, plain = restless(TalkingHeadAttention(12, 3, rng=rng), rng), Attention(12, 3, rng=rng).astype(np.float64)
    plain.load_state_dict(layer.state_dict(), strict=False)
    for mixing in (layer.proj_l, layer.proj_w):
        mixing.weight.data, mixing.bias.data = np.eye(3), np.zeros(3)
    x = rng.normal(size=(2, 5, 12))
    np.testing.assert_allclose(layer(x).data, plain(x).data, rtol=1e-12)


def test_weights_are_the_softmax_and_mixed_is_what_is_made_of_them(rng):
    layer = restless(TalkingHeadAttention(12, 3, rng=rng), rng)
    with capture(layer, "weights", "mixed") as seen:
        layer(rng.normal(size=(2, 5, 12)))
    weights, mixed = seen["weights"].data, seen["mixed"].data
    np.testing.assert_allclose(weights.sum(axis=-1), 1, rtol=1e-12)
    theta = layer.proj_w.weight.data
    wanted = np.einsum("gh,bhij->bgij", theta, weights) + layer.proj_w.bias.data[:, None, None]
    np.testing.assert_allclose(mixed, wanted, rtol=1e-12)


def test_class_attention_is_its_equation(rng):
    """One query, from the class token; keys and values from all tokens."""
    layer = restless(ClassAttention(12, 3, rng=rng), rng)
    z, s = rng.normal(size=(2, 5, 12)), layer.state_dict()
    q, k, v = (z @ s[f"{name}.weight"].T + s[f"{name}.bias"] for name in "qkv")
    out = np.zeros((2, 12))
    for b in range(2):
        for part in (slice(0, 4), slice(4, 8), slice(8, 12)):
            weights = softmax(np.array([q[b, 0, part] @ k[b, j, part] / 2 for j in range(5)]))
            out[b, part] = weights @ v[b, :, part]
    np.testing.assert_allclose(layer(z).data[:, 0], out @ s["proj.weight"].T + s["proj.bias"], rtol=1e-11, atol=1e-13)


def test_every_branch_is_scaled_channel_by_channel(rng):
    block = restless(LayerScaleBlock(12, 3, init_values=0.1, rng=rng), rng)
    x = rng.normal(size=(2, 5, 12))
    y = x + block.gamma_1.data * block.attn(block.norm1(x)).data
    np.testing.assert_allclose(block(x).data, y + block.gamma_2.data * block.mlp(block.norm2(y)).data, rtol=1e-12)


def test_a_class_block_changes_the_class_token_by_all_tokens(rng):
    block = restless(ClassBlock(12, 3, init_values=0.1, rng=rng), rng)
    x, cls = rng.normal(size=(2, 5, 12)), rng.normal(size=(2, 1, 12))
    y = cls + block.gamma_1.data * block.attn(block.norm1(np.concatenate([cls, x], axis=1))).data
    np.testing.assert_allclose(block(x, cls).data, y + block.gamma_2.data * block.mlp(block.norm2(y)).data, rtol=1e-12)


# the model ----------------------------------------------------------------------------------


@pytest.fixture
def model(rng):
    return restless(CaiT(TINY, rng=rng), rng)


@pytest.fixture
def images(rng):
    return rng.normal(size=(2, 8, 12, 2))


def test_the_class_token_comes_late_and_patches_never_see_it(model, images, rng):
    def patches():
        with capture(model, "norm") as seen:
            logits = model(images).data
        return seen["norm"].data[:, 1:], logits

    before, logits = patches()
    model.cls_token.data = model.cls_token.data + rng.normal(size=(1, 1, 12))
    after, changed = patches()
    assert np.array_equal(before, after)
    assert not np.allclose(logits, changed)


def test_positions_are_added_to_patches_alone(model, images):
    assert model.pos_embed.shape == (1, 6, 12)
    with capture(model, "blocks.0.input", "patch_embed") as seen:
        model(images)
    np.testing.assert_allclose(seen["blocks.0.input"].data, seen["patch_embed"].data + model.pos_embed.data)


def test_a_new_model_is_nearly_its_patch_embedding(images, rng):
    """LayerScale starts every block near the identity."""
    model = CaiT(replace(TINY, depth=24, init_values=1e-5), rng=rng).astype(np.float64)
    with capture(model, "blocks.0.input", "blocks.23") as seen:
        model(images)
    start, end = seen["blocks.0.input"].data, seen["blocks.23"].data
    assert 0 < np.abs(end - start).max() < 1e-3 * np.abs(start).max()


def test_the_class_blocks_look_from_one_token(model, images):
    maps = attention_maps(model, images)
    assert {name: m.shape for name, m in maps.items()} == (
        {f"blocks.{i}.attn.weights": (2, 3, 6, 6) for i in range(2)}
        | {f"blocks_token_only.{i}.attn.weights": (2, 3, 7, 7) for i in range(2)}
    )
    assert np.array_equal(maps["blocks_token_only.1.attn.weights"][0, 0, 1:], np.eye(7)[1:]), "patches stay"
    assert all(np.allclose(m.sum(axis=-1), 1) for m in maps.values())


def test_the_mean_of_the_patches_instead_of_the_class_token(images, rng):
    model = restless(CaiT(replace(TINY, global_pool="avg"), rng=rng), rng)
    with capture(model, "norm", "head.input") as seen:
        logits = model(images)
    np.testing.assert_allclose(seen["head.input"].data, seen["norm"].data[:, 1:].mean(axis=1), rtol=1e-12)
    idle = [p for name, p in model.named_parameters() if name.startswith("blocks_token_only")]
    assert not any(g.any() for g in gradients(logits, idle, [np.ones(logits.shape)]))


def test_stochastic_depth_has_one_rate_and_spares_the_class_blocks(rng):
    model = CaiT(replace(TINY, depth=3, drop_path_rate=0.2), rng=rng)
    assert {p.p for block in model.blocks for p in (block.drop_path1, block.drop_path2)} == {0.2}
    assert {p.p for block in model.blocks_token_only for p in (block.drop_path1, block.drop_path2)} == {0.0}


def test_the_deeper_the_smaller_layer_scale_starts():
    """The paper's rule; the official XXS36 is the exception."""
    for name, row in published().items():
        if name.startswith("cait_") and not name.startswith("cait_xxs36"):
            assert row.config.init_values == (1e-5 if row.config.depth == 24 else 1e-6), name


def test_gamma_starts_where_it_is_told(rng):
    state = CaiT(TINY, rng=rng).state_dict()
    gammas = [x for name, x in state.items() if "gamma" in name]
    assert len(gammas) == 2 * (2 + 2)
    assert all((g == 0.5).all() for g in gammas)


@pytest.mark.parametrize("method", ["timm", "deit", "jax"])
def test_positions_at_another_resolution(method, rng, tmp_path):
    """There is no row for a class token."""
    source = create_model("cait_digits", rng=rng)
    path = save_weights(source, tmp_path / "m")
    model = create_model("cait_digits", img_size=(6, 12), weights=path, positions=method)
    wanted = resample_positions(source.pos_embed.data, (4, 4), (3, 6), prefix=0, method=method)
    assert np.array_equal(model.pos_embed.data, wanted)


def test_noise_obeys_the_laws_too(rng):
    config = replace(TINY, img_size=8, in_chans=1, drop_path_rate=0.2, qkv_bias=False, depth_token_only=1)
    check_model(lambda rng: CaiT(config, rng=rng), rng.normal(size=(8, 8, 8, 1)), rng=rng)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_heads": 5}, "num_heads: 5 heads cannot share a width of 12 evenly; 4 or 6 can"),
        ({"img_size": 10}, r"img_size: \(10, 10\) is not a whole number of patches of 4; the nearest"),
        ({"global_pool": "max"}, r"global_pool: expected one of \('token', 'avg'\), got 'max'"),
        ({"weight_init": "moco"}, r"weight_init: expected one of \('timm', 'jax'\), got 'moco'"),
        ({"depth_token_only": 0}, "depth_token_only: without class-attention blocks the class token sees no image"),
        ({"drop_path_rate": 1.0}, "expected a probability of at least 0 and below 1, got 1.0"),
    ],
)
def test_a_setting_that_cannot_be_is_named(changes, message, rng):
    with pytest.raises(ValueError, match=message):
        CaiT(replace(TINY, **changes), rng=rng)
