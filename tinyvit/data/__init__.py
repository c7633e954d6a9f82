"""Data sets that come with the package, and minibatches of them."""

from tinyvit.data.digits import Dataset, Splits, batches, digits

__all__ = ["Dataset", "Splits", "batches", "digits"]
