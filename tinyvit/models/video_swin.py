"""Video Swin: "Video Swin Transformer" (Liu et al. 2021, arXiv 2106.13230).

    ẑˡ = 3DW-MSA(LN(zˡ⁻¹)) + zˡ⁻¹          zˡ   = FFN(LN(ẑˡ)) + ẑˡ
    ẑˡ⁺¹ = 3DSW-MSA(LN(zˡ)) + zˡ           zˡ⁺¹ = FFN(LN(ẑˡ⁺¹)) + ẑˡ⁺¹           (Eq. 1)

Swin with windows of P frames, M rows and M columns: patches, windows, shifts and bias tables have a third side, and
merging leaves the frames alone. Clips of any length and size will do. Along an axis on which the map is shorter than
the window, the window is cut to it and not shifted. Its tokens then use the bias of the first ones of a whole window,
which are the same offsets only where nothing but the frames are cut: so do the official code and torchvision's.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from tinyvit.models.config import Paper, Published
from tinyvit.models.swin import Swin, SwinBlock, SwinConfig
from tinyvit.nn.embed import at_least_single

PATCHES = "patch_embed.proj.weight"


@dataclass(frozen=True)
class VideoSwinConfig(SwinConfig):
    """A Video Swin's sizes, under the official code's names or, where those are timm's of something else, timm's.

    num_frames, img_size     of the clips that are counted; any others will do
    patch_size, window_size  frames, rows and columns
    drop_rate                dropout before the head
    """

    patch_size: tuple[int, int, int] = (2, 4, 4)
    num_classes: int = 400
    window_size: tuple[int, int, int] = (8, 7, 7)
    drop_rate: float = 0.5
    num_frames: int = 32

    def __post_init__(self):
        super().__post_init__()
        for name in ("patch_size", "window_size"):
            if np.shape(getattr(self, name)) != (3,):
                raise ValueError(f"{name}: expected (frames, rows, columns), got {getattr(self, name)}")


class VideoSwinBlock(SwinBlock):
    """Attention in shifted windows of a clip, and an MLP (Eq. 1).   (B, T, H, W, C) -> (B, T, H, W, C)"""

    def window_on(self, shape):
        return tuple(map(min, self.attn.window, shape[1:-1]))


class VideoSwin(Swin):
    """Video Swin transformer.   clips (B, T, H, W, C) -> logits (B, num_classes)"""

    block, neighbours = VideoSwinBlock, (1, 2, 2)

    def known_size(self):
        return None

    def fitted(self, state: dict, method: str = "bicubic") -> dict:
        """A 2-D Swin's state, inflated (Sec. 3.4): a clip that stands still gives what its frame gave there.

        Patches are shared out evenly over the frames, and offsets in time all get the bias of the offset in the frame,
        whose table is resampled first where windows are not as large. The state of a video model comes back as it is.
        """
        patches = state.get(PATCHES)
        if patches is None or len(patches.shape) != 4:
            return state
        frames = self.config.patch_size[0]
        patches = np.repeat(at_least_single(patches)[:, :, None] / np.float32(frames), frames, axis=2)
        return super().fitted({**state, PATCHES: patches}, method)

    def resized(self, table, window):
        frames, *plane = window
        if len(table) != math.prod(2 * m - 1 for m in plane):
            table = super().resized(table, plane)
        return np.tile(table, (2 * frames - 1, 1))


# The paper's Sec. 3.3, with the drop path of the official code's configurations; it has none for L on Kinetics-400.

PAPER = Paper("Video Swin Transformer", "Liu et al.", 2021, "2106.13230", family="video-swin")

T = VideoSwinConfig(embed_dim=96, depths=(2, 2, 6, 2), num_heads=(3, 6, 12, 24), drop_path_rate=0.1)
S = VideoSwinConfig(embed_dim=96, depths=(2, 2, 18, 2), num_heads=(3, 6, 12, 24), drop_path_rate=0.1)
B = VideoSwinConfig(embed_dim=128, depths=(2, 2, 18, 2), num_heads=(4, 8, 16, 32), drop_path_rate=0.3)
L = VideoSwinConfig(embed_dim=192, depths=(2, 2, 18, 2), num_heads=(6, 12, 24, 48), drop_path_rate=0.2)
SSV2 = {"window_size": (16, 7, 7), "num_classes": 174, "drop_path_rate": 0.4}

#   name                                              config                  counted as
PUBLISHED = {
    "video_swin_tiny_patch244_window877_k400":     Published(T,                  "VideoSwin-T K400 32x224x224"),
    "video_swin_small_patch244_window877_k400":    Published(S,                  "VideoSwin-S K400 32x224x224"),
    "video_swin_base_patch244_window877_k400":     Published(B,                  "VideoSwin-B K400 32x224x224"),
    "video_swin_large_patch244_window877_k400":    Published(L,                  "VideoSwin-L K400 32x224x224"),
    "video_swin_base_patch244_window1677_ssv2":    Published(replace(B, **SSV2), None),
}  # fmt: skip

# torchvision's, which are the same models
ALSO_COUNTED = {f"VideoSwin-{size} K400 (torchvision)": config for size, config in (("T", T), ("S", S), ("B", B))}

SMALL = {
    "video_swin_moving": VideoSwinConfig(img_size=16, num_frames=8, in_chans=1, num_classes=4, embed_dim=24,
                                         depths=(2, 2), num_heads=(2, 4), window_size=(2, 2, 2), mlp_ratio=2,
                                         drop_rate=0, drop_path_rate=0),
}  # fmt: skip

MODEL = VideoSwin
