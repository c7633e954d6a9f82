"""The loop, threads, and what a run promises."""

import gc
import weakref

import numpy as np
import pytest

import tinyvit
from tinyvit.data import Epochs, digits
from tinyvit.machine import cores, useful_workers
from tinyvit.train import (
    AdamW,
    classification,
    clipped,
    constant,
    evaluate,
    gradient_of,
    predict,
    threaded,
    training,
)


def test_an_update_leaves_the_old_array_as_it_was(rng):
    model = tinyvit.create_model("vit_digits", rng=rng)
    before = model.state_dict()
    copies = {name: array.copy() for name, array in before.items()}
    g = {name: np.ones_like(p.data) for name, p in model.named_parameters()}
    AdamW(model).step(g, 0.1)
    assert all(np.array_equal(before[name], copies[name]) for name in before)
    assert all(p.dtype == np.float32 for p in model.parameters())


def test_the_gradient_of_an_objective_is_that_of_its_loss(rng):
    model = tinyvit.create_model("vit_digits", rng=rng).astype(np.float64)
    batch = rng.random((5, 8, 8, 1)), rng.integers(0, 10, 5)
    objective = classification(smoothing=0.1)
    _, g = gradient_of(objective)(model, batch)
    v = {name: rng.normal(size=p.shape) for name, p in model.named_parameters()}
    with tinyvit.swapped(model, {name: p.data + 1e-20j * v[name] for name, p in model.named_parameters()}):
        step = objective(model, batch).data.imag / 1e-20
    along = sum(np.sum(g[name] * v[name]) for name in v)
    assert abs(along - step) < 1e-12 * abs(step), f"gradient·v is {along}, the complex step says {step}"


def small_run(seed=0, dropout=0.1):
    rng = np.random.default_rng(seed)
    model = tinyvit.create_model("vit_digits", rng=rng, depth=1, drop_rate=dropout, drop_path_rate=0.1)
    data = digits(seed=seed).train
    epochs = Epochs((data.images[:128], data.labels[:128]), 32, 3, rng=rng)
    losses = [
        s.loss for s in training(model, epochs, gradient_of(classification()), AdamW(model), constant(2e-3), rng=rng)
    ]
    return model, losses


def test_the_same_seed_gives_the_same_bits():
    (a, losses_a), (b, losses_b) = small_run(), small_run()
    assert losses_a == losses_b
    assert all(np.array_equal(x, b.state_dict()[name]) for name, x in a.state_dict().items())
    assert small_run(seed=1)[1] != losses_a


def test_the_model_is_in_evaluation_mode_at_every_yield_and_after(rng):
    model = tinyvit.create_model("resnet_digits", rng=rng)
    batches = [(rng.random((4, 8, 8, 1), dtype=np.float32), rng.integers(0, 10, 4))] * 2
    for _ in training(model, batches, gradient_of(classification()), AdamW(model), constant(1e-3), rng=rng):
        assert not model.training
    assert not model.training
    assert model.bn1.num_batches_tracked.data == 2


def test_a_loss_that_is_not_finite_stops_the_run(rng):
    model = tinyvit.create_model("vit_digits", rng=rng)
    model.head.bias.data = np.full(10, np.nan, np.float32)
    batches = [(np.zeros((2, 8, 8, 1), np.float32), np.array([0, 1]))]
    with pytest.raises(FloatingPointError, match="step 0"):
        list(training(model, batches, gradient_of(classification()), AdamW(model), constant(1e-3), rng=rng))
    assert not model.training, "the model was left in training mode"


def test_the_graph_of_a_step_is_gone_when_the_step_is(rng):
    model = tinyvit.create_model("vit_digits", rng=rng)
    graphs = []

    def objective(model, batch):
        loss = classification()(model, batch)
        graphs.append(weakref.ref(loss))
        return loss

    gc.disable()
    try:
        gradient_of(objective)(model, (rng.random((2, 8, 8, 1), dtype=np.float32), np.array([0, 1])))
        assert graphs[0]() is None, "something keeps the graph alive"
    finally:
        gc.enable()


def test_evaluation_does_not_depend_on_the_batch_size(rng):
    model = tinyvit.create_model("resnet_digits", rng=rng)
    data = digits().test
    whole, parts = evaluate(model, data, batch_size=300), evaluate(model, data, batch_size=7)
    assert whole.accuracy == parts.accuracy
    assert abs(whole.loss - parts.loss) < 1e-5


def test_epochs_know_their_length_and_shuffle_anew(rng):
    data = (np.arange(10)[:, None], np.arange(10))
    epochs = Epochs(data, 4, 3, rng=rng)
    seen = [tuple(labels) for _, labels in epochs]
    assert len(epochs) == len(seen) == 6
    assert len(set(seen)) == 6


# threads -----------------------------------------------------------------------------------


def some_digits(rng, count):
    return rng.random((count, 8, 8, 1)), rng.integers(0, 10, count)


@pytest.mark.parametrize(("count", "chunk", "workers"), [(13, 4, 2), (12, 5, 3), (7, 1, 2), (3, 8, 2)])
def test_a_batch_cut_over_threads_has_the_same_gradient(count, chunk, workers, rng):
    model = tinyvit.create_model("vit_digits", rng=rng).astype(np.float64)
    batch = some_digits(rng, count)
    whole = gradient_of(classification())
    (loss, g), (loss_cut, g_cut) = whole(model, batch), threaded(whole, workers=workers, chunk=chunk)(model, batch)
    assert abs(loss - loss_cut) < 1e-12
    for name, array in g.items():
        assert np.abs(array - g_cut[name]).max() < 1e-12 * (1 + np.abs(array).max()), name


def noisy(seed, workers):
    rng = np.random.default_rng(seed)
    model = tinyvit.create_model("vit_digits", rng=rng, drop_rate=0.2, drop_path_rate=0.2, attn_drop_rate=0.1)
    batch = some_digits(rng, 24)
    model.train(np.random.default_rng(7))
    return threaded(gradient_of(classification()), workers=workers, chunk=4)(model, batch)


def test_threads_repeat_their_bits_and_their_number_does_not_change_the_noise():
    (loss, g), (again, g_again), (other, g_other) = noisy(0, 2), noisy(0, 2), noisy(0, 3)
    assert loss == again
    assert all(np.array_equal(g[name], g_again[name]) for name in g)
    assert abs(loss - other) < 1e-6, "the noise depends on the number of threads"
    assert all(np.abs(g[name] - g_other[name]).max() < 1e-4 for name in g)


def test_a_model_in_which_samples_meet_is_not_cut(rng):
    model = tinyvit.create_model("resnet_digits", rng=rng)
    batch = some_digits(rng, 20)
    whole = gradient_of(classification())
    model.train(rng)
    loss, g = whole(model, batch)
    loss_cut, g_cut = threaded(whole, workers=2, chunk=4)(model, batch)
    assert loss == loss_cut
    assert all(np.array_equal(g[name], g_cut[name]) for name in g)


def test_an_error_in_a_thread_reaches_the_caller(rng):
    model = tinyvit.create_model("vit_digits", rng=rng)
    images, _ = some_digits(rng, 20)
    with pytest.raises(ValueError, match="classes must lie in 0 … 9"):
        threaded(gradient_of(classification()), workers=2, chunk=4)(model, (images, np.full(20, 11)))
    with pytest.raises(ValueError, match="workers and chunk"):
        threaded(gradient_of(classification()), chunk=0)


def test_predictions_do_not_depend_on_how_they_are_cut(rng):
    model = tinyvit.create_model("vit_digits", rng=rng).astype(np.float64)
    images, _ = some_digits(rng, 21)
    whole = model(images).data
    for workers, chunk in ((1, 16), (2, 4), (3, 21)):
        assert np.abs(predict(model, images, workers=workers, chunk=chunk) - whole).max() < 1e-12
    assert predict(model, images[:0]).shape == (0, 10)


def test_who_listens_hears_the_whole_batch_whatever_the_number_of_threads(rng):
    model = tinyvit.create_model("vit_digits", rng=rng)
    batch = some_digits(rng, 20)
    heard = {}
    for workers in (1, 2):
        derivative = threaded(gradient_of(classification()), workers=workers, chunk=4)
        with tinyvit.capture(model, "blocks.0.attn.weights") as predicted:
            predict(model, batch[0], workers=workers, chunk=4)
        with tinyvit.capture(model, "head") as trained, tinyvit.profile(model) as table:
            derivative(model, batch)
        assert predicted["blocks.0.attn.weights"].shape == (20, 4, 17, 17)
        assert trained["head"].shape == (20, 10)
        heard[workers] = [(row.module, row.op, row.sweep, row.calls, row.macs) for row in table.by_op().rows]
    assert sorted(heard[1]) == sorted(heard[2])


def test_a_small_model_stays_on_one_thread():
    assert useful_workers(tinyvit.create_model("vit_digits").num_parameters()) == 1
    assert useful_workers(tinyvit.create_model("vit_tiny_patch16_224").num_parameters()) == cores()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "epochs", "floor"),
    [
        ("vit_digits", 12, 0.90),
        ("resnet_digits", 5, 0.96),
        ("deepvit_digits", 15, 0.90),
        ("cait_digits", 15, 0.90),
        ("mixer_digits", 12, 0.92),
        ("swin_digits", 12, 0.93),
        ("volo_digits", 8, 0.92),
        ("ceit_digits", 8, 0.93),
        ("t2t_vit_digits", 12, 0.93),
        ("t2t_vit_t_digits", 12, 0.92),
        ("sasa_digits", 5, 0.93),
        ("nat_digits", 8, 0.93),
        ("regnety_digits", 6, 0.94),
        ("efficientnet_digits", 6, 0.95),
        ("densenet_digits", 5, 0.95),
        ("alexnet_digits", 8, 0.94),
        ("vgg_digits", 8, 0.94),
        ("resnest_digits", 5, 0.96),
        ("resnext_digits", 5, 0.95),
        ("resnet_d_digits", 5, 0.94),
        ("resnetv2_digits", 5, 0.95),
        ("bit_digits", 5, 0.95),
        ("convnext_digits", 6, 0.94),
    ],
)
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_small_models_learn_the_digits(name, epochs, floor, seed):
    rng = np.random.default_rng(seed)
    splits = digits(seed=seed)
    model = tinyvit.create_model(name, rng=rng)
    batches = Epochs(splits.train, 32, epochs, rng=rng)
    schedule = tinyvit.train.warmup_cosine(4e-3, warmup=len(batches) // 10, total=len(batches))
    gradient = clipped(gradient_of(classification()), norm=1.0)
    for _ in training(model, batches, gradient, AdamW(model), schedule, rng=rng):
        pass
    accuracy = evaluate(model, splits.test).accuracy
    assert accuracy > floor, f"{name}, seed {seed}: {accuracy:.1%} of the test digits, expected over {floor:.0%}"
