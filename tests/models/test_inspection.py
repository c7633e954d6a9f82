"""What a weight file holds and fits, from its header alone."""

import json
import os
import tracemalloc

import numpy as np
import pytest
from safetensors.numpy import save_file

from tinyvit import cli, create_model, inspect_weights, save_weights
from tinyvit.models.catalogue import PAPERS
from tinyvit.nn.safetensors import pieces


def hollow(path, name, **changes):
    """A file of a catalogue model's weights of which only the header is written: the rest is a hole, of zeros."""
    state = create_model(name, **changes).state_dict()
    header = next(pieces(state))
    path.write_bytes(header)
    os.truncate(path, len(header) + sum(x.nbytes for x in state.values()))
    return path


def calls(found):
    return [fit.call for fit in found.fits]


@pytest.mark.parametrize("name", [next(iter(t)) for paper in PAPERS for t in (paper.PUBLISHED, paper.SMALL) if t])
def test_a_model_of_every_paper_fits_its_own_file(name, tmp_path):
    found = inspect_weights(hollow(tmp_path / "m", name))
    assert name in [fit.name for fit in found.fits if not fit.settings]
    assert found.nearest is None
    model = create_model(name)
    assert {n: shape for n, (shape, _) in found.arrays.items()} == {n: x.shape for n, x in model.named_state()}
    assert found.size == sum(x.size for _, x in model.named_state())
    assert {fit.parameters for fit in found.fits} == {model.num_parameters()}


def test_models_that_differ_in_no_parameter_fit_the_same_file(tmp_path):
    found = inspect_weights(hollow(tmp_path / "m", "vit_base_patch16_224"))
    assert {"create_model('vit_base_patch16_224')", "create_model('vit_base_patch16_gap_224')"} <= set(calls(found))


@pytest.mark.parametrize(("name", "changes"), [
    ("vit_base_patch16_224", {"num_classes": 10}),
    ("vit_base_patch16_224", {"num_classes": 0}),
    ("vit_small_patch16_224", {"num_classes": 10, "img_size": 384}),
    ("vit_tiny_patch16_224", {"img_size": 448}),
    ("vit_base_patch16_224_in21k", {"representation_size": 768}),
    ("resnet50", {"num_classes": 7}),
])  # fmt: skip
def test_other_classes_image_sizes_and_heads_are_recognised(name, changes, tmp_path):
    found = inspect_weights(hollow(tmp_path / "m", name, **changes))
    assert (name, changes) in [(fit.name, fit.settings) for fit in found.fits]
    assert {fit.parameters for fit in found.fits} == {create_model(name, **changes).num_parameters()}
    assert found.nearest.matching < len(found.arrays) or changes == {"num_classes": 0}


def test_the_nearest_is_named_with_what_differs(tmp_path, capsys):
    state = {name: np.zeros(x.shape, np.float32) for name, x in create_model("vit_digits").state_dict().items()}
    for name in [name for name in state if name.startswith("blocks.2.")]:
        del state[name]
    state |= {"extra": np.zeros(2), "norm.weight": np.zeros(33, np.float32)}
    save_file(state, tmp_path / "m")
    found = inspect_weights(tmp_path / "m")
    assert found.fits == ()
    assert found.nearest.name == "vit_digits"
    assert found.nearest.matching == len(create_model("vit_digits").state_dict()) - 12 - 1
    assert cli.main(["weights", "inspect", str(tmp_path / "m")]) == 0
    said = capsys.readouterr().out.splitlines()
    assert "nearest in the catalogue: vit_digits, 31 arrays fit" in said
    assert "  missing: blocks.2.norm1.weight" in said
    assert "  missing: and 9 more" in said
    assert "  unexpected: extra" in said
    assert "  mis-shaped: norm.weight is (33,), the model's is (32,)" in said
    assert not [line for line in said if line.startswith("fits")]


def test_a_file_of_no_model(tmp_path, capsys):
    save_file({"a": np.zeros((2, 3))}, tmp_path / "m")
    assert cli.main(["weights", "inspect", str(tmp_path / "m")]) == 0
    said = capsys.readouterr().out
    assert "a        2×3  float64" in said
    assert "1 arrays, 6 numbers" in said
    assert "no model of the catalogue" in said


def test_a_file_of_the_original_code(tmp_path):
    model = create_model("vit_digits")
    kernels = {"cls": (1, 1, 32), "embedding/kernel": (2, 2, 1, 32), "head/kernel": (32, 10)}
    np.savez(tmp_path / "m.npz", **{name: np.zeros(shape, np.float32) for name, shape in kernels.items()})
    found = inspect_weights(tmp_path / "m.npz")
    assert found.arrays["embedding/kernel"] == ((2, 2, 1, 32), "float32")
    assert found.nearest.name == "vit_digits"
    assert found.nearest.matching == 3
    assert found.nearest.misfits.missing == [name for name in model.state_dict() if name not in (
        "cls_token", "patch_embed.proj.weight", "head.weight")]  # fmt: skip


def test_json_says_the_same(tmp_path, capsys):
    path = hollow(tmp_path / "m", "vit_digits", num_classes=3)
    assert cli.main(["weights", "inspect", str(path), "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    model = create_model("vit_digits", num_classes=3)
    assert said["file"] == str(path)
    assert said["arrays"]["head.weight"] == {"shape": [3, 32], "dtype": "float32"}
    assert said["numbers"] == model.num_parameters()
    assert said["fits"] == [
        {"model": "vit_digits", "settings": {"num_classes": 3}, "parameters": model.num_parameters()}
    ]
    assert said["nearest"]["model"] == "vit_digits"
    assert said["nearest"]["mis-shaped"] == ["head.weight is (3, 32), the model's is (10, 32)",
                                             "head.bias is (3,), the model's is (10,)"]  # fmt: skip


def test_two_and_a_half_gigabytes_are_inspected_in_a_few_megabytes(tmp_path):
    path = hollow(tmp_path / "m", "vit_huge_patch14_224")
    assert path.stat().st_size > 2.5e9
    tracemalloc.start()
    found = inspect_weights(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert "create_model('vit_huge_patch14_224')" in calls(found)
    assert peak < 20e6, f"{peak / 1e6:.1f} MB"


@pytest.mark.parametrize(("content", "said"), [
    (b"nothing", "no whole safetensors file"),
    (b"PK\3\4 and no more", "no whole .npz file"),
    (None, "No such file"),
])  # fmt: skip
def test_a_file_that_is_none_is_said_in_a_line(content, said, tmp_path, capsys):
    if content:
        (tmp_path / "m").write_bytes(content)
    assert cli.main(["weights", "inspect", str(tmp_path / "m")]) == 1
    assert said in capsys.readouterr().err


def test_saved_and_inspected(rng, tmp_path):
    found = inspect_weights(save_weights(create_model("resnet_digits", rng=rng), tmp_path / "m"))
    assert calls(found) == ["create_model('resnet_digits')"]
    assert found.arrays["bn1.num_batches_tracked"] == ((), "int64")
