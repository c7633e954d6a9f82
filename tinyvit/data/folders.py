"""Photos in folders, decoded when they are asked for: classes as folders, scenes with boxes, scenes with masks.

An image is resized and cut as models are tested (tinyvit/data/photo.py) or, where something is drawn on it, left whole.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np

from tinyvit.data.digits import Dataset
from tinyvit.data.photo import framed, load_photo
from tinyvit.data.stored import DataFileError

ENDINGS = {".jpg", ".jpeg", ".png"}


class Photos:
    """Image files as an array (N, size, size, 3) uint8 whose rows are decoded when they are indexed.

    Raises DataFileError for a file that is no whole JPEG or PNG, when it is asked for.
    """

    def __init__(self, paths, size: int, crop: float = 0.875):
        self.paths, self.size, self.crop = list(paths), size, crop
        self.shape, self.dtype = (len(self.paths), size, size, 3), np.dtype(np.uint8)

    def __len__(self):
        return len(self.paths)

    def chosen(self, index) -> Photos:
        """The photos at some positions, not decoded yet."""
        return Photos([self.paths[i] for i in np.arange(len(self.paths))[index]], self.size, self.crop)

    def __getitem__(self, index) -> np.ndarray:
        """The photos at a position, (size, size, 3), or at several, (n, size, size, 3)."""
        chosen = np.arange(len(self.paths))[index]
        if chosen.ndim == 0:
            return self._decoded(self.paths[chosen])
        out = np.empty((len(chosen), self.size, self.size, 3), np.uint8)
        for row, i in zip(out, chosen, strict=True):
            row[:] = self._decoded(self.paths[i])
        return out

    def _decoded(self, path) -> np.ndarray:
        try:
            return np.asarray(framed(load_photo(path), self.size, self.crop))
        except (OSError, ValueError) as error:
            raise DataFileError(str(error)) from error


class Classes(NamedTuple):
    """A Dataset and what its labels mean."""

    dataset: Dataset
    names: list[str]


def image_folder(folder, size: int, *, crop: float = 0.875) -> Classes:
    """A folder with a folder of photos for every class, as ImageNet has: ``train/n01440764/*.JPEG``.

    Labels number the classes in the order of their sorted names. images (N, size, size, 3) uint8, see ``Photos``.
    Raises DataFileError for a folder without such folders, or with an empty one.
    """
    folder = _folder(folder)
    names = sorted(path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    paths = [_images_in(folder / name) for name in names]
    if not names or not all(paths):
        empty = [name for name, here in zip(names, paths, strict=True) if not here]
        raise DataFileError(f"{folder}: expected a folder of JPEG or PNG files for every class; "
                            + (f"{empty[0]} has none" if empty else "there is no folder in it"))  # fmt: skip
    labels = np.repeat(np.arange(len(names)), [len(here) for here in paths])
    return Classes(Dataset(Photos([path for here in paths for path in here], size, crop), labels), names)


def _images_in(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.suffix.lower() in ENDINGS and path.is_file())


def _folder(path) -> Path:
    if not Path(path).is_dir():
        raise DataFileError(f"{path}: there is no such folder")
    return Path(path)


OTHER = 255  # the label of pixels that do not count


def ade20k(folder, *, train: bool = True) -> list[tuple[Path, Path]]:
    """The pairs (photo, mask) of ADE20K's scene parsing benchmark; read them with ``load_photo`` and ``read_mask``.

    ``images/training/*.jpg`` beside ``annotations/training/*.png``. Raises DataFileError for a photo without a mask.
    """
    part = "training" if train else "validation"
    photos, masks = _folder(Path(folder) / "images" / part), _folder(Path(folder) / "annotations" / part)
    pairs = [(photo, masks / f"{photo.stem}.png") for photo in _images_in(photos)]
    if lacking := [mask for _, mask in pairs if not mask.is_file()]:
        raise DataFileError(f"{lacking[0]}: there is no such mask")
    return pairs


def read_mask(path, classes: int = 150) -> np.ndarray:
    """The label of every pixel, (H, W) uint8: 0 to classes - 1, and OTHER for what the file calls 0.

    Raises DataFileError for a file that is no greyscale or palette PNG, or has larger labels.
    """
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(path, formats=("PNG",)) as image:
            if image.mode not in ("L", "P"):
                raise ValueError(f"a mask has one label per pixel; this image is {image.mode}")
            labels = np.asarray(image)
    except (OSError, ValueError, SyntaxError, UnidentifiedImageError, Image.DecompressionBombError) as error:
        raise DataFileError(f"{path}: {error}") from error
    if labels.size and labels.max() > classes:
        raise DataFileError(f"{path}: a label {labels.max()}; expected 0 to {classes}")
    return np.where(labels == 0, OTHER, labels - 1).astype(np.uint8)
