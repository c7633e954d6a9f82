"""DeiT: a ViT with a second token and a second head; the losses that teach it."""

import numpy as np
import pytest

from tinyvit import Tensor, capture, create_model, cross_entropy, gradients, save_weights, softmax
from tinyvit.data import Epochs, digits
from tinyvit.models.deit import DeiT, DeiTConfig
from tinyvit.models.vit import ViT, ViTConfig
from tinyvit.nn.embed import resample_positions
from tinyvit.train import (
    AdamW,
    classification,
    clipped,
    distilled_from,
    evaluate,
    gradient_of,
    training,
    warmup_cosine,
)

SIZES = {"img_size": (8, 12), "patch_size": 4, "in_chans": 2, "num_classes": 3, "embed_dim": 8, "depth": 2,
         "num_heads": 2}  # fmt: skip


def restless(model, rng):
    """The model in float64 with every parameter moved off its initial value."""
    model.astype(np.float64)
    for p in model.parameters():
        p.data = p.data + rng.normal(0, 0.3, p.shape)
    return model


@pytest.fixture
def model(rng):
    return restless(DeiT(DeiTConfig(**SIZES), rng=rng), rng)


@pytest.fixture
def images(rng):
    return rng.normal(size=(3, 8, 12, 2))


def test_the_tokens_are_class_distillation_patches_and_their_positions(model, images):
    with capture(model, "blocks.0.input", "patch_embed") as seen:
        model(images)
    z = seen["blocks.0.input"].data - model.pos_embed.data
    assert z.shape == (3, 2 + 6, 8)
    for i, token in enumerate((model.cls_token, model.dist_token)):
        np.testing.assert_allclose(z[:, i], np.broadcast_to(token.data[0, 0], (3, 8)), atol=1e-15)
    np.testing.assert_allclose(z[:, 2:], seen["patch_embed"].data, atol=1e-14)


def test_distilled_training_gives_both_heads_and_all_else_their_mean(model, images, rng):
    with capture(model, "norm") as seen:
        mean = model(images).data
    z, s = seen["norm"].data, model.state_dict()
    heads = [z[:, i] @ s[f"{name}.weight"].T + s[f"{name}.bias"] for i, name in enumerate(("head", "head_dist"))]
    np.testing.assert_allclose(mean, (heads[0] + heads[1]) / 2, rtol=1e-12)
    np.testing.assert_allclose(model.train(rng)(images).data, mean, rtol=1e-12)
    model.set_distilled_training()
    pair = model(images)
    assert isinstance(pair, tuple)
    for ours, theirs in zip(pair, heads, strict=True):
        np.testing.assert_allclose(ours.data, theirs, rtol=1e-12)
    assert np.array_equal(model.eval()(images).data, mean)


def test_the_code_averages_logits_not_probabilities(model, images, rng):
    """The paper speaks of adding the softmax outputs."""
    model.set_distilled_training()
    a, b = (y.data for y in model.train(rng)(images))
    mean = softmax(model.eval()(images).data)
    assert np.abs(mean - (softmax(a) + softmax(b)) / 2).max() > 1e-3
    np.testing.assert_allclose(mean, softmax((a + b) / 2), rtol=1e-12)


def test_without_the_token_it_is_a_vit(images, rng):
    plain = DeiT(DeiTConfig(**SIZES, distilled=False), rng=rng).astype(np.float64)
    plain.set_distilled_training()
    vit = ViT(ViTConfig(**SIZES), rng=rng).astype(np.float64)
    vit.load_state_dict(plain.state_dict())
    assert np.array_equal(plain(images).data, vit(images).data)
    assert not isinstance(plain.train(rng)(images), tuple)


def test_no_classes_means_the_mean_of_both_tokens(images, rng):
    model = restless(DeiT(DeiTConfig(**SIZES | {"num_classes": 0}), rng=rng), rng)
    with capture(model, "norm") as seen:
        features = model(images)
    np.testing.assert_allclose(features.data, seen["norm"].data[:, :2].mean(axis=1), rtol=1e-12)


def test_two_heads_do_not_read_a_mean():
    with pytest.raises(ValueError, match="global_pool: two heads read two tokens, expected \"token\", got 'avg'"):
        DeiTConfig(global_pool="avg")
    assert DeiTConfig(global_pool="avg", distilled=False).global_pool == "avg"


def test_two_heads_have_no_hidden_layer():
    with pytest.raises(ValueError, match="representation_size: the two heads of DeiT have no hidden layer"):
        DeiTConfig(representation_size=8)
    assert DeiTConfig(representation_size=8, distilled=False).representation_size == 8


@pytest.mark.parametrize("method", ["timm", "deit", "jax"])
def test_both_tokens_keep_their_positions_at_another_resolution(method, rng, tmp_path):
    source = create_model("deit_digits", rng=rng)
    path = save_weights(source, tmp_path / "m")
    model = create_model("deit_digits", img_size=(6, 12), weights=path, positions=method)
    wanted = resample_positions(source.pos_embed.data, (4, 4), (3, 6), prefix=2, method=method)
    assert np.array_equal(model.pos_embed.data, wanted)
    assert np.array_equal(model.pos_embed.data[:, :2], source.pos_embed.data[:, :2])


# learning from a teacher --------------------------------------------------------------------


def log_probabilities(z):
    return z - np.log(np.exp(z).sum(axis=-1, keepdims=True))


@pytest.mark.parametrize("tau", [None, 3.0])
def test_the_objective_is_the_papers(tau, model, images, rng):
    """Class logits learn the labels; distillation logits the teacher's decision, or its distribution."""
    teacher = restless(ViT(ViTConfig(**SIZES), rng=rng), rng)
    labels, lam, rows = np.array([2, 0, 1]), 0.3, np.arange(3)
    with capture(model.train(rng), "head", "head_dist") as seen:
        model(images)
    student, distilled = (seen[name].data for name in ("head", "head_dist"))
    taught = teacher(images).data
    first = -log_probabilities(student)[rows, labels].mean()
    if tau is None:
        second = -log_probabilities(distilled)[rows, taught.argmax(axis=1)].mean()
    else:
        log_t, log_s = log_probabilities(taught / tau), log_probabilities(distilled / tau)
        second = tau**2 * (np.exp(log_t) * (log_t - log_s)).sum() / 3  # KL(teacher ‖ student)
    loss = distilled_from(teacher, tau=tau, lam=lam)(model, (images, labels))
    np.testing.assert_allclose(loss.item(), (1 - lam) * first + lam * second, rtol=1e-12)


def test_each_head_has_a_teacher_of_its_own(model, images, rng):
    """What comes before the heads hears both."""
    teacher, labels = restless(ViT(ViTConfig(**SIZES), rng=rng), rng), np.array([2, 0, 1])
    heads = model.train(rng).head.weight, model.head_dist.weight, model.dist_token
    gradient = lambda lam: gradients(distilled_from(teacher, lam=lam)(model, (images, labels)), heads)  # noqa: E731
    assert [g.any() for g in gradient(0.0)] == [True, False, True]
    assert [g.any() for g in gradient(1.0)] == [False, True, True]


def test_a_teacher_is_not_taught(images, rng):
    teacher, student = (restless(ViT(ViTConfig(**SIZES), rng=rng), rng) for _ in range(2))
    x = Tensor(images, requires_grad=True)
    batch = (x, np.array([2, 0, 1]))
    loss = distilled_from(teacher, tau=2.0, lam=1.0)(student, batch)
    assert not any(g.any() for g in gradients(loss, teacher.parameters()))
    without = distilled_from(teacher, lam=0.0)(student, batch)
    np.testing.assert_allclose(without.item(), cross_entropy(student(images), batch[1]).item(), rtol=1e-12)


def fit(model, objective, splits, epochs, rng):
    batches = Epochs(splits.train, 32, epochs, rng=rng)
    schedule = warmup_cosine(4e-3, warmup=len(batches) // 10, total=len(batches))
    for _ in training(model, batches, clipped(gradient_of(objective), norm=1.0), AdamW(model), schedule, rng=rng):
        pass
    return evaluate(model, splits.test).accuracy


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_it_learns_the_digits_from_a_resnet(seed):
    rng, splits = np.random.default_rng(seed), digits(seed=seed)
    teacher, student = (create_model(name, rng=rng) for name in ("resnet_digits", "deit_digits"))
    fit(teacher, classification(), splits, 5, rng)
    accuracy = fit(student, distilled_from(teacher), splits, 12, rng)
    assert accuracy > 0.9, f"seed {seed}: {accuracy:.1%} of the test digits, expected over 90%"
