"""Our models against timm's and vit-pytorch's, number for number: outputs, inner values, gradients, buffers.

Every key of a reference file is compared with something, or the test fails.
"""

import re

import numpy as np
import pytest
from reference import DATA, fixture, part

from tinyvit import Tensor, capture, gradients
from tinyvit.models.resnet import ResNet, ResNetConfig
from tinyvit.models.simple_vit import SimpleViT, SimpleViTConfig
from tinyvit.models.vit import ViT, ViTConfig
from tinyvit.nn.embed import sincos_2d

TOLERANCE = 1e-9


def vit(kwargs):
    return ViT(ViTConfig(**kwargs), rng=None)


def resnet(kwargs):
    return ResNet(ResNetConfig(**kwargs | {"block": kwargs["block"].removesuffix("Block").lower()}), rng=None)


def simple_vit(kwargs):
    ours = {"image_size": "img_size", "dim": "embed_dim", "heads": "num_heads", "dim_head": "head_dim"}
    return SimpleViT(SimpleViTConfig(**{ours.get(name, name): value for name, value in kwargs.items()}), rng=None)


# The reference's names, as patterns, and ours.
TIMM_VIT = {r"(blocks\.\d+\.attn)\.attn_drop": r"\1.weights"}  # after its dropout, which is off
TIMM_RESNET: dict = {}
VIT_PYTORCH = {
    r"to_patch_embedding": "patch_embed",
    r"to_patch_embedding\.1\.(\w+)": r"patch_embed.0.\1",
    r"to_patch_embedding\.2\.(\w+)": r"patch_embed.1.\1",
    r"to_patch_embedding\.3\.(\w+)": r"patch_embed.2.\1",
    r"transformer": "norm",
    r"transformer\.norm\.(\w+)": r"norm.\1",
    r"transformer\.layers\.(\d+)\.0\.norm\.(\w+)": r"blocks.\1.norm1.\2",
    r"transformer\.layers\.(\d+)\.0\.attend": r"blocks.\1.attn.weights",
    r"transformer\.layers\.(\d+)\.0\.to_qkv\.(\w+)": r"blocks.\1.attn.qkv.\2",
    r"transformer\.layers\.(\d+)\.0\.to_out\.(\w+)": r"blocks.\1.attn.proj.\2",
    r"transformer\.layers\.(\d+)\.1\.net\.0\.(\w+)": r"blocks.\1.norm2.\2",
    r"transformer\.layers\.(\d+)\.1\.net\.1\.(\w+)": r"blocks.\1.mlp.fc1.\2",
    r"transformer\.layers\.(\d+)\.1\.net\.3\.(\w+)": r"blocks.\1.mlp.fc2.\2",
    r"linear_head\.(\w+)": r"head.\1",
}

# file -> how to make our model of its configuration, and the names
FILES = {
    "shared-vit-cls": (vit, TIMM_VIT),
    "shared-vit-gap": (vit, TIMM_VIT),
    "shared-vp-simplevit-sincos": (simple_vit, VIT_PYTORCH),
    "shared-resnet-basic": (resnet, TIMM_RESNET),
    "shared-resnet-bottleneck": (resnet, TIMM_RESNET),
    "shared-resnet-train": (resnet, TIMM_RESNET),
}

# inner values that are no module's output
TABLES = {"pos_embedding": lambda model: sincos_2d(model.grid, model.config.embed_dim)}


def renamed(name, table):
    """Our name for the reference's; the same where the table says nothing."""
    for theirs, ours in table.items():
        if re.fullmatch(theirs, name):
            return re.sub(theirs, ours, name)
    return name


def channels_last(x):
    """References keep channels first in images and maps; tokens and weights are as ours."""
    return np.moveaxis(x, 1, -1)


class Run:
    """One forward and one backward of our model on a file's input, and everything that came of it, by the file's keys.

    Arrays are laid out as ours; `theirs` brings the file's into that layout.
    """

    def __init__(self, name):
        make, table = FILES[name]
        self.file = fixture(name)
        meta = self.file["meta"]
        model = make(meta["config"]["kwargs"])
        model.load_state_dict({renamed(k, table): x for k, x in part(self.file, "state").items()})
        self.found = {f"state/{k}": model.state_dict()[renamed(k, table)] for k in part(self.file, "state")}
        assert model.num_parameters() == meta["n_params"]
        if meta["mode"] == "train":
            model.train(np.random.default_rng(0))

        x = Tensor(channels_last(self.file["input/x"]), requires_grad=True)
        inner = {k: renamed(k, table) for k in part(self.file, "mid") if k not in TABLES}
        with capture(model, *inner.values()) as seen:
            logits = model(x)
        parameters = dict(model.named_parameters())
        leaves = {k: x if k == "input" else parameters[renamed(k, table)] for k in part(self.file, "grad")}
        cotangent = self.file["cotangent/logits"]
        derivatives = gradients(logits, list(leaves.values()), [cotangent])

        self.found |= {"input/x": x.data, "cotangent/logits": cotangent, "output/logits": logits.data}
        self.found |= {f"mid/{k}": seen[ours].data for k, ours in inner.items()}
        self.found |= {f"mid/{k}": TABLES[k](model) for k in part(self.file, "mid") if k in TABLES}
        self.found |= {f"grad/{k}": g for k, g in zip(leaves, derivatives, strict=True)}
        self.found |= {f"after/{k}": model.state_dict()[renamed(k, table)] for k in part(self.file, "after")}
        self.loss = float(np.sum(logits.data * cotangent))
        self.model = model

    def theirs(self, key):
        x = self.file[key]
        is_map = key.startswith(("mid/", "input/")) and isinstance(self.model, ResNet) and x.ndim == 4
        return channels_last(x) if is_map or key in ("input/x", "grad/input") else x


def error(ours, theirs):
    """The largest difference, relative to the largest number."""
    assert ours.shape == theirs.shape
    return np.max(np.abs(ours - theirs)) / max(np.max(np.abs(theirs)), 1e-300)


@pytest.mark.parametrize("name", FILES)
def test_every_number_of_the_reference(name):
    run = Run(name)
    assert run.found.keys() == run.file.keys() - {"meta"}, "keys of the file that nothing was compared with"
    errors = {key: error(ours, run.theirs(key)) for key, ours in run.found.items()}
    errors["loss"] = abs(run.loss - run.file["meta"]["loss"]) / abs(run.file["meta"]["loss"])
    worst = max(errors, key=errors.get)
    print(f"{name}: {len(errors)} arrays, the worst is {worst} with a relative error of {errors[worst]:.1e}")
    assert errors[worst] < TOLERANCE, worst


def test_every_model_file_is_replayed():
    """A reference file of a model that lies in tests/data is in the table above."""
    stored = {path.stem for path in DATA.glob("shared-*.npz") if not path.stem.startswith("shared-op-")}
    assert stored == set(FILES)


def test_training_counts_its_batches():
    """The files hold no counter after the forward; there was one forward."""
    run = Run("shared-resnet-train")
    assert run.model.bn1.num_batches_tracked.data == run.file["state/bn1.num_batches_tracked"] + 1
