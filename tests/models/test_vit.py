"""ViT and its neighbours: every combination of options, positions, errors that name what was expected."""

from dataclasses import replace
from itertools import product

import numpy as np
import pytest

from tinyvit import Tensor, capture, create_model, gradients, list_models, no_grad, swapped
from tinyvit.models.catalogue import published
from tinyvit.models.vit import PLACES, POSITIONS, ViT, ViTConfig
from tinyvit.nn.check import ModelError, check_model
from tinyvit.nn.describe import example_inputs
from tinyvit.nn.embed import patchify

TINY = ViTConfig(img_size=(8, 12), patch_size=4, in_chans=2, num_classes=3, embed_dim=8, depth=2, num_heads=2)
HEADS = [(True, "token", True), (True, "avg", True), (True, "avg", False), (False, "avg", True), (False, "avg", False)]
TABLELESS = ("none", "relative")


def allowed(pos_embed, place):
    return place == "stem" or pos_embed not in TABLELESS


def images_for(config, rng, batch=2):
    return rng.normal(size=(batch, *config.img_size, config.in_chans))


def restless(model, rng, std=0.3):
    """The model in float64 with every parameter moved off its initial value."""
    model.astype(np.float64)
    for p in model.parameters():
        p.data = p.data + rng.normal(0, std, p.shape)
    return model


# every combination --------------------------------------------------------------------------


@pytest.mark.parametrize(("class_token", "global_pool", "fc_norm"), HEADS)
@pytest.mark.parametrize(("pos_embed", "place"), [pair for pair in product(POSITIONS, PLACES) if allowed(*pair)])
def test_every_allowed_combination_computes_and_differentiates(
    pos_embed, place, class_token, global_pool, fc_norm, rng
):
    config = replace(TINY, pos_embed=pos_embed, pos_embed_at=place, class_token=class_token, global_pool=global_pool,
                     fc_norm=fc_norm)  # fmt: skip
    model, x = restless(ViT(config, rng=rng), rng), images_for(config, rng)
    logits = model(x)
    assert logits.shape == (2, 3)

    u = rng.normal(size=logits.shape)
    names, leaves = zip(*model.named_parameters(), strict=True)
    v = [rng.normal(size=p.shape) for p in leaves]
    found = gradients(logits, leaves, [u])
    assert all(g.any() for g in found), [name for name, g in zip(names, found, strict=True) if not g.any()]
    with swapped(model, {n: p.data + 1e-20j * d for n, p, d in zip(names, leaves, v, strict=True)}), no_grad():
        stepped = np.sum(model(x).data.imag * u) / 1e-20
    assert np.isclose(sum(np.vdot(g, d) for g, d in zip(found, v, strict=True)), stepped, rtol=1e-11)
    blueprint = {name: value.shape for name, value in ViT(config, rng=None).named_state()}
    assert blueprint == {name: value.shape for name, value in model.named_state()}


@pytest.mark.parametrize(("pos_embed", "place"), [pair for pair in product(POSITIONS, PLACES) if not allowed(*pair)])
def test_positions_without_a_table_cannot_be_added_at_every_layer(pos_embed, place):
    with pytest.raises(ValueError, match=f"pos_embed_at: '{pos_embed}' positions have no table to add at '{place}'"):
        replace(TINY, pos_embed=pos_embed, pos_embed_at=place)


@pytest.mark.parametrize("fc_norm", [True, False])
def test_the_class_token_cannot_be_read_where_there_is_none(fc_norm):
    with pytest.raises(ValueError, match='global_pool: "token" needs class_token=True; use "avg"'):
        replace(TINY, class_token=False, fc_norm=fc_norm)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_heads": 3}, "num_heads: 3 heads cannot share a width of 8 evenly; 2 or 4 can"),
        (
            {"img_size": (8, 10)},
            r"img_size: \(8, 10\) is not a whole number of patches of 4; the nearest: \(8, 8\) or \(8, 12\)",
        ),
        ({"img_size": 30}, r"img_size: \(30, 30\) is not a whole number of patches of 4"),
        ({"pos_embed": "sincos", "embed_dim": 6}, "sin-cos positions need a multiple of 4, at least 8, got 6"),
        ({"pos_embed": "learn2d", "embed_dim": 9, "num_heads": 3}, '"learn2d" positions need an even width, got 9'),
        ({"pos_embed": "learned"}, r"pos_embed: expected one of \('learn', 'learn2d', .*\), got 'learned'"),
        ({"pos_embed_at": "head"}, r"pos_embed_at: expected one of \('stem', .*\), got 'head'"),
        ({"global_pool": "max"}, r"global_pool: expected one of \('token', 'avg'\), got 'max'"),
        ({"drop_rate": 1.0}, "expected a probability of at least 0 and below 1, got 1.0"),
        ({"attn_drop_rate": 1.5}, "attn_drop: expected a probability of at least 0 and below 1, got 1.5"),
        ({"drop_path_rate": -0.1}, "expected a probability of at least 0 and below 1, got -"),
    ],
)
def test_a_setting_that_cannot_be_is_named(changes, message, rng):
    with pytest.raises(ValueError, match=message):
        ViT(replace(TINY, **changes), rng=rng)


# what goes in -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["vit_digits", "simple_vit_digits"])
@pytest.mark.parametrize(
    ("shape", "hint"),
    [
        ((2, 8, 10, 1), ""),
        ((2, 8, 8, 3), ""),
        ((8, 8, 1), r"; a single image is a batch of one: images\[None\]"),
        ((2, 1, 8, 8), r"; channels come last here: np.moveaxis\(images, 1, -1\)"),
        ((2, 64), ""),
    ],
)
def test_images_of_another_shape(name, shape, hint, rng):
    got = str(shape).replace("(", r"\(").replace(")", r"\)")
    with pytest.raises(ValueError, match=rf"images: expected shape \(B, 8, 8, 1\), got {got}{hint}$"):
        create_model(name, rng=rng)(np.zeros(shape, np.float32))


def test_a_resnet_takes_any_size_but_not_any_channels(rng):
    model = create_model("resnet_digits", rng=rng)
    assert model(np.zeros((1, 11, 6, 1), np.float32)).shape == (1, 10)
    with pytest.raises(
        ValueError, match=r"images: expected shape \(B, H, W, 1\), got \(2, 1, 8, 8\); channels come last"
    ):
        model(np.zeros((2, 1, 8, 8), np.float32))


@pytest.mark.parametrize("name", ["vit_digits", "simple_vit_digits", "resnet_digits"])
def test_images_of_whole_numbers(name, rng):
    """0 … 255 would be computed with, and nothing learned."""
    with pytest.raises(TypeError, match="images: expected floating-point numbers, got uint8; scale them"):
        create_model(name, rng=rng)(np.zeros((1, 8, 8, 1), np.uint8))


@pytest.mark.parametrize("name", ["vit_digits", "simple_vit_digits", "resnet_digits"])
def test_a_tensor_of_images_receives_a_gradient(name, rng):
    model = restless(create_model(name, rng=rng), rng, 0.1)
    x = Tensor(rng.normal(size=(2, 8, 8, 1)), requires_grad=True)
    assert gradients(model(x), x, [np.ones((2, 10))])[0].any(axis=(1, 2, 3)).all()


# positions ----------------------------------------------------------------------------------


def shuffled_patches(x, rng, size=4):
    """The same patches in another order."""
    B, H, W, C = x.shape
    h, w = H // size, W // size
    patches = x.reshape(B, h, size, w, size, C).transpose(0, 1, 3, 2, 4, 5).reshape(B, h * w, size, size, C)
    order = np.roll(np.arange(h * w), 1)
    return patches[:, order].reshape(B, h, w, size, size, C).transpose(0, 1, 3, 2, 4, 5).reshape(x.shape)


@pytest.mark.parametrize(("class_token", "global_pool", "fc_norm"), HEADS)
def test_without_positions_the_order_of_patches_does_not_matter(class_token, global_pool, fc_norm, rng):
    for pos_embed in POSITIONS:
        config = replace(TINY, pos_embed=pos_embed, class_token=class_token, global_pool=global_pool, fc_norm=fc_norm)
        model, x = restless(ViT(config, rng=rng), rng), images_for(config, rng)
        change = np.abs(model(x).data - model(shuffled_patches(x, rng)).data).max()
        assert change < 1e-12 if pos_embed == "none" else change > 1e-6, (pos_embed, change)


def test_where_positions_are_added(rng):
    """Stem: once. Shared: the same table before every block. Every layer: a table each; equal tables are the shared."""
    x = images_for(TINY, rng)
    models = {at: restless(ViT(replace(TINY, pos_embed_at=at), rng=rng), rng) for at in PLACES}
    assert [models[at].num_parameters() - models["stem"].num_parameters() for at in PLACES] == [0, 7 * 8, 0]
    shared, each = models["every_layer_shared"], models["every_layer"]
    state = shared.state_dict()
    table = state.pop("pos_embed")
    each.load_state_dict(state | {f"pos_embed.{i}": table for i in range(2)})
    assert np.array_equal(shared(x).data, each(x).data)
    models["stem"].load_state_dict(shared.state_dict())
    assert not np.allclose(shared(x).data, models["stem"](x).data)
    # with nothing to add after the first block, every layer is the stem
    each.load_state_dict(state | {"pos_embed.0": table, "pos_embed.1": 0 * table})
    np.testing.assert_allclose(each(x).data, models["stem"](x).data, rtol=1e-12)


def test_gap_leaves_the_class_token_out_of_the_mean(rng):
    model = restless(ViT(replace(TINY, global_pool="avg", fc_norm=False), rng=rng), rng)
    x = images_for(TINY, rng)
    with capture(model, "norm") as seen:
        logits = model(x)
    pooled = seen["norm"].data[:, 1:].mean(axis=1)
    np.testing.assert_allclose(logits.data, pooled @ model.head.weight.data.T + model.head.bias.data, rtol=1e-12)


def test_no_classes_means_features(rng):
    model = ViT(replace(TINY, num_classes=0), rng=rng)
    assert model(images_for(TINY, rng)).shape == (2, TINY.embed_dim)
    assert not [name for name, _ in model.named_state() if name.startswith("head")]


# training -----------------------------------------------------------------------------------

NOISY = replace(TINY, drop_rate=0.2, attn_drop_rate=0.2, drop_path_rate=0.3, depth=3)


def test_every_kind_of_noise_is_drawn_from_the_generator(rng):
    model, x = restless(ViT(NOISY, rng=rng), rng), images_for(NOISY, rng, batch=4)
    still = model(x).data

    def noisy(seed):
        return model.train(np.random.default_rng(seed))(x).data

    assert np.array_equal(noisy(1), noisy(1))
    assert not np.allclose(noisy(1), noisy(2))
    assert np.array_equal(model.eval()(x).data, still)
    for rate in ("drop_rate", "attn_drop_rate", "drop_path_rate"):
        alone = ViT(replace(TINY, **{rate: 0.5}), rng=rng).astype(np.float64)
        assert not np.allclose(alone(x).data, alone.train(rng)(x).data), rate


def test_noise_obeys_the_laws_too(rng):
    check_model(lambda rng: ViT(NOISY, rng=rng), images_for(NOISY, rng, batch=8), rng=rng)


def test_the_rates_of_stochastic_depth_grow_to_the_last(rng):
    model = ViT(replace(TINY, depth=4, drop_path_rate=0.3), rng=rng)
    rates = [[b.drop_path1.p, b.drop_path2.p] for b in model.blocks]
    np.testing.assert_allclose(rates, np.array([0, 0.1, 0.2, 0.3])[:, None].repeat(2, axis=1), rtol=1e-12)


def test_rates_reach_every_dropout(rng):
    model = ViT(NOISY, rng=rng)
    block = model.blocks[1]
    assert {model.pos_drop.p, block.attn.proj_drop.p, block.mlp.drop1.p, block.mlp.drop2.p} == {0.2}
    assert block.attn.attn_drop == 0.2


# SimpleViT ----------------------------------------------------------------------------------


@pytest.mark.parametrize(("embed_dim", "mlp_dim"), [(112, 488), (112, 920), (384, 1000)])
def test_the_mlp_has_the_width_that_was_asked_for(embed_dim, mlp_dim):
    """488 / 112 · 112 is 487.99…, of which int() is 487."""
    model = create_model("simple_vit_digits", embed_dim=embed_dim, mlp_dim=mlp_dim, depth=1)
    assert model.blocks[0].mlp.fc1.weight.shape == (mlp_dim, embed_dim)


def test_simple_vit_refuses_a_width_that_its_positions_cannot_fill(rng):
    with pytest.raises(ValueError, match="sin-cos positions need a multiple of 4, at least 8, got 30"):
        create_model("simple_vit_digits", embed_dim=30, num_heads=3, rng=rng)


def test_patches_are_flattened_by_row_column_channel(rng):
    x = rng.normal(size=(2, 4, 6, 3))
    patches = patchify(x, 2)
    assert patches.shape == (2, 6, 12)
    for n in range(6):
        top, left = 2 * (n // 3), 2 * (n % 3)
        assert np.array_equal(patches[:, n], x[:, top : top + 2, left : left + 2].reshape(2, -1))


# ResNet -------------------------------------------------------------------------------------


def test_stages_are_the_maps_from_fine_to_coarse(rng):
    model = create_model("resnet18", layers=(1, 1, 1, 1), channels=(4, 6, 8, 10), stem_width=4, rng=rng)
    maps = model.stages(rng.normal(size=(1, 64, 64, 3)).astype(np.float32))
    assert [m.shape for m in maps] == [(1, 16, 16, 4), (1, 8, 8, 6), (1, 4, 4, 8), (1, 2, 2, 10)]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"block": "wide"}, r"block: expected one of \('basic', 'bottleneck'\), got 'wide'"),
        ({"layers": (1, 1, 1)}, r"channels: expected one width per stage \(3\), got \(16, 32\)"),
    ],
)
def test_a_resnet_that_cannot_be(changes, message):
    with pytest.raises(ValueError, match=message):
        create_model("resnet_digits", **changes)


def test_resnet_without_classes(rng):
    assert create_model("resnet_digits", num_classes=0, rng=rng)(np.zeros((2, 8, 8, 1), np.float32)).shape == (2, 32)


# the laws -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(set(list_models()) - set(published())))
def test_small_models_obey_every_law(name, rng):
    blueprint = create_model(name)
    batch = 3 if name.endswith("micro") else 8  # of images of 32 pixels a few are enough
    inputs = tuple(
        rng.normal(size=x.shape) if x.dtype.kind == "f" else rng.integers(1, blueprint.config.vocab_size, size=x.shape)
        for x in example_inputs(blueprint, batch=batch)
    )
    check_model(lambda rng: create_model(name, rng=rng), inputs[0] if len(inputs) == 1 else inputs, rng=rng)


@pytest.mark.parametrize("pos_embed", ["relative", "learn2d", "sincos"])
def test_position_variants_obey_every_law(pos_embed, rng):
    config = replace(TINY, pos_embed=pos_embed, embed_dim=16, global_pool="avg")
    check_model(ViT(config, rng=rng), images_for(config, rng, batch=8), rng=rng)


def test_a_law_that_is_broken_is_reported(rng):
    class Forgetful(ViT):
        def forward(self, images):
            return super().forward(images).data

    with pytest.raises(ModelError, match="not a Tensor"):
        check_model(Forgetful(TINY, rng=rng), images_for(TINY, rng))
