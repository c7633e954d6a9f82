"""Names of pre-activation ResNets, BiT among them, in timm."""

import re
from ast import literal_eval

from references.reference import Reference
from tinyvit.models.bit import BiT
from tinyvit.models.resnetv2 import ResNetV2Config


def groups_of(norm: str) -> int:
    """Of a norm's class and arguments, the number of groups; 0 for batch norm."""
    return 0 if norm == "BatchNormAct2d" else argument(norm, "GroupNormAct", "num_groups", 32)


def eps_of(conv: str) -> float | None:
    """Of a convolution's class and arguments, the ε of weight standardisation; None without one."""
    return None if conv in ("create_conv2d", "Conv2d") else argument(conv, "StdConv2d", "eps", 1e-6)


def argument(text: str, cls: str, name: str, default):
    """The one argument that ``Class{'name': value}`` may have. Raises ValueError for another class or argument."""
    match = re.fullmatch(rf"{cls}(\{{.*\}})?", text)
    given = literal_eval(match[1] or "{}") if match else {"its class": text}
    if given.keys() - {name}:
        raise ValueError(f"{text} where {cls} with {name} is known")
    return given.get(name, default)


MODELS = {
    ("timm", "ResNetV2"): Reference(
        BiT,
        ResNetV2Config,
        arguments={"norm_layer": "num_groups", "conv_layer": "ws_eps"},
        values={"norm_layer": groups_of, "conv_layer": eps_of},
        names={
            r"head\.(?:global_pool|drop)": "head.fc.input",
            r"stem\.pad": "stem.pool.input",
            r"head\.flatten": "head",
            r"(.*\.blocks\.\d+)\.drop_path": r"\1.conv3",
        },
        fixed={"global_pool": "avg", "output_stride": 32, "avg_down": False, "preact": True, "basic": False,
               "bottle_ratio": 0.25, "act_layer": "relu", "drop_rate": 0.0, "drop_path_rate": 0.0,
               "zero_init_last": False},
    ),
}  # fmt: skip
