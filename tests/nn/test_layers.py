"""Layers: initial values, normalisation in both modes, noise, attention with positions, tables."""

import math

import numpy as np
import pytest

from tinyvit import Tensor, capture, create_model, gradients, swapped
from tinyvit.blueprint import Blueprint
from tinyvit.nn import init
from tinyvit.nn.attention import Attention, Block, RelativeAttention, offset_index
from tinyvit.nn.basic import BatchNorm, Conv2d, LayerNorm, Linear
from tinyvit.nn.embed import LearnedPositions2d, SinCosPositions2d, resample_positions, sincos_2d
from tinyvit.nn.noise import Dropout, DropPath, probability

# initial values -----------------------------------------------------------------------------

INITIALISERS = [init.zeros, init.ones, init.normal, init.trunc_normal, init.xavier_uniform, init.fan_in_uniform,
                init.kaiming_normal]  # fmt: skip


@pytest.mark.parametrize("initialise", INITIALISERS)
def test_an_initialiser_draws_float32_or_a_blueprint(initialise, rng):
    assert initialise.__doc__
    values = initialise((6, 4, 3, 3), rng=rng)
    assert (values.shape, values.dtype) == ((6, 4, 3, 3), np.float32)
    assert isinstance(initialise((6, 4, 3, 3), rng=None), Blueprint)


@pytest.mark.parametrize(
    ("initialise", "std"),
    [
        (init.trunc_normal, 0.02),
        (init.normal, 1.0),
        (init.xavier_uniform, math.sqrt(2 / (40 * 9 + 30 * 9))),
        (init.fan_in_uniform, math.sqrt(1 / (3 * 30 * 9))),
        (init.kaiming_normal, math.sqrt(2 / (40 * 9))),
    ],
)
def test_the_spread_of_initial_values(initialise, std, rng):
    """Of a uniform distribution in ±b the standard deviation is b/√3."""
    values = initialise((40, 30, 3, 3), rng=rng)
    assert abs(values.std() / std - 1) < 0.03
    assert abs(values.mean()) < 4 * std / math.sqrt(values.size)


def test_a_truncated_normal_is_cut_at_an_absolute_bound(rng):
    values = init.trunc_normal((10_000,), std=1.5, cut=2.0, rng=rng)
    assert 1.9 < np.abs(values).max() <= 2.0


def test_vit_starts_as_timm_says(rng):
    """Linear maps normal with σ 0.02, their biases zero; norms one and zero; the patch convolution as in PyTorch."""
    model = create_model("vit_small_patch16_224", img_size=64, depth=1, rng=rng)
    bound = 1 / math.sqrt(3 * 16 * 16)
    for name, p in model.named_parameters():
        x = p.data
        if name.startswith("patch_embed"):
            assert 0.9 * bound < np.abs(x).max() <= bound, name
        elif "norm" in name:
            assert (x == (1 if name.endswith("weight") else 0)).all(), name
        elif name.endswith("bias"):
            assert not x.any(), name
        else:
            assert abs(x.std() / 0.02 - 1) < 0.2, name


def test_resnet_starts_as_its_paper_says(rng):
    model = create_model("resnet_digits", rng=rng)
    for name, p in model.named_parameters():
        if p.ndim == 4:
            assert abs(p.data.std() / math.sqrt(2 / (p.shape[0] * math.prod(p.shape[2:]))) - 1) < 0.2, name
        elif "bn" in name or "downsample" in name:
            assert (p.data == (1 if name.endswith("weight") else 0)).all(), name
    assert all("bias" not in name for name, _ in model.named_parameters() if "conv" in name)


# linear maps --------------------------------------------------------------------------------


def test_linear_and_convolution_by_definition(rng):
    x = rng.normal(size=(2, 5, 6, 4))
    linear = Linear(4, 3, rng=rng)
    linear.bias.data = rng.normal(size=3)
    np.testing.assert_allclose(linear(x).data, x @ linear.weight.data.T + linear.bias.data, rtol=1e-12)
    conv = Conv2d(4, 6, (3, 2), stride=2, padding=1, groups=2, rng=rng).astype(np.float64)
    y, padded = conv(x).data, np.pad(x, [(0, 0), (1, 1), (1, 1), (0, 0)])
    assert y.shape == (2, 3, 4, 6)
    for i, j, o in np.ndindex(3, 4, 6):
        share = slice(0, 2) if o < 3 else slice(2, 4)
        window = padded[:, 2 * i : 2 * i + 3, 2 * j : 2 * j + 2, share]
        wanted = np.einsum("bhwc,chw->b", window, conv.weight.data[o]) + conv.bias.data[o]
        np.testing.assert_allclose(y[:, i, j, o], wanted, rtol=1e-12)


def test_without_bias(rng):
    assert list(Linear(2, 3, bias=False, rng=rng).state_dict()) == ["weight"]
    assert list(Conv2d(2, 3, 1, bias=False, rng=rng).state_dict()) == ["weight"]


# batch norm ---------------------------------------------------------------------------------


def batch_norm(rng, dim=3):
    norm = BatchNorm(dim, rng=rng).astype(np.float64)
    norm.weight.data, norm.bias.data = rng.normal(1, 0.3, dim), rng.normal(0, 0.3, dim)
    return norm


def test_batch_norm_in_training_uses_the_batch_and_follows_it(rng):
    norm, x = batch_norm(rng), rng.normal(3, 2, size=(4, 5, 6, 3))
    mean, var = x.mean(axis=(0, 1, 2)), x.var(axis=(0, 1, 2))
    y = norm.train(rng)(x).data
    wanted = (x - mean) / np.sqrt(var + 1e-5) * norm.weight.data + norm.bias.data
    np.testing.assert_allclose(y, wanted, rtol=1e-12)
    n = 4 * 5 * 6
    np.testing.assert_allclose(norm.running_mean.data, 0.1 * mean, rtol=1e-12)
    np.testing.assert_allclose(norm.running_var.data, 0.9 + 0.1 * var * n / (n - 1), rtol=1e-12)
    assert norm.num_batches_tracked.data == 1
    assert norm.num_batches_tracked.dtype == np.int64


def test_batch_norm_in_evaluation_uses_what_it_followed(rng):
    norm, x = batch_norm(rng), rng.normal(size=(4, 3))
    norm.running_mean.data, norm.running_var.data = rng.normal(size=3), rng.uniform(0.5, 2, 3)
    before = norm.state_dict()
    wanted = (x - norm.running_mean.data) / np.sqrt(norm.running_var.data + 1e-5) * norm.weight.data + norm.bias.data
    np.testing.assert_allclose(norm(x).data, wanted, rtol=1e-12)
    assert all(value is before[name] for name, value in norm.state_dict().items())


def test_running_statistics_approach_those_of_the_data(rng):
    norm = BatchNorm(2, rng=rng).train(rng)
    for _ in range(200):
        norm(rng.normal([1, -2], [3, 0.5], size=(64, 2)).astype(np.float32))
    np.testing.assert_allclose(norm.running_mean.data, [1, -2], atol=0.5)
    np.testing.assert_allclose(norm.running_var.data, [9, 0.25], rtol=0.3)
    assert norm.running_var.dtype == np.float32
    assert norm.num_batches_tracked.data == 200


def test_a_complex_step_does_not_disturb_running_statistics(rng):
    one, two = batch_norm(rng).train(rng), batch_norm(rng).train(rng)
    two.load_state_dict(one.state_dict())
    x = rng.normal(size=(6, 3))
    one(x)
    two(x + 1e-20j * rng.normal(size=x.shape))
    for name, value in one.state_dict().items():
        assert value.dtype == two.state_dict()[name].dtype, name
        assert np.array_equal(value, two.state_dict()[name]), name


def test_a_batch_of_one_number_per_channel(rng):
    """Its unbiased variance would be 0/0; nothing becomes NaN."""
    norm = batch_norm(rng).train(rng)
    assert np.isfinite(norm(rng.normal(size=(1, 3))).data).all()
    assert np.isfinite(norm.running_var.data).all()


def test_batch_norm_as_a_blueprint():
    norm = BatchNorm(3, rng=None)
    assert norm(Blueprint((2, 4, 4, 3))).shape == (2, 4, 4, 3)
    assert norm.num_parameters() == 6
    assert isinstance(norm.running_mean.data, Blueprint)


def test_layer_norm_by_definition(rng):
    norm = LayerNorm(5, eps=1e-3, rng=rng).astype(np.float64)
    norm.weight.data, norm.bias.data = rng.normal(size=5), rng.normal(size=5)
    x = rng.normal(2, 3, size=(2, 3, 5))
    wanted = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-3)
    np.testing.assert_allclose(norm(x).data, wanted * norm.weight.data + norm.bias.data, rtol=1e-11)


# noise --------------------------------------------------------------------------------------


def ones(*shape):
    return Tensor(np.ones(shape, np.float32), requires_grad=True)


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_dropout_keeps_the_mean_and_drops_single_numbers(p, rng):
    y = Dropout(p).train(rng)(ones(100, 1000)).data
    assert y.dtype == np.float32
    np.testing.assert_allclose(np.unique(y), [0, 1 / (1 - p)], rtol=1e-6)
    sigma = math.sqrt(p / (1 - p) / y.size)
    assert abs(y.mean() - 1) < 5 * sigma
    assert 0 < (y[0] == 0).mean() < 1


@pytest.mark.parametrize("p", [0.2, 0.7])
def test_drop_path_drops_whole_samples(p, rng):
    y = DropPath(p).train(rng)(ones(20_000, 2, 3)).data
    first = y[:, 0, 0]
    assert np.array_equal(y, np.broadcast_to(first[:, None, None], y.shape))
    np.testing.assert_allclose(np.unique(first), [0, 1 / (1 - p)], rtol=1e-6)
    assert abs(first.mean() - 1) < 5 * math.sqrt(p / (1 - p) / first.size)


@pytest.mark.parametrize("layer", [Dropout, DropPath])
def test_noise_is_the_generators_and_only_in_training(layer, rng):
    noise, x = layer(0.5), ones(64, 8)
    assert noise(x) is x
    assert layer(0.0).train(rng)(x) is x
    one, same, other = (noise.train(np.random.default_rng(seed))(x).data for seed in (1, 1, 2))
    assert np.array_equal(one, same)
    assert not np.array_equal(one, other)


@pytest.mark.parametrize("layer", [Dropout, DropPath])
def test_the_gradient_sees_the_same_draw(layer, rng):
    x = ones(64, 8)
    y = layer(0.5).train(rng)(x)
    assert np.array_equal(gradients(y, x, [np.ones_like(y.data)])[0], y.data)


@pytest.mark.parametrize("p", [-0.1, 1, 1.5, math.nan])
def test_what_is_no_probability_is_refused(p):
    for make in (Dropout, DropPath, probability):
        with pytest.raises(ValueError, match="p: expected a probability of at least 0 and below 1, got"):
            make(p)


def test_attention_drops_weights(rng):
    layer = Attention(8, 2, attn_drop=0.5, rng=rng).astype(np.float64)
    x = rng.normal(size=(3, 5, 8))
    with capture(layer, "weights") as seen:
        y = layer(x).data
    noisy = [layer.train(np.random.default_rng(seed))(x).data for seed in range(400)]
    # the output is linear in the dropped weights, so its mean over draws is the output without dropout
    np.testing.assert_allclose(np.mean(noisy, axis=0), y, atol=6 * np.std(noisy, axis=0).max() / 20)
    assert seen["weights"].shape == (3, 2, 5, 5)


# attention ----------------------------------------------------------------------------------


def by_loops(layer, x, bias=None):
    """Multi-head attention, one head, query and key after the other."""
    h, d, out = layer.num_heads, layer.head_dim, []
    qkv = x @ layer.qkv.weight.data.T + (0 if layer.qkv.bias is None else layer.qkv.bias.data)
    for image in qkv:
        heads = []
        for head in range(h):
            q, k, v = (image[:, i * h * d + head * d : i * h * d + (head + 1) * d] for i in range(3))
            scores = np.array([[qi @ kj / math.sqrt(d) for kj in k] for qi in q])
            if bias is not None:
                scores = scores + bias(q, head)
            weights = np.exp(scores - scores.max(1, keepdims=True))
            heads.append(weights / weights.sum(1, keepdims=True) @ v)
        out.append(np.concatenate(heads, axis=1))
    y = np.array(out) @ layer.proj.weight.data.T
    return y if layer.proj.bias is None else y + layer.proj.bias.data


def lively(layer, rng):
    layer.astype(np.float64)
    for p in layer.parameters():
        p.data = rng.normal(0, 0.5, p.shape)
    return layer


@pytest.mark.parametrize("options", [{}, {"head_dim": 5}, {"qkv_bias": False, "proj_bias": False}])
def test_attention_is_what_the_loops_say(options, rng):
    layer, x = lively(Attention(6, 3, **options, rng=rng), rng), rng.normal(size=(2, 4, 6))
    np.testing.assert_allclose(layer(x).data, by_loops(layer, x), rtol=1e-11)


def test_relative_attention_is_what_the_loops_say(rng):
    """The offset's embedding takes the key's part in a second product with the query (ViT, App. D.4)."""
    N = 5
    layer = lively(RelativeAttention(6, 3, num_tokens=N, rng=rng), rng)
    x, table = rng.normal(size=(2, N, 6)), layer.relative_pos.data

    def bias(q, head):
        return np.array([[q[i] @ table[i - j + N - 1, head] / math.sqrt(2) for j in range(N)] for i in range(N)])

    np.testing.assert_allclose(layer(x).data, by_loops(layer, x, bias), rtol=1e-11)


def test_offsets_are_query_minus_key():
    assert offset_index((3,)).tolist() == [[2, 1, 0], [3, 2, 1], [4, 3, 2]]


def test_heads_must_share_the_width_evenly(rng):
    with pytest.raises(ValueError, match="num_heads: 3 heads cannot share a width of 8 evenly"):
        Attention(8, 3, rng=rng)
    assert Attention(8, 3, head_dim=4, rng=rng).qkv.weight.shape == (36, 8)


def test_a_block_is_two_residual_steps(rng):
    block, z = lively(Block(6, 2, rng=rng), rng), rng.normal(size=(2, 4, 6))
    with capture(block, "attn", "mlp") as seen:
        y = block(z)
    np.testing.assert_allclose(y.data, z + seen["attn"].data + seen["mlp"].data, rtol=1e-12)
    block.proj_off = {name: 0 * x for name, x in block.state_dict().items() if "proj" in name or "fc2" in name}
    with swapped(block, block.proj_off):
        assert np.array_equal(block(z).data, z)


# position tables ----------------------------------------------------------------------------


def test_sincos_by_loops():
    H, W, D = 3, 4, 12
    table = sincos_2d((H, W), D)
    assert (table.shape, table.dtype) == ((H * W, D), np.float64)
    for y, x, k in np.ndindex(H, W, D // 4):
        omega = 10_000 ** (-k / (D // 4 - 1))
        wanted = [math.sin(x * omega), math.cos(x * omega), math.sin(y * omega), math.cos(y * omega)]
        np.testing.assert_allclose(table[y * W + x, [k, 3 + k, 6 + k, 9 + k]], wanted, rtol=1e-12)


def test_sincos_worked_numbers():
    """D = 8: two frequencies, 1 and 1/10000. The token in row 1, column 2."""
    wanted = [0.9092974268, 0.0001999999987, -0.4161468365, 0.99999998, 0.8414709848, 0.0000999999998, 0.5403023059,
              0.999999995]  # fmt: skip
    np.testing.assert_allclose(sincos_2d((2, 3), 8)[5], wanted, rtol=1e-9)


def test_sincos_leaves_prefix_tokens_at_zero(rng):
    table = SinCosPositions2d((2, 3), 8, prefix=1)()
    assert table.shape == (1, 7, 8)
    assert not table[0, 0].any()
    assert np.array_equal(table[0, 1:], sincos_2d((2, 3), 8))
    with pytest.raises(ValueError, match="multiple of 4, at least 8, got 4"):
        SinCosPositions2d((2, 3), 4, prefix=1)


@pytest.mark.parametrize("prefix", [0, 1])
def test_learned_2d_positions_by_loops(prefix, rng):
    positions = LearnedPositions2d((2, 3), 8, prefix, rng=rng)
    table = positions().data
    assert table.shape == (1, prefix + 6, 8)
    assert not table[0, :prefix].any()
    for row, column in np.ndindex(2, 3):
        wanted = [*positions.x.data[0, column], *positions.y.data[row, 0]]
        assert table[0, prefix + 3 * row + column].tolist() == pytest.approx(wanted, abs=0)


def test_resampling_keeps_prefix_rows_and_constant_tables(rng):
    constant = np.broadcast_to(rng.normal(size=(1, 1, 4)), (1, 10, 4))
    for method in ("timm", "deit", "jax"):
        new = resample_positions(constant, (3, 3), (5, 2), method=method)
        np.testing.assert_allclose(new, np.broadcast_to(constant[:, :1], (1, 11, 4)), rtol=1e-12)
        assert resample_positions(constant, (3, 3), (3, 3), method=method) is constant


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"method": "nearest"}, r"method: expected one of \['deit', 'jax', 'timm'\], got 'nearest'"),
        ({"grid": (3, 4)}, "table: expected 1 \\+ 3·4 rows, got 10"),
        ({"prefix": 0}, "table: expected 0 \\+ 3·3 rows, got 10"),
    ],
)
def test_resampling_refuses_what_does_not_fit(arguments, message):
    with pytest.raises(ValueError, match=message):
        resample_positions(np.zeros((1, 10, 4)), **{"grid": (3, 3), "new_grid": (2, 2)} | arguments)
