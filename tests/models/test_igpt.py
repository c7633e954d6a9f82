"""iGPT: a block against its equations, who sees whom, colours and back, and digits it learns to draw."""

from dataclasses import replace
from math import exp, sqrt

import numpy as np
import pytest

from tinyvit import WeightFileError, create_model, cross_entropy, gradients
from tinyvit.data import Epochs, digits
from tinyvit.models.igpt import (
    ImageGPT,
    ImageGPTConfig,
    hidden_pixels,
    next_pixel,
    painted,
    palette,
    quantise,
    read_clusters,
    shifted,
)
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


STILL = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}


def test_a_hidden_pixel_is_told_from_all_others_and_not_from_its_colour(rng):
    model, pixels = restless(ImageGPT(replace(TINY, bert=True), rng=rng), rng), rng.integers(5, size=(2, 9))
    hidden, others = np.zeros((2, 9), bool), [i for i in range(9) if i != 4]
    hidden[:, 4] = True
    before = model(pixels, hidden).data
    changed = lambda i: np.where(np.arange(9) == i, (pixels + 1) % 5, pixels)  # noqa: E731
    assert np.array_equal(model(changed(4), hidden).data, before), "its colour was seen"
    assert all(not np.allclose(model(changed(i), hidden).data[:, 4], before[:, 4]) for i in others)
    assert not np.allclose(model(pixels).data, before), "zeros stand for it, not its colour"


def test_the_loss_is_the_mean_over_images_of_the_mean_over_hidden_pixels(rng):
    model = restless(ImageGPT(replace(TINY, bert=True, **STILL), rng=rng), rng)
    images, clusters = rng.uniform(size=(4, 3, 3, 1)), palette(2, channels=1)
    pixels, hidden = quantise(images, clusters), np.random.default_rng(3).random((4, 9)) < 0.4
    assert len(set(hidden.sum(axis=1))) > 1, "images of unequal numbers of hidden pixels"
    scores = model(pixels, hidden).data
    per_image = [np.mean([np.log(np.exp(s).sum()) - s[k] for s, k in zip(row[h], p[h], strict=True)])
                 for row, p, h in zip(scores, pixels, hidden, strict=True)]  # fmt: skip
    loss = hidden_pixels(clusters, share=0.4)(model.train(np.random.default_rng(3)), (images, None))
    np.testing.assert_allclose(loss.item(), np.mean(per_image), rtol=1e-11)
    assert all(g.any() for g in gradients(loss, model.parameters()))


def test_each_objective_has_its_model(rng):
    batch = (rng.uniform(size=(2, 3, 3, 1)), None)
    objective = hidden_pixels(palette(2, channels=1))
    with pytest.raises(ValueError, match="trained by next_pixel; use bert=True"):
        objective(ImageGPT(TINY, rng=rng).train(rng), batch)
    both_ways = ImageGPT(replace(TINY, bert=True), rng=rng)
    with pytest.raises(ValueError, match="in evaluation mode there is none"):
        objective(both_ways, batch)
    with pytest.raises(ValueError, match="bert: a model that sees all pixels cannot draw"):
        both_ways.sample(rng, np.zeros((1, 0), int))


def test_without_biases_it_has_the_parameters_of_the_authors_code(rng):
    """Nine biases per width and layer fewer than in the transformers package."""
    for name, fewer in (("igpt_small", 9 * 512 * 24), ("igpt_xl", 9 * 3072 * 60)):
        with_biases, without = (create_model(name, bias=bias).num_parameters() for bias in (True, False))
        assert with_biases - without == fewer
    assert create_model("igpt_small", bias=False).num_parameters() == 76_571_648
    model = ImageGPT(replace(TINY, bias=False), rng=rng)
    assert not [name for name in model.state_dict() if name.endswith("bias")]
    loss = cross_entropy(restless(model, rng)(rng.integers(5, size=(2, 9))), rng.integers(5, size=(2, 9)))
    assert all(g.any() for g in gradients(loss, model.parameters()))


def test_the_authors_palette_is_read(rng, tmp_path):
    """Colours of -1 … 1 there, of 0 … 1 here; 127.5 (c + 1) is what the authors paint."""
    centres, path = rng.uniform(-1, 1, (512, 3)).astype(np.float32), tmp_path / "kmeans_centers.npy"
    np.save(path, centres)
    clusters = read_clusters(path)
    np.testing.assert_allclose(255 * clusters, 127.5 * (centres.astype(float) + 1), rtol=1e-12)
    assert np.array_equal(quantise(clusters.reshape(1, 16, 32, 3), clusters), np.arange(512)[None])


def test_a_palette_that_is_none_is_refused(rng, tmp_path):
    path = tmp_path / "kmeans_centers.npy"
    for array in (
        np.zeros((512, 4)),
        np.zeros(3),
        np.zeros((512, 3), int),
        np.full((512, 3), 1.5),
        np.full((9, 3), np.nan),
    ):
        np.save(path, array)
        with pytest.raises(WeightFileError, match=r"kmeans_centers.npy: expected colours \(K, 3\), numbers in -1 … 1"):
            read_clusters(path)
    np.save(path, np.array([[{}]], dtype=object), allow_pickle=True)
    with pytest.raises(WeightFileError, match="objects"):
        read_clusters(path)
    np.save(path, np.zeros((512, 3)))
    whole = path.read_bytes()
    for content in (b"", b"PK\3\4", whole[:-8], whole[:40], whole.replace(b"(512, 3)", b"(5120000000, 3)")):
        path.write_bytes(content)
        with pytest.raises(WeightFileError, match=r"kmeans_centers.npy"):
            read_clusters(path)


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


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_it_learns_to_fill_holes_in_digits(seed):
    rng, clusters = np.random.default_rng(seed), palette(bits=2, channels=1)
    splits, model = digits(seed=seed), create_model("igpt_digits", rng=rng, bert=True)
    batches = Epochs(splits.train, 32, 8, rng=rng)
    schedule = warmup_cosine(4e-3, warmup=len(batches) // 10, total=len(batches))
    gradient = clipped(gradient_of(hidden_pixels(clusters)), norm=1.0)
    for _ in training(model, batches, gradient, AdamW(model), schedule, rng=rng):
        pass
    pixels = quantise(splits.test.images, clusters)
    hidden = np.random.default_rng(100).random(pixels.shape) < 0.15
    scores = model(pixels, hidden).data[hidden]
    loss = cross_entropy(scores, pixels[hidden])
    shares = np.stack([(quantise(splits.train.images, clusters) == k).mean(axis=0) for k in range(4)], axis=-1)
    places = np.nonzero(hidden)[1]
    alone = -np.log(np.maximum(shares, 1e-3))[places, pixels[hidden]].mean()
    assert loss < 0.9 * alone, f"seed {seed}: {loss:.3f} nats per hidden pixel; {alone:.3f} by its place alone"
