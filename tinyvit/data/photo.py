"""A photo as a model was tested with it: resized, cropped in the middle, normalised.

Only here is pillow imported, which matplotlib depends on, so it is there.
"""

from __future__ import annotations

import math
import struct
import warnings
import zlib
from dataclasses import dataclass

import numpy as np

LARGEST = 100_000_000  # pixels, of the photo and of what it is resized to: 300 MB, more than any camera's


@dataclass(frozen=True)
class Preprocess:
    """Mean and deviation of each channel, for pixels in [0, 1]; and the part of the resized photo that is kept.

    crop above 1 surrounds the photo with black.
    """

    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    crop: float = 0.875


INCEPTION = Preprocess((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
IMAGENET = Preprocess((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def load_photo(path):
    """A JPEG or PNG of any mode, upright, as an RGB image of pillow; what is transparent becomes white.

    Raises OSError for a file that cannot be opened; ValueError for one that is no such image, damaged, or too large.
    """
    from PIL import Image, ImageOps

    with open(path, "rb") as file, warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # LARGEST is the limit
        try:
            with Image.open(file, formats=("JPEG", "PNG")) as image:
                if image.width * image.height > LARGEST:
                    raise ValueError(f"{image.width}×{image.height} pixels are more than {LARGEST:,}")
                image.load()
                return _rgb(ImageOps.exif_transpose(image))
        except (OSError, ValueError, SyntaxError, EOFError, struct.error, zlib.error,
                Image.DecompressionBombError) as error:  # fmt: skip
            raise ValueError(f"{path}: not a whole JPEG or PNG of reasonable size: {error}") from error


def _rgb(image):
    """Any mode as RGB."""
    from PIL import Image

    if image.mode.startswith("I"):  # 16 bits: 65535 is white
        image = Image.fromarray((np.clip(np.asarray(image), 0, 65535) / 257).round().astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image)
    return image.convert("RGB")


def framed(image, size: int, crop: float):
    """The shorter side resized to ⌊size/crop⌋ by antialiased bicubic interpolation, and the size×size in the middle.

    Raises ValueError for a photo so narrow that it would become too large.
    """
    from PIL import Image

    shorter = math.floor(size / crop)
    width, height = (int(shorter * n / min(image.size)) for n in image.size)
    if width * height > LARGEST:
        raise ValueError(f"image: {image.width}×{image.height} is too narrow to be made {shorter} pixels wide")
    image = image.resize((width, height), Image.Resampling.BICUBIC)
    left, top = (_middle(n, size) for n in image.size)
    return image.crop((left, top, left + size, top + size))  # black outside


def _middle(length: int, size: int) -> int:
    """Where the middle begins; torchvision rounds halves to even when it cuts and down when it surrounds."""
    return round((length - size) / 2) if length >= size else -((size - length) // 2)


def normalised(image, preprocess: Preprocess) -> np.ndarray:
    """(pixels/255 - mean)/std, float32.   an RGB image -> (1, H, W, 3)"""
    pixels = np.asarray(image, dtype=np.float32)[None] / 255
    return (pixels - np.float32(preprocess.mean)) / np.float32(preprocess.std)
