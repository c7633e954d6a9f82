"""Stand-alone self-attention: against loops at both borders, what it never forms, counts, errors."""

import numpy as np
import pytest

from tinyvit import capture, count_macs, create_model
from tinyvit.autodiff.watch import Listener, listening
from tinyvit.models.sasa import StandAloneAttention, inside


def layer(rng, k=3, heads=2, **options):
    """A layer of 3 to 8 channels in float64, its queries and offsets large enough for weights that differ."""
    made = StandAloneAttention(3, 8, k, heads, rng=rng, **options).astype(np.float64)
    for p in made.parameters():
        p.data = p.data + rng.normal(0, 0.5, p.shape)
    return made


def in_loops(attention, image):
    """Eq. 3, one pixel, one head, one neighbour at a time."""
    H, W, _ = image.shape
    d, r = attention.head_dim, attention.kernel_size // 2
    q, k, v = (image @ conv.weight.data[:, :, 0, 0].T for conv in (attention.q, attention.k, attention.v))
    y = np.zeros((H, W, q.shape[-1]))
    for i, j, h in np.ndindex(H, W, attention.num_heads):
        part, scores, values = slice(h * d, (h + 1) * d), [], []
        for a, b in np.ndindex(2 * r + 1, 2 * r + 1):
            at = i + a - r, j + b - r
            known = 0 <= at[0] < H and 0 <= at[1] < W
            if not known and attention.mask_border:
                continue
            offset = np.concatenate([attention.row.data[:, a], attention.col.data[:, b]])
            key, value = (k[at][part], v[at][part]) if known else (np.zeros(d), np.zeros(d))
            scores.append(q[i, j, part] @ key + q[i, j, part] @ offset)
            values.append(value)
        weights = np.exp(scores) / np.exp(scores).sum()
        y[i, j, part] = weights @ np.array(values)
    return y


BORDERS = pytest.mark.parametrize("mask_border", [True, False])


@BORDERS
@pytest.mark.parametrize(("k", "heads", "size"), [(3, 2, (4, 5)), (5, 4, (3, 6)), (7, 1, (2, 3)), (1, 2, (2, 2))])
def test_attention_is_its_equation(k, heads, size, mask_border, rng):
    attention, x = layer(rng, k, heads, mask_border=mask_border), rng.normal(size=(2, *size, 3))
    np.testing.assert_allclose(attention(x).data, [in_loops(attention, image) for image in x], rtol=1e-11, atol=1e-13)


@BORDERS
def test_weights_can_be_captured_and_respect_the_border(mask_border, rng):
    attention, x = layer(rng, mask_border=mask_border), rng.normal(size=(2, 4, 5, 3))
    with capture(attention, "weights") as seen:
        attention(x)
    weights = seen["weights"].data
    assert weights.shape == (2, 2, 4, 5, 9)
    np.testing.assert_allclose(weights.sum(axis=-1), 1, rtol=1e-12)
    beyond = ~inside(4, 5, 3)
    assert beyond.sum() == 9 * 20 - 10 * 13, "four rows know 2 + 3 + 3 + 2 rows, five columns 2 + 3 + 3 + 3 + 2"
    assert (weights[:, :, beyond] > 0).all() != mask_border


def test_a_weight_can_be_edited(rng):
    """With all weight on the middle, the layer is its values."""
    attention, x = layer(rng), rng.normal(size=(2, 4, 5, 3))
    with capture(attention, edit={"weights": lambda w: 0 * w + np.eye(9)[4]}):
        y = attention(x)
    np.testing.assert_allclose(y.data, attention.v(x).data, rtol=1e-12)


def test_what_moves_in_comes_out_moved(rng):
    """As a convolution does: the weights know where a neighbour is, not where the pixel is."""
    attention, x = layer(rng), np.zeros((1, 9, 9, 3))
    x[0, 3:5, 3:5] = rng.normal(size=(2, 2, 3))
    moved = np.roll(x, (1, 2), axis=(1, 2))
    np.testing.assert_allclose(attention(moved).data, np.roll(attention(x).data, (1, 2), axis=(1, 2)), rtol=1e-12)


def test_scores_are_not_scaled(rng):
    """No 1/√d: with equal offsets and one neighbour ahead by q·k = 1, its weight is e times another's."""
    attention = layer(rng, heads=1)
    attention.row.data, attention.col.data = 0 * attention.row.data, 0 * attention.col.data
    x = rng.normal(size=(1, 3, 3, 3))
    q, k = attention.q(x).data[0, 1, 1], attention.k(x).data[0].reshape(9, 8)
    with capture(attention, "weights") as seen:
        attention(x)
    w = seen["weights"].data[0, 0, 1, 1]
    np.testing.assert_allclose(np.log(w / w[0]), (k - k[0]) @ q, rtol=1e-10, atol=1e-12)


class Largest(Listener):
    """The size of the largest array that any op made."""

    size = 0

    def called(self, op, inputs, options, value, seconds):
        self.size = max(self.size, value.size)


def test_no_matrix_of_all_pairs_is_formed(rng):
    attention, heard = layer(rng), Largest()
    with listening(heard), capture(attention, "weights"):  # a capture runs the equation, not its kernel
        attention(rng.normal(size=(1, 20, 20, 3)))
    assert heard.size == 400 * 8 * 9, "the windows of 8 channels: a view"
    assert heard.size < 400 * 400


@pytest.mark.parametrize(("size", "out"), [((4, 6), (2, 3)), ((5, 7), (3, 4))])
def test_a_stride_is_the_mean_of_what_attention_gives(size, out, rng):
    strided = layer(rng, stride=2)
    whole = StandAloneAttention(3, 8, 3, 2, rng=None)
    whole.load_state_dict(strided.state_dict())
    x = rng.normal(size=(2, *size, 3))
    y, full = strided(x).data, whole(x).data
    assert y.shape == (2, *out, 8), "as many as a convolution of stride 2 gives, so that the shortcut fits"
    for i, j in np.ndindex(*out):
        np.testing.assert_allclose(y[:, i, j], full[:, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2].mean(axis=(1, 2)))


# the networks -------------------------------------------------------------------------------

DEPTHS = {"sasa_resnet26": 10.3, "sasa_resnet38": 14.1, "sasa_resnet50": 18.0}  # millions, as quoted


@pytest.mark.parametrize("name", DEPTHS)
def test_parameters_are_those_quoted(name):
    assert abs(create_model(name).num_parameters() / 1e6 - DEPTHS[name]) < 0.1


def attention_macs(n, width, k=7):
    """Of n places: three projections, scores and values of k² neighbours, two half offsets of k."""
    return n * (3 * width**2 + 2 * width * k**2 + width * k)


def test_every_convolution_of_3x3_is_replaced_and_nothing_else():
    ours, theirs = (create_model(name) for name in ("sasa_resnet50", "resnet50"))
    macs, params = count_macs(theirs), theirs.num_parameters()
    for stage, depth in enumerate((3, 4, 6, 3)):
        width, side = 64 * 2**stage, 56 // 2**stage
        for block in range(depth):
            strided = stage and not block  # attention comes before the pooling, at twice the side
            macs += attention_macs((side * (2 if strided else 1)) ** 2, width) - side**2 * 9 * width**2
            params += 3 * width**2 + width // 8 * 7 - 9 * width**2
    assert (ours.num_parameters(), count_macs(ours)) == (params, macs) == (18_015_504, 3_403_077_632)
    assert not [name for name, p in ours.named_parameters() if p.shape[2:] == (3, 3)]


def test_stages_and_any_size(rng):
    model = create_model("sasa_digits", rng=rng)
    x = rng.normal(size=(2, 9, 7, 1)).astype(np.float32)
    assert [m.shape for m in model.stages(x)] == [(2, 9, 7, 32), (2, 5, 4, 64)]
    with capture(model, "*.weights") as seen:
        assert model(x).shape == (2, 10)
    assert {name: w.shape for name, w in seen.items()} == {
        "layer1.0.conv2.weights": (2, 2, 9, 7, 9), "layer2.0.conv2.weights": (2, 2, 9, 7, 9)
    }  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"block": "basic"}, "block: the paper's ResNets are made of \"bottleneck\" blocks, got 'basic'"),
        ({"kernel_size": 4}, "kernel_size: expected an odd number, which has a middle, got 4"),
        ({"num_heads": 3}, "num_heads: 3 heads cannot share a width of 8 evenly; 2 or 4 can"),
        ({"num_heads": 8}, "num_heads: 8 heads of width 1 cannot be halved between rows and columns"),
    ],
)
def test_a_setting_that_cannot_be_is_named(changes, message):
    with pytest.raises(ValueError, match=message):
        create_model("sasa_digits", **changes)
