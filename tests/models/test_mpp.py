"""Masked patch prediction: what is corrupted and how often, colours in bits, the loss, and that it is learned."""

from dataclasses import replace

import numpy as np
import pytest

from tinyvit import capture, create_model, cross_entropy, gradients, no_grad, swapped
from tinyvit.data import Epochs, digits
from tinyvit.models.mpp import (
    Corruption,
    MaskedPatchPrediction,
    colour_classes,
    corrupt,
    masked_loss,
    masked_patches,
    mean_colours,
)
from tinyvit.models.vit import ViT, ViTConfig
from tinyvit.train import AdamW, clipped, decays, gradient_of, threaded, training, warmup_cosine

TINY = ViTConfig(img_size=(8, 12), patch_size=4, in_chans=2, num_classes=3, embed_dim=8, depth=2, num_heads=2)


@pytest.fixture
def model(rng):
    """In float64, every parameter moved off its initial value."""
    model = MaskedPatchPrediction(TINY, rng=rng).astype(np.float64)
    for p in model.parameters():
        p.data = p.data + rng.normal(0, 0.3, p.shape)
    return model


# what is corrupted --------------------------------------------------------------------------


def test_half_of_every_image_s_patches_are_corrupted_by_eight_one_one(rng):
    drawn = corrupt(rng, 4000, 16)
    assert (drawn.corrupted.sum(axis=1) == 8).all()
    moved, n = drawn.origin != np.arange(16), drawn.corrupted.sum()
    assert not (drawn.masked & ~drawn.corrupted).any()
    assert not (moved & ~drawn.corrupted).any()
    assert not (moved & drawn.masked).any()
    shares = [drawn.masked.sum() / n, moved.sum() / n]
    np.testing.assert_allclose(shares, [0.8, 0.1], atol=0.01)  # 32,000 patches: four standard deviations are 0.009
    assert len(np.unique(drawn.origin[moved])) == 16
    np.testing.assert_allclose(drawn.corrupted.mean(axis=0), 0.5, atol=0.04)  # at every place


def test_an_odd_number_of_patches_is_rounded_up(rng):
    assert (corrupt(rng, 3, 5).corrupted.sum(axis=1) == 3).all()
    with pytest.raises(ValueError, match="patches: expected at least two, one to tell the other from, got 1"):
        corrupt(rng, 3, 1)


def test_embeddings_are_masked_movedand_kept(model, rng):
    z = rng.normal(size=(2, 6, 8))
    masked = np.zeros((2, 6), bool)
    masked[0, 1] = masked[1, 4] = True
    origin = np.tile(np.arange(6), (2, 1))
    origin[1, 0] = 5
    y = model.corrupted(z, Corruption(np.ones((2, 6), bool), masked, origin)).data
    wanted = z.copy()
    wanted[0, 1] = wanted[1, 4] = model.mask_token.data[0, 0]
    wanted[1, 0] = z[1, 5]
    assert np.array_equal(y, wanted)


def test_a_masked_patch_is_not_seen_and_its_place_is(model, rng):
    x = rng.normal(size=(1, 8, 12, 2))
    other = x.copy()
    other[:, :4, :4] += 1  # the first patch
    masked = np.arange(6)[None] == 0
    drawn = Corruption(masked, masked, np.arange(6)[None])
    assert np.array_equal(model(x, drawn).data, model(other, drawn).data)
    assert not np.allclose(model(x).data, model(other).data)
    both = np.arange(6)[None] <= 1
    drawn = Corruption(both, both, np.arange(6)[None])
    logits = model(x, drawn).data
    assert not np.allclose(logits[0, 0], logits[0, 1]), "two masked patches are told apart by their positions"


def test_the_mask_token_does_not_decay(model):
    assert not decays("mask_token", model.mask_token.data)
    assert decays("head.weight", model.head.weight.data)


# colours ------------------------------------------------------------------------------------


def test_mean_colours_and_their_classes_one_by_one(rng):
    images = rng.uniform(0, 1.2, (2, 6, 9, 3))
    colours = mean_colours(images, 3)
    for b, n in np.ndindex(2, 6):
        r, c = divmod(n, 3)
        patch = np.minimum(images[b, 3 * r : 3 * r + 3, 3 * c : 3 * c + 3], 1)
        np.testing.assert_allclose(colours[b, n], patch.mean((0, 1)), rtol=1e-14)
        bins = [next(k for k in range(8) if m <= (k + 1) / 8) for m in colours[b, n]]
        assert colour_classes(colours)[b, n] == bins[0] + 8 * bins[1] + 64 * bins[2]


def test_bins_hold_their_upper_end():
    colours = np.array([0.0, 0.125, 0.126, 0.5, 0.875, 0.876, 1.0])[:, None]
    assert colour_classes(colours).tolist() == [0, 0, 1, 3, 6, 7, 7]
    assert colour_classes(colours, bits=1).tolist() == [0, 0, 0, 0, 1, 1, 1]


# the objective ------------------------------------------------------------------------------


def test_the_loss_is_the_mean_over_corrupted_patches(rng):
    logits, classes, corrupted = rng.normal(size=(2, 5, 8)), rng.integers(0, 8, (2, 5)), rng.random((2, 5)) < 0.5
    shares = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    wanted = [-np.log(shares[b, n, classes[b, n]]) for b, n in zip(*np.nonzero(corrupted), strict=True)]
    np.testing.assert_allclose(masked_loss(logits, classes, corrupted), np.mean(wanted), rtol=1e-13)


def test_the_objective_draws_from_the_model_and_undoes_the_scaling(model, rng):
    colours = rng.random((3, 8, 12, 2))
    mean, std = np.array([0.4, 0.5]), np.array([0.2, 0.3])
    images, objective = (colours - mean) / std, masked_patches(mean=mean, std=std)
    loss = objective(model.train(np.random.default_rng(5)), (images, None))
    drawn = corrupt(np.random.default_rng(5), 3, 6)
    classes = colour_classes(mean_colours(colours, 4))
    wanted = cross_entropy(model(images, drawn).data[drawn.corrupted], classes[drawn.corrupted])
    np.testing.assert_allclose(loss.data, wanted, rtol=1e-12)
    with pytest.raises(ValueError, match="corruption: in evaluation mode there is no generator; pass corrupt"):
        objective(model.eval(), (images, None))


def test_every_parameter_gets_its_derivative(model, rng):
    batch = (rng.random((4, 8, 12, 2)), None)
    objective, names = masked_patches(), dict(model.named_parameters())
    found = gradients(objective(model.train(np.random.default_rng(1)), batch), names.values())
    assert all(g.any() for g in found), [name for name, g in zip(names, found, strict=True) if not g.any()]
    v = {name: rng.normal(size=p.shape) for name, p in names.items()}
    stepped = {name: p.data + 1e-20j * v[name] for name, p in names.items()}
    with swapped(model.train(np.random.default_rng(1)), stepped), no_grad():
        slope = objective(model, batch).data.imag / 1e-20
    along = sum(np.vdot(g, v[name]) for name, g in zip(names, found, strict=True))
    np.testing.assert_allclose(along, slope, rtol=1e-10)


def test_a_batch_cut_over_threads_has_the_same_noise_whatever_their_number(model, rng):
    batch = (rng.random((12, 8, 12, 2)), np.zeros(12))
    losses = [threaded(gradient_of(masked_patches()), workers=workers, chunk=4)(
        model.train(np.random.default_rng(3)), batch)[0] for workers in (1, 2, 3)]  # fmt: skip
    np.testing.assert_allclose(losses, losses[0], rtol=1e-12)


@pytest.mark.parametrize("options", [{"global_pool": "avg"}, {"class_token": False, "global_pool": "avg"}, {}])
def test_the_encoder_is_a_vit_without_its_head(options, rng):
    config = replace(TINY, **options)
    model, vit = MaskedPatchPrediction(config, rng=rng), ViT(config, rng=rng)
    assert model(rng.random((2, 8, 12, 2)).astype(np.float32)).shape == (2, 6, 64)
    pretrained = model.encoder.state_dict()
    assert vit.state_dict().keys() - pretrained.keys() == {"head.weight", "head.bias"}
    vit.load_state_dict(pretrained, strict=False)
    x = rng.random((2, 8, 12, 2)).astype(np.float32)
    with capture(model, "encoder.blocks.1") as before, capture(vit, "blocks.1") as after:
        model(x), vit(x)
    assert np.array_equal(before["encoder.blocks.1"].data, after["blocks.1"].data)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_hidden_patches_of_digits_are_predicted(seed):
    """Better than the colours' frequencies, and than their frequencies at each place: so from the patches around."""
    rng = np.random.default_rng(seed)
    splits = digits(seed=seed)
    model = MaskedPatchPrediction(create_model("vit_digits").config, rng=rng)
    batches = Epochs(splits.train, 32, 20, rng=rng)
    schedule = warmup_cosine(4e-3, warmup=len(batches) // 10, total=len(batches))
    for _ in training(
        model, batches, clipped(gradient_of(masked_patches()), norm=1.0), AdamW(model), schedule, rng=rng
    ):
        pass

    images = splits.test.images
    drawn = corrupt(np.random.default_rng(seed), len(images), 16)
    seen, wanted = (colour_classes(mean_colours(x, 2)) for x in (splits.train.images, images))
    counts = 1 + np.stack([np.bincount(column, minlength=8) for column in seen.T])  # (16 places, 8 classes)
    blind = masked_loss(
        np.log(np.broadcast_to(counts.sum(0) / counts.sum(), (*wanted.shape, 8))), wanted, drawn.corrupted
    )
    placed = masked_loss(np.log(np.broadcast_to(counts / counts.sum(1, keepdims=True), (*wanted.shape, 8))), wanted,
                         drawn.corrupted)  # fmt: skip
    with no_grad():
        loss = masked_loss(model(images, drawn), wanted, drawn.corrupted).item()
    assert loss < 0.7 * blind, f"seed {seed}: {loss:.3f}; the colours' frequencies alone have {blind:.3f}"
    assert loss < placed - 0.08, f"seed {seed}: {loss:.3f}; their frequencies at each place have {placed:.3f}"
