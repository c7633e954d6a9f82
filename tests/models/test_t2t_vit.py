"""T2T-ViT: soft split, performer and transformer tokens against loops, the frozen tables, sizes, errors."""

from dataclasses import replace

import numpy as np
import pytest

from tinyvit import Frozen, capture, create_model
from tinyvit.models.t2t_vit import (
    SoftSplit,
    T2TViT,
    T2TViTConfig,
    TokenAttention,
    TokenPerformer,
    linear_attention,
    random_features,
)
from tinyvit.nn.embed import sinusoid_1d
from tinyvit.train import AdamW, classification, constant, gradient_of, training

TINY = T2TViTConfig(img_size=(32, 48), in_chans=2, num_classes=3, embed_dim=6, depth=2, num_heads=3, mlp_ratio=2,
                    token_dim=4)  # fmt: skip
TYPES = pytest.mark.parametrize("tokens_type", ["performer", "transformer"])


def shaken(module, rng):
    """The module in float64 with every parameter moved off its initial value."""
    for p in module.astype(np.float64).parameters():
        p.data = p.data + rng.normal(0, 0.3, p.shape)
    return module


@pytest.mark.parametrize(("side", "stride", "padding"), [(7, 4, 2), (3, 2, 1), (3, 1, 1)])
def test_a_soft_split_is_windows_that_overlap(side, stride, padding, rng):
    x = rng.normal(size=(2, 8, 11, 3))
    padded = np.pad(x, ((0, 0), (padding, padding), (padding, padding), (0, 0)))
    rows, columns = ((n + 2 * padding - side) // stride + 1 for n in (8, 11))
    tokens = SoftSplit(side, stride, padding)(x)
    assert tokens.shape == (2, rows * columns, 3 * side * side)
    for n in range(rows * columns):
        top, left = stride * (n // columns), stride * (n % columns)
        window = padded[:, top : top + side, left : left + side]
        assert np.array_equal(tokens[:, n], np.moveaxis(window, 3, 1).reshape(2, -1)), "channel, row, column"


def softmax(x):
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def test_transformer_tokens_skip_from_the_values_and_scale_by_the_input(rng):
    attention = shaken(TokenAttention(10, 4, rng=rng), rng)
    x = rng.normal(size=(2, 5, 10))
    q, k, v = np.split(x @ attention.qkv.weight.data.T, 3, axis=-1)
    weights = softmax(q @ k.swapaxes(1, 2) / np.sqrt(10))  # not √4, the width of q and k
    wanted = v + weights @ v @ attention.proj.weight.data.T + attention.proj.bias.data
    with capture(attention, "weights") as seen:
        np.testing.assert_allclose(attention(x).data, wanted, rtol=1e-11)
    np.testing.assert_allclose(seen["weights"].data[:, 0], weights, rtol=1e-11)


def test_linear_attention_is_attention_with_the_product_of_features(rng):
    q, k, v = rng.random((2, 5, 3)), rng.random((2, 7, 3)), rng.normal(size=(2, 7, 4))
    wanted = np.zeros((2, 5, 4))
    for b in range(2):
        for i in range(5):
            similar = [np.dot(q[b, i], k[b, j]) for j in range(7)]
            wanted[b, i] = np.average(v[b], axis=0, weights=similar)
    np.testing.assert_allclose(linear_attention(q, k, v), wanted, rtol=1e-7)  # but for the 1e-8 below the line


def test_random_features_estimate_the_exponential(rng):
    """Lemma 1 of the Performer: with normal directions the product is right on average."""
    q, k = rng.normal(0, 0.5, (1, 1, 4)), rng.normal(0, 0.5, (1, 1, 4))
    w = rng.normal(size=(200_000, 4))
    estimate = float(np.sum(random_features(q, w) * random_features(k, w)))
    assert abs(estimate / np.exp(np.sum(q * k)) - 1) < 0.02


def test_the_performers_weights_can_be_had_though_it_never_forms_them(rng):
    performer = shaken(TokenPerformer(10, 4, 1e-5, rng=rng), rng)
    x = rng.normal(size=(2, 5, 10))
    weights = performer.implied_weights(x).data
    np.testing.assert_allclose(weights.sum(axis=-1), 1, rtol=1e-4)
    with capture(performer, "kqv", "proj.input") as seen:
        performer(x)
    v = seen["kqv"].data[..., 8:]  # keys, queries, values: in this order
    np.testing.assert_allclose(seen["proj.input"].data, weights @ v, rtol=1e-11)


def test_directions_are_orthogonal_and_as_long_as_normal_ones_of_that_many(rng):
    w = TokenPerformer(10, 8, 1e-5, rng=rng).w.data
    np.testing.assert_allclose(w @ w.T, 4 * np.eye(4), atol=1e-5)


def test_positions_are_sines_and_cosines_in_turn():
    table = sinusoid_1d(5, 6)
    for p in range(5):
        for i in range(3):
            angle = p / 10000 ** (2 * i / 6)
            np.testing.assert_allclose(table[p, 2 * i : 2 * i + 2], [np.sin(angle), np.cos(angle)], atol=1e-15)
    np.testing.assert_allclose(
        T2TViT(TINY, rng=np.random.default_rng(0)).pos_embed.data[0], sinusoid_1d(7, 6), atol=1e-7
    )


def test_training_leaves_the_frozen_tables_as_they_are(rng):
    model = create_model("t2t_vit_digits", rng=rng)
    frozen = {name: value.data.copy() for name, value in model.named_state() if isinstance(value, Frozen)}
    assert list(frozen) == ["pos_embed", "tokens_to_token.attention1.w", "tokens_to_token.attention2.w"]
    before = {name: p.data for name, p in model.named_parameters()}
    batch = rng.random((4, 8, 8, 1), dtype=np.float32), rng.integers(0, 10, 4)
    for _ in training(model, [batch], gradient_of(classification()), AdamW(model), constant(1e-2), rng=rng):
        pass
    after = model.state_dict()
    assert all(np.array_equal(after[name], table) for name, table in frozen.items())
    assert not [name for name, old in before.items() if np.array_equal(after[name], old)]


@TYPES
@pytest.mark.parametrize(
    ("size", "grid"), [((32, 48), (2, 3)), (33, (2, 2)), (40, (3, 3)), (224, (14, 14)), (3, (1, 1))]
)
def test_the_grid_is_what_the_soft_splits_make_of_the_image(size, grid, tokens_type):
    config = replace(TINY, img_size=size, tokens_type=tokens_type)
    H, W = (size, size) if isinstance(size, int) else size
    assert config.grids[-1] == grid
    assert T2TViT(config, rng=None)(np.zeros((1, H, W, 2), np.float32)).shape == (1, 3)


@TYPES
def test_attention_can_be_captured(tokens_type, rng):
    model = T2TViT(replace(TINY, tokens_type=tokens_type), rng=rng)
    with capture(model, "*.weights") as seen:
        model(rng.normal(size=(2, 32, 48, 2)).astype(np.float32))
    shapes = {name: w.shape for name, w in seen.items()}
    assert {f"blocks.{i}.attn.weights": (2, 3, 7, 7) for i in range(2)}.items() <= shapes.items()
    tokens = {"tokens_to_token.attention1.attn.weights": (2, 1, 96, 96),
              "tokens_to_token.attention2.attn.weights": (2, 1, 24, 24)}  # fmt: skip
    assert (tokens.items() <= shapes.items()) == (tokens_type == "transformer")


def test_the_released_weights_scale_by_the_whole_width(rng):
    """``qk_scale`` takes the place of 1/√d in the blocks, and of nothing in the tokens."""
    ours, theirs = (shaken(T2TViT(replace(TINY, qk_scale=s), rng=np.random.default_rng(0)), np.random.default_rng(1))
                    for s in (None, 6**-0.5))  # fmt: skip
    x = rng.normal(size=(1, 32, 48, 2))
    assert np.array_equal(ours.tokens_to_token(x).data, theirs.tokens_to_token(x).data)
    assert not np.allclose(ours(x).data, theirs(x).data)
    for block in theirs.blocks:
        block.attn.qkv.weight.data[:6] *= np.sqrt(6) / np.sqrt(2)  # queries, by what the scale is too small
    np.testing.assert_allclose(theirs(x).data, ours(x).data, rtol=1e-11)


@pytest.mark.parametrize("rate", ["drop_rate", "attn_drop_rate", "drop_path_rate"])
def test_every_kind_of_noise_is_drawn_from_the_generator(rate, rng):
    config = replace(TINY, tokens_type="transformer")
    x = rng.normal(size=(4, 32, 48, 2)).astype(np.float32)
    still, model = T2TViT(config, rng=rng), T2TViT(replace(config, **{rate: 0.5}), rng=rng)
    assert np.array_equal(still(x).data, still.train(np.random.default_rng(0))(x).data)

    def noisy(seed):
        return model.train(np.random.default_rng(seed))(x).data

    assert np.array_equal(noisy(1), noisy(1))
    assert not np.allclose(noisy(1), noisy(2))


def test_performer_tokens_always_have_some_dropout(rng):
    model, x = shaken(T2TViT(TINY, rng=rng), rng), rng.normal(size=(4, 32, 48, 2))
    assert not np.allclose(model(x).data, model.train(rng)(x).data)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tokens_type": "convolution"}, r"tokens_type: expected one of \['performer', 'transformer'\], got 'convolu"),
        ({"img_size": 2}, r"img_size: \(2, 2\) is too small for the windows of the soft splits"),
        ({"splits": ((3, 1, 1),)}, r"splits: expected \(side, stride, padding\) of three soft splits"),
        ({"num_heads": 4}, "num_heads: 4 heads cannot share a width of 6 evenly"),
    ],
)
def test_a_setting_that_cannot_be_is_named(changes, message, rng):
    with pytest.raises(ValueError, match=message):
        T2TViT(replace(TINY, **changes), rng=rng)
