"""Training: objectives and their gradients, optimisers, schedules, the loop.

It takes a Module and arrays and knows no architecture.
"""

from tinyvit.train.loop import Score, Step, evaluate, predict, training
from tinyvit.train.objective import classification, clipped, distilled_from, global_norm, gradient_of, threaded
from tinyvit.train.optim import AdamW, decays
from tinyvit.train.schedule import constant, warmup_cosine

__all__ = [
    "AdamW",
    "Score",
    "Step",
    "classification",
    "clipped",
    "constant",
    "decays",
    "distilled_from",
    "evaluate",
    "global_norm",
    "gradient_of",
    "predict",
    "threaded",
    "training",
    "warmup_cosine",
]
