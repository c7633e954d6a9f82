"""Names of Swin in timm and in torchvision."""

import math

from references.reference import Reference
from tinyvit.models.swin import Swin, SwinConfig
from tinyvit.nn.attention import offset_index
from tinyvit.nn.window import region_mask, window_regions


def block_of(model, match):
    """The block that a name's two numbers mean."""
    return model.layers[int(match[1])].blocks[int(match[2])]


def mask_of(model, match):
    """The mask of a shifted block, on the map of its stage."""
    block, scale = block_of(model, match), 2 ** int(match[1])
    size = tuple(math.ceil(n / scale) for n in model.patch_embed.grid)
    return region_mask(window_regions(size, block.attn.window, block.shift))


def stage(match):
    """Torchvision counts patch embedding, stages and mergings in one: stage i is 2i + 1, the merging before it 2i."""
    i, rest = int(match[1]), match[2] or ""
    part = "" if i % 2 and not rest else ".blocks" if i % 2 else ".downsample"
    return f"layers.{i // 2}{part}{rest}"


def square(sides):
    """The side of a patch. Raises ValueError for one that is not square."""
    if len(set(sides)) > 1:
        raise ValueError(f"patch_size {sides}")
    return sides[0]


class Cropping(Swin):
    """Torchvision's leaves out pixels beyond the last whole patch, where ours surrounds them with zeros."""

    def stages(self, images):
        H, W = (n - n % self.config.patch_size for n in images.shape[1:3])
        return super().stages(images[:, :H, :W])


MODELS = {
    ("timm", "SwinTransformer"): Reference(
        Swin,
        SwinConfig,
        names={
            r"(.*\.attn)\.(?:softmax|attn_drop)": r"\1.weights",  # after its dropout, which is off
            r"(.*\.mlp)\.(?:act|norm)": r"\1.drop1",
            r"head\.(?:global_pool|drop|flatten)": "head.fc.input",
        },
        computed={
            r"layers\.(\d+)\.blocks\.(\d+)\.attn\.relative_position_index":
                lambda model, match: offset_index(block_of(model, match).attn.window),
            r"layers\.(\d+)\.blocks\.(\d+)\.attn_mask": mask_of,
        },
        maps_last=r".*",
    ),
    ("torchvision", "SwinTransformer"): Reference(
        Cropping,
        SwinConfig,
        arguments={"stochastic_depth_prob": "drop_path_rate"},
        values={"patch_size": square},
        defaults={"img_size": lambda given: None},
        names={
            r"features\.0": "patch_embed",
            r"features\.0\.0(.*)": r"patch_embed.proj\1",
            r"features\.0\.2(.*)": r"patch_embed.norm\1",
            r"features\.(\d+)(\.\d+)\.attn": lambda m: f"{stage(m)}.drop_path1",  # a map; our attention sees windows
            r"features\.(\d+)(\.\d+\.mlp)\.0(.*)": lambda m: f"{stage(m)}.fc1{m[3]}",
            r"features\.(\d+)(\.\d+\.mlp)\.[12]": lambda m: f"{stage(m)}.drop1",
            r"features\.(\d+)(\.\d+\.mlp)\.3(.*)": lambda m: f"{stage(m)}.fc2{m[3]}",
            r"features\.(\d+)(\.\d+\.mlp)\.4": stage,
            r"features\.(\d+)(\..*)?": stage,
            r"head(\..*)?": r"head.fc\1",
        },
        maps_last=r".*",
    ),
}  # fmt: skip
