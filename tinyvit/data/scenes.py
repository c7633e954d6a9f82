"""Photos with boxes and masks: Pascal VOC (Everingham et al. 2010) and COCO (Lin et al. 2014).

Boxes are corners (x₀, y₀, x₁, y₁) in pixels, floats, from the upper left corner of the image.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from xml.etree import ElementTree

import numpy as np

from tinyvit.data.stored import DataFileError, content, told

LARGEST = 1 << 24  # bytes of one VOC annotation
LARGEST_MASK = 100_000_000  # pixels
VOC_CLASSES = ("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable",
               "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor")  # fmt: skip


@dataclass(frozen=True)
class Scene:
    """A photo and the objects in it.

    image  the photo's path · size (H, W) · boxes (n, 4) float32 · labels (n,) int64
    crowd  (n,) bool: several objects in one (COCO), or one that is hard to see (VOC); neither counts when missed
    outlines  what ``mask`` draws of each object; empty where boxes are all that is known
    """

    image: Path
    size: tuple[int, int]
    boxes: np.ndarray
    labels: np.ndarray
    crowd: np.ndarray
    outlines: list = field(default_factory=list, repr=False)

    def mask(self, i: int) -> np.ndarray:
        """Which pixels object i covers, (H, W) bool. Raises DataFileError for an outline that cannot be drawn."""
        try:
            return drawn(self.outlines[i], self.size)
        except (ValueError, TypeError, KeyError, OverflowError) as error:
            raise DataFileError(f"{self.image}: object {i} has an outline that cannot be drawn: {error}") from error


# Pascal VOC --------------------------------------------------------------------------------


def voc(folder, split: str = "train", *, classes=VOC_CLASSES) -> list[Scene]:
    """The scenes of a Pascal VOC folder that ``ImageSets/Main/{split}.txt`` lists, one per line.

    Raises DataFileError, naming the file, for one that is missing, damaged, or names a class not in ``classes``.
    """
    folder = Path(folder)
    listing = folder / "ImageSets" / "Main" / f"{split}.txt"
    with told(listing, UnicodeError):
        names = [line.split()[0] for line in content(listing, LARGEST).decode().splitlines() if line.strip()]
    if odd := [name for name in names if Path(name).name != name or name.startswith(".")]:
        raise DataFileError(f"{listing}: {odd[0]!r} is no name of an image")
    return [_voc_scene(folder, name, {c: i for i, c in enumerate(classes)}) for name in names]


def _voc_scene(folder: Path, name: str, classes: dict) -> Scene:
    path = folder / "Annotations" / f"{name}.xml"
    text = content(path, LARGEST)
    if b"<!DOCTYPE" in text or b"<!ENTITY" in text:  # by which a small file can ask for a large memory
        raise DataFileError(f"{path}: an annotation needs no DOCTYPE")
    with told(path, ElementTree.ParseError, ValueError, LookupError, AttributeError, TypeError):
        root = ElementTree.fromstring(text)
        H, W = (int(root.find(f"size/{side}").text) for side in ("height", "width"))
        objects = root.findall("object")
        corners = [[float(thing.find(f"bndbox/{side}").text) for side in ("xmin", "ymin", "xmax", "ymax")]
                   for thing in objects]  # fmt: skip
        labels = [classes[thing.find("name").text.strip()] for thing in objects]
        crowd = [getattr(thing.find("difficult"), "text", "0") == "1" for thing in objects]
        boxes = np.array(corners, np.float32).reshape(-1, 4)
        boxes[:, :2] -= 1  # VOC counts pixels from 1, and its boxes hold their last row and column
        return Scene(folder / "JPEGImages" / f"{name}.jpg", (H, W), _checked(boxes), np.array(labels, np.int64),
                     np.array(crowd, bool))  # fmt: skip


# COCO --------------------------------------------------------------------------------------


def coco(annotations, images) -> tuple[list[Scene], list[str]]:
    """The scenes of a COCO ``instances_*.json``, and the names of the classes that their labels number.

    images  the folder of the photos. COCO's category numbers have gaps; labels count on in the order of the numbers.
    Raises DataFileError.
    """
    path = Path(annotations)
    with told(path, ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError):
        data = json.loads(content(path))
        categories = sorted(data["categories"], key=lambda category: category["id"])
        label_of = {category["id"]: i for i, category in enumerate(categories)}
        by_image: dict = {image["id"]: [] for image in data["images"]}
        for thing in data["annotations"]:
            by_image[thing["image_id"]].append(thing)
        scenes = [_coco_scene(Path(images), image, by_image[image["id"]], label_of) for image in data["images"]]
        return scenes, [str(category["name"]) for category in categories]


def _coco_scene(folder: Path, image: dict, things: list, label_of: dict) -> Scene:
    name = image["file_name"]
    if Path(name).name != name:
        raise ValueError(f"{name!r} is no name of a file")
    boxes = np.array([thing["bbox"] for thing in things], np.float32).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]  # from corner and size
    return Scene(folder / name, (int(image["height"]), int(image["width"])), _checked(boxes),
                 np.array([label_of[thing["category_id"]] for thing in things], np.int64),
                 np.array([bool(thing.get("iscrowd", 0)) for thing in things], bool),
                 [thing.get("segmentation", []) for thing in things])  # fmt: skip


def _checked(boxes: np.ndarray) -> np.ndarray:
    if not np.isfinite(boxes).all() or (boxes[:, 2:] < boxes[:, :2]).any():
        raise ValueError("a box whose corners are not finite, or the wrong way round")
    return boxes


def drawn(outline, size: tuple[int, int]) -> np.ndarray:
    """The pixels that COCO's segmentation covers, (H, W) bool: polygons, or run lengths, plain or compressed.

    A polygon is ``[x₀, y₀, x₁, y₁, …]``; run lengths go down the columns and begin with how many are not covered.
    """
    H, W = size
    if H * W > LARGEST_MASK:
        raise ValueError(f"a mask of {H}×{W} pixels")
    if isinstance(outline, dict):
        counts = outline["counts"]
        return _from_runs(_unpacked(counts) if isinstance(counts, str) else counts, H, W)
    return _from_polygons(outline, H, W)


def _from_polygons(polygons, H: int, W: int) -> np.ndarray:
    from PIL import Image, ImageDraw

    canvas = Image.new("1", (W, H))
    for polygon in polygons:
        corners = np.array(polygon, float).reshape(-1, 2)
        if not np.isfinite(corners).all() or len(corners) < 3:
            raise ValueError("a polygon needs three finite corners")
        corners = np.clip(corners, -1, [W, H]) - 0.5  # from the edges of pixels to their centres
        ImageDraw.Draw(canvas).polygon([tuple(corner) for corner in corners.tolist()], fill=1)
    return np.asarray(canvas)


def _from_runs(counts, H: int, W: int) -> np.ndarray:
    runs = np.array(counts)
    if runs.dtype.kind not in "iu" or (runs < 0).any() or math.fsum(runs) != H * W:
        raise ValueError(f"run lengths that do not add up to the {H * W} pixels of {H}×{W}")
    covered = np.repeat(np.arange(len(runs)) % 2 == 1, runs)
    return covered.reshape(W, H).T


def _unpacked(text: str) -> list[int]:
    """COCO's compressed run lengths: six bits a character, from "0" on; five are number, one says that more follows.

    From the fourth on, each is the difference from the one two before.
    """
    runs: list[int] = []
    at = 0
    while at < len(text):
        value = shift = 0
        while True:
            bits = ord(text[at]) - 48
            if not 0 <= bits < 64:
                raise ValueError(f"run lengths with the character {text[at]!r}")
            value |= (bits & 31) << shift
            at, shift = at + 1, shift + 5
            if not bits & 32:
                break
            if at == len(text) or shift > 60:
                raise ValueError("run lengths that end within a number, or a number without end")
        if bits & 16:
            value -= 1 << shift
        runs.append(value + (runs[-2] if len(runs) > 2 else 0))
    return runs
