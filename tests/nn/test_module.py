"""Modules: what the walk finds, modes, precision, other weights for a while; and the table of a model."""

import sys

import numpy as np
import pytest

import tinyvit
from tinyvit import Buffer, Frozen, Module, Parameter, Sequential, Tensor, count_macs, create_model, describe, swapped
from tinyvit.nn.basic import Linear
from tinyvit.nn.describe import forward_costs, input_shape, measure
from tinyvit.nn.module import Identity
from tinyvit.nn.noise import Dropout


class Leaf(Module):
    def __init__(self, *shape):
        self.weight = Parameter(np.ones(shape, np.float32))

    def forward(self, x):
        return x * self.weight


class Tree(Module):
    """Parameters and modules in every kind of container."""

    def __init__(self):
        self.top = Parameter(np.zeros(2, np.float32))
        self.child = Leaf(3)
        self.listed = [Leaf(1), Leaf(2)]
        self.pair = (Leaf(1), Parameter(np.zeros(4, np.float32)))
        self.named = {"left": Leaf(5), "right": {"deep": Leaf(6)}}
        self.nested = [[Leaf(7)], [Leaf(8), Leaf(9)]]
        self.mean = Buffer(np.zeros(2, np.float32))
        self.count = Buffer(np.zeros((), np.int64))
        self.fixed = np.zeros(100)
        self.note, self.nothing = "not a parameter", None


NAMES = ["top", "pair.1", "mean", "count", "child.weight", "listed.0.weight", "listed.1.weight", "pair.0.weight",
         "named.left.weight", "named.right.deep.weight", "nested.0.0.weight", "nested.1.0.weight",
         "nested.1.1.weight"]  # fmt: skip


def test_the_walk_finds_everything_by_where_it_hangs():
    tree = Tree()
    assert [name for name, _ in tree.named_state()] == NAMES
    assert [name for name, _ in tree.named_parameters()] == [n for n in NAMES if n not in ("mean", "count")]
    assert tree.num_parameters() == 2 + 4 + 3 + 1 + 2 + 1 + 5 + 6 + 7 + 8 + 9
    assert dict(tree.named_modules())["named.right.deep"] is tree.named["right"]["deep"]
    assert dict(tree.named_modules())[""] is tree


def test_what_is_added_later_is_found():
    tree = Tree()
    tree.listed.append(Leaf(3))
    assert "listed.2.weight" in tree.state_dict()


def test_a_tied_parameter_is_counted_once_and_named_twice(rng):
    model = Sequential(Leaf(3), Leaf(3))
    model.tied = getattr(model, "0").weight
    assert model.num_parameters() == 6
    assert [name for name, _ in model.named_parameters()] == ["tied", "1.weight"]
    assert list(model.state_dict()) == ["tied", "0.weight", "1.weight"]


def test_a_frozen_table_counts_as_a_parameter_and_is_none():
    model = Sequential(Leaf(3))
    model.table = Frozen(np.ones((2, 5), np.float32))
    assert model.num_parameters() == 3 + 10
    assert [name for name, _ in model.named_parameters()] == ["0.weight"]
    assert list(model.state_dict()) == ["table", "0.weight"]
    assert not model.table.requires_grad


def test_a_misspelt_attribute_raises(rng):
    with pytest.raises(AttributeError, match="blokcs"):
        create_model("vit_digits", rng=rng).blokcs  # noqa: B018


def test_a_module_without_forward_says_so():
    with pytest.raises(NotImplementedError, match="Tree has no forward"):
        Tree()(1)


def test_sequential_runs_its_modules_in_order(rng):
    model = Sequential(Linear(3, 4, rng=rng), Identity(), Linear(4, 2, rng=rng))
    x = rng.normal(size=(5, 3)).astype(np.float32)
    first, _, last = (getattr(model, str(i)) for i in range(3))
    assert np.array_equal(model(x).data, last(first(x)).data)
    assert list(model.state_dict()) == ["0.weight", "0.bias", "2.weight", "2.bias"]


# mode ---------------------------------------------------------------------------------------


def test_training_mode_is_having_a_generator(rng):
    tree = Tree()
    assert not tree.training
    assert tree.train(rng) is tree
    assert all(m.training and m.rng is rng for _, m in tree.named_modules())
    assert tree.eval() is tree
    assert not any(m.training for _, m in tree.named_modules())


@pytest.mark.parametrize("wrong", [True, None, 0, np.random])
def test_training_needs_a_generator(wrong):
    with pytest.raises(TypeError, match=r"training mode is having a generator; pass np.random.default_rng\(seed\)"):
        Tree().train(wrong)


# precision ----------------------------------------------------------------------------------


def test_astype_changes_floats_and_leaves_counters():
    tree = Tree().astype(np.float64)
    dtypes = {name: x.dtype for name, x in tree.state_dict().items()}
    assert dtypes.pop("count") == np.int64
    assert set(dtypes.values()) == {np.dtype(np.float64)}
    assert all(isinstance(p, Parameter) and p.requires_grad for p in tree.parameters())


def test_astype_keeps_tied_parameters_tied():
    model = Sequential(Leaf(3), Leaf(3))
    setattr(model, "1", getattr(model, "0"))
    model.astype(np.float16)
    assert getattr(model, "1").weight is getattr(model, "0").weight


def test_a_blueprint_has_a_precision_too():
    assert create_model("vit_digits").astype(np.float64).head.weight.dtype == np.float64


# other weights for a while ------------------------------------------------------------------


def test_swapped_gives_the_old_arrays_back(rng):
    tree = Tree()
    before = tree.state_dict()
    with swapped(tree, {"top": np.ones(2), "count": np.array(5)}) as same:
        assert same is tree
        assert tree.top.data.tolist() == [1, 1]
        assert tree.count.data == 5
    assert all(x is before[name] for name, x in tree.state_dict().items())


def test_swapped_gives_them_back_after_an_error():
    tree = Tree()
    before = tree.state_dict()
    with pytest.raises(ZeroDivisionError), swapped(tree, {name: x + 1 for name, x in before.items()}):
        1 / 0  # noqa: B018
    assert all(x is before[name] for name, x in tree.state_dict().items())


def test_swapped_refuses_what_does_not_fit_and_changes_nothing():
    tree = Tree()
    before = tree.state_dict()
    with pytest.raises(KeyError, match="no parameter or buffer called 'tpo'"), swapped(tree, {"tpo": np.ones(2)}):
        pass
    misfits = {"top": np.ones(2), "child.weight": np.ones(4)}
    with pytest.raises(ValueError, match=r"child.weight: expected shape \(3,\), got \(4,\)"), swapped(tree, misfits):
        pass
    assert all(x is before[name] for name, x in tree.state_dict().items())


def test_swapped_nests():
    tree = Tree()
    with swapped(tree, {"top": np.full(2, 1.0)}):
        with swapped(tree, {"top": np.full(2, 2.0)}):
            assert tree.top.data[0] == 2
        assert tree.top.data[0] == 1
    assert tree.top.data[0] == 0


# parameters ---------------------------------------------------------------------------------


def test_a_parameter_is_a_tensor_of_floats():
    assert isinstance(Parameter(np.zeros(2)), Tensor)
    assert not Buffer(np.zeros(2)).requires_grad
    with pytest.raises(TypeError, match="only real and complex numbers have derivatives, this array is int64"):
        Parameter(np.arange(3))


# the table ----------------------------------------------------------------------------------

VIT_DIGITS = """\
module            kind        output  parameters     MACs
────────────────  ──────────  ──────  ──────────  ───────
ViT               ViT         10          26,762  475,648
patch_embed       PatchEmbed  16×32          160    2,048
patch_embed.proj  Conv2d      4×4×32         160    2,048
pos_drop          Dropout     17×32            0        0
blocks.0          Block       17×32        8,544  157,760
blocks.1          Block       17×32        8,544  157,760
blocks.2          Block       17×32        8,544  157,760
norm              LayerNorm   17×32           64        0
fc_norm           Identity    32               0        0
head              Linear      10             330      320"""


def test_the_table_of_a_model():
    assert describe(create_model("vit_digits")) == VIT_DIGITS


def test_the_table_is_as_deep_as_asked():
    model = create_model("vit_digits")
    assert [len(describe(model, depth=d).splitlines()) for d in (0, 1, 2, 3, 4)] == [3, 8, 12, 30, 51]
    assert "blocks.1.attn.qkv" in describe(model, depth=4)


def test_counts_worked_by_hand():
    """17 tokens of 32 numbers, 4 heads, an MLP of 64; 16 patches of 4 pixels; 10 classes."""
    rows = {row.name: row for row in measure(create_model("vit_digits"), (1, 8, 8, 1))}
    assert rows["blocks.0.attn.qkv"].macs == 17 * 32 * 96
    assert rows["blocks.0.attn"].macs == 17 * 32 * 96 + 2 * 17 * 17 * 32 + 17 * 32 * 32
    assert rows["blocks.0.mlp"].macs == 2 * 17 * 32 * 64
    assert rows["patch_embed"].macs == 16 * 4 * 32
    assert rows[""].macs == sum(rows[name].macs for name in ("patch_embed", "blocks.0", "blocks.1", "blocks.2", "head"))
    assert rows["blocks.0"].params == 2 * 64 + (32 + 1) * 96 + (32 + 1) * 32 + (32 + 1) * 64 + (64 + 1) * 32


def test_activations_are_what_is_computed_and_views_are_not():
    class Inner(Module):
        def forward(self, x):
            return tinyvit.exp(tinyvit.reshape(x, shape=(2, 6)))

    class Outer(Module):
        def __init__(self):
            self.inner = Inner()

        def forward(self, x):
            return tinyvit.mean(tinyvit.exp(self.inner(x)), axis=1)

    costs = forward_costs(Outer(), (3, 4))
    assert costs["inner"].activations == 12
    assert costs[""].activations == 12 + 12 + 2
    assert 0 < costs["inner"].seconds <= costs[""].seconds


def test_a_table_with_costs(rng):
    head, _, *rows = describe(create_model("vit_digits", rng=rng), timed=True).splitlines()
    assert head.split()[-3:] == ["MACs", "activations", "ms"]
    whole, *parts = (int(row.split()[-2].replace(",", "")) for row in rows)
    assert whole >= sum(parts), "the model computes less than its modules"
    assert parts[0] >= 16 * 32, "the patches' embeddings"


def test_counts_grow_with_the_batch_and_the_image():
    model = create_model("resnet_digits")
    assert input_shape(model, 3) == (3, 8, 8, 1)
    assert count_macs(model, (3, 8, 8, 1)) == 3 * count_macs(model)
    assert describe(model, depth=0, shape=(1, 16, 16, 1)).count("\n") == 2


def test_describing_changes_nothing(rng):
    model = create_model("resnet_digits", rng=rng).train(rng)
    before = model.state_dict()
    describe(model.eval())
    assert all(x is before[name] for name, x in model.state_dict().items())


def test_a_module_that_runs_twice_is_one_row(rng):
    class Twice(Module):
        def __init__(self):
            self.layer, self.drop = Linear(3, 3, rng=rng), Dropout(0.5)

        def forward(self, x):
            return self.layer(self.drop(self.layer(x)))

    rows = measure(Twice(), (2, 3))
    assert [(row.name, row.params, row.macs) for row in rows] == [("", 12, 36), ("layer", 12, 36), ("drop", 0, 0)]


def test_a_model_moves_to_a_device_that_is_there(monkeypatch):
    model = tinyvit.create_model("vit_digits", rng=np.random.default_rng(0))
    before = {name: x.copy() for name, x in model.state_dict().items()}
    assert model.to("cpu") is model
    assert all(np.array_equal(x, before[name]) for name, x in model.state_dict().items())
    with pytest.raises(ValueError, match='device: expected "cpu" or "cuda"'):
        model.to("tpu")
    monkeypatch.setitem(sys.modules, "cupy", None)  # as if it were not installed
    with pytest.raises(ImportError, match=r"tinyvit\[cuda12\]"):
        model.to("cuda")
    assert all(np.array_equal(x, before[name]) for name, x in model.state_dict().items()), "half of it was moved"
