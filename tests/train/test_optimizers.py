"""Optimisers: reference trajectories to 1e-12, groups, layer-wise decay, and states that go on to the bit."""

import numpy as np
import pytest
from reference import fixture

import tinyvit
from tinyvit.nn.module import Module, Parameter
from tinyvit.train import (
    SGD,
    Adam,
    AdamW,
    Average,
    RMSprop,
    all_decay,
    clipped,
    decays,
    depths,
    layer_decay,
    weights_decay,
)

OPTIMISERS = {"SGD": SGD, "Adam": Adam, "AdamW": AdamW, "RMSprop": RMSprop}
CASES = {case["case"]: case for case in fixture("shared-op-optim")["meta"]["cases"]}
TRAJECTORIES = [name for name, case in CASES.items() if "opt" in case]


class Bag(Module):
    """Parameters by name and nothing to compute."""

    def __init__(self, arrays):
        self.p = {name: Parameter(array.copy()) for name, array in arrays.items()}


def start(case):
    z = fixture("shared-op-optim")
    return Bag({i: z[f"{case}/init/{i}"] for i in ("0", "1")})


def made(case, bag):
    """The optimiser of a case, and its rate at every step."""
    a = CASES[case]
    names = ("momentum", "nesterov", "dampening", "weight_decay", "betas", "eps", "alpha", "amsgrad")
    options = {name: a[name] for name in names if name in a}
    if a["opt"] == "AdamW":  # PyTorch's own decay, where the case gives none, is 0.01
        options.setdefault("weight_decay", a["wd"] if isinstance(a.get("wd"), float) else 0.01)
    groups = all_decay
    if isinstance(a.get("wd"), list):
        options["weight_decay"] = max(a["wd"])
        groups = lambda name, array: (a["wd"][int(name[-1])] / max(a["wd"]), 1.0)  # noqa: E731
    return OPTIMISERS[a["opt"]](bag, groups=groups, **options), a.get("lrs", [a.get("lr")] * 6)


@pytest.mark.parametrize("case", TRAJECTORIES)
def test_trajectories_are_the_reference_s(case):
    z, bag = fixture("shared-op-optim"), start(case)
    optimizer, rates = made(case, bag)
    for step, rate in enumerate(rates):
        g = {f"p.{i}": z[f"{case}/g{step}/{i}"] for i in ("0", "1")}
        if "max_norm" in CASES[case]:
            _, g = clipped(lambda model, batch, g=g: (0.0, g), norm=CASES[case]["max_norm"])(bag, None)
        optimizer.step(g, rate)
        for i in ("0", "1"):
            error = np.abs(bag.p[i].data - z[f"{case}/p{step}/{i}"]).max()
            assert error < 1e-12, f"{case}: parameter {i} is {error:.1e} off after step {step}"


def test_the_average_is_the_reference_s():
    z = fixture("shared-op-optim")
    bag = Bag({"w": z["ema/w0"]})
    average = Average(bag, CASES["ema"]["decay"])
    for step in range(1, 5):
        bag.p["w"].data = z[f"ema/w{step}"]
        average.update()
        with average.weights():
            np.testing.assert_allclose(bag.p["w"].data, z[f"ema/e{step}"], rtol=0, atol=1e-12)


# what is kept ------------------------------------------------------------------------------

KINDS = [
    lambda bag: SGD(bag),
    lambda bag: SGD(bag, momentum=0.9, dampening=0.3),
    lambda bag: RMSprop(bag),
    lambda bag: AdamW(bag, amsgrad=True),
    lambda bag: Adam(bag, weight_decay=0.1),
]


def some_gradients(rng, count, dtype=np.float32):
    return [{f"p.{i}": rng.normal(size=shape).astype(dtype) for i, shape in enumerate([(3, 2), (4,)])}
            for _ in range(count)]  # fmt: skip


def new_bag(rng):
    return Bag({str(i): rng.normal(size=shape).astype(np.float32) for i, shape in enumerate([(3, 2), (4,)])})


@pytest.mark.parametrize("make", KINDS)
def test_a_restored_optimiser_goes_on_to_the_bit(make, rng):
    bag, gradients = new_bag(rng), some_gradients(rng, 5)
    optimizer = make(bag)
    for g in gradients[:2]:
        optimizer.step(g, 0.1)
    state, copy = optimizer.state(), Bag({i: p.data for i, p in bag.p.items()})
    kept = {name: np.copy(value) for name, value in state.items()}
    other = make(copy)
    other.restore(state)
    for g in gradients[2:]:
        optimizer.step(g, 0.1)
        other.step(g, 0.1)
    assert all(np.array_equal(p.data, copy.p[i].data) for i, p in bag.p.items())
    assert all(p.data.dtype == np.float32 for p in bag.p.values())
    assert all(np.array_equal(state[name], kept[name]) for name in state), "a state changed when its optimiser moved on"


def test_a_state_has_plain_names_and_what_does_not_fit_changes_nothing(rng):
    bag = new_bag(rng)
    optimizer = AdamW(bag)
    optimizer.step(some_gradients(rng, 1)[0], 0.1)
    state = optimizer.state()
    assert list(state) == ["steps", "first/p.0", "first/p.1", "second/p.0", "second/p.1"]
    wrong = {name: value for name, value in state.items() if name != "first/p.1"}
    wrong |= {"second/p.0": np.zeros((2, 2)), "third/p.0": np.zeros(3), "steps": 7}
    with pytest.raises(ValueError, match="does not fit the optimiser") as error:
        optimizer.restore(wrong)
    for line in ("missing: first/p.1", "unknown: third/p.0", "second/p.0 has shape (2, 2), expected (3, 2)"):
        assert line in str(error.value)
    assert all(np.array_equal(value, state[name]) for name, value in optimizer.state().items())


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (lambda bag: AdamW(bag, weight_decay=-1), "weight_decay"),
        (lambda bag: Adam(bag, eps=0), "eps"),
        (lambda bag: AdamW(bag, betas=(0.9, 1.0)), "betas"),
        (lambda bag: SGD(bag, momentum=1.0), "momentum"),
        (lambda bag: SGD(bag, momentum=0.9, dampening=-0.1), "dampening"),
        (lambda bag: SGD(bag, nesterov=True), "nesterov"),
        (lambda bag: SGD(bag, momentum=0.9, dampening=0.1, nesterov=True), "nesterov"),
        (lambda bag: RMSprop(bag, alpha=1.5), "alpha"),
        (lambda bag: RMSprop(bag, weight_decay=float("nan")), "weight_decay"),
        (lambda bag: Average(bag, 1.0), "decay"),
        (lambda bag: layer_decay(bag, 0.0), "factor"),
    ],
)
def test_impossible_settings_are_refused(make, name, rng):
    with pytest.raises(ValueError, match=f"^{name}: expected"):
        make(new_bag(rng))


# groups ------------------------------------------------------------------------------------


def test_weights_decay_and_biases_norms_tokens_and_positions_do_not(rng):
    model = tinyvit.create_model("vit_digits", rng=rng)
    kept = {name for name, p in model.named_parameters() if not decays(name, p.data)}
    assert {"cls_token", "pos_embed", "norm.weight", "blocks.0.attn.qkv.bias", "patch_embed.proj.bias"} <= kept
    assert not {"head.weight", "blocks.0.mlp.fc1.weight", "patch_embed.proj.weight"} & kept
    swin = {name for name, p in tinyvit.create_model("swin_digits").named_parameters() if not decays(name, p.data)}
    assert "layers.0.blocks.0.attn.relative_position_bias_table" in swin


# Which layer timm 1.0.31 counts each of these to; the last entry is the head's.
LAYERS = {
    "vit_tiny_patch16_224": {"cls_token": 0, "pos_embed": 0, "patch_embed.proj.bias": 0, "blocks.0.norm1.weight": 1,
                             "blocks.11.mlp.fc2.bias": 12, "norm.weight": 12, "head.weight": 13},
    "deit_tiny_distilled_patch16_224": {"dist_token": 0, "blocks.4.attn.qkv.weight": 5, "norm.bias": 12,
                                        "head_dist.weight": 13, "head.weight": 13},
    "swin_tiny_patch4_window7_224": {"patch_embed.norm.weight": 0, "layers.0.blocks.1.norm1.weight": 2,
                                     "layers.1.downsample.reduction.weight": 3, "layers.1.blocks.0.mlp.fc1.bias": 3,
                                     "layers.2.blocks.5.norm2.weight": 10, "layers.3.blocks.1.mlp.fc2.bias": 12,
                                     "norm.weight": 12, "head.fc.weight": 13},
    "nat_mini": {"patch_embed.norm.bias": 0, "levels.0.blocks.2.attn.rpb": 3, "levels.0.downsample.reduction.weight": 4,
                 "levels.1.blocks.0.norm1.weight": 4, "levels.3.blocks.4.norm2.bias": 18, "norm.weight": 18,
                 "head.weight": 19},
    "resnet18": {"conv1.weight": 0, "bn1.weight": 0, "layer1.1.conv2.weight": 2, "layer2.0.downsample.0.weight": 3,
                 "layer4.1.bn2.bias": 8, "fc.weight": 9},
    "densenet121": {"features.conv0.weight": 0, "features.denseblock1.denselayer6.norm1.weight": 6,
                    "features.transition1.conv.weight": 6, "features.denseblock2.denselayer1.conv1.weight": 7,
                    "features.transition3.norm.bias": 42, "classifier.weight": 59},
    "regnety_040": {"stem.conv.weight": 0, "s1.b2.conv1.conv.weight": 2, "s2.b1.conv3.bn.bias": 3,
                    "s4.b2.se.fc1.weight": 22, "head.fc.weight": 23},
    "mixer_s16_224": {"stem.proj.weight": 0, "blocks.7.mlp_tokens.fc1.weight": 8, "norm.weight": 8, "head.bias": 9},
    "volo_d1_224": {"cls_token": 0, "pos_embed": 0, "patch_embed.conv.0.weight": 0, "network.0.3.norm1.weight": 4,
                    "network.1.proj.weight": 5, "network.2.0.norm1.bias": 6, "network.4.1.mlp.fc1.weight": 19,
                    "post_network.0.norm1.weight": 20, "norm.weight": 21, "aux_head.weight": 22, "head.weight": 22},
}  # fmt: skip


@pytest.mark.parametrize("name", LAYERS)
def test_layers_are_told_from_names_as_timm_does(name):
    found = depths(tinyvit.create_model(name))
    assert {parameter: found[parameter] for parameter in LAYERS[name]} == LAYERS[name]
    assert set(found.values()) == set(range(max(LAYERS[name].values()) + 1))


def test_layers_learn_more_slowly_the_deeper_they_are(rng):
    model = tinyvit.create_model("vit_digits", rng=rng)  # three blocks: the stem is four below the head
    group = layer_decay(model, 0.5)
    arrays = {name: p.data for name, p in model.named_parameters()}
    names = ("patch_embed.proj.weight", "blocks.0.attn.qkv.weight", "blocks.2.norm1.bias", "head.weight", "pos_embed")
    assert [group(n, arrays[n]) for n in names] == [(1, 1 / 16), (1, 1 / 8), (0, 1 / 2), (1, 1), (0, 1 / 16)]
    assert layer_decay(model, 0.5, all_decay)("pos_embed", arrays["pos_embed"]) == (1, 1 / 16)
    assert weights_decay("head.weight", arrays["head.weight"]) == (1, 1)


def test_factors_of_a_group_scale_rate_and_decay(rng):
    bag = Bag({"0": np.ones(2), "1": np.ones(2)})
    optimizer = SGD(bag, weight_decay=0.1, groups=lambda name, array: (0.5, 0.25) if name == "p.1" else (0.0, 1.0))
    optimizer.step({"p.0": np.ones(2), "p.1": np.ones(2)}, 1.0)
    np.testing.assert_allclose(bag.p["0"].data, 0)
    np.testing.assert_allclose(bag.p["1"].data, 1 - 0.25 * 1.05)


def test_a_model_without_blocks_has_no_layers():
    with pytest.raises(ValueError, match="no blocks"):
        layer_decay(new_bag(np.random.default_rng(0)))
    bag = Bag({"0": np.ones(2)})
    with pytest.raises(KeyError):
        SGD(bag).step({"p.9": np.ones(2)}, 0.1)


# the average -------------------------------------------------------------------------------


def test_an_average_of_running_statistics_and_counts(rng):
    model = tinyvit.create_model("resnet_digits", rng=rng)
    average = Average(model, 0.75)
    before = {name: array.copy() for name, array in model.state_dict().items()}
    model.train(rng)(rng.random((4, 8, 8, 1), dtype=np.float32))
    model.eval()
    after = model.state_dict()
    average.update()
    with average.weights():
        mixed = 0.75 * before["bn1.running_mean"] + 0.25 * after["bn1.running_mean"]
        np.testing.assert_allclose(model.bn1.running_mean.data, mixed, rtol=1e-6)
        assert model.bn1.running_mean.data.dtype == np.float32
        assert model.bn1.num_batches_tracked.data == 1


def test_the_weights_come_back_whatever_happens(rng):
    model = tinyvit.create_model("vit_digits", rng=rng)
    average = Average(model, 0.9)
    trained = {name: array + 1 for name, array in model.state_dict().items()}
    model.load_state_dict(trained)
    own = model.state_dict()

    def interrupted():
        with average.weights():
            assert not np.array_equal(model.head.weight.data, own["head.weight"])
            raise RuntimeError("in the middle")

    with pytest.raises(RuntimeError, match="in the middle"):
        interrupted()
    assert all(array is own[name] for name, array in model.state_dict().items())


def test_an_average_can_be_saved(rng):
    model = tinyvit.create_model("resnet_digits", rng=rng)
    average = Average(model, 0.5)
    model.load_state_dict({name: array + 1 for name, array in model.state_dict().items()})
    average.update()
    other = Average(model, 0.5)
    other.restore(average.state())
    assert all(np.array_equal(array, other.arrays[name]) for name, array in average.arrays.items())
    with pytest.raises(ValueError, match=r"does not fit the average\n  missing: bn1\.weight"):
        other.restore({name: array for name, array in average.state().items() if name != "bn1.weight"})
