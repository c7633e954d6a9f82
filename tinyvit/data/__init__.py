"""Data sets that come with the package, files of those that users bring, and minibatches of either."""

from tinyvit.data.ahead import ahead
from tinyvit.data.cifar import cifar10, cifar10_c, cifar100
from tinyvit.data.digits import Dataset, Epochs, Splits, batches, digits
from tinyvit.data.folders import Classes, Photos, ade20k, image_folder, read_mask
from tinyvit.data.idx import mnist, read_idx
from tinyvit.data.moving import moving_digits
from tinyvit.data.scenes import Scene, coco, voc
from tinyvit.data.stored import DataFileError

__all__ = [
    "Classes",
    "DataFileError",
    "Dataset",
    "Epochs",
    "Photos",
    "Scene",
    "Splits",
    "ade20k",
    "ahead",
    "batches",
    "cifar10",
    "cifar10_c",
    "cifar100",
    "coco",
    "digits",
    "image_folder",
    "mnist",
    "moving_digits",
    "read_idx",
    "read_mask",
    "voc",
]
