"""VGG: its columns, torchvision's names and timm's, and what it has beyond AlexNet's plan."""

import numpy as np
import pytest

from tinyvit import create_model, load_weights, save_weights
from tinyvit.models.vgg import VGG, VGGConfig
from tinyvit.nn.module import Module, Parameter

TINY = VGGConfig(img_size=16, in_chans=2, num_classes=3, layers=(2, 1), channels=(3, 4), pool_size=2, hidden=(6, 5))


@pytest.mark.parametrize(("name", "weights"), [("vgg11", 11), ("vgg13", 13), ("vgg16", 16), ("vgg19", 19)])
def test_a_network_has_as_many_layers_as_its_name_says(name, weights):
    assert sum(p.ndim > 1 for p in create_model(name).parameters()) == weights


# Table 2, in millions
@pytest.mark.parametrize(("name", "printed"), [("vgg11", 133), ("vgg13", 133), ("vgg16", 138), ("vgg19", 144)])
def test_the_parameters_are_those_of_table_2(name, printed):
    assert round(create_model(name).num_parameters() / 1e6) == printed


PLACES = {
    "vgg16": [0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28],
    "vgg16_bn": [0, 3, 7, 10, 14, 17, 20, 24, 27, 30, 34, 37, 40],
}


@pytest.mark.parametrize(("name", "places"), PLACES.items())
def test_names_are_those_of_torchvision(name, places):
    weights = [name for name, p in create_model(name).named_parameters() if p.ndim > 1]
    assert weights == [f"features.{i}.weight" for i in places] + [f"classifier.{i}.weight" for i in (0, 3, 6)]


def test_two_small_windows_see_what_a_larger_one_sees(rng):
    """Sec. 2.3: the second convolution's output depends on 5×5 pixels; three of them would on 7×7."""
    model = VGG(TINY, rng=rng)
    image = np.zeros((1, 11, 11, 2), np.float32)
    plain = [getattr(model.features, name) for name in ("0", "2")]
    image[0, 5, 5] = 1
    touched = plain[1](plain[0](image)).data - plain[1](plain[0](np.zeros_like(image))).data
    rows, columns = np.nonzero(np.abs(touched[0]).max(axis=-1))
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (3, 7, 3, 7)


def test_batch_norm_stands_between_convolution_and_relu():
    kinds = [type(layer).__name__ for layer in create_model("vgg_digits").features]
    assert kinds == ["Conv2d", "BatchNorm", "ReLU"] * 2 + ["MaxPool"] + ["Conv2d", "BatchNorm", "ReLU"] * 2 + [
        "MaxPool"
    ]


def test_the_stages_are_the_maps_that_pooling_leaves(rng):
    model, images = VGG(TINY, rng=rng), rng.normal(size=(1, 9, 14, 2))
    assert [m.shape for m in model.stages(images)] == [(1, 4, 7, 3), (1, 2, 3, 4)]


def test_it_starts_as_its_paper_says(rng):
    """Normal, σ = 0.01, zero biases; convolutions as in torchvision (He's, fan out)."""
    model = VGG(VGGConfig(in_chans=16, layers=(1,), channels=(64,), pool_size=2, hidden=(64, 64)), rng=rng)
    assert abs(getattr(model.classifier, "0").weight.data.std() / 0.01 - 1) < 0.05
    assert abs(getattr(model.features, "0").weight.data.std() / np.sqrt(2 / (9 * 64)) - 1) < 0.05
    assert not any(p.data.any() for name, p in model.named_parameters() if name.endswith("bias"))


class AsTimm(Module):
    """A VGG's arrays under timm's names: its linear layers as the convolutions that they are there."""

    def __init__(self, model):
        c, own = model.config, {name: p.data for name, p in model.named_parameters()}
        maps = own["classifier.0.weight"].reshape(-1, c.width, c.pool_size, c.pool_size)
        changed = {"pre_logits.fc1.weight": maps, "pre_logits.fc2.weight": own["classifier.3.weight"][:, :, None, None],
                   "head.fc.weight": own["classifier.6.weight"]}  # fmt: skip
        changed |= {f"{theirs}.bias": own[f"classifier.{i}.bias"]
                    for i, theirs in ((0, "pre_logits.fc1"), (3, "pre_logits.fc2"), (6, "head.fc"))}  # fmt: skip
        rest = {name: x for name, x in own.items() if name.startswith("features")}
        self.arrays = {name: Parameter(x) for name, x in (rest | changed).items()}

    def state_dict(self):
        return {name: p.data for name, p in self.arrays.items()}


def test_files_of_timm_load(rng, tmp_path):
    source = VGG(TINY, rng=rng)
    save_weights(source, tmp_path / "ours.safetensors")
    save_weights(AsTimm(source), tmp_path / "timm.safetensors")
    images = rng.normal(size=(2, 16, 16, 2)).astype(np.float32)
    for name in ("ours", "timm"):
        model = load_weights(VGG(TINY, rng=None), tmp_path / f"{name}.safetensors")
        assert np.array_equal(model(images).data, source(images).data)


def test_a_stage_without_channels_is_refused():
    with pytest.raises(ValueError, match=r"channels: expected one width per stage \(2\), got \(8,\)"):
        create_model("vgg_digits", channels=(8,))
