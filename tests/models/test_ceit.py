"""CeiT: stem, LeFF and LCA against loops, where code and slide differ, sizes, errors."""

from dataclasses import replace
from math import erf, sqrt

import numpy as np
import pytest
from by_hand import norm, shaken

from tinyvit import capture, gradients, swapped
from tinyvit.models.ceit import CeiT, CeiTConfig, Image2Tokens, LastTokenAttention, LeFF

TINY = CeiTConfig(img_size=(21, 28), patch_size=2, in_chans=2, num_classes=3, embed_dim=6, depth=3, num_heads=2,
                  mlp_ratio=2, stem_width=4)  # fmt: skip


def gelu(x):
    return x * (1 + np.vectorize(erf)(x / sqrt(2))) / 2


def test_the_stem_is_convolution_norm_and_maximum(rng):
    stem = shaken(Image2Tokens(2, 4, rng=rng), rng)
    x = rng.normal(size=(1, 7, 10, 2))
    padded = np.pad(x[0], ((3, 3), (3, 3), (0, 0)))
    w = stem.conv.weight.data
    low = np.array([[np.einsum("klc,ockl->o", padded[2 * i : 2 * i + 7, 2 * j : 2 * j + 7], w) for j in range(5)]
                    for i in range(4)])  # fmt: skip
    low = np.pad(norm(low, stem.bn), ((1, 1), (1, 1), (0, 0)), constant_values=-np.inf)
    wanted = [[low[2 * i : 2 * i + 3, 2 * j : 2 * j + 3].max(axis=(0, 1)) for j in range(3)] for i in range(2)]
    np.testing.assert_allclose(stem(x).data[0], wanted, rtol=1e-12)


def leff_in_loops(leff, z):
    """Eqs. 5-11, one token at a time; as the code has it, without the GELU that ends Eq. 10."""
    (H, W), w1, w2, w3 = leff.grid, leff.conv1.weight.data, leff.conv2.weight.data, leff.conv3.weight.data
    r = w2.shape[-1] // 2
    hidden = gelu(norm(z[1:] @ w1[:, :, 0, 0].T + leff.conv1.bias.data, leff.bn1)).reshape(H, W, -1)
    out = [z[0]]
    for i in range(H):
        for j in range(W):
            total = leff.conv2.bias.data.copy()
            for a in range(-r, r + 1):
                for b in range(-r, r + 1):
                    if 0 <= i + a < H and 0 <= j + b < W:
                        total += hidden[i + a, j + b] * w2[:, 0, a + r, b + r]
            out.append(norm(gelu(norm(total, leff.bn2)) @ w3[:, :, 0, 0].T + leff.conv3.bias.data, leff.bn3))
    return np.array(out)


@pytest.mark.parametrize("side", [1, 3, 5])
def test_leff_is_its_equations(side, rng):
    leff = shaken(LeFF(4, 6, (2, 3), kernel_size=side, with_bn=True, rng=rng), rng)
    z = rng.normal(size=(2, 7, 4))
    np.testing.assert_allclose(leff(z).data, [leff_in_loops(leff, image) for image in z], rtol=1e-11)


def test_leff_lets_the_class_token_by_and_its_neighbours_in(rng):
    leff = shaken(LeFF(4, 6, (3, 4), kernel_size=3, with_bn=True, rng=rng), rng)
    z = rng.normal(size=(1, 13, 4))
    changed = z.copy()
    changed[0, 1] += 1  # the corner
    same = (leff(z).data == leff(changed).data).all(axis=-1)[0]
    assert np.array_equal(leff(z).data[:, 0], z[:, 0])
    assert np.flatnonzero(~same).tolist() == [1, 2, 5, 6]


def test_the_last_eq_of_leff_ends_without_gelu(rng):
    """The slide's Eq. 10 would leave nothing below -0.17."""
    leff = shaken(LeFF(8, 16, (2, 3), kernel_size=3, with_bn=True, rng=rng), rng)
    assert leff(rng.normal(size=(4, 7, 8))).data[:, 1:].min() < -0.5


def test_only_the_last_token_asks(rng):
    attention = shaken(LastTokenAttention(6, 2, rng=rng), rng)
    x = rng.normal(size=(2, 5, 6))
    q, k, v = (np.split(x @ attention.qkv.weight.data.T + attention.qkv.bias.data, 3, axis=-1)[i] for i in range(3))
    heads = []
    for h in (slice(0, 3), slice(3, 6)):
        scores = np.einsum("bd,bld->bl", q[:, -1, h], k[..., h]) / np.sqrt(3)
        weights = np.exp(scores) / np.exp(scores).sum(axis=-1, keepdims=True)
        heads.append(np.einsum("bl,bld->bd", weights, v[..., h]))
    wanted = np.concatenate(heads, axis=-1) @ attention.proj.weight.data.T + attention.proj.bias.data
    with capture(attention, "weights") as seen:
        np.testing.assert_allclose(attention(x).data[:, 0], wanted, rtol=1e-11)
    assert seen["weights"].shape == (2, 2, 1, 5)


def test_the_head_reads_every_layer(rng):
    """A change of any layer's place in the table of layers reaches the logits."""
    model, x = shaken(CeiT(TINY, rng=rng), rng), rng.normal(size=(2, 21, 28, 2))
    before = model(x).data
    for layer in range(3):
        table = model.pos_layer_embed.data.copy()
        table[:, layer] += rng.normal(size=6)
        with swapped(model, {"pos_layer_embed": table}):
            assert np.abs(model(x).data - before).max() > 1e-3, layer


def test_what_the_last_leff_makes_of_the_patches_is_read_by_nobody(rng):
    """So its convolutions never learn: in the official code too."""
    model, x = shaken(CeiT(TINY, rng=rng), rng), rng.normal(size=(2, 21, 28, 2))
    names, leaves = zip(*model.named_parameters(), strict=True)
    found = dict(zip(names, gradients(model(x), leaves, [rng.normal(size=(2, 3))]), strict=True))
    assert [name for name, g in found.items() if not g.any()] == [n for n in names if n.startswith("blocks.2.leff.")]


def test_attention_of_every_layer_can_be_captured(rng):
    model = CeiT(TINY, rng=rng)
    with capture(model, "*.weights") as seen:
        model(rng.normal(size=(2, 21, 28, 2)).astype(np.float32))
    assert {name: w.shape for name, w in seen.items()} == {
        **{f"blocks.{i}.attn.weights": (2, 2, 10, 10) for i in range(3)}, "lca.attn.weights": (2, 2, 1, 3)
    }  # fmt: skip


@pytest.mark.parametrize(("size", "patch", "grid"), [((21, 28), 2, (3, 3)), (29, 2, (4, 4)), (224, 4, (14, 14)),
                                                     (13, 4, (1, 1)), ((37, 64), 3, (3, 5))])  # fmt: skip
def test_the_grid_is_what_convolutions_make_of_the_image(size, patch, grid):
    config = replace(TINY, img_size=size, patch_size=patch)
    assert config.grid == grid
    H, W = (size, size) if isinstance(size, int) else size
    model = CeiT(config, rng=None)
    assert model(blank(H, W)).shape == (1, 3)


def blank(H, W):
    return np.zeros((1, H, W, 2), np.float32)


@pytest.mark.parametrize("rate", ["drop_rate", "attn_drop_rate", "drop_path_rate"])
def test_every_kind_of_noise_is_drawn_from_the_generator(rate, rng):
    model, x = CeiT(replace(TINY, **{rate: 0.5}), rng=rng), rng.normal(size=(4, 21, 28, 2)).astype(np.float32)

    def noisy(seed):
        return model.train(np.random.default_rng(seed))(x).data

    assert np.array_equal(noisy(1), noisy(1))
    assert not np.allclose(noisy(1), noisy(2))


def test_lca_has_no_drop_path(rng):
    model = CeiT(replace(TINY, drop_path_rate=0.2), rng=rng)
    np.testing.assert_allclose([b.drop_path1.p for b in model.blocks], [0, 0.1, 0.2])
    assert not [name for name, _ in model.lca.named_modules() if "drop_path" in name]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"img_size": 12, "patch_size": 4},
            r"img_size: \(12, 12\) gives a map of \(3, 3\), .*; a side needs 13 pixels",
        ),
        ({"leff_local_size": 4}, "leff_local_size: expected an odd number, .*, got 4"),
        ({"depth": 0}, "depth: expected at least one layer"),
        ({"num_heads": 4}, "num_heads: 4 heads cannot share a width of 6 evenly"),
        ({"drop_path_rate": 1.5}, "expected a probability"),
    ],
)
def test_a_setting_that_cannot_be_is_named(changes, message, rng):
    with pytest.raises(ValueError, match=message):
        CeiT(replace(TINY, **changes), rng=rng)


def test_without_classes_the_features_come_out(rng):
    assert CeiT(replace(TINY, num_classes=0), rng=rng)(blank(21, 28)).shape == (1, 6)
