"""Lifted maps against brute force: what comes out of the layer when one place holds a one and the others nothing."""

import numpy as np
import pytest

from tinyvit import capture
from tinyvit.analysis import attention_maps, lift_class_attention, lift_neighbourhood, lift_outlook, rollout
from tinyvit.models.nat import NeighbourhoodAttention
from tinyvit.models.sasa import StandAloneAttention
from tinyvit.models.volo import VOLO, ClassBlock, OutlookAttention, VOLOConfig


def transparent(layer):
    """Attention with identity maps for values and output: what it gives is what its weights move."""
    for linear in (layer.v, layer.proj):
        linear.weight.data = np.eye(len(linear.weight.data))
    layer.proj.bias.data = np.zeros_like(layer.proj.bias.data)
    return layer


@pytest.mark.parametrize(("K", "p", "s", "grid"), [
    (3, 1, 1, (4, 6)), (3, 1, 1, (1, 2)), (3, 1, 2, (4, 6)), (3, 1, 2, (5, 3)), (3, 1, 3, (5, 4)), (2, 0, 2, (4, 6)),
    (5, 2, 2, (5, 3)),
])  # fmt: skip
def test_lifted_outlook_attention_by_brute_force(K, p, s, grid, rng):
    layer = transparent(OutlookAttention(6, 3, kernel_size=K, padding=p, stride=s, rng=rng).astype(np.float64))
    layer.attn.weight.data = np.zeros_like(layer.attn.weight.data)  # so that the weights do not depend on the values
    layer.attn.bias.data = rng.normal(0, 2, layer.attn.bias.shape)
    N = grid[0] * grid[1]
    one_hot = np.eye(N).reshape(N, *grid, 1) * np.ones(6)
    with capture(layer, "weights") as seen:
        received = layer(one_hot).data.reshape(N, N, 3, 2)  # (place that gives, place that receives, head, channel)
    lifted = lift_outlook(seen["weights"].data, grid, stride=s, padding=p)
    assert lifted.shape == (N, 3, N, N)
    for channel in range(2):
        np.testing.assert_allclose(lifted[0], received[..., channel].transpose(2, 1, 0), rtol=1e-12, atol=1e-15)


def test_lifted_maps_apply_what_the_layer_applies(rng):
    """Weights that do depend on the image: the lifted maps times the values are the layer's output, image by image."""
    layer = transparent(OutlookAttention(6, 2, stride=2, rng=rng).astype(np.float64))
    layer.attn.weight.data = rng.normal(size=layer.attn.weight.shape)
    x = rng.normal(size=(2, 5, 4, 6))
    with capture(layer, "weights") as seen:
        y = layer(x).data
    lifted = lift_outlook(seen["weights"].data, (5, 4))
    moved = np.einsum("bhqk,bkhd->bqhd", lifted, x.reshape(2, 20, 2, 3))
    np.testing.assert_allclose(moved.reshape(y.shape), y, rtol=1e-12, atol=1e-14)


def test_a_row_sums_to_the_windows_that_reach_it():
    """Even weights of 1/9 on a 5×5 map: all windows lie inside around the centre, which four of them reach."""
    lifted = lift_outlook(np.full((1, 1, 9, 9, 9), 1 / 9), (5, 5))
    sums = lifted[0, 0].sum(axis=-1).reshape(5, 5)
    np.testing.assert_allclose(sums[2, 2], 1, rtol=1e-12)  # the centre of a window, in no other
    np.testing.assert_allclose(sums[2, 1], 1 + 6 / 9, rtol=1e-12)  # between a whole window and one half outside
    np.testing.assert_allclose(sums[1, 1], (9 + 6 + 6 + 4) / 9, rtol=1e-12)  # in four windows


def received(layer, grid, dim, heads):
    """What every place receives of what every other alone holds, by head: (heads, receives, gives)."""
    N = grid[0] * grid[1]
    one_hot = np.eye(N).reshape(N, *grid, 1) * np.ones(dim)
    with capture(layer, "weights") as seen:
        moved = layer(one_hot).data.reshape(N, N, heads, dim // heads)
    return seen["weights"].data, moved[..., 0].transpose(2, 1, 0)


@pytest.mark.parametrize(("K", "grid"), [(3, (4, 6)), (5, (5, 7)), (3, (3, 3)), (5, (3, 6)), (7, (2, 3)), (1, (2, 3))])
def test_lifted_neighbourhood_attention_by_brute_force(K, grid, rng):
    """Also where the map is filled up to K×K with zeros, which take their share."""
    layer = NeighbourhoodAttention(6, 3, kernel_size=K, rng=rng).astype(np.float64)
    layer.qkv.weight.data = np.concatenate([np.zeros((12, 6)), np.eye(6)])  # the weights do not depend on the values
    layer.rpb.data = rng.normal(0, 2, layer.rpb.shape)
    layer.proj.weight.data = np.eye(6)
    weights, moved = received(layer, grid, 6, 3)
    lifted = lift_neighbourhood(weights, grid)
    assert lifted.shape == (len(weights), 3, *moved.shape[1:])
    np.testing.assert_allclose(lifted[0], moved, rtol=1e-12, atol=1e-15)
    assert (lifted[0].sum(axis=-1) < 1 - 1e-6).any() == (min(grid) < K)


@pytest.mark.parametrize("mask_border", [True, False])
@pytest.mark.parametrize(("K", "grid"), [(3, (4, 6)), (5, (2, 3))])
def test_lifted_stand_alone_attention_by_brute_force(K, grid, mask_border, rng):
    layer = StandAloneAttention(4, 4, K, 2, mask_border=mask_border, rng=rng).astype(np.float64)
    layer.v.weight.data = np.eye(4).reshape(4, 4, 1, 1)
    layer.k.weight.data = 0 * layer.k.weight.data
    layer.q.weight.data = 0 * layer.q.weight.data  # equal weights, but for what the border takes
    weights, moved = received(layer, grid, 4, 2)
    lifted = lift_neighbourhood(weights, border=K // 2)
    np.testing.assert_allclose(lifted[0], moved, rtol=1e-12, atol=1e-15)
    assert (lifted[0].sum(axis=-1) < 1 - 1e-6).any() != mask_border


def test_lifted_class_attention_by_brute_force(rng):
    block = ClassBlock(6, 2, rng=rng).astype(np.float64)
    z = rng.normal(size=(2, 5, 6))
    with capture(block, "attn.weights") as seen:
        block(z)
    lifted = lift_class_attention(seen["attn.weights"].data)
    assert np.array_equal(lifted[:, :, 0], seen["attn.weights"].data[:, :, 0])
    assert np.array_equal(lifted[:, :, 1:], np.broadcast_to(np.eye(5)[1:], (2, 2, 4, 5)))
    np.testing.assert_allclose(lifted.sum(axis=-1), 1, rtol=1e-12)


def test_a_rollout_through_outlookers_and_one_through_class_blocks(rng):
    config = VOLOConfig(img_size=20, patch_size=4, num_classes=3, layers=(2, 1), embed_dims=(6, 8), num_heads=(2, 2),
                        stem_hidden_dim=4)  # fmt: skip
    model, images = VOLO(config, rng=rng), rng.normal(size=(2, 20, 20, 3)).astype(np.float32)
    outlookers = attention_maps(model, images, "network.0.*.attn.weights").values()
    flow = rollout([lift_outlook(w, (5, 5)) for w in outlookers])
    np.testing.assert_allclose(flow.sum(axis=-1), np.ones((2, 25)), rtol=1e-5)
    last = rollout([lift_class_attention(w) for w in attention_maps(model, images, "post_network.*.weights").values()])
    assert last.shape == (2, 5, 5)
    assert np.array_equal(last[:, 1:, 0], np.zeros((2, 4))), "a patch saw the class token"


def test_weights_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match=r"expected \(B, h, 6, K², K²\) for a grid of \(3, 5\), stride 2"):
        lift_outlook(np.zeros((1, 2, 15, 9, 9)), (3, 5))
    with pytest.raises(ValueError, match=r"got \(2, 6, 9, 9\)"):
        lift_outlook(np.zeros((2, 6, 9, 9)), (3, 5))
    with pytest.raises(ValueError, match=r"expected shape \(B, h, 1, 1 \+ N\), got \(1, 2, 5, 5\)"):
        lift_class_attention(np.zeros((1, 2, 5, 5)))
    with pytest.raises(ValueError, match=r"expected shape \(B, h, H, W, K²\), K odd, got \(1, 2, 4, 4, 16\)"):
        lift_neighbourhood(np.zeros((1, 2, 4, 4, 16)))
    with pytest.raises(ValueError, match=r"grid: expected at most that of the weights, \(4, 4\), got \(5, 4\)"):
        lift_neighbourhood(np.zeros((1, 2, 4, 4, 9)), (5, 4))
