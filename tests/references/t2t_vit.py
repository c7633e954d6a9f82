"""Names of T2T-ViT in the official code; its unfolding has the windows' numbers before the places."""

import numpy as np

from references.reference import Reference
from tinyvit.models.t2t_vit import T2TViT, T2TViTConfig

MODELS = {
    ("yitu-opensource/T2T-ViT", ""): Reference(
        T2TViT,
        T2TViTConfig,
        arguments={"ln_eps": "norm_eps"},
        layouts={f"tokens_to_token.soft_split{i}": lambda x: np.swapaxes(x, 1, 2) for i in range(3)},
    ),
}  # fmt: skip
