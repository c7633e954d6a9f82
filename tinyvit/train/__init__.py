"""Training: objectives and their gradients, optimisers, schedules, the loop.

It takes a Module and arrays and knows no architecture.
"""

from tinyvit.train.average import Average
from tinyvit.train.gradient import clipped, global_norm, gradient_of
from tinyvit.train.groups import all_decay, decays, depths, layer_decay, weights_decay
from tinyvit.train.loop import Score, Step, evaluate, predict, training
from tinyvit.train.microbatch import accumulated, threaded
from tinyvit.train.objective import classification, distilled_from, token_labelling
from tinyvit.train.optim import SGD, Adam, AdamW, RMSprop
from tinyvit.train.schedule import constant, cosine, inverse_root, linear, step_decay, warmed_up, warmup_cosine
from tinyvit.train.sharpness import adaptive_sharpness_aware, sharpness_aware

__all__ = [
    "SGD",
    "Adam",
    "AdamW",
    "Average",
    "RMSprop",
    "Score",
    "Step",
    "accumulated",
    "adaptive_sharpness_aware",
    "all_decay",
    "classification",
    "clipped",
    "constant",
    "cosine",
    "decays",
    "depths",
    "distilled_from",
    "evaluate",
    "global_norm",
    "gradient_of",
    "inverse_root",
    "layer_decay",
    "linear",
    "predict",
    "sharpness_aware",
    "step_decay",
    "threaded",
    "token_labelling",
    "training",
    "warmed_up",
    "warmup_cosine",
    "weights_decay",
]
