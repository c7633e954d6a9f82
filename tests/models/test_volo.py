"""VOLO: outlook and class attention against their equations in loops, token labelling, odd maps, settings."""

from dataclasses import replace

import numpy as np
import pytest

from tinyvit import capture, create_model, gradients, load_weights, outlook_attention, save_weights
from tinyvit.models.volo import VOLO, ClassAttention, ClassBlock, OutlookAttention, VOLOConfig
from tinyvit.nn.check import check_model

TINY = VOLOConfig(img_size=(20, 28), patch_size=4, in_chans=2, num_classes=3, layers=(1, 2), embed_dims=(6, 8),
                  num_heads=(3, 2), stem_hidden_dim=4, mlp_ratio=(2.0, 1.5))  # fmt: skip


def restless(model, rng, std=0.3):
    """The model in float64 with every parameter moved off its initial value."""
    model.astype(np.float64)
    for p in model.parameters():
        p.data = p.data + rng.normal(0, std, p.shape)
    return model


def images_for(config, rng, batch=2):
    return rng.normal(size=(batch, *config.img_size, config.in_chans))


def softmaxed(x):
    weights = np.exp(x - x.max())
    return weights / weights.sum()


# outlook attention --------------------------------------------------------------------------


def naive_outlook(v, scores, heads, K, p, s):
    """Eqs. 3-5 for one image, window by window, place by place."""
    H, W, C = v.shape
    d, y = C // heads, np.zeros_like(v)
    for i, j, h in np.ndindex(*scores.shape[:2], heads):
        matrix = scores[i, j].reshape(heads, K * K, K * K)[h]
        places = [(i * s + a - p, j * s + b - p) for a in range(K) for b in range(K)]
        inside = [0 <= r < H and 0 <= c < W for r, c in places]
        channels = slice(h * d, (h + 1) * d)
        for to, place in enumerate(places):
            weights = softmaxed(matrix[to] / np.sqrt(d))
            if inside[to]:
                y[(*place, channels)] += sum(
                    w * v[(*q, channels)] for w, q, known in zip(weights, places, inside, strict=True) if known
                )
    return y


@pytest.mark.parametrize(("K", "p", "s"), [(3, 1, 1), (3, 1, 2), (3, 1, 3), (2, 0, 2), (5, 2, 2)])
@pytest.mark.parametrize("grid", [(6, 4), (5, 7)])
def test_outlook_attention_is_its_equations(K, p, s, grid, rng):
    rows, columns = ((n + 2 * p - K) // s + 1 for n in grid)
    v, scores = rng.normal(size=(2, *grid, 6)), rng.normal(size=(2, rows, columns, 2 * K**4))
    y = outlook_attention(v, scores, num_heads=2, kernel_size=K, padding=p, stride=s)
    for b in range(2):
        np.testing.assert_allclose(y[b], naive_outlook(v[b], scores[b], 2, K, p, s), rtol=1e-12, atol=1e-14)


def test_two_pixels_by_hand():
    """A 1×2 image, K = 3, s = 1, all scores zero: each window gives both pixels (v₁ + v₂)/9, and two windows add up."""
    v = np.array([1.0, 5.0]).reshape(1, 1, 2, 1)
    y = outlook_attention(v, np.zeros((1, 1, 2, 81)), num_heads=1)
    np.testing.assert_allclose(y.ravel(), [2 * (1 + 5) / 9] * 2, rtol=1e-15)


@pytest.mark.parametrize(("stride", "grid"), [(1, (3, 4)), (2, (5, 7)), (3, (7, 8))])
def test_the_layer_predicts_its_weights_from_means_of_places(stride, grid, rng):
    layer = restless(OutlookAttention(6, 3, stride=stride, rng=rng), rng)
    x = rng.normal(size=(2, *grid, 6))
    cells = [[x[:, i : i + stride, j : j + stride].mean((1, 2)) for j in range(0, grid[1], stride)]
             for i in range(0, grid[0], stride)]  # fmt: skip
    scores = np.array(cells).transpose(2, 0, 1, 3) @ layer.attn.weight.data.T + layer.attn.bias.data
    y = outlook_attention(x @ layer.v.weight.data.T, scores, num_heads=3, stride=stride)
    np.testing.assert_allclose(layer(x).data, y @ layer.proj.weight.data.T + layer.proj.bias.data, rtol=1e-11)


# class attention ----------------------------------------------------------------------------


def test_class_attention_is_its_equation(rng):
    layer = restless(ClassAttention(6, 2, qkv_bias=True, rng=rng), rng)
    z = rng.normal(size=(2, 5, 6))
    with capture(layer, "weights") as seen:
        y = layer(z)
    for b in range(2):
        q = layer.q.weight.data @ z[b, 0] + layer.q.bias.data
        kv = z[b] @ layer.kv.weight.data.T + layer.kv.bias.data
        heads = []
        for part in (slice(0, 3), slice(3, 6)):
            weights = softmaxed(kv[:, :6][:, part] @ q[part] / np.sqrt(3))
            heads.append(weights @ kv[:, 6:][:, part])
        wanted = layer.proj.weight.data @ np.concatenate(heads) + layer.proj.bias.data
        np.testing.assert_allclose(y.data[b, 0], wanted, rtol=1e-12)
    assert seen["weights"].shape == (2, 2, 1, 5)


def test_a_class_block_leaves_the_patches_as_they_are(rng):
    block = restless(ClassBlock(6, 2, rng=rng), rng)
    z = rng.normal(size=(2, 5, 6))
    y = block(z).data
    assert np.array_equal(y[:, 1:], z[:, 1:])
    assert not np.isclose(y[:, 0], z[:, 0]).any()


# the model ----------------------------------------------------------------------------------


def test_odd_maps_keep_their_shapes(rng):
    model = restless(VOLO(TINY, rng=rng), rng)
    with capture(model, "*.weights") as seen:
        maps = model.stages(images_for(TINY, rng))
    assert [m.shape for m in maps] == [(2, 5, 7, 6), (2, 2, 3, 8)]
    assert {name: w.shape for name, w in seen.items()} == {
        "network.0.0.attn.weights": (2, 3, 3 * 4, 9, 9),
        "network.2.0.attn.weights": (2, 2, 6, 6),
        "network.2.1.attn.weights": (2, 2, 6, 6),
    }


def test_the_best_patch_counts_half(rng):
    model, x = restless(VOLO(TINY, rng=rng), rng), images_for(TINY, rng)
    of_image, of_patches = model.labelled(x)
    assert (of_image.shape, of_patches.shape) == ((2, 3), (2, 6, 3))
    np.testing.assert_allclose(model(x).data, of_image.data + of_patches.data.max(axis=1) / 2, rtol=1e-13)
    z = model.tokens(x).data
    np.testing.assert_allclose(of_image.data, z[:, 0] @ model.head.weight.data.T + model.head.bias.data, rtol=1e-12)
    np.testing.assert_allclose(of_patches.data, z[:, 1:] @ model.aux_head.weight.data.T + model.aux_head.bias.data,
                               rtol=1e-12)  # fmt: skip


def test_token_labelling_trains_every_parameter(rng):
    """In training, with logits of all patches: batch statistics in the stem, gradients into both heads."""
    model = restless(VOLO(TINY, rng=rng), rng).train(rng)
    outputs = model.labelled(images_for(TINY, rng))
    found = gradients(list(outputs), model.parameters(), [rng.normal(size=y.shape) for y in outputs])
    assert all(g.any() for g in found)


def test_tokens_in_a_box_are_the_partner_s(rng):
    """A box of patches is one of twice as many places of the stem's map; logits follow whose tokens they are."""
    model, x = restless(VOLO(TINY, rng=rng), rng), images_for(TINY, rng, batch=3)
    assert model.grid == (2, 3)
    with capture(model, "patch_embed", "network.0.input") as seen:
        model.labelled(x, (0, 1, 1, 3))
    stem, mixed = (seen[name].data for name in ("patch_embed", "network.0.input"))
    assert stem.shape[1:3] == (5, 7)
    expected = stem.copy()
    expected[:, 0:2, 2:6] = stem[::-1, 0:2, 2:6]
    np.testing.assert_array_equal(mixed, expected)
    plain = model.labelled(x)
    for same, box in ((plain, (0, 0, 0, 0)), (plain, None)):
        for a, b in zip(model.labelled(x, box), same, strict=True):
            np.testing.assert_array_equal(a.data, b.data)


def test_without_the_auxiliary_head(rng):
    model, x = restless(VOLO(replace(TINY, use_aux_head=False), rng=rng), rng), images_for(TINY, rng)
    z = model.tokens(x).data
    np.testing.assert_allclose(model(x).data, z[:, 0] @ model.head.weight.data.T + model.head.bias.data, rtol=1e-12)
    with pytest.raises(ValueError, match="use_aux_head: this model was made without logits for its patches"):
        model.labelled(x)


def test_the_mean_is_of_all_tokens(rng):
    model = restless(VOLO(replace(TINY, global_pool="avg", num_classes=0), rng=rng), rng)
    x = images_for(TINY, rng)
    np.testing.assert_allclose(model(x).data, model.tokens(x).data.mean(axis=1), rtol=1e-12)


def test_positions_of_another_resolution_are_resized(tmp_path, rng):
    small, large = (replace(TINY, img_size=size) for size in ((16, 16), (32, 48)))
    source = restless(VOLO(small, rng=rng), rng)
    source.pos_embed.data = np.broadcast_to(rng.normal(size=8), source.pos_embed.shape)  # the same at every place
    path = save_weights(source, tmp_path / "small.safetensors")
    for method in ("timm", "deit", "jax"):
        model = load_weights(VOLO(large, rng=rng), path, positions=method)
        assert model.pos_embed.shape == (1, 4, 6, 8)
        np.testing.assert_allclose(model.pos_embed.data[0, 2, 3], source.pos_embed.data[0, 0, 0], rtol=1e-6)
    with pytest.raises(ValueError, match="positions: expected one of"):
        load_weights(VOLO(large, rng=rng), path, positions="nearest")
    same = source.state_dict()
    assert source.fitted(same) is same


# noise --------------------------------------------------------------------------------------


def test_stochastic_depth_spares_outlookers_and_class_blocks():
    model = VOLO(replace(TINY, layers=(2, 3), drop_path_rate=0.4), rng=None)
    rates = [[block.drop_path1.p for _, block in part.named_modules() if hasattr(block, "drop_path1")]
             for part in model.network]  # fmt: skip
    np.testing.assert_allclose(rates[0], [0, 0])
    np.testing.assert_allclose(rates[2], [0.2, 0.3, 0.4])
    assert {block.drop_path1.p for block in model.post_network} == {0}


def test_every_kind_of_noise_is_drawn_from_the_generator(rng):
    """Against the same model without noise, in training mode too: batch statistics are not noise."""
    x = images_for(TINY, rng, batch=4)
    for rate in ("drop_rate", "pos_drop_rate", "attn_drop_rate", "drop_path_rate"):
        model = restless(VOLO(replace(TINY, **{rate: 0.5}), rng=rng), rng)
        still = VOLO(TINY, rng=rng).astype(np.float64)
        still.load_state_dict(model.state_dict())
        still, noisy = (m.train(np.random.default_rng(1))(x).data for m in (still, model))
        assert not np.allclose(still, noisy), rate
        assert np.array_equal(noisy, model.train(np.random.default_rng(1))(x).data), rate


def test_attention_dropout_drops_weights_of_windows_and_of_the_class_token(rng):
    for layer, shape in ((OutlookAttention(6, 3, attn_drop=0.5, rng=rng), (2, 3, 4, 6)),
                         (ClassAttention(6, 2, attn_drop=0.5, rng=rng), (2, 5, 6))):  # fmt: skip
        x = rng.normal(size=shape)
        restless(layer, rng)
        assert not np.allclose(layer(x).data, layer.train(rng)(x).data)


def test_noise_obeys_the_laws_too(rng):
    config = replace(TINY, drop_rate=0.1, pos_drop_rate=0.1, attn_drop_rate=0.1, drop_path_rate=0.2)
    check_model(lambda rng: VOLO(config, rng=rng), images_for(config, rng, batch=8), rng=rng)


# settings -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_heads": (3,)}, r"num_heads: expected one for each of the 2 stages, got \(3,\)"),
        ({"num_heads": (4, 2)}, "num_heads: 4 heads cannot share a width of 6 evenly; 3 or 6 can"),
        ({"num_heads": (3, 5)}, "num_heads: 5 heads cannot share a width of 8 evenly; 4 or 8 can"),
        ({"embed_dims": (6, 8, 8)}, r"embed_dims: expected 2 widths, all but the first the same, got \(6, 8, 8\)"),
        (
            {"layers": (1, 1, 1), "embed_dims": (6, 8, 4), "num_heads": (3, 2, 2), "mlp_ratio": 2.0},
            "embed_dims: expected 3 widths, all but the first the same",
        ),
        ({"downsamples": (False, False)}, "downsamples: expected True for the first stage"),
        ({"downsamples": (True, True)}, "and False for the last, got"),
        ({"patch_size": 5}, "patch_size: expected an even number, .* got 5"),
        ({"img_size": (6, 9)}, r"img_size: \(6, 9\) is too small; 2 stages with patches of 4 need 7 pixels at least"),
        ({"global_pool": "max"}, "global_pool: expected 'token' or 'avg', got 'max'"),
        ({"post_layers": ()}, r"post_layers: expected a 'ca' for every class-attention block, got \(\)"),
        ({"post_layers": None}, "post_layers: expected a 'ca' .* got None"),
        ({"attn_drop_rate": 1.5}, "attn_drop: expected a probability"),
    ],
)
def test_a_setting_that_cannot_be_is_named(changes, message):
    with pytest.raises(ValueError, match=message):
        VOLO(replace(TINY, **changes), rng=None)


def test_images_of_another_shape(rng):
    with pytest.raises(ValueError, match=r"images: expected shape \(B, 8, 8, 1\), got \(2, 8, 10, 1\)"):
        create_model("volo_digits", rng=rng)(np.zeros((2, 8, 10, 1), np.float32))
