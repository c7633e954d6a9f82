"""BERT: a layer against its equations, tied and padded tokens, what pre-training hides and learns."""

from dataclasses import replace
from math import erf, sqrt

import numpy as np
import pytest

from tinyvit import capture, create_model, gradients
from tinyvit.models.bert import (
    IGNORED,
    Bert,
    BertConfig,
    BertForMaskedLM,
    BertForPreTraining,
    Special,
    masked,
    masked_words,
    pretraining,
    segments,
)
from tinyvit.train import AdamW, clipped, gradient_of, training, warmup_cosine

TINY = BertConfig(vocab_size=11, hidden_size=8, num_hidden_layers=2, num_attention_heads=2, intermediate_size=12,
                  max_position_embeddings=7)  # fmt: skip
SPECIAL = Special(pad=0, cls=1, sep=2, mask=3)


def restless(model, rng, std=0.5):
    """The model in float64 with every parameter moved off its initial value."""
    model.astype(np.float64)
    for p in model.parameters():
        p.data = p.data + rng.normal(0, std, p.shape)
    return model


def naive_layer(state, z, heads):
    """A post-norm layer for one sequence z (N, D), head by head and token by token."""

    def affine(name, x):
        return x @ state[f"{name}.weight"].T + state[f"{name}.bias"]

    def norm(name, x):
        centred = x - x.mean(1, keepdims=True)
        scaled = centred / np.sqrt((centred**2).mean(1, keepdims=True) + 1e-12)
        return scaled * state[f"{name}.weight"] + state[f"{name}.bias"]

    q, k, v = (affine(f"attention.self.{part}", z) for part in ("query", "key", "value"))
    d, y = z.shape[1] // heads, np.zeros_like(z)
    for h in range(heads):
        at = slice(h * d, (h + 1) * d)
        for i in range(len(z)):
            weights = np.exp([q[i, at] @ k[j, at] / sqrt(d) for j in range(len(z))])
            y[i, at] = weights / weights.sum() @ v[:, at]
    z = norm("attention.output.LayerNorm", z + affine("attention.output.dense", y))
    hidden = np.vectorize(lambda x: x * (1 + erf(x / sqrt(2))) / 2)(affine("intermediate.dense", z))
    return norm("output.LayerNorm", z + affine("output.dense", hidden))


def test_a_layer_is_its_equations(rng):
    layer = restless(Bert(TINY, rng=rng), rng).encoder.layer[0]
    x = rng.normal(size=(2, 5, 8))
    for one, y in zip(x, layer(x).data, strict=True):
        np.testing.assert_allclose(y, naive_layer(layer.state_dict(), one, heads=2), rtol=1e-11)


def test_tokens_that_fill_are_not_read(rng):
    model, ids = restless(Bert(TINY, rng=rng), rng), rng.integers(1, 11, (2, 6))
    mask = np.array([[1, 1, 1, 1, 0, 0]] * 2)
    with capture(model, "*.weights") as seen:
        z, pooled = model(ids, None, mask)
    assert len(seen) == 2
    assert all(not w.data[..., 4:].any() for w in seen.values())
    short, same = model(ids[:, :4])
    np.testing.assert_allclose(z.data[:, :4], short.data, rtol=1e-11)
    np.testing.assert_allclose(pooled.data, same.data, rtol=1e-11)


def test_the_row_of_the_filling_token_learns_nothing_from_being_read(rng):
    model, ids = restless(Bert(TINY, rng=rng), rng), np.array([[4, 0, 5, 0]])
    z, _ = model(ids)
    g = gradients(z, model.embeddings.word_embeddings.weight, [rng.normal(size=z.shape)])[0]
    assert {int(i) for i in np.flatnonzero(g.any(axis=1))} == {4, 5}


def test_the_decoder_is_the_table(rng):
    model = BertForPreTraining(TINY, rng=rng)
    state = model.state_dict()
    assert state["cls.predictions.decoder.weight"] is state["bert.embeddings.word_embeddings.weight"]
    assert state["cls.predictions.decoder.bias"] is state["cls.predictions.bias"]
    assert model.num_parameters() == sum({id(x): x.size for x in state.values()}.values())


def test_the_masked_head_alone_has_no_pooler_and_the_same_scores(rng):
    both = restless(BertForPreTraining(TINY, rng=rng), rng)
    alone = create_model("bert_micro", **{**vars(TINY), "heads": "masked_lm"})
    state, idle = both.state_dict(), ("bert.pooler.", "cls.seq_relationship.")
    alone.load_state_dict({name: x for name, x in state.items() if not name.startswith(idle)})
    ids = rng.integers(1, 11, (2, 6))
    assert np.array_equal(alone(ids).data, both(ids)[0].data)
    with pytest.raises(ValueError, match=r"heads: expected one of .*'masked_lm'.* got 'both'"):
        replace(TINY, heads="both")


def test_only_hidden_words_are_told(rng):
    """Random gains in the head, and a loss that is the mean over what was hidden; every parameter learns."""
    still = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    model = restless(BertForMaskedLM(replace(TINY, vocab_size=30, **still), rng=rng), rng)
    ids = rng.integers(4, 30, (5, 7))
    read, words = masked(np.random.default_rng(7), ids, 30, SPECIAL, 0.4)
    scores = model(read).data[words != IGNORED]
    told = scores[range(len(scores)), words[words != IGNORED]] - np.log(np.exp(scores).sum(axis=1))
    loss = masked_words(SPECIAL, share=0.4)(model.train(np.random.default_rng(7)), (ids,))
    np.testing.assert_allclose(loss.item(), -told.mean(), rtol=1e-11)
    assert all(g.any() for g in gradients(loss, model.parameters()))


def test_initial_values_have_the_range_asked_for(rng):
    model = BertForPreTraining(replace(TINY, hidden_size=64, vocab_size=200, initializer_range=0.3), rng=rng)
    for name in ("bert.embeddings.word_embeddings", "bert.encoder.layer.0.attention.self.query", "bert.pooler.dense"):
        assert abs(model.state_dict()[f"{name}.weight"].std() - 0.3) < 0.02, name


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hidden_act": "elu"}, "hidden_act: expected one of .*'gelu'.* got 'elu'"),
        ({"num_attention_heads": 3}, "3 heads cannot share a width of 8 evenly; 2 or 4 can"),
        ({"attention_probs_dropout_prob": 1}, "attention_probs_dropout_prob: expected a probability"),
    ],
)
def test_a_setting_that_cannot_be_is_named(changes, message):
    with pytest.raises(ValueError, match=message):
        Bert(replace(TINY, **changes), rng=None)


def test_more_tokens_than_places(rng):
    with pytest.raises(ValueError, match=r"ids: expected token numbers \(B, N\) with N up to 7, got shape \(1, 8\)"):
        Bert(TINY, rng=rng)(np.ones((1, 8), int))


# pre-training -------------------------------------------------------------------------------


def test_what_is_hidden(rng):
    ids = np.tile([1, *range(4, 20), 2, 0, 0], (4000, 1))
    read, words = masked(rng, ids, 50, SPECIAL)
    told = words != IGNORED
    assert not told[:, [0, -3, -2, -1]].any(), "what is no word is never hidden"
    assert (words[told] == ids[told]).all()
    assert (read == ids)[~told].all()
    shares = [told[:, 1:-3].mean(), (read == 3)[told].mean(), (read == ids)[told].mean()]
    np.testing.assert_allclose(shares, [0.15, 0.8 + 0.1 / 50, 0.1 + 0.1 / 50], atol=0.012)


def test_segments_end_with_their_mark():
    assert segments(np.array([[1, 5, 2, 6, 7, 2, 0]]), 2).tolist() == [[0, 0, 0, 1, 1, 1, 1]]


def test_pretraining_needs_a_generator(rng):
    with pytest.raises(ValueError, match="in evaluation mode there is none"):
        pretraining(SPECIAL)(BertForPreTraining(TINY, rng=rng), (np.ones((2, 5), int), np.zeros(2, int)))


def sentences(rng, n, words=16):
    """[CLS] six words [SEP] six more [SEP]: a word is the last one plus 1, 2 or 3, or the rest is shifted."""
    step, start, order = rng.integers(1, 4, n), rng.integers(words, size=n), rng.integers(2, size=n)
    line = start[:, None] + step[:, None] * np.arange(12)
    line[:, 6:] += (order * rng.integers(1, words, n))[:, None]
    line, mark = line % words + 4, np.ones((n, 1), int)
    return np.concatenate([mark, line[:, :6], 2 * mark, line[:, 6:], 2 * mark], axis=1), order


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_it_learns_both_tasks(seed):
    rng, steps = np.random.default_rng(seed), 600
    model = create_model("bert_micro", rng=rng)
    data = (sentences(rng, 64) for _ in range(steps))
    schedule = warmup_cosine(4e-3, warmup=steps // 10, total=steps)
    for _ in training(
        model, data, clipped(gradient_of(pretraining(SPECIAL)), norm=1.0), AdamW(model), schedule, rng=rng
    ):
        pass
    ids, order = sentences(rng, 500)
    read, words = masked(rng, ids, 20, SPECIAL)
    scores, follows = model(read, segments(ids, SPECIAL.sep))
    told = words != IGNORED
    assert (scores.data.argmax(-1) == words)[told].mean() > 0.75, "a guess has 1/16"
    assert (follows.data.argmax(-1) == order).mean() > 0.75, "a guess has 1/2"
