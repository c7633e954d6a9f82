"""Data sets that come with the package, and minibatches of them."""

from tinyvit.data.digits import Dataset, Epochs, Splits, batches, digits

__all__ = ["Dataset", "Epochs", "Splits", "batches", "digits"]
