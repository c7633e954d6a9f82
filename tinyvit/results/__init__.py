"""Small-scale results: what the slides claim, tried on data that fit on a laptop, with every run shown.

One experiment, one file; `tinyvit results NAME` does its runs and draws its figure.
"""

from tinyvit.results.experiment import SIZES, Experiment, Trial
from tinyvit.results.report import EXPERIMENTS, Result, find_experiment, result

__all__ = ["EXPERIMENTS", "SIZES", "Experiment", "Result", "Trial", "find_experiment", "result"]
