"""Lifted maps against brute force: what comes out of the layer when one place holds a one and the others nothing."""

import numpy as np
import pytest

from tinyvit import capture
from tinyvit.models.nat import NeighbourhoodAttention
from tinyvit.models.volo import ClassBlock, OutlookAttention
from tinyvit.nn.lifting import lift_class_attention, lift_neighbourhood, lift_outlook, merging


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


@pytest.mark.parametrize(("K", "grid"), [(3, (4, 6)), (5, (5, 7)), (3, (3, 3)), (5, (3, 6)), (7, (2, 3)), (1, (2, 3))])
def test_lifted_neighbourhood_attention_by_brute_force(K, grid, rng):
    """Also where the map is filled up to K×K with zeros, which take their share."""
    layer = NeighbourhoodAttention(6, 3, kernel_size=K, rng=rng).astype(np.float64)
    layer.qkv.weight.data = np.concatenate([np.zeros((12, 6)), np.eye(6)])  # the weights do not depend on the values
    layer.rpb.data = rng.normal(0, 2, layer.rpb.shape)
    layer.proj.weight.data = np.eye(6)
    N = grid[0] * grid[1]
    one_hot = np.eye(N).reshape(N, *grid, 1) * np.ones(6)
    with capture(layer, "weights") as seen:
        received = layer(one_hot).data.reshape(N, N, 3, 2)  # (place that gives, place that receives, head, channel)
    lifted = lift_neighbourhood(seen["weights"].data, grid)
    assert lifted.shape == (N, 3, N, N)
    np.testing.assert_allclose(lifted[0], received[..., 0].transpose(2, 1, 0), rtol=1e-12, atol=1e-15)
    assert (lifted[0].sum(axis=-1) < 1 - 1e-6).any() == (min(grid) < K)


def test_lifted_class_attention_by_brute_force(rng):
    block = ClassBlock(6, 2, rng=rng).astype(np.float64)
    z = rng.normal(size=(2, 5, 6))
    with capture(block, "attn.weights") as seen:
        block(z)
    lifted = lift_class_attention(seen["attn.weights"].data)
    assert np.array_equal(lifted[:, :, 0], seen["attn.weights"].data[:, :, 0])
    assert np.array_equal(lifted[:, :, 1:], np.broadcast_to(np.eye(5)[1:], (2, 2, 4, 5)))
    np.testing.assert_allclose(lifted.sum(axis=-1), 1, rtol=1e-12)


def test_the_token_that_asks_may_stand_anywhere(rng):
    weights = rng.uniform(size=(2, 3, 1, 4))
    lifted = lift_class_attention(weights, place=-1)
    assert np.array_equal(lifted[:, :, 3], weights[:, :, 0])
    assert np.array_equal(lifted[:, :, :3], np.broadcast_to(np.eye(4)[:3], (2, 3, 3, 4)))


@pytest.mark.parametrize(("k", "H", "W"), [(3, 4, 5), (5, 2, 7), (1, 3, 2)])
def test_with_a_border_neighbours_stand_around_a_pixel(k, H, W, rng):
    weights = rng.uniform(size=(2, 3, H, W, k * k))
    lifted = lift_neighbourhood(weights, border=k // 2).reshape(2, 3, H, W, H, W)
    wanted, r = np.zeros_like(lifted), k // 2
    for y, x, dy, dx in np.ndindex(H, W, k, k):
        if 0 <= y + dy - r < H and 0 <= x + dx - r < W:
            wanted[:, :, y, x, y + dy - r, x + dx - r] = weights[:, :, y, x, k * dy + dx]
    np.testing.assert_array_equal(lifted, wanted)


def test_a_coarse_token_is_the_mean_of_its_block():
    wanted = np.zeros((3, 2, 5, 3))  # the last row and column of fine tokens are blocks of their own, cut by the border
    for i, j in np.ndindex(3, 2):
        block = wanted[i, j, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2]
        block[:] = 1 / block.size
    np.testing.assert_allclose(merging((5, 3), 2, 6), wanted.reshape(6, 15), rtol=1e-6)
    whole = merging((5, 3), 2, 2).reshape(2, 5, 3)  # … or they are left out
    assert (whole[0, :2, :2] == 0.25).all()
    assert (whole[1, 2:4, :2] == 0.25).all()
    assert (whole > 0).sum() == 8
    frames = merging((2, 2, 4), (1, 2, 2), 4).reshape(2, 2, 2, 2, 4)
    assert (frames[1, 0, 1, :, :2] == 0.25).all()
    assert (frames[1, 0, 0] == 0).all()
    with pytest.raises(ValueError, match=r"tokens: a map of \(5, 3\) in blocks of \(2, 2\) does not give 4"):
        merging((5, 3), 2, 4)


def test_weights_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match=r"expected \(B, h, 6, K², K²\) for a grid of \(3, 5\), stride 2"):
        lift_outlook(np.zeros((1, 2, 15, 9, 9)), (3, 5))
    with pytest.raises(ValueError, match=r"got \(2, 6, 9, 9\)"):
        lift_outlook(np.zeros((2, 6, 9, 9)), (3, 5))
    with pytest.raises(ValueError, match=r"expected shape \(B, h, 1, N\), got \(1, 2, 5, 5\)"):
        lift_class_attention(np.zeros((1, 2, 5, 5)))
    for shape in ((1, 2, 3, 3, 8), (1, 2, 3, 3, 4), (2, 9, 9)):
        with pytest.raises(ValueError, match=r"weights: expected shape \(B, h, H, W, K²\), K odd"):
            lift_neighbourhood(np.zeros(shape))
    with pytest.raises(ValueError, match=r"grid: expected at most that of the weights, \(4, 4\), got \(5, 4\)"):
        lift_neighbourhood(np.zeros((1, 2, 4, 4, 9)), (5, 4))
