"""The .npz files of the code that came with ViT and Mixer load; here they are written, the layout told backwards."""

import numpy as np
import pytest

from tinyvit import StateError, WeightFileError, create_model, load_weights
from tinyvit.models import mixer_jax, vit_jax
from tinyvit.nn.conversion import converted, rearranged
from tinyvit.nn.stored import Stored

HEADS = 4


def small(rng=None, **changes):
    return create_model("vit_digits", depth=2, rng=rng, **changes)


def jax_state(model):
    """A model's parameters as the original code lays them out, in loops and slices, as its modules define them."""
    own = model.state_dict()
    D, d = model.config.embed_dim, model.config.embed_dim // HEADS
    theirs = {"cls": own["cls_token"], "Transformer/posembed_input/pos_embedding": own["pos_embed"]}
    theirs["embedding/kernel"] = np.moveaxis(own["patch_embed.proj.weight"], [0, 1], [3, 2])  # HWIO
    theirs["embedding/bias"] = own["patch_embed.proj.bias"]
    for layer, name in {"head": "head", "pre_logits": "pre_logits.fc"}.items():
        if f"{name}.weight" in own:
            theirs[f"{layer}/kernel"], theirs[f"{layer}/bias"] = own[f"{name}.weight"].T, own[f"{name}.bias"]
    norms = {"norm": "Transformer/encoder_norm"}
    for i in range(model.config.depth):
        block = f"Transformer/encoderblock_{i}"
        norms |= {f"blocks.{i}.norm1": f"{block}/LayerNorm_0", f"blocks.{i}.norm2": f"{block}/LayerNorm_2"}
        attention, mlp = f"{block}/MultiHeadDotProductAttention_1", f"{block}/MlpBlock_3"
        for which, name in enumerate(("query", "key", "value")):
            kernel, bias = np.zeros((D, HEADS, d), np.float32), np.zeros((HEADS, d), np.float32)
            for head in range(HEADS):
                rows = slice(which * D + head * d, which * D + (head + 1) * d)
                kernel[:, head] = own[f"blocks.{i}.attn.qkv.weight"][rows].T
                bias[head] = own[f"blocks.{i}.attn.qkv.bias"][rows]
            theirs[f"{attention}/{name}/kernel"], theirs[f"{attention}/{name}/bias"] = kernel, bias
        out = [own[f"blocks.{i}.attn.proj.weight"][:, head * d : (head + 1) * d].T for head in range(HEADS)]
        theirs[f"{attention}/out/kernel"], theirs[f"{attention}/out/bias"] = (
            np.stack(out), own[f"blocks.{i}.attn.proj.bias"])  # fmt: skip
        for k in (0, 1):
            theirs[f"{mlp}/Dense_{k}/kernel"] = own[f"blocks.{i}.mlp.fc{k + 1}.weight"].T
            theirs[f"{mlp}/Dense_{k}/bias"] = own[f"blocks.{i}.mlp.fc{k + 1}.bias"]
    for ours, name in norms.items():
        theirs[f"{name}/scale"], theirs[f"{name}/bias"] = own[f"{ours}.weight"], own[f"{ours}.bias"]
    return theirs


def noisy(model, rng):
    """No parameter at a value that another could have by chance: biases are not zero, gains are not one."""
    for _, value in model.named_state():
        value.data = rng.normal(size=value.shape).astype(np.float32)
    return model


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("changes", [{}, {"representation_size": 24}, {"num_classes": 0},
                                     {"global_pool": "avg", "fc_norm": False}], ids=str)  # fmt: skip
def test_every_parameter_comes_back(changes, save, rng, tmp_path):
    source = noisy(small(**changes), rng)
    save(tmp_path / "ViT.npz", **jax_state(source))
    model = load_weights(small(**changes), tmp_path / "ViT.npz")
    for name, value in source.state_dict().items():
        assert np.array_equal(model.state_dict()[name], value), name
    images = rng.normal(size=(2, 8, 8, 1)).astype(np.float32)
    assert np.array_equal(model(images).data, source(images).data)


def test_the_catalogue_takes_such_a_file_and_resamples_its_positions(rng, tmp_path):
    source = noisy(small(), rng)
    np.savez(tmp_path / "ViT.npz", **jax_state(source))
    model = create_model("vit_digits", depth=2, img_size=16, weights=tmp_path / "ViT.npz", positions="jax")
    assert model.pos_embed.shape == (1, 1 + 64, 32)
    corner = model.pos_embed.data[0, [1, 8, -8, -1]]  # linear between aligned corners, which stay
    np.testing.assert_allclose(corner, source.pos_embed.data[0, [1, 4, -4, -1]], rtol=1e-6)


def test_arrays_by_columns_and_of_other_byte_order_are_read(rng, tmp_path):
    source = noisy(small(), rng)
    state = {name: np.asfortranarray(x).astype(">f8") for name, x in jax_state(source).items()}
    assert state["head/kernel"].flags.f_contiguous
    np.savez(tmp_path / "ViT.npz", **state)
    model = load_weights(small(rng), tmp_path / "ViT.npz")
    for name, value in source.state_dict().items():
        assert model.state_dict()[name].dtype == np.float32
        assert np.array_equal(model.state_dict()[name], value), name


def test_what_does_not_fit_is_named_by_the_name_it_has(rng, tmp_path):
    """Ours where it could be converted, theirs where not."""
    state = jax_state(noisy(small(), rng))
    del state["Transformer/encoderblock_1/MultiHeadDotProductAttention_1/key/bias"]
    state["embedding/kernel"] = state["embedding/kernel"][0]
    state["head/kernel"] = state["head/kernel"][:, :7]
    np.savez(tmp_path / "ViT.npz", **state)
    with pytest.raises(StateError) as caught:
        load_weights(small(), tmp_path / "ViT.npz")
    error = caught.value
    assert sorted(error.missing) == ["blocks.1.attn.qkv.bias", "patch_embed.proj.weight"]
    assert sorted(error.unexpected) == [
        "Transformer/encoderblock_1/MultiHeadDotProductAttention_1/query/bias",
        "Transformer/encoderblock_1/MultiHeadDotProductAttention_1/value/bias",
        "embedding/kernel",
    ]
    assert error.misshaped == [("head.weight", (7, 32), (10, 32))]


def test_both_names_of_one_parameter_are_refused(rng, tmp_path):
    state = jax_state(noisy(small(), rng))
    np.savez(tmp_path / "ViT.npz", **state, cls_token=state["cls"])
    with pytest.raises(StateError, match=r"unexpected: cls\n"):
        load_weights(small(), tmp_path / "ViT.npz")


@pytest.mark.parametrize(("name", "table", "changes"), [("vit_base_patch16_224", vit_jax, {"representation_size": 768}),
                                                        ("mixer_b16_224", mixer_jax, {})])  # fmt: skip
def test_every_parameter_has_a_row(name, table, changes):
    names = {row.format(i=i) for row in table.NAMES for i in range(12)}
    assert names == create_model(name, **changes).state_dict().keys()


def mixer_state(model):
    """A Mixer's parameters as the original code lays them out."""
    own, theirs = model.state_dict(), {}
    for name, x in own.items():
        layer, kind = name.rsplit(".", 1)
        for ours, their in (("stem.proj", "stem"), ("norm1", "LayerNorm_0"), ("norm2", "LayerNorm_1"),
                            ("mlp_tokens", "token_mixing"), ("mlp_channels", "channel_mixing"), ("fc1", "Dense_0"),
                            ("fc2", "Dense_1"), ("blocks.", "MixerBlock_")):  # fmt: skip
            layer = layer.replace(ours, their)
        layer = "pre_head_layer_norm" if layer == "norm" else layer.replace(".", "/")
        x = np.moveaxis(x, [0, 1], [-1, -2]) if x.ndim > 1 else x
        theirs[f"{layer}/{'bias' if kind == 'bias' else 'scale' if 'norm' in layer.lower() else 'kernel'}"] = x
    return theirs


def test_a_mixer_comes_back(rng, tmp_path):
    source = noisy(create_model("mixer_digits"), rng)
    state = mixer_state(source)
    assert state["MixerBlock_2/token_mixing/Dense_1/kernel"].shape == (16, 16)
    assert state["stem/kernel"].shape == (2, 2, 1, 32)
    np.savez(tmp_path / "Mixer.npz", **state)
    model = create_model("mixer_digits", weights=tmp_path / "Mixer.npz")
    for name, value in source.state_dict().items():
        assert np.array_equal(model.state_dict()[name], value), name


@pytest.mark.parametrize(("axes", "shape", "wanted", "here", "there"), [
    ("D h d -> (h d) D", (2, 3, 5), (15, 2), (2 * 5 + 4, 1), (1, 2, 4)),
    ("h d D -> D (h d)", (3, 5, 2), (2, 15), (1, 2 * 5 + 4), (2, 4, 1)),
    ("h w i o -> o i h w", (2, 3, 5, 7), (7, 5, 2, 3), (6, 4, 1, 2), (1, 2, 4, 6)),
])  # fmt: skip
def test_axes_move_as_the_pattern_says(axes, shape, wanted, here, there, rng):
    x = rng.normal(size=shape)
    y = rearranged(x, axes)
    assert y.shape == wanted
    assert y[here] == x[there]
    with pytest.raises(ValueError, match="expected axes"):
        rearranged(x[0], axes)


def test_nothing_is_read_before_it_is_wanted():
    def read():
        raise AssertionError("read")

    state = converted({"head/kernel": Stored((32, 10), "f4", read)}, vit_jax.NAMES)
    assert state["head.weight"].shape == (10, 32)
    assert state["head.weight"].dtype == np.float32


def test_an_array_of_python_objects_is_refused_unopened(tmp_path):
    np.savez(tmp_path / "ViT.npz", cls=np.array([{"a": 1}], dtype=object))
    with pytest.raises(WeightFileError, match="'cls' is no array of plain numbers"):
        load_weights(small(), tmp_path / "ViT.npz")
