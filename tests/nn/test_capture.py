"""Seeing and changing what happens inside a model, by name."""

import re
import threading
from collections import Counter

import numpy as np
import pytest

import tinyvit as tv
from tinyvit.autodiff.watch import Listener, listening, watch
from tinyvit.nn.attention import Attention
from tinyvit.nn.describe import input_shape, measure
from tinyvit.nn.module import Module

WEIGHTS = [f"blocks.{i}.attn.weights" for i in range(3)]


@pytest.fixture
def model(rng):
    """A ViT of three blocks and four heads, in float64, whose attention is far from uniform."""
    model = tv.create_model("vit_digits", rng=rng).astype(np.float64)
    for block in model.blocks:
        block.attn.qkv.weight.data = rng.normal(size=block.attn.qkv.weight.shape) * 0.5
    return model


@pytest.fixture
def images(rng):
    return rng.normal(size=(2, 8, 8, 1))


class Ops(Listener):
    """How often each op ran."""

    def __init__(self):
        self.calls = Counter()

    def called(self, op, inputs, options, value, seconds):
        self.calls[op.name] += 1


# seeing ------------------------------------------------------------------------------------


def test_attention_weights_by_pattern(model, images):
    with tv.capture(model, "blocks.*.attn.weights") as seen:
        model(images)
    assert list(seen) == WEIGHTS
    for weights in seen.values():
        assert weights.shape == (2, 4, 17, 17)
        assert weights.data.min() >= 0
        np.testing.assert_allclose(weights.data.sum(-1), 1, atol=1e-14)


def test_they_are_the_weights_of_the_formula(model, images):
    with tv.capture(model, "blocks.1.attn.weights", "blocks.1.norm1") as seen:
        model(images)
    attn = model.blocks[1].attn
    qkv = seen["blocks.1.norm1"].data @ attn.qkv.weight.data.T + attn.qkv.bias.data
    q, k, _ = np.moveaxis(qkv.reshape(2, 17, 3, 4, 8), 2, 0).transpose(0, 1, 3, 2, 4)
    scores = np.exp(q @ k.swapaxes(-1, -2) / np.sqrt(8))
    expected = scores / scores.sum(-1, keepdims=True)
    np.testing.assert_allclose(seen["blocks.1.attn.weights"].data, expected, atol=1e-13)


def test_outputs_of_modules(model, images):
    with tv.capture(model, "blocks.2", "head", "") as seen:
        logits = model(images)
    assert {name: value.shape for name, value in seen.items()} == {
        "blocks.2": (2, 17, 32),
        "head": (2, 10),
        "": (2, 10),
    }
    assert seen[""] is seen["head"] is logits


def test_a_question_mark_and_several_patterns(model, images):
    with tv.capture(model, "blocks.?.attn", "blocks.[02].attn.weights") as seen:
        model(images)
    assert sorted(seen) == ["blocks.0.attn", "blocks.0.attn.weights", "blocks.1.attn", "blocks.2.attn",
                            "blocks.2.attn.weights"]  # fmt: skip


def test_seeing_does_not_change_what_is_seen(model, images):
    with tv.no_grad():
        alone = model(images).data
        with tv.capture(model, "*") as seen:
            watched = model(images).data
    assert len(seen) > 30
    np.testing.assert_allclose(watched, alone, rtol=1e-15, atol=1e-15)


@pytest.mark.parametrize("name", ["vit_digits", "resnet_digits"])
def test_every_module_that_runs_can_be_seen(name):
    model = tv.create_model(name)
    with tv.capture(model, "*") as seen:
        model(tv.Blueprint(input_shape(model)))
    assert {row.name for row in measure(model, input_shape(model))} <= set(seen)


def test_a_module_that_runs_twice_leaves_its_latest_value(model, images):
    with tv.capture(model, "head") as seen:
        model(images)
        second = model(images * 2)
    assert seen["head"] is second


# kernels -----------------------------------------------------------------------------------


def counts(model, images, *patterns, edit=None):
    with listening(Ops()) as ops, tv.no_grad(), tv.capture(model, *patterns, edit=edit):
        model(images)
    return ops.calls


def test_kernels_open_only_where_a_tap_is_wanted(model, images):
    alone, one, every = (counts(model, images, *p) for p in ([], ["blocks.1.attn.weights"], ["*.weights"]))
    assert (alone["self_attention"], alone["softmax"], alone["matmul"]) == (3, 0, 0)
    assert (one["self_attention"], one["softmax"], one["matmul"]) == (2, 1, 2)
    assert (every["self_attention"], every["softmax"], every["matmul"]) == (0, 3, 6)
    kernels = ("linear", "layer_norm", "gelu", "conv2d")  # they hide nothing that was asked for
    assert all(alone[k] == every[k] > 0 for k in kernels)


def test_a_modules_output_opens_nothing(model, images):
    assert counts(model, images, "blocks.1.attn", "head") == counts(model, images)


def test_an_edit_opens_what_it_edits(model, images):
    assert counts(model, images, edit={"blocks.0.attn.weights": lambda w: w})["softmax"] == 1


# derivatives -------------------------------------------------------------------------------


def test_derivatives_with_respect_to_what_was_seen(model, images):
    """Against the complex step, taken by editing the very same values."""
    with tv.capture(model, *WEIGHTS, "blocks.1") as seen:
        score = model(images)[0, 3]
    slopes = dict(zip(seen, tv.gradients(score, list(seen.values())), strict=True))
    rng = np.random.default_rng(0)
    for name, slope in slopes.items():
        step = 1e-20j * rng.normal(size=slope.shape)
        with tv.no_grad(), tv.capture(model, edit={name: lambda value, step=step: value + step}):
            exact = model(images)[0, 3].item().imag
        assert np.sum(slope * step).imag == pytest.approx(exact, rel=1e-11)


def test_derivatives_of_parameters_are_the_same_when_watched(model, images):
    def slopes(*patterns):
        with tv.capture(model, *patterns):
            loss = tv.cross_entropy(model(images), np.array([1, 2]))
        return tv.gradients(loss, model.parameters())

    for alone, watched in zip(slopes(), slopes("*.weights"), strict=True):
        np.testing.assert_allclose(watched, alone, rtol=1e-10, atol=1e-14)


def test_second_derivatives_through_what_was_seen(rng):
    """A derivative of an attention gradient: the sweep of the opened equation can be swept again."""
    attn = Attention(4, 2, rng=rng).astype(np.float64)
    x = tv.Tensor(rng.normal(size=(1, 3, 4)), requires_grad=True)
    with tv.capture(attn, "weights") as seen:
        loss = tv.sum(attn(x) ** 2)
    (first,) = tv.gradients(loss, seen["weights"], differentiable=True)
    (second,) = tv.gradients(tv.sum(first**2), x)
    assert second.shape == x.shape
    assert np.abs(second).max() > 0


def test_under_no_grad_there_are_values_and_no_graph(model, images):
    with tv.no_grad(), tv.capture(model, "*.weights") as seen:
        model(images)
    assert all(not w.requires_grad and w.op is None for w in seen.values())
    assert len(seen) == 3


# plain arrays ------------------------------------------------------------------------------


class Plain(Module):
    """Attention without parameters: on arrays it gives arrays."""

    def forward(self, x):
        return tv.scaled_dot_product_attention(x, x, x)


class Pair(Module):
    """Two of the same module one after the other, and one that hangs in two places."""

    def __init__(self):
        self.first, self.second = Plain(), Plain()
        self.again = self.first

    def forward(self, x):
        return self.again(self.second(self.first(x)))


def test_on_arrays_what_is_seen_are_arrays(rng):
    x = rng.normal(size=(1, 3, 2))
    module = Plain()
    with tv.capture(module, "weights", "") as seen:
        out = module(x)
    assert type(seen["weights"]) is np.ndarray
    assert seen[""] is out
    np.testing.assert_allclose(seen["weights"] @ x, out)


# changing ----------------------------------------------------------------------------------


def without_head(head):
    """An edit that takes one head's weights away."""

    def edit(weights):
        keep = np.ones((4, 1, 1))
        keep[head] = 0
        return weights * keep

    return edit


def test_a_head_is_ablated(model, images):
    """Without its weights a head adds nothing: the same as zeros in its columns of the output projection."""
    with tv.no_grad():
        with tv.capture(model, edit={"blocks.1.attn.weights": without_head(2)}):
            ablated = model(images).data
        weight = model.blocks[1].attn.proj.weight
        weight.data = weight.data.copy()
        weight.data[:, 16:24] = 0
        np.testing.assert_allclose(ablated, model(images).data, atol=1e-13)


def test_uniform_attention(model, images):
    """With the same weight for every token, attention is the mean of the values."""
    uniform = {"blocks.0.attn.weights": lambda w: tv.Tensor(np.full(w.shape, 1 / w.shape[-1]))}
    with tv.no_grad(), tv.capture(model, "blocks.0.norm1", "blocks.0.attn", edit=uniform) as seen:
        model(images)
    attn = model.blocks[0].attn
    values = (seen["blocks.0.norm1"].data @ attn.qkv.weight.data.T + attn.qkv.bias.data)[..., 64:]
    expected = values.mean(1, keepdims=True) @ attn.proj.weight.data.T + attn.proj.bias.data
    np.testing.assert_allclose(seen["blocks.0.attn"].data, np.broadcast_to(expected, (2, 17, 32)), atol=1e-13)


def test_what_is_seen_is_what_goes_on(model, images):
    with tv.capture(model, "head", edit={"head": lambda y: y * 0}) as seen:
        logits = model(images)
    assert seen["head"] is logits
    assert not logits.data.any()


def test_two_edits_of_one_value_follow_each_other(model, images):
    edit = {"head": lambda y: y * 0 + 1, "hea*": lambda y: y * 3}
    with tv.capture(model, edit=edit):
        assert np.all(model(images).data == 3)


def test_derivatives_flow_through_an_edit(model, images):
    loss = {}
    for scale in (1.0, 2.0):
        with tv.capture(model, edit={"head": lambda y, scale=scale: y * scale}):
            loss[scale] = tv.gradients(tv.sum(model(images)), model.head.weight)[0]
    np.testing.assert_allclose(loss[2.0], 2 * loss[1.0])


# where it does not reach -------------------------------------------------------------------


def test_nested_captures_each_see_their_own(model, images):
    with tv.capture(model, "blocks.0.attn.weights") as outer:
        with tv.capture(model, "head", edit={"blocks.0.attn.weights": lambda w: w * 0}) as inner:
            model(images)
        assert list(inner) == ["head"]
        assert list(outer) == ["blocks.0.attn.weights"]
        assert outer["blocks.0.attn.weights"].data.any()  # the outer one hears first, before the inner one's edit
        first = inner["head"]
        model(images)
    assert inner["head"] is first


def test_of_two_models_the_captured_one_is_seen(model, images, rng):
    other = tv.create_model("vit_digits", rng=rng)
    with tv.capture(model, "head", "*.weights") as seen:
        logits = model(images)
        with listening(Ops()) as ops:
            other(images)
    assert seen["head"] is logits
    assert (ops.calls["self_attention"], ops.calls["softmax"]) == (3, 0)


def test_a_part_of_a_model_can_be_captured_under_its_own_names(model, images):
    with tv.capture(model.blocks[1], "attn.weights", "") as seen:
        model(images)
    assert list(seen) == ["attn.weights", ""]


def test_a_shared_module_is_seen_under_one_name(rng):
    pair = Pair()
    with tv.capture(pair, "*.weights") as seen:
        pair(rng.normal(size=(1, 3, 2)))
    assert sorted(seen) == ["again.weights", "second.weights"]


def test_another_thread_is_not_heard(model, images):
    done = []
    with tv.capture(model, "head") as seen:
        mine = model(images)
        thread = threading.Thread(target=lambda: done.append((model(images * 2), watch().listeners)))
        thread.start()
        thread.join()
    assert seen["head"] is mine
    assert done[0][1] == ()


def test_threads_capture_at_the_same_time(model, images):
    found, meet = {}, threading.Barrier(3)

    def work(i):
        with tv.no_grad(), tv.capture(model, "blocks.*.attn.weights", "head") as seen:
            meet.wait()
            out = model(images * i)
            meet.wait()
        found[i] = (seen, out)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(len(seen) == 4 and seen["head"] is out for seen, out in found.values())


# mistakes ----------------------------------------------------------------------------------


def run(model, images, *patterns, edit=None):
    with tv.capture(model, *patterns, edit=edit):
        model(images)


@pytest.mark.parametrize(
    ("pattern", "hint"),
    [
        ("blocks.*.attn.wieghts", r"names look like blocks\.\d\.attn\.weights"),
        ("block.0", r"names look like blocks\.0"),
        ("zzz", "names look like patch_embed.proj, patch_embed, pos_drop"),
    ],
)
def test_a_wrong_pattern_is_told_what_names_look_like(model, images, pattern, hint):
    with pytest.raises(ValueError, match=rf"nothing called '{re.escape(pattern)}' ran; {hint}"):
        run(model, images, "head", pattern)
    with pytest.raises(ValueError, match=rf"nothing called '{re.escape(pattern)}' ran; {hint}"):
        run(model, images, "head", edit={pattern: lambda value: value})


def test_a_model_that_did_not_run(model):
    with pytest.raises(ValueError, match="'head' ran; the captured model was not called"), tv.capture(model, "head"):
        pass


def test_an_exception_inside_leaves_nothing_behind(model, images):
    before = watch()
    with pytest.raises(ZeroDivisionError), tv.capture(model, "head"):
        1 / 0  # noqa: B018
    assert watch() is before

    def fails(_):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError), tv.capture(model, edit={"blocks.1.attn.weights": fails}):
        model(images)
    assert watch() is before
    assert counts(model, images)["softmax"] == 0


def test_nothing_is_kept_alive_but_what_was_seen(model, images):
    import gc
    import weakref

    with tv.capture(model, "head") as seen:
        model(images)
    ghost = weakref.ref(seen["head"])
    gc.collect()
    assert ghost() is not None
    seen.clear()
    assert ghost() is None  # at once, without a collection: there are no circles


def test_a_module_s_input_is_captured_when_a_pattern_says_so(rng):
    model = tv.create_model("vit_digits", rng=rng)
    images = rng.random((2, 8, 8, 1), dtype=np.float32)
    with tv.capture(model, "blocks.*.input", "blocks.0") as seen:
        model(images)
    assert not any(name.endswith(".weights") for name in seen)
    assert np.array_equal(seen["blocks.1.input"].data, seen["blocks.0"].data)
    with tv.capture(model, "blocks.*") as seen:
        model(images)
    assert not any(name.endswith(".input") for name in seen), "inputs come only when they are asked for"
    with tv.capture(model, "blocks.2.input", edit={"blocks.2.input": lambda z: z * 0}) as seen:
        model(images)
    assert not seen["blocks.2.input"].data.any()
