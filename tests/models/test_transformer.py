"""The Transformer: positions, masks and norms against their equations, and a language it learns."""

from dataclasses import replace
from math import cos, sin, sqrt

import numpy as np
import pytest

from tinyvit import capture, create_model
from tinyvit.models.transformer import EncoderLayer, Transformer, TransformerConfig, translation
from tinyvit.nn.embed import sinusoid_1d
from tinyvit.train import AdamW, clipped, gradient_of, training, warmup_cosine

TINY = TransformerConfig(vocab_size=9, d_model=8, nhead=2, num_encoder_layers=2, num_decoder_layers=1,
                         dim_feedforward=12)  # fmt: skip


def restless(model, rng, std=0.5):
    """The model in float64 with every parameter moved off its initial value."""
    model.astype(np.float64)
    for p in model.parameters():
        p.data = p.data + rng.normal(0, std, p.shape)
    return model


def test_positions_are_their_formula():
    table = sinusoid_1d(5, 6)
    for p in range(5):
        for i in range(3):
            angle = p / 10_000 ** (2 * i / 6)
            np.testing.assert_allclose(table[p, 2 * i : 2 * i + 2], [sin(angle), cos(angle)], rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("norm_first", [False, True])
def test_a_layer_is_its_equation(norm_first, rng):
    layer = restless(EncoderLayer(replace(TINY, norm_first=norm_first), rng=rng), rng)
    s, x = layer.state_dict(), rng.normal(size=(5, 8))

    def norm(name, v):
        centred = v - v.mean(1, keepdims=True)
        scaled = centred / np.sqrt((centred**2).mean(1, keepdims=True) + 1e-5)
        return scaled * s[f"{name}.weight"] + s[f"{name}.bias"]

    def attention(v):
        q, k, value = np.split(v @ s["self_attn.in_proj_weight"].T + s["self_attn.in_proj_bias"], 3, axis=1)
        heads = []
        for at in (slice(0, 4), slice(4, 8)):
            weights = np.exp(q[:, at] @ k[:, at].T / sqrt(4))
            heads.append(weights / weights.sum(1, keepdims=True) @ value[:, at])
        return np.hstack(heads) @ s["self_attn.out_proj.weight"].T + s["self_attn.out_proj.bias"]

    def ffn(v):
        hidden = np.maximum(v @ s["linear1.weight"].T + s["linear1.bias"], 0)
        return hidden @ s["linear2.weight"].T + s["linear2.bias"]

    y = x
    for name, sublayer in (("norm1", attention), ("norm2", ffn)):
        y = y + sublayer(norm(name, y)) if norm_first else norm(name, y + sublayer(y))
    np.testing.assert_allclose(layer(x[None]).data[0], y, rtol=1e-11)


def test_nobody_looks_ahead(rng):
    model = restless(Transformer(TINY, rng=rng), rng)
    source, target = rng.integers(9, size=(2, 4)), rng.integers(9, size=(2, 6))
    other = target.copy()
    other[:, 4:] = (other[:, 4:] + 1) % 9
    before, after = model(source, target).data, model(source, other).data
    assert np.array_equal(before[:, :4], after[:, :4])
    assert not np.allclose(before[:, 4:], after[:, 4:])


def test_every_attention_is_seen_and_leaves_out_what_only_fills(rng):
    model = restless(Transformer(TINY, rng=rng), rng)
    mask = np.array([1, 1, 0, 0], bool)[None, None, None]
    with capture(model, "*.weights") as seen:
        model(rng.integers(9, size=(2, 4)), rng.integers(9, size=(2, 6)), mask)
    shapes = {name: w.shape for name, w in seen.items()}
    assert shapes["decoder.layers.0.multihead_attn.weights"] == (2, 2, 6, 4)
    assert len(shapes) == 4
    assert not seen["encoder.layers.0.self_attn.weights"].data[..., 2:].any()
    assert not seen["decoder.layers.0.multihead_attn.weights"].data[..., 2:].any()


def test_settings_that_cannot_be():
    with pytest.raises(ValueError, match="3 heads cannot share a width of 8"):
        replace(TINY, nhead=3)
    with pytest.raises(ValueError, match="expected an even width, got 9"):
        replace(TINY, d_model=9, nhead=3)


def test_it_learns_to_say_it_backwards():
    rng, steps = np.random.default_rng(0), 200
    model = create_model("transformer_micro", rng=rng)
    sources = (rng.integers(1, 12, (32, 4)) for _ in range(steps))
    schedule = warmup_cosine(5e-3, warmup=steps // 10, total=steps)
    gradient = clipped(gradient_of(translation(start=0)), norm=1.0)
    for _ in training(model, ((x, x[:, ::-1]) for x in sources), gradient, AdamW(model), schedule, rng=rng):
        pass
    unseen = rng.integers(1, 12, (200, 4))
    assert (model.greedy(unseen, start=0, length=4) == unseen[:, ::-1]).mean() > 0.95, "a guess has 1/11"
