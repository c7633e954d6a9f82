"""Published variants: exact counts without allocating, and timm's names and shapes."""

import math
import re
import tracemalloc

import numpy as np
import pytest
from reference import DATA, fixture, variants

from tinyvit import count_macs, create_model, list_models, load_weights, save_weights
from tinyvit.blueprint import Blueprint
from tinyvit.models.catalogue import PAPERS, counted, published
from tinyvit.models.resnet import ResNet, ResNetConfig
from tinyvit.models.vit import ViT, ViTConfig
from tinyvit.nn.describe import example_inputs
from tinyvit.nn.weights import read_weights

# counts -------------------------------------------------------------------------------------

# rows of the families there are that tinyvit has no model for, and why
LATER = {
    "hrnet_w18@224": "a backbone of segmentation systems; not among the classifiers here",
    "hrnet_w48@224": "as hrnet_w18",
    "vit_relpos_base_patch16_224": "timm's own 2-D relative bias and layer scale, which the paper lacks",
}

FAMILIES = {row["family"] for row in variants() if row["name"] in counted()}
ROWS = {row["name"]: row for row in variants() if row["family"] in FAMILIES}


def test_every_row_is_counted_or_named_as_missing():
    assert counted().keys() | LATER.keys() == ROWS.keys()
    assert not counted().keys() & LATER.keys()


@pytest.mark.parametrize("name", [name for name, row in published().items() if row.counted_as])
def test_a_published_model_has_its_resolution_and_classes(name):
    """What a model can be called with is what was counted; clips of it as well; of tokens there are N = H × W."""
    config, row = published()[name].config, ROWS[published()[name].counted_as]
    shape = example_inputs(create_model(name))[0].shape
    assert shape[-3:-1] == tuple(row["resolution"]) if len(shape) >= 4 else shape[1] == math.prod(row["resolution"])
    if hasattr(config, "num_classes"):
        assert config.num_classes == row["classes"]


def largest(paper):
    """The published model of a paper that has the most parameters, as far as they have a row."""
    return max(paper.PUBLISHED, key=lambda name: ROWS.get(paper.PUBLISHED[name].counted_as, {"params": 0})["params"])


# MB that counting takes where there are large tables: a causal mask of 1024², masks of windows in a clip
TABLES = {"igpt_xl": 16, "video_swin_large_patch244_window877_k400": 9}


@pytest.mark.parametrize("name", [largest(paper) for paper in PAPERS if paper.PUBLISHED])
def test_counting_allocates_next_to_nothing(name):
    """The largest have gigabytes of weights; a blueprint, and a run of it, take what index tables and masks take."""
    count_macs(create_model("vit_digits"))  # what is imported on first use is not counted
    tracemalloc.start()
    count_macs(create_model(name))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < TABLES.get(name, 4) * 1e6, f"{peak / 1e6:.1f} MB"


def test_counts_do_not_depend_on_having_numbers(rng):
    for name in ("vit_digits", "resnet_digits", "simple_vit_digits", "swin_digits"):
        assert count_macs(create_model(name, rng=rng)) == count_macs(create_model(name))


# names --------------------------------------------------------------------------------------


def listing(name):
    """The names and shapes that timm's model has; `blocks.0-11.x` in the file is a range."""
    shapes = {}
    for line in (DATA / "timm_names" / f"{name}.txt").read_text(encoding="utf-8").splitlines()[1:]:
        key, shape = line.split()
        shape = () if shape == "()" else tuple(map(int, shape.split("×")))
        several = re.search(r"(\d+)-(\d+)\.", key)
        first, last = map(int, several.groups()) if several else (0, 0)
        shapes |= {re.sub(r"\d+-\d+\.", f"{i}.", key): shape for i in range(first, last + 1)}
    return shapes


@pytest.mark.parametrize("name", sorted(path.stem for path in (DATA / "timm_names").glob("*.txt")))
def test_names_and_shapes_are_those_of_timm(name):
    ours = {key: value.shape for key, value in create_model(name).named_state()}
    assert ours == listing(name)


def test_the_listings_are_whole():
    assert {name: len(listing(name)) for name in ("vit_huge_patch14_224", "resnet18", "resnet50")} == {
        "vit_huge_patch14_224": 8 + 32 * 12, "resnet18": 122, "resnet50": 320}  # fmt: skip


# weights that timm wrote --------------------------------------------------------------------

TIMM = {
    "timm-vit-small": lambda kwargs: ViT(ViTConfig(**kwargs), rng=None),
    "timm-resnet-small": lambda kwargs: ResNet(ResNetConfig(**kwargs | {"block": "basic"}), rng=None),
}


def loaded(name):
    kwargs = fixture(name)["meta"]["config"]
    return load_weights(TIMM[name](kwargs), DATA / f"{name}.safetensors")


@pytest.mark.parametrize("name", TIMM)
def test_a_file_of_timm_gives_its_logits(name):
    images, wanted = fixture(name)["images"], fixture(name)["logits"]
    model = loaded(name)
    single = model(images).data
    assert single.dtype == np.float32
    np.testing.assert_allclose(single, wanted, rtol=0, atol=3e-6)
    np.testing.assert_allclose(model.astype(np.float64)(images.astype(np.float64)).data, wanted, rtol=1e-10, atol=0)


@pytest.mark.parametrize("name", TIMM)
def test_what_we_save_is_what_timm_saved(name, tmp_path):
    """Same names, types, shapes and bits: so timm, which reads its own file, reads ours."""
    theirs = read_weights(DATA / f"{name}.safetensors")
    ours = read_weights(save_weights(loaded(name), tmp_path / "ours.safetensors"))
    assert ours.keys() == theirs.keys()
    for key in theirs:
        assert (ours[key].dtype, ours[key].shape) == (theirs[key].dtype, theirs[key].shape), key
        assert ours[key].tobytes() == theirs[key].tobytes(), key


# the catalogue ------------------------------------------------------------------------------


def test_patterns():
    assert list_models("vit_huge*") == ["vit_huge_patch14_224", "vit_huge_patch14_224_in21k", "vit_huge_patch14_392",
                                        "vit_huge_patch16_224"]  # fmt: skip
    assert list_models("simple*digits") == ["simple_vit_digits"]
    assert list_models("nothing*") == []
    assert list_models() == sorted(list_models())
    assert {*published(), "vit_digits", "vit_micro"} <= set(list_models())


@pytest.mark.parametrize("name", list_models())
def test_every_name_makes_a_blueprint_that_runs(name):
    model = create_model(name)
    assert all(isinstance(p.data, Blueprint) for p in model.parameters())
    assert model.state_dict().keys() == {key for key, _ in model.named_state()}


def test_an_unknown_name_gets_the_nearest_ones():
    with pytest.raises(ValueError, match="vit_bse_patch16_224'; did you mean vit_base_patch16_224"):
        create_model("vit_bse_patch16_224")
    with pytest.raises(ValueError, match=r"there is no model 'zzz'; `tinyvit models --all` lists them all"):
        create_model("zzz")


def test_an_unknown_setting_gets_those_there_are():
    with pytest.raises(TypeError, match=r"vit_digits has no setting 'classes'; it has img_size, .*num_classes"):
        create_model("vit_digits", classes=3)


def test_a_seed_is_not_a_generator():
    with pytest.raises(TypeError, match=r"rng: expected np.random.default_rng\(seed\), got 0"):
        create_model("vit_digits", rng=0)


def test_settings_are_changed():
    model = create_model("vit_base_patch16_224", num_classes=7, img_size=(32, 48), depth=1)
    assert model.head.weight.shape == (7, 768)
    assert model.pos_embed.shape == (1, 1 + 2 * 3, 768)
    assert published()["vit_base_patch16_224"].config.num_classes == 1000, "the catalogue itself has not changed"


def test_equal_generators_give_equal_models():
    one, two, other = (create_model("vit_digits", rng=np.random.default_rng(seed)) for seed in (3, 3, 4))
    for name, value in one.state_dict().items():
        assert np.array_equal(value, two.state_dict()[name]), name
    assert not np.array_equal(one.head.weight.data, other.head.weight.data) or not np.array_equal(
        one.patch_embed.proj.weight.data, other.patch_embed.proj.weight.data
    )


def test_a_blueprint_does_not_compute(rng):
    with pytest.raises(TypeError, match=r"a blueprint has a shape but no numbers; create the model with rng"):
        create_model("vit_digits")(rng.normal(size=(1, 8, 8, 1))).item()
