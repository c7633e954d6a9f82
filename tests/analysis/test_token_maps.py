"""Attention maps of models of every kind, against what the layers do, written out; and their composition, by hand."""

from dataclasses import replace

import numpy as np
import pytest

from tinyvit import capture, create_model, no_grad
from tinyvit.analysis import attention_maps, rollout
from tinyvit.models.cait import CaiT, CaiTConfig
from tinyvit.models.ceit import CeiT, CeiTConfig
from tinyvit.models.nat import NAT, NATConfig
from tinyvit.models.sasa import SASAConfig, SASAResNet
from tinyvit.models.swin import Swin, SwinConfig
from tinyvit.models.t2t_vit import T2TViT, T2TViTConfig
from tinyvit.models.volo import VOLO, VOLOConfig
from tinyvit.nn.describe import input_shape
from tinyvit.nn.module import Module

SWIN = SwinConfig(img_size=None, patch_size=2, num_classes=3, embed_dim=6, depths=(2, 2), num_heads=(2, 3),
                  window_size=4, mlp_ratio=1)  # fmt: skip
VOLO_ = VOLOConfig(img_size=(20, 28), patch_size=4, num_classes=3, layers=(2, 1), embed_dims=(6, 8), num_heads=(2, 2),
                   stem_hidden_dim=4)  # fmt: skip
CAIT = CaiTConfig(img_size=(8, 12), patch_size=4, num_classes=3, embed_dim=6, depth=2, num_heads=3, init_values=1.0)
CEIT = CeiTConfig(img_size=(16, 24), patch_size=2, num_classes=3, embed_dim=6, depth=4, num_heads=3, stem_width=4)
SASA = SASAConfig(img_size=(5, 7), num_classes=3, layers=(1, 2), stem_width=4, channels=(4, 8), small_stem=True,
                  kernel_size=3, num_heads=2)  # fmt: skip
NAT_ = NATConfig(num_classes=3, embed_dim=6, depths=(1, 2), num_heads=(2, 3), kernel_size=3, mlp_ratio=1.0)
T2T = T2TViTConfig(img_size=(20, 28), tokens_type="transformer", num_classes=3, embed_dim=6, depth=2, num_heads=2,
                   mlp_ratio=1.0, token_dim=4, splits=((3, 2, 1), (3, 2, 1), (3, 2, 1)))  # fmt: skip
ALL = {"swin": (Swin, SWIN, (12, 20)), "volo": (VOLO, VOLO_, (20, 28)), "cait": (CaiT, CAIT, (8, 12)),
       "ceit": (CeiT, CEIT, (16, 24)), "sasa": (SASAResNet, SASA, (5, 7)), "nat": (NAT, NAT_, (13, 20)),
       "t2t": (T2TViT, T2T, (20, 28))}  # fmt: skip


def restless(name, rng, **changes):
    """A model in float64 with parameters of order one, so that maps are far from even, and two images for it."""
    kind, config, size = ALL[name]
    model = kind(replace(config, **changes), rng=rng).astype(np.float64)
    for p in model.parameters():
        p.data = rng.normal(0.2, 0.7, p.shape)
    return model, rng.normal(size=(2, *size, 3))


def seen_in(model, images, *patterns):
    with no_grad(), capture(model, *patterns) as seen:
        model(images)
    return {name: x.data for name, x in seen.items()}


def by_head(x, h):
    """(B, N, h·d) -> (B, h, N, d)"""
    return x.reshape(*x.shape[:2], h, -1).transpose(0, 2, 1, 3)


def softmax(scores):
    e = np.exp(scores - scores.max())
    return e / e.sum()


# what the layers do ------------------------------------------------------------------------


def swin_map(block, z, image, head):
    """Attention in shifted windows between all tokens of an image's map, token by token, by the rule of Fig. 4."""
    H, W, C = z.shape[1:]
    M, N = block.attn.window, (H, W)
    whole = [-(-n // m) * m for n, m in zip(N, M, strict=True)]
    shift = [s if n > m else 0 for s, n, m in zip(block.shift, N, M, strict=True)]
    places = list(np.ndindex(*whole))
    normed = block.norm1(z[image]).data
    at = lambda p: normed[p] if p[0] < H and p[1] < W else np.zeros(C)  # noqa: E731
    rolled = {p: tuple((c - s) % n for c, s, n in zip(p, shift, whole, strict=True)) for p in places}
    window = {p: tuple(c // m for c, m in zip(rolled[p], M, strict=True)) for p in places}
    came_round = {p: tuple(c < s for c, s in zip(p, shift, strict=True)) for p in places}
    d = C // block.attn.num_heads
    part = lambda p, which: (block.attn.qkv(at(p)[None]).data.reshape(3, -1, d))[which, head]  # noqa: E731
    queries, keys = {p: part(p, 0) for p in places}, {p: part(p, 1) for p in places}
    table = block.attn.relative_position_bias_table.data[:, head].reshape(2 * M[0] - 1, 2 * M[1] - 1)
    result = np.zeros((H, W, H, W))
    for q in np.ndindex(H, W):
        others = [k for k in places if window[k] == window[q]]
        offsets = [tuple(a - b + m - 1 for a, b, m in zip(rolled[q], rolled[k], M, strict=True)) for k in others]
        scores = [queries[q] @ keys[k] / np.sqrt(d) + table[o] - 100.0 * (came_round[k] != came_round[q])
                  for k, o in zip(others, offsets, strict=True)]  # fmt: skip
        for k, weight in zip(others, softmax(np.array(scores)), strict=True):
            if k[0] < H and k[1] < W:
                result[(*q, *k)] = weight
    return result.reshape(H * W, H * W)


@pytest.mark.parametrize("window", [4, (2, 5), (5, 2)])
def test_windows_shifted_and_not_of_two_stages_by_brute_force(window, rng):
    """Maps of 6×10 and 3×5 with windows of 4×4 and others: padded or whole, shifted along both axes, along one."""
    model, images = restless("swin", rng, window_size=window)
    maps = attention_maps(model, images)
    names = [f"layers.{i}.blocks.{j}" for i in range(2) for j in range(2)]
    assert list(maps) == [f"{name}.attn.weights" for name in names]
    assert [m.shape for m in maps.values()] == [(2, 2, 60, 60)] * 2 + [(2, 3, 15, 15)] * 2
    modules, given = dict(model.named_modules()), seen_in(model, images, *(f"{name}.input" for name in names))
    for name in names:
        wanted = swin_map(modules[name], given[f"{name}.input"], image=1, head=1)
        np.testing.assert_allclose(maps[f"{name}.attn.weights"][1, 1], wanted, rtol=1e-9, atol=1e-15, err_msg=name)


def test_outlooks_a_map_and_class_attention_move_what_the_layers_move(rng):
    """The values times the map are the layer's output before its projection, for all layers of a VOLO."""
    model, images = restless("volo", rng)
    maps = attention_maps(model, images)
    assert [m.shape[1:] for m in maps.values()] == [(2, 35, 35)] * 2 + [(2, 6, 6)] + [(2, 7, 7)] * 2
    seen = seen_in(model, images, "*.proj.input", "*.v", "*.qkv", "*.kv")
    for name, m in maps.items():
        layer = name.removesuffix(".weights")
        values = next(seen[f"{layer}.{kind}"] for kind in ("v", "qkv", "kv") if f"{layer}.{kind}" in seen)
        moved, B = seen[f"{layer}.proj.input"], len(images)
        width = moved.shape[-1]
        values = by_head(values.reshape(B, -1, values.shape[-1])[:, :, -width:], 2)
        np.testing.assert_allclose(
            (m @ values)[:, :, : moved[0].size // width], by_head(moved.reshape(B, -1, width), 2), rtol=1e-9, atol=1e-12
        )


@pytest.mark.parametrize("mask_border", [True, False])
def test_neighbourhoods_move_what_the_layers_move(mask_border, rng):
    model, images = restless("sasa", rng)
    for module in dict(model.named_modules()).values():
        if hasattr(module, "mask_border"):
            module.mask_border = mask_border
    maps = attention_maps(model, images)
    assert [m.shape for m in maps.values()] == [(2, 2, 35, 35)] * 2 + [(2, 2, 12, 12)]
    name = list(maps)[2].removesuffix(".weights")  # of stride 1
    seen = seen_in(model, images, f"{name}.v", name)
    values, moved = (by_head(seen[key].reshape(2, 12, -1), 2) for key in (f"{name}.v", name))
    np.testing.assert_allclose(maps[f"{name}.weights"] @ values, moved, rtol=1e-9, atol=1e-12)
    sums = maps[f"{name}.weights"].sum(axis=-1)
    assert np.allclose(sums, 1) if mask_border else (sums < 1).any()


def test_neighbourhoods_that_move_inwards_move_what_the_layers_move(rng):
    """On a map of 4×5; on one of 2×3, smaller than a neighbourhood, some of it comes from the zeros that fill it up."""
    model, images = restless("nat", rng)
    maps = attention_maps(model, images)
    assert [m.shape for m in maps.values()] == [(2, 2, 20, 20)] + [(2, 3, 6, 6)] * 2
    first = "levels.0.blocks.0.attn"
    seen = seen_in(model, images, f"{first}.qkv", f"{first}.proj.input")
    values, moved = (by_head(seen[f"{first}.{key}"].reshape(2, 20, -1)[:, :, -6:], 2) for key in ("qkv", "proj.input"))
    np.testing.assert_allclose(maps[f"{first}.weights"] @ values, moved, rtol=1e-9, atol=1e-12)
    sums = [m.sum(axis=-1) for m in maps.values()]
    np.testing.assert_allclose(sums[0], 1, rtol=1e-12)
    assert (sums[1] < 1).all()


def test_the_class_token_asks_in_a_row_of_its_own(rng):
    model, images = restless("cait", rng)
    maps = attention_maps(model, images)
    assert [m.shape for m in maps.values()] == [(2, 3, 6, 6)] * 2 + [(2, 3, 7, 7)] * 2
    layer = "blocks_token_only.1.attn"
    seen = seen_in(model, images, f"{layer}.q", f"{layer}.k")
    q, k = by_head(seen[f"{layer}.q"], 3)[1, 2, 0], by_head(seen[f"{layer}.k"], 3)[1, 2]
    wanted = np.eye(7)
    wanted[0] = softmax(k @ q / np.sqrt(2))
    np.testing.assert_allclose(maps[f"{layer}.weights"][1, 2], wanted, rtol=1e-9)


def test_the_last_of_the_layers_class_tokens_asks(rng):
    model, images = restless("ceit", rng)
    attention = attention_maps(model, images)["lca.attn.weights"][1, 2]
    x = seen_in(model, images, "lca.norm1")["lca.norm1"][1]
    q, k = (x @ w.T + b for w, b in zip(np.split(model.lca.attn.qkv.weight.data, 3)[:2],
                                        np.split(model.lca.attn.qkv.bias.data, 3)[:2], strict=True))  # fmt: skip
    wanted = np.eye(4)
    wanted[3] = softmax(k[:, 4:] @ q[3, 4:] / np.sqrt(2))
    np.testing.assert_allclose(attention, wanted, rtol=1e-9)


# what a rollout composes -------------------------------------------------------------------


def halves(maps):
    """Half of every layer's flow is its attention, the mean of heads, half the residual; rows sum to 1."""
    flows = [(m.mean(axis=1) + np.eye(m.shape[-1])) / 2 for m in maps.values()]
    return [f / f.sum(axis=-1, keepdims=True) for f in flows]


def mean_of_blocks(flow, grid, coarse):
    """The rows of every 2×2 block averaged, what the border cuts off left out."""
    rows = flow.reshape(len(flow), *grid, -1)
    blocks = [rows[:, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2].mean(axis=(1, 2)) for i, j in np.ndindex(*coarse)]
    return np.stack(blocks, axis=1)


def beside(flow):
    """A class token that has been itself until now, before the tokens of a flow."""
    whole = np.zeros((len(flow), flow.shape[1] + 1, flow.shape[2] + 1))
    whole[:, 0, 0], whole[:, 1:, 1:] = 1, flow
    return whole


def composed(name, maps):
    """The rollout of each model, layer by layer."""
    a = halves(maps)
    if name == "swin":
        return a[3] @ a[2] @ mean_of_blocks(a[1] @ a[0], (6, 10), (3, 5))
    if name == "volo":
        return a[4] @ a[3] @ beside(a[2] @ mean_of_blocks(a[1] @ a[0], (5, 7), (2, 3)))
    if name == "cait":
        return a[3] @ a[2] @ beside(a[1] @ a[0])
    if name == "sasa":
        return a[2] @ mean_of_blocks(a[1] @ a[0], (5, 7), (3, 4))
    if name == "nat":
        return a[2] @ a[1] @ mean_of_blocks(a[0], (4, 5), (2, 3))
    if name == "t2t":
        return a[3] @ a[2] @ beside(mean_of_blocks(a[1] @ mean_of_blocks(a[0], (10, 14), (5, 7)), (5, 7), (3, 4)))
    through = [a[0], a[1] @ a[0], a[2] @ a[1] @ a[0], a[3] @ a[2] @ a[1] @ a[0]]
    return a[4] @ np.stack([flow[:, 0] for flow in through], axis=1)


@pytest.mark.parametrize("name", ALL)
def test_a_rollout_through_layers_with_different_tokens(name, rng):
    model, images = restless(name, rng)
    maps = attention_maps(model, images)
    flow = rollout(maps)
    np.testing.assert_allclose(flow, composed(name, maps), rtol=1e-12, atol=1e-15)
    np.testing.assert_allclose(flow.sum(axis=-1), 1, rtol=1e-12)


def test_a_hierarchy_below_another_model_composes_as_it_does_alone(rng):
    """A backbone gives its stages, several maps, to what stands on it."""

    class Backbone(Module):
        def __init__(self, below):
            self.below = below

        def forward(self, images):
            return self.below(images)

    model, images = restless("swin", rng)
    alone = rollout(attention_maps(model, images))
    model.forward = model.stages
    assert np.array_equal(rollout(attention_maps(Backbone(model), images)), alone)


def test_frames_are_not_merged_where_only_rows_and_columns_are(rng):
    model = create_model("video_swin_moving", rng=rng)
    maps = attention_maps(model, rng.normal(size=input_shape(model, 2)).astype(np.float32))
    a, frames = halves(maps), 4
    flow = (a[1] @ a[0]).reshape(2, frames, 16, 64)
    merged = np.stack([mean_of_blocks(flow[:, t], (4, 4), (2, 2)) for t in range(frames)], axis=1)
    np.testing.assert_allclose(rollout(maps), a[3] @ a[2] @ merged.reshape(2, 16, 64), rtol=1e-4, atol=1e-7)


def test_layers_that_are_chosen_compose_too(rng):
    """Between two stages, whichever of their layers are left."""
    model, images = restless("swin", rng)
    maps = attention_maps(model, images, "layers.*.blocks.1.attn.weights")
    a = halves(maps)
    np.testing.assert_allclose(rollout(maps), a[1] @ mean_of_blocks(a[0], (6, 10), (3, 5)), rtol=1e-12)
    assert rollout(attention_maps(model, images, "layers.1.*weights")).shape == (2, 15, 15)


def test_without_what_lies_between_them_layers_do_not_compose(rng):
    model, images = restless("swin", rng)
    with pytest.raises(ValueError, match=r"maps\[2\]: expected 2 images of 60 tokens as in the layer before"):
        rollout(list(attention_maps(model, images).values()))


def test_modules_and_inputs_are_no_maps(rng):
    model, images = create_model("vit_digits", rng=rng), rng.normal(size=(2, 8, 8, 1)).astype(np.float32)
    assert list(attention_maps(model, images, "blocks.0.attn*")) == ["blocks.0.attn.weights"]
    assert list(attention_maps(model, images, "*.input")) == []


def test_a_corner_is_reached_from_every_window(rng):
    model, images = create_model("swin_digits", rng=rng), rng.normal(size=(3, 8, 8, 1)).astype(np.float32)
    maps = attention_maps(model, images, "layers.0.*weights")
    assert [np.count_nonzero(m[0, 0, 5] > 1e-6) for m in maps.values()] == [4, 4], "a window has four tokens"
    assert np.count_nonzero(rollout(maps)[0, 5] > 1e-6) == 16
