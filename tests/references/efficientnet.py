"""Names of EfficientNet in timm."""

import re

from references.reference import Reference
from tinyvit.models.efficientnet import EfficientNet, EfficientNetConfig, Stage

ROW = re.compile(r"(ds|ir)_r(?P<repeats>\d+)_k(?P<kernel_size>\d+)_s(?P<stride>\d)_e(?P<expand>[\d.]+)"
                 r"_c(?P<channels>\d+)(?:_se(?P<se_ratio>[\d.]+))?")  # fmt: skip


def stage(strings) -> Stage:
    """A stage of timm's architecture strings. Raises ValueError for one that ours has no words for."""
    row = ROW.fullmatch(strings[0])
    if row is None or len(strings) > 1 or (row[1] == "ir" and float(row["expand"]) == 1):
        raise ValueError(f"stage {strings}")
    numbers = {name: float(row[name] or 0) for name in ("expand", "se_ratio")}
    numbers |= {name: int(row[name]) for name in ("repeats", "kernel_size", "stride", "channels")}
    return Stage(**numbers | ({"expand": 1} if row[1] == "ds" else {}))


MODELS = {
    ("timm", "SmallEffNet"): Reference(
        EfficientNet,
        EfficientNetConfig,
        arguments={"arch": "stages", "stem": "stem_size", "feats": "num_features"},
        values={"arch": lambda arch: tuple(map(stage, arch))},
    ),
}  # fmt: skip
