"""Swin: windows that shrink or are padded, merging, maps of every stage, other configurations, the laws."""

from dataclasses import replace

import numpy as np
import pytest

from tinyvit import Blueprint, Tensor, capture, count_macs, create_model, describe, gradients, save_weights
from tinyvit.models.swin import PatchMerging, Swin, SwinConfig
from tinyvit.nn.check import check_model

TINY = SwinConfig(img_size=(12, 20), patch_size=2, in_chans=2, num_classes=3, embed_dim=8, depths=(2, 2),
                  num_heads=(2, 4), window_size=(3, 2), drop_path_rate=0)  # fmt: skip
ANY_SIZE = replace(TINY, img_size=None)


def images_for(config, rng, batch=2, size=None):
    H, W = size or config.img_size
    return rng.normal(size=(batch, H, W, config.in_chans))


def restless(model, rng, std=0.3):
    """The model in float64 with every parameter moved off its initial value."""
    model.astype(np.float64)
    for p in model.parameters():
        p.data = p.data + rng.normal(0, std, p.shape)
    return model


def windows(model):
    return [[block.attn.window for block in layer.blocks] for layer in model.layers]


# windows and maps ---------------------------------------------------------------------------


def test_every_second_block_is_shifted_by_half_a_window():
    model = create_model("swin_tiny_patch4_window7_224")
    shifts = [[block.shift for block in layer.blocks] for layer in model.layers]
    assert shifts == [[(0, 0), (3, 3)] * n for n in (1, 1, 3, 1)]
    model = create_model("swin_base_patch4_window12_384")
    assert {block.shift for layer in model.layers for block in layer.blocks} == {(0, 0), (6, 6)}


def test_a_window_shrinks_to_a_map_whose_size_is_known():
    model = Swin(replace(TINY, img_size=(8, 20), depths=(1, 1, 1), num_heads=(1, 1, 1), window_size=4), rng=None)
    assert windows(model) == [[(4, 4)], [(2, 4)], [(1, 3)]], "maps of 4×10, 2×5, 1×3"
    assert model.layers[2].blocks[0].attn.relative_position_bias_table.shape == (1 * 5, 1)


def test_a_window_keeps_its_size_where_the_map_is_not_known():
    model = Swin(replace(ANY_SIZE, window_size=4), rng=None)
    assert windows(model) == [[(4, 4)] * 2, [(4, 4)] * 2]


def test_both_rules_agree_where_windows_fit(rng):
    config = replace(TINY, img_size=(12, 24))  # maps of 6×12 and 3×6: the first is the window itself
    known = restless(Swin(config, rng=rng), rng)
    anything = Swin(replace(config, img_size=None), rng=None)
    anything.load_state_dict(known.state_dict())
    x = images_for(config, rng)
    np.testing.assert_allclose(anything(x).data, known(x).data, rtol=1e-12)


def test_stages_are_the_maps_from_fine_to_coarse(rng):
    model = Swin(replace(ANY_SIZE, depths=(1, 2, 1), num_heads=(1, 2, 4)), rng=rng)
    maps = model.stages(images_for(TINY, rng, size=(18, 29)))
    assert [m.shape for m in maps] == [(2, 9, 15, 8), (2, 5, 8, 16), (2, 3, 4, 32)]
    with capture(model, "layers.*") as seen:
        again = model.stages(images_for(TINY, rng, size=(4, 4)))
    assert [seen[f"layers.{i}"] for i in range(3)] == again
    assert again[2].shape == (2, 1, 1, 32)


def test_an_image_that_is_not_whole_patches_is_padded(rng):
    model = restless(Swin(ANY_SIZE, rng=rng), rng)
    x = images_for(TINY, rng, size=(9, 13))
    padded = np.pad(x, [(0, 0), (0, 1), (0, 1), (0, 0)])
    assert np.array_equal(model(x).data, model(padded).data)


@pytest.mark.parametrize("size", [(4, 6), (3, 5), (1, 1)])
def test_merging_puts_columns_after_rows_and_pads_odd_sides(size, rng):
    merging = restless(PatchMerging(3, rng=rng), rng)
    x = rng.normal(size=(2, *size, 3))
    H, W = size
    y = merging(x).data
    assert y.shape == (2, -(-H // 2), -(-W // 2), 6)
    full = np.pad(x, [(0, 0), (0, H % 2), (0, W % 2), (0, 0)])
    neighbours = np.concatenate([full[:, i::2, j::2] for i, j in ((0, 0), (1, 0), (0, 1), (1, 1))], axis=-1)
    np.testing.assert_allclose(y, merging.reduction(merging.norm(neighbours)).data, rtol=1e-12)


def test_attention_can_be_captured_in_every_block(rng):
    model = Swin(TINY, rng=rng)
    with capture(model, "layers.*.attn.weights") as seen:
        model(images_for(TINY, rng))
    assert {name: w.shape for name, w in seen.items()} == {
        f"layers.{i}.blocks.{j}.attn.weights": (2 * W, h, 6, 6) for i, W, h in ((0, 10, 2), (1, 3, 4)) for j in (0, 1)
    }


# settings and images ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_heads": (2, 3)}, "num_heads: 3 heads cannot share a width of 16 evenly"),
        ({"num_heads": (2,)}, r"num_heads: expected one number per stage \(2 depths\), got \(2,\)"),
        ({"window_size": 0}, "window_size: expected at least one token on each side, got 0"),
        ({"img_size": (12, 21)}, r"img_size: \(12, 21\) is not a whole number of patches of 2"),
        ({"drop_path_rate": 1.0}, "expected a probability of at least 0 and below 1, got 1.0"),
    ],
)
def test_a_setting_that_cannot_be_is_named(changes, message, rng):
    with pytest.raises(ValueError, match=message):
        Swin(replace(TINY, **changes), rng=rng)


def test_images_of_another_shape(rng):
    with pytest.raises(ValueError, match=r"images: expected shape \(B, 12, 20, 2\), got \(1, 20, 12, 2\)"):
        Swin(TINY, rng=rng)(np.zeros((1, 20, 12, 2), np.float32))
    with pytest.raises(ValueError, match=r"images: expected shape \(B, H, W, 2\), got \(1, 20, 12, 3\)"):
        Swin(ANY_SIZE, rng=rng)(np.zeros((1, 20, 12, 3), np.float32))


def test_a_model_for_any_size_is_counted_for_one(rng):
    model = create_model("swin_tiny_patch4_window7_224", img_size=None)
    assert count_macs(model, (1, 224, 224, 3)) == count_macs(create_model("swin_tiny_patch4_window7_224"))
    assert model(Blueprint((1, 250, 333, 3))).shape == (1, 1000)
    with pytest.raises(ValueError, match=r"shape: this Swin takes images of any size; say \(B, H, W, C\)"):
        describe(model)


def test_no_classes_means_features(rng):
    model = Swin(replace(TINY, num_classes=0), rng=rng)
    assert model(images_for(TINY, rng)).shape == (2, 16)
    assert not [name for name, _ in model.named_state() if name.startswith("head")]


def test_an_empty_batch(rng):
    assert Swin(TINY, rng=rng)(np.zeros((0, 12, 20, 2), np.float32)).shape == (0, 3)


def test_complexity_is_the_papers():
    """Ω(W-MSA) = 4hwC² + 2M²hwC (Eq. 2), the whole of a block's attention."""
    with_attention, shape = create_model("swin_tiny_patch4_window7_224"), (1, 56, 56, 96)
    attention = with_attention.layers[0].blocks[1]
    h, w, C, M = *shape[1:], 7
    mlp = 2 * h * w * C * 4 * C
    assert count_macs(attention, shape) == 4 * h * w * C**2 + 2 * M**2 * h * w * C + mlp


# weights for other windows ------------------------------------------------------------------


def test_tables_are_resampled_to_another_window(rng, tmp_path):
    """From 224 pixels and windows of 7 to 384 and 12, in small: the tables alone change their shape."""
    small = {"embed_dim": 8, "num_heads": (2, 4), "num_classes": 3, "depths": (2, 2)}
    model = create_model("swin_digits", **small, img_size=16, window_size=3, rng=rng)
    path = save_weights(model, tmp_path / "swin.safetensors")
    larger = create_model("swin_digits", **small, img_size=24, window_size=4, weights=path, positions="bicubic")
    for name, value in model.named_state():
        changed = larger.state_dict()[name]
        assert changed.shape == ((49, value.shape[1]) if name.endswith("table") else value.shape)
        if not name.endswith("table"):
            assert np.array_equal(changed, value.data)
    assert larger(np.zeros((1, 24, 24, 1), np.float32)).shape == (1, 3)
    again = create_model("swin_digits", **small, img_size=16, window_size=3, weights=path, positions="bicubic")
    assert all(np.array_equal(again.state_dict()[name], value.data) for name, value in model.named_state())
    with pytest.raises(ValueError, match="positions: Swin's bias tables are resampled by \"bicubic\", got 'jax'"):
        create_model("swin_digits", **small, img_size=24, window_size=4, weights=path, positions="jax")


# training -----------------------------------------------------------------------------------


def test_the_rates_of_stochastic_depth_grow_over_all_stages(rng):
    model = Swin(replace(TINY, depths=(2, 3), drop_path_rate=0.4), rng=rng)
    rates = [[block.drop_path1.p, block.drop_path2.p] for layer in model.layers for block in layer.blocks]
    np.testing.assert_allclose(rates, np.array([0, 0.1, 0.2, 0.3, 0.4])[:, None].repeat(2, axis=1), rtol=1e-12)


def test_a_dropped_branch_is_dropped_for_a_whole_image(rng):
    """In training an image's map after a block is either without the attention, or with it doubled: p = 1/2."""
    model = restless(Swin(replace(TINY, depths=(1,), num_heads=(2,), drop_path_rate=0.5), rng=rng), rng)
    block = model.layers[0].blocks[0]
    block.drop_path1.p, block.drop_path2.p = 0.5, 0.0
    block.mlp.fc2.weight.data, block.mlp.fc2.bias.data = 0 * block.mlp.fc2.weight.data, 0 * block.mlp.fc2.bias.data
    x = rng.normal(size=(16, 6, 10, 8))
    branch = block(x).data - x
    change = block.train(rng)(x).data - x
    kept = np.isclose(change, 2 * branch).all(axis=(1, 2, 3))
    dropped = np.isclose(change, 0).all(axis=(1, 2, 3))
    assert (kept ^ dropped).all()
    assert kept.any()
    assert dropped.any()


# the laws -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "size"),
    [
        ({}, (12, 20)),  # maps of 6×10 and 3×5 in windows of 3×2: padded, one window high
        ({"window_size": 5, "qkv_bias": False, "mlp_ratio": 1.5}, (12, 20)),  # odd windows that shrink, all of a map
        ({"window_size": 3, "drop_path_rate": 0.4}, (12, 20)),
        ({"img_size": None, "window_size": (4, 3), "drop_path_rate": 0.2}, (9, 13)),
    ],
)
def test_other_configurations_obey_every_law(changes, size, rng):
    config = replace(TINY, **changes)
    check_model(lambda rng: Swin(config, rng=rng), images_for(config, rng, batch=8, size=size), rng=rng)


def test_every_parameter_and_image_gets_a_gradient(rng):
    model = restless(Swin(replace(TINY, depths=(2, 2, 2), num_heads=(1, 2, 4)), rng=rng), rng)
    x = Tensor(images_for(TINY, rng), requires_grad=True)
    names, leaves = zip(*model.named_parameters(), strict=True)
    found = gradients(model(x), [x, *leaves], [rng.normal(size=(2, 3))])
    assert all(g.any() for g in found), [n for n, g in zip(("x", *names), found, strict=True) if not g.any()]
    assert found[0].any(axis=(1, 2, 3)).all()
