"""iGPT: a block against its equations, who sees whom, colours and back, and digits it learns to draw."""

from dataclasses import replace
from math import exp, sqrt

import numpy as np
import pytest

from tinyvit import create_model, cross_entropy
from tinyvit.data import Epochs, digits
from tinyvit.models.igpt import ImageGPT, ImageGPTConfig, next_pixel, painted, palette, quantise, shifted
from tinyvit.train import AdamW, clipped, gradient_of, predict, training, warmup_cosine

TINY = ImageGPTConfig(vocab_size=6, n_positions=9, n_embd=8, n_layer=2, n_head=2, n_inner=12)


def restless(model, rng, std=0.5):
    """The model in float64 with every parameter moved off its initial value."""
    model.astype(np.float64)
    for p in model.parameters():
        p.data = p.data + rng.normal(0, std, p.shape)
    return model


def test_a_block_is_its_equations(rng):
    block = restless(ImageGPT(TINY, rng=rng), rng).transformer.h[0]
    s, x = block.state_dict(), rng.normal(size=(5, 8))

    def norm(name, v):
        return np.array([row / sqrt((row**2).mean() + 1e-5) * s[f"{name}.weight"] for row in v])

    q, k, v = np.split(norm("ln_1", x) @ s["attn.c_attn.weight"] + s["attn.c_attn.bias"], 3, axis=1)
    y = np.zeros_like(x)
    for at in (slice(0, 4), slice(4, 8)):
        for i in range(5):
            weights = np.array([exp(q[i, at] @ k[j, at] / 2) for j in range(i + 1)])
            y[i, at] = weights / weights.sum() @ v[: i + 1, at]
    a = x + y @ s["attn.c_proj.weight"] + s["attn.c_proj.bias"]
    hidden = norm("ln_2", a) @ s["mlp.c_fc.weight"] + s["mlp.c_fc.bias"]
    hidden = hidden / (1 + np.exp(-1.702 * hidden))
    wanted = a + hidden @ s["mlp.c_proj.weight"] + s["mlp.c_proj.bias"]
    np.testing.assert_allclose(block(x[None]).data[0], wanted, rtol=1e-11)


def test_no_pixel_is_told_from_itself(rng):
    model, pixels = restless(ImageGPT(TINY, rng=rng), rng), rng.integers(5, size=(2, 9))
    other = pixels.copy()
    other[:, 4:] = (other[:, 4:] + 1) % 5
    before, after = (model(shifted(p, start=5)).data for p in (pixels, other))
    assert np.array_equal(before[:, :5], after[:, :5])
    assert not np.allclose(before[:, 5:], after[:, 5:])


def test_it_begins_with_every_colour_alike(rng):
    pixels = rng.integers(5, size=(2, 9))
    loss = cross_entropy(ImageGPT(TINY, rng=rng)(shifted(pixels, start=5)), pixels)
    np.testing.assert_allclose(loss.item(), np.log(5), rtol=1e-6)


def test_the_palette_has_nine_bits_and_paints_what_was_quantised(rng):
    clusters = palette()
    assert clusters.shape == (512, 3)
    assert len(np.unique(clusters, axis=0)) == 512
    pixels = rng.integers(512, size=(2, 6))
    images = painted(pixels, clusters, (2, 3))
    assert images.shape == (2, 2, 3, 3)
    assert np.array_equal(quantise(images + rng.uniform(-0.07, 0.07, images.shape), clusters), pixels)


def test_samples_keep_what_was_begun_and_follow_the_generator(rng):
    model, begun = restless(ImageGPT(TINY, rng=rng), rng), rng.integers(5, size=(3, 4))
    one, same, other = (model.sample(np.random.default_rng(seed), begun) for seed in (0, 0, 1))
    assert one.shape == (3, 9)
    assert one.max() < 5
    assert np.array_equal(one[:, :4], begun)
    assert np.array_equal(one, same)
    assert not np.array_equal(one, other)


def test_settings_that_cannot_be():
    with pytest.raises(ValueError, match="3 heads cannot share a width of 8"):
        replace(TINY, n_head=3)
    with pytest.raises(ValueError, match=r"activation_function: expected one of .* got 'elu'"):
        replace(TINY, activation_function="elu")
    with pytest.raises(ValueError, match=r"colours: expected \(B, N\) with N up to 9, got shape \(1, 10\)"):
        ImageGPT(TINY, rng=None)(np.zeros((1, 10), int))


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_it_learns_what_digits_look_like(seed):
    rng, clusters = np.random.default_rng(seed), palette(bits=2, channels=1)
    splits, model = digits(seed=seed), create_model("igpt_digits", rng=rng)
    batches = Epochs(splits.train, 32, 4, rng=rng)
    schedule = warmup_cosine(4e-3, warmup=len(batches) // 10, total=len(batches))
    gradient = clipped(gradient_of(next_pixel(clusters)), norm=1.0)
    for _ in training(model, batches, gradient, AdamW(model), schedule, rng=rng):
        pass
    pixels = quantise(splits.test.images, clusters)
    loss = cross_entropy(predict(model, shifted(pixels, start=4)), pixels).item()
    shares = np.stack([(quantise(splits.train.images, clusters) == k).mean(axis=0) for k in range(4)], axis=-1)
    alone = -np.log(np.maximum(shares, 1e-3))[np.arange(64), pixels].mean()  # each place's colours, on their own
    assert loss < 0.9 * alone, f"{loss:.3f} nats per pixel; {alone:.3f} without looking at other pixels"
