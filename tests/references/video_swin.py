"""Names of Video Swin in its official code and in torchvision."""

from references.reference import Reference
from tinyvit.models.video_swin import VideoSwin, VideoSwinConfig


def official(config):
    """The backbone is b, its head h. A stage ends with the merging that ours begin with: what leaves it is merged."""
    last = len(config.depths) - 1
    return {
        r"h(\..*)?": r"head.fc\1",
        r"b": "norm",
        rf"b\.layers\.{last}": f"layers.{last}",
        r"b\.layers\.(\d+)(?:\.downsample)?": lambda m: f"layers.{int(m[1]) + 1}.downsample",
        r"b\.layers\.(\d+)\.downsample\.(.*)": lambda m: f"layers.{int(m[1]) + 1}.downsample.{m[2]}",
        r"b\.(.*\.attn)\.(?:softmax|attn_drop)": r"\1.weights",  # after its dropout, which is off
        r"b\.(.*\.mlp)\.act": r"\1.drop1",
        r"b\.(.*\.mlp)\.drop": r"\1",  # it is called twice
        r"b\.(.*\.)drop_path": r"\1drop_path2",  # it too
        r"b\.pos_drop": "patch_embed",
        r"b\.(.*)": r"\1",
    }


def part(match):
    """Stages are counted together with mergings: stage i is 2i, the merging after it 2i + 1."""
    i, rest = int(match[1]), match[2] or ""
    inside = ".downsample" if i % 2 else ".blocks" if rest else ""
    return f"layers.{(i + 1) // 2}{inside}{rest}"


MODELS = {
    ("SwinTransformer/Video-Swin-Transformer", ""): Reference(
        VideoSwin,
        VideoSwinConfig,
        defaults={
            "patch_size": lambda given: (4, 4, 4),
            "window_size": lambda given: (2, 7, 7),
            "drop_rate": lambda given: 0.0,  # the head is a layer beside the backbone
        },
        fixed={"patch_norm": True, "qk_scale": None, "drop_rate": 0.0, "attn_drop_rate": 0.0, "frozen_stages": -1,
               "use_checkpoint": False, "pretrained": None, "pretrained2d": True},
        head="h.weight",
        names=official,
        maps_last=r"b\.(?:norm|.*\.(?:blocks\.\d+.*|downsample.*))",
    ),
    ("torchvision", "SwinTransformer3d"): Reference(
        VideoSwin,
        VideoSwinConfig,
        arguments={"stochastic_depth_prob": "drop_path_rate"},
        defaults={"drop_rate": lambda given: 0.0},
        fixed={"dropout": 0.0, "attention_dropout": 0.0},
        names={
            r"features\.(\d+)(\.\d+)\.attn": lambda m: f"{part(m)}.drop_path1",  # a map; our attention sees windows
            r"features\.(\d+)(\.\d+\.mlp)\.0(.*)": lambda m: f"{part(m)}.fc1{m[3]}",
            r"features\.(\d+)(\.\d+\.mlp)\.[12]": lambda m: f"{part(m)}.drop1",
            r"features\.(\d+)(\.\d+\.mlp)\.3(.*)": lambda m: f"{part(m)}.fc2{m[3]}",
            r"features\.(\d+)(\.\d+\.mlp)\.4": part,
            r"features\.(\d+)(\..*)?": part,
            r"features": "norm.input",
            r"pos_drop": "patch_embed",
            r"head(\..*)?": r"head.fc\1",
        },
        maps_last=r"(?!patch_embed\.proj$).*",
    ),
}  # fmt: skip
