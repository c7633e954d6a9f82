"""NAT: attention against loops at every border, what it never forms, maps of every level, configurations, the laws."""

import math
from dataclasses import replace

import numpy as np
import pytest

from tinyvit import (
    Tensor,
    capture,
    count_macs,
    create_model,
    gradients,
)
from tinyvit.autodiff.watch import Listener, listening
from tinyvit.equations.neighbourhood import first_neighbours
from tinyvit.models.nat import NAT, ConvDownsampler, ConvTokenizer, NATConfig, NeighbourhoodAttention
from tinyvit.nn.check import check_model

TINY = NATConfig(in_chans=2, num_classes=3, embed_dim=8, depths=(1, 2), num_heads=(2, 4), kernel_size=3, mlp_ratio=1.5,
                 drop_path_rate=0.0)  # fmt: skip


def restless(model, rng, std=0.3):
    """The model in float64 with every parameter moved off its initial value."""
    model.astype(np.float64)
    for p in model.parameters():
        p.data = p.data + rng.normal(0, std, p.shape)
    return model


# attention ----------------------------------------------------------------------------------


def nearest(i, n, k):
    """The k places nearest to i of n, the paper's ρ: where one side has not enough, more of the other."""
    return sorted(sorted(range(n), key=lambda j: (abs(j - i), j))[:k])


def in_loops(attention, image):
    """One place, one head, one neighbour at a time, on the map filled up with zeros."""
    k, h = attention.kernel_size, attention.num_heads
    H, W, D = image.shape
    filled = np.pad(image, [(0, max(k - H, 0)), (0, max(k - W, 0)), (0, 0)])
    q, keys, values = np.split(filled @ attention.qkv.weight.data.T + attention.qkv.bias.data, 3, axis=-1)
    y = np.zeros((H, W, D))
    for i, j, head in np.ndindex(H, W, h):
        part = slice(head * D // h, (head + 1) * D // h)
        around = [(a, b) for a in nearest(i, len(filled), k) for b in nearest(j, filled.shape[1], k)]
        bias = [attention.rpb.data[head, a - i + k - 1, b - j + k - 1] for a, b in around]
        scores = [q[i, j, part] @ keys[at][part] / np.sqrt(D / h) for at in around]
        weights = np.exp(np.add(scores, bias))  # the bias after the scaling
        y[i, j, part] = weights / weights.sum() @ np.array([values[at][part] for at in around])
    return y @ attention.proj.weight.data.T + attention.proj.bias.data


@pytest.mark.parametrize(
    ("k", "heads", "size"),
    [(3, 2, (4, 5)), (5, 4, (9, 6)), (7, 1, (7, 8)), (7, 2, (3, 10)), (5, 1, (2, 1)), (1, 2, (2, 3)), (3, 2, (11, 17))],
)
def test_attention_is_its_equation(k, heads, size, rng):
    """On maps of several tiles, of one, and on maps that are filled up to a neighbourhood."""
    attention = restless(NeighbourhoodAttention(8, heads, kernel_size=k, rng=rng), rng)
    x = rng.normal(size=(2, *size, 8))
    wanted = [in_loops(attention, image) for image in x]
    np.testing.assert_allclose(attention(x).data, wanted, rtol=1e-10, atol=1e-13)
    with capture(attention, "weights") as seen:  # and by the equation
        np.testing.assert_allclose(attention(x).data, wanted, rtol=1e-10, atol=1e-13)
    weights = seen["weights"].data
    assert weights.shape == (2, heads, *(max(n, k) for n in size), k * k)
    np.testing.assert_allclose(weights.sum(axis=-1), 1, rtol=1e-12)


def test_the_bias_is_not_scaled(rng):
    """As in the code; by Eqs. 2-4, which the slides show, it would be divided by √d as the product is."""
    attention = restless(NeighbourhoodAttention(8, 1, kernel_size=3, rng=rng), rng)
    attention.qkv.weight.data, attention.qkv.bias.data = np.zeros((24, 8)), np.zeros(24)
    with capture(attention, "weights") as seen:
        attention(rng.normal(size=(1, 4, 5, 8)))
    of_corner = np.log(seen["weights"].data[0, 0, 0, 0])
    bias = attention.rpb.data[0, 2:, 2:].ravel()  # the corner's neighbours lie to the right and below
    np.testing.assert_allclose(of_corner - of_corner[0], bias - bias[0], rtol=1e-10, atol=1e-12)


def test_neighbourhoods_begin_where_the_nearest_places_do():
    for n, k in ((3, 3), (5, 3), (9, 7), (4, 1)):
        assert first_neighbours(n, n, k).tolist() == [nearest(i, n, k)[0] for i in range(n)]
    assert first_neighbours(4, 8, 5).tolist() == [0, 1, 2, 3], "a border of k // 2: nothing moves inwards"
    assert first_neighbours(4, 6, 5).tolist() == [0, 0, 1, 1], "a narrower one: half of it"


class Largest(Listener):
    """The size of the largest array that any op made."""

    size = 0

    def called(self, op, inputs, options, value, seconds):
        self.size = max(self.size, value.size)


def test_no_matrix_of_all_pairs_is_formed(rng):
    attention, heard = NeighbourhoodAttention(8, 2, kernel_size=3, rng=rng), Largest()
    with listening(heard), capture(attention, "weights"):  # a capture runs the equation, not its kernel
        attention(rng.normal(size=(1, 20, 20, 8)).astype(np.float32))
    assert heard.size == 400 * 8 * 9 < 400 * 400


def test_complexity_is_linear_in_the_map():
    """4hwC² + 2hwCk², Swin's with k for M; the paper's own figure leaves out the output projection."""
    for h, w in ((14, 14), (28, 14)):
        block, *_ = create_model("nat_mini").levels[0].blocks
        assert count_macs(block.attn, (1, h, w, 64)) == 4 * h * w * 64**2 + 2 * h * w * 64 * 7**2


# maps ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(8, 8), (9, 13), (1, 2)])
def test_tokenizer_and_downsampler_overlap(size, rng):
    """A 3×3 convolution of stride 2: what an output sees overlaps with what its neighbours see by one pixel."""
    H, W = size
    tokenizer, down = ConvTokenizer(2, 6, rng=rng), ConvDownsampler(6, rng=rng)
    images = rng.normal(size=(2, H, W, 2)).astype(np.float32)
    assert tokenizer(images).shape == (2, math.ceil(H / 4), math.ceil(W / 4), 6)
    x = rng.normal(size=(2, H, W, 6)).astype(np.float32)
    y, padded = down(x).data, np.pad(x, [(0, 0), (1, 1), (1, 1), (0, 0)])
    assert y.shape == (2, -(-H // 2), -(-W // 2), 12)
    i, j = y.shape[1] - 1, y.shape[2] - 1
    seen = padded[:, 2 * i : 2 * i + 3, 2 * j : 2 * j + 3]
    raw = np.einsum("bklc,ockl->bo", seen, down.reduction.weight.data)
    centred = raw - raw.mean(axis=1, keepdims=True)
    np.testing.assert_allclose(y[:, i, j], centred / np.sqrt(raw.var(axis=1, keepdims=True) + 1e-5), atol=1e-5)


def test_stages_are_the_maps_from_fine_to_coarse(rng):
    """Each is what its level's last block gives, before it is made coarser."""
    model = restless(NAT(replace(TINY, depths=(1, 2, 1), num_heads=(1, 2, 4)), rng=rng), rng)
    x = rng.normal(size=(2, 18, 29, 2))
    with capture(model, "levels.?.blocks", "norm.input") as seen:
        model(x)
    maps = model.stages(x)
    assert [m.shape for m in maps] == [(2, 5, 8, 8), (2, 3, 4, 16), (2, 2, 2, 32)]
    for i, m in enumerate(maps):
        np.testing.assert_array_equal(m.data, seen[f"levels.{i}.blocks"].data)
    np.testing.assert_array_equal(maps[-1].data, seen["norm.input"].data)


def test_attention_can_be_captured_in_every_block(rng):
    model = NAT(TINY, rng=rng)
    with capture(model, "*.weights") as seen:
        model(rng.normal(size=(2, 20, 13, 2)).astype(np.float32))
    assert {name: w.shape for name, w in seen.items()} == {
        "levels.0.blocks.0.attn.weights": (2, 2, 5, 4, 9), "levels.1.blocks.0.attn.weights": (2, 4, 3, 3, 9),
        "levels.1.blocks.1.attn.weights": (2, 4, 3, 3, 9),
    }  # fmt: skip


# settings -----------------------------------------------------------------------------------


def test_layer_scale_weighs_both_branches(rng):
    """The wider two of the paper's have it, from 1e-5."""
    assert [create_model(f"nat_{size}").config.layer_scale for size in ("mini", "tiny", "small", "base")] == [
        None, None, 1e-5, 1e-5]  # fmt: skip
    model = NAT(replace(TINY, layer_scale=0.1), rng=rng)
    assert all(np.array_equal(block.gamma2.data, np.full(16, 0.1, np.float32)) for block in model.levels[1].blocks)
    (block,) = restless(model, rng).levels[0].blocks
    x = rng.normal(size=(2, 4, 5, 8))
    middle = x + block.gamma1.data * block.attn(block.norm1(x)).data
    np.testing.assert_allclose(block(x).data, middle + block.gamma2.data * block.mlp(block.norm2(middle)).data)


def test_the_rates_of_stochastic_depth_grow_over_all_levels(rng):
    model = NAT(replace(TINY, depths=(2, 3), drop_path_rate=0.4), rng=rng)
    rates = [[block.drop_path1.p, block.drop_path2.p] for level in model.levels for block in level.blocks]
    np.testing.assert_allclose(rates, np.array([0, 0.1, 0.2, 0.3, 0.4])[:, None].repeat(2, axis=1), rtol=1e-12)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_heads": (2, 3)}, "num_heads: 3 heads cannot share a width of 16 evenly; 2 or 4 can"),
        ({"num_heads": (2,)}, r"num_heads: expected one number per level \(2 depths\), got \(2,\)"),
        ({"kernel_size": 4}, "kernel_size: expected an odd number, which has a middle, got 4"),
        ({"drop_path_rate": 1.0}, "expected a probability of at least 0 and below 1, got 1.0"),
    ],
)
def test_a_setting_that_cannot_be_is_named(changes, message):
    with pytest.raises(ValueError, match=message):
        NAT(replace(TINY, **changes), rng=None)


def test_images_of_another_kind(rng):
    with pytest.raises(ValueError, match=r"images: expected shape \(B, H, W, 2\), got \(1, 20, 12, 3\)"):
        NAT(TINY, rng=rng)(np.zeros((1, 20, 12, 3), np.float32))


def test_no_classes_means_features_and_an_empty_batch_is_one(rng):
    model = NAT(replace(TINY, num_classes=0), rng=rng)
    assert model(np.zeros((0, 12, 20, 2), np.float32)).shape == (0, 16)
    assert not [name for name, _ in model.named_state() if name.startswith("head")]


# the laws -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "size"),
    [
        ({"layer_scale": 0.1, "drop_path_rate": 0.4}, (20, 13)),  # maps of 5×4, and of 3×2 in a 3×3
        ({"kernel_size": 5, "qkv_bias": False}, (24, 9)),  # maps of 6×3 in a 6×5
    ],
)
def test_other_configurations_obey_every_law(changes, size, rng):
    config = replace(TINY, **changes)
    check_model(lambda rng: NAT(config, rng=rng), rng.normal(size=(8, *size, 2)), rng=rng)


def test_every_parameter_and_image_gets_a_gradient(rng):
    """On maps large enough that every offset occurs."""
    model = restless(NAT(replace(TINY, layer_scale=0.5), rng=rng), rng)
    x = Tensor(rng.normal(size=(2, 24, 20, 2)), requires_grad=True)
    names, leaves = zip(*model.named_parameters(), strict=True)
    found = gradients(model(x), [x, *leaves], [rng.normal(size=(2, 3))])
    assert all(g.any() for g in found), [n for n, g in zip(("x", *names), found, strict=True) if not g.any()]
    for name, g in zip(names, found[1:], strict=True):
        assert not name.endswith("rpb") or g.all(), f"{name}: an offset without a gradient"
