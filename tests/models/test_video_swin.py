"""Video Swin: windows of clips, cut or not, a still clip against 2-D Swin, maps, settings, the laws, moving digits."""

import math
from dataclasses import replace

import numpy as np
import pytest

from tinyvit import Blueprint, capture, count_macs, create_model, describe, load_weights, no_grad, save_weights
from tinyvit.analysis import attention_maps, rollout
from tinyvit.classify import photo_size
from tinyvit.data import Epochs, moving_digits
from tinyvit.models.swin import Swin, SwinConfig, merge_neighbours
from tinyvit.models.video_swin import VideoSwin, VideoSwinConfig
from tinyvit.nn.attention import offset_index
from tinyvit.nn.check import check_model
from tinyvit.train import AdamW, classification, clipped, evaluate, gradient_of, training, warmup_cosine

TINY = VideoSwinConfig(img_size=12, num_frames=6, patch_size=(2, 2, 3), in_chans=2, num_classes=3, embed_dim=8,
                       depths=(2, 2), num_heads=(2, 4), window_size=(2, 3, 2), drop_rate=0,
                       drop_path_rate=0)  # fmt: skip


def clips_for(config, rng, batch=2, size=(6, 12, 12)):
    return rng.normal(size=(batch, *size, config.in_chans))


def restless(model, rng, std=0.3):
    """The model in float64 with every parameter moved off its initial value."""
    model.astype(np.float64)
    for p in model.parameters():
        p.data = p.data + rng.normal(0, std, p.shape)
    return model


# windows of clips -----------------------------------------------------------------------------


def test_windows_shifts_and_tables_are_the_papers():
    model = create_model("video_swin_tiny_patch244_window877_k400")
    assert [[block.shift for block in layer.blocks] for layer in model.layers] == [
        [(0, 0, 0), (4, 3, 3)] * n for n in (1, 1, 3, 1)
    ]
    assert model.layers[0].blocks[0].attn.relative_position_bias_table.shape == (15 * 13 * 13, 3)
    assert model.patch_embed.proj.weight.shape == (96, 3, 2, 4, 4)


def attended(block, x):
    """The attention of a block, window by window in loops: cut windows, shifts, regions, the first offsets' biases."""
    size, full = x.shape[:-1], block.attn.window
    window = [min(m, n) for m, n in zip(full, size, strict=True)]
    shift = [s if n > m else 0 for s, n, m in zip(block.shift, size, full, strict=True)]
    whole = [-(-n // m) * m for n, m in zip(size, window, strict=True)]
    padded = np.pad(x, [*((0, w - n) for w, n in zip(whole, size, strict=True)), (0, 0)])
    h, d = block.attn.num_heads, x.shape[-1] // block.attn.num_heads
    table, index = block.attn.relative_position_bias_table.data, offset_index(full)
    y = np.zeros_like(padded)
    for corner in np.ndindex(*(w // m for w, m in zip(whole, window, strict=True))):
        rolled = [tuple(c * m + p for c, m, p in zip(corner, window, place, strict=True)) for place in
                  np.ndindex(*window)]  # fmt: skip
        places = [tuple((r + s) % w for r, s, w in zip(p, shift, whole, strict=True)) for p in rolled]
        came_round = [tuple(r + s >= w for r, s, w in zip(p, shift, whole, strict=True)) for p in rolled]
        q, k, v = block.attn.qkv(np.array([padded[p] for p in places])).data.reshape(-1, 3, h, d).transpose(1, 2, 0, 3)
        bias = table[index[: len(places), : len(places)]].transpose(2, 0, 1)
        apart = np.array([[a != b for b in came_round] for a in came_round])
        scores = np.exp(q @ k.swapaxes(1, 2) / math.sqrt(d) + bias - 100 * apart)
        out = (scores / scores.sum(axis=-1, keepdims=True)) @ v
        for i, p in enumerate(places):
            y[p] = block.attn.proj(out[:, i].reshape(1, -1)).data
    return y[tuple(map(slice, size))]


@pytest.mark.parametrize("size", [(4, 6, 4), (5, 4, 3), (2, 5, 7), (1, 2, 1), (3, 3, 2)])
def test_a_block_is_its_equation(size, rng):
    """Whole windows; padded ones; one that is cut along time; cut along every axis; as long as the map."""
    model = restless(VideoSwin(replace(TINY, window_size=(3, 3, 2)), rng=rng), rng)
    x = rng.normal(size=(*size, 8))
    for block in model.layers[0].blocks:
        z = x + attended(block, block.norm1(x).data)
        np.testing.assert_allclose(block(x[None]).data[0], z + block.mlp(block.norm2(z)).data, rtol=1e-10)


def test_merging_leaves_the_frames_alone(rng):
    x = rng.normal(size=(2, 3, 4, 5, 2))
    merged = merge_neighbours(x, (1, 2, 2))
    assert merged.shape == (2, 3, 2, 3, 8)
    for t in range(3):
        assert np.array_equal(merged[:, t], merge_neighbours(x[:, t]))


def test_stages_are_maps_of_clips(rng):
    model = VideoSwin(replace(TINY, depths=(1, 2, 1), num_heads=(1, 2, 4)), rng=rng)
    maps = model.stages(clips_for(TINY, rng, size=(5, 13, 22)))
    assert [m.shape for m in maps] == [(2, 3, 7, 8, 8), (2, 3, 4, 4, 16), (2, 3, 2, 2, 32)]


def test_attention_can_be_captured_in_every_block(rng):
    model = VideoSwin(TINY, rng=rng)
    with capture(model, "layers.*.attn.weights") as seen:
        model(clips_for(TINY, rng))
    assert [w.shape for w in seen.values()] == [(2 * 2 * 2 * 2, 2, 12, 12)] * 2 + [(2 * 2 * 1 * 1, 4, 12, 12)] * 2


# a clip that stands still -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("window", "tokens", "size"), [((2, 3, 3), 4, (12, 18)), ((4, 3, 3), 4, (16, 10)), ((3, 2, 3), 6, (12, 24))]
)
def test_inflated_weights_see_in_a_still_clip_what_they_saw_in_its_frame(window, tokens, size, rng, tmp_path):
    """Also through a shift in time, which only takes away frames that are all alike; through a file, strictly."""
    settings = {"in_chans": 2, "num_classes": 3, "embed_dim": 8, "depths": (2, 2), "num_heads": (2, 4)}
    flat = restless(Swin(SwinConfig(img_size=None, patch_size=2, window_size=window[1:], **settings), rng=rng), rng)
    path = save_weights(flat, tmp_path / "flat.safetensors")
    video = VideoSwin(VideoSwinConfig(patch_size=(3, 2, 2), window_size=window, **settings), rng=rng).astype(np.float64)
    load_weights(video, path, positions="bicubic")
    images = rng.normal(size=(2, *size, 2))
    still = np.repeat(images[:, None], 3 * tokens, axis=1)
    np.testing.assert_allclose(video(still).data, flat(images).data, rtol=1e-9)


def test_inflated_tables_are_resampled_in_the_plane_and_repeated_in_time(rng):
    settings = {"embed_dim": 4, "depths": (1,), "num_heads": (2,), "num_classes": 2}
    flat = Swin(SwinConfig(img_size=None, window_size=3, **settings), rng=rng)
    video = VideoSwin(VideoSwinConfig(window_size=(2, 4, 3), **settings), rng=rng)
    name = "layers.0.blocks.0.attn.relative_position_bias_table"
    table = video.fitted(flat.state_dict())[name].reshape(3, 7, 5, 2)
    assert (table == table[:1]).all()
    plane = Swin(SwinConfig(img_size=None, window_size=(4, 3), **settings), rng=rng).fitted(flat.state_dict())[name]
    assert np.array_equal(table[0].reshape(-1, 2), plane)
    own = video.state_dict()
    assert video.fitted(own) is own, "what is a video model's already"
    with pytest.raises(ValueError, match="bias tables are resampled by \"bicubic\", got 'jax'"):
        video.fitted(flat.state_dict(), "jax")


# token by token ---------------------------------------------------------------------------------


def test_maps_between_all_tokens_of_a_clip(rng):
    """The values times the lifted map are what leaves the attention; flows of two stages compose, frames unmerged."""
    model = restless(VideoSwin(TINY, rng=rng), rng)
    x = clips_for(TINY, rng, size=(6, 12, 18))  # 3×6×6 tokens in windows of 2×3×2: padded in time; then 3×3×3
    maps = attention_maps(model, x)
    assert [m.shape for m in maps.values()] == [(2, 2, 108, 108)] * 2 + [(2, 4, 27, 27)] * 2
    for m in maps.values():
        assert (m.sum(axis=-1) < 1 + 1e-12).all()
    flow = rollout(maps)
    assert flow.shape == (2, 27, 108)
    np.testing.assert_allclose(flow.sum(axis=-1), 1, rtol=1e-9)
    with no_grad(), capture(model, "layers.0.blocks.1.norm1", "layers.0.blocks.1.drop_path1") as seen:
        model(x)
    block, h = model.layers[0].blocks[1], 2
    qkv = block.attn.qkv(seen["layers.0.blocks.1.norm1"].data.reshape(2, 108, 8)).data
    values = qkv.reshape(2, 108, 3, h, 4)[:, :, 2].swapaxes(1, 2)
    weights = maps["layers.0.blocks.1.attn.weights"]
    padding = block.attn.qkv.bias.data[-8:].reshape(h, 1, 4)  # a padded token's value; it has no place in the map
    moved = weights @ values + (1 - weights.sum(axis=-1))[..., None] * padding
    moved = moved.swapaxes(1, 2).reshape(2, 108, 8)
    wanted = seen["layers.0.blocks.1.drop_path1"].data.reshape(2, 108, 8)
    np.testing.assert_allclose(block.attn.proj(moved).data, wanted, rtol=1e-9, atol=1e-12)


# settings and clips -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"patch_size": 4}, r"patch_size: expected \(frames, rows, columns\), got 4"),
        ({"window_size": (7, 7)}, r"window_size: expected \(frames, rows, columns\), got \(7, 7\)"),
        ({"window_size": (0, 7, 7)}, "window_size: expected at least one token on each side"),
        ({"num_heads": (2, 3)}, "num_heads: 3 heads cannot share a width of 16 evenly"),
        ({"num_heads": (2,)}, r"num_heads: expected one number per stage \(2 depths\)"),
    ],
)
def test_a_setting_that_cannot_be_is_named(changes, message, rng):
    with pytest.raises(ValueError, match=message):
        VideoSwin(replace(TINY, **changes), rng=rng)


@pytest.mark.parametrize(
    ("shape", "hint"),
    [((6, 12, 12, 2), r"; a single clip is a batch of one: clips\[None\]"), ((1, 6, 12, 12, 3), ""),
     ((1, 2, 6, 12, 12), r"; channels come last here: np.moveaxis\(clips, 1, -1\)")],
)  # fmt: skip
def test_clips_of_another_shape(shape, hint, rng):
    with pytest.raises(ValueError, match=rf"clips: expected shape \(B, T, H, W, 2\), got .*\){hint}$"):
        VideoSwin(TINY, rng=rng)(np.zeros(shape, np.float32))


def test_photos_are_no_clips():
    with pytest.raises(ValueError, match="does not classify square photos"):
        photo_size(create_model("video_swin_tiny_patch244_window877_k400"), "it")


def test_counts_are_of_the_clip_that_the_config_says():
    model = create_model("video_swin_moving")
    assert describe(model).splitlines()[2].split()[2] == "4"
    assert count_macs(model) == count_macs(model, (1, 8, 16, 16, 1))
    assert count_macs(create_model("video_swin_moving", num_frames=16)) == 2 * count_macs(model) - 192  # but the head
    large = create_model("video_swin_base_patch244_window1677_ssv2")
    assert large(Blueprint((1, 32, 224, 224, 3))).shape == (1, 174)


def test_dropout_before_the_head_is_for_training(rng):
    model = restless(VideoSwin(replace(TINY, drop_rate=0.5), rng=rng), rng)
    x = clips_for(TINY, rng)
    still, again = model(x).data, model(x).data
    assert np.array_equal(still, again)
    assert not np.allclose(model.train(rng)(x).data, still)
    assert create_model("video_swin_tiny_patch244_window877_k400").head.drop.p == 0.5


def test_an_empty_batch(rng):
    assert VideoSwin(TINY, rng=rng)(np.zeros((0, 6, 12, 12, 2), np.float32)).shape == (0, 3)


# the laws ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "size"),
    [
        ({}, (5, 7, 12)),  # padded patches, padded windows
        ({"window_size": (8, 3, 5), "qkv_bias": False, "drop_rate": 0.3, "drop_path_rate": 0.3}, (4, 8, 10)),  # cut
    ],
)
def test_every_law_holds(changes, size, rng):
    config = replace(TINY, **changes, depths=(2, 1))
    check_model(lambda rng: VideoSwin(config, rng=rng), clips_for(config, rng, batch=8, size=size), rng=rng)


# training ---------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_it_learns_which_way_a_digit_moves(seed):
    """From clips whose frames are shuffled, it learns the axis at most: one guess in two is right."""
    splits = moving_digits(seed=seed)
    accuracy = trained(splits.train, splits.test, seed)
    assert accuracy > 0.95, f"seed {seed}: {accuracy:.1%}"
    rng = np.random.default_rng(seed)
    blind = trained(shuffled(splits.train, rng), shuffled(splits.test, rng), seed)
    assert blind < 0.6, f"seed {seed}: {blind:.1%} without the order of frames"


def shuffled(clips, rng):
    """The frames of every clip in an order of its own."""
    order = rng.random(clips.images.shape[:2]).argsort(axis=1)
    return np.take_along_axis(clips.images, order[:, :, None, None, None], axis=1), clips.labels


def trained(train, test, seed):
    """The test accuracy after ten passes."""
    rng = np.random.default_rng(seed)
    model = create_model("video_swin_moving", rng=rng)
    batches = Epochs(train, 32, 10, rng=rng)
    schedule = warmup_cosine(4e-3, warmup=len(batches) // 10, total=len(batches))
    gradient = clipped(gradient_of(classification()), norm=1.0)
    for _ in training(model, batches, gradient, AdamW(model), schedule, rng=rng):
        pass
    return evaluate(model, test).accuracy
