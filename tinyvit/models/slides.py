"""Parameters and FLOPs as lecture slides print them, and why they differ from exact counts where they do.

FLOPs on slides are multiply-accumulates. A figure is repeated from the paper whose table a slide shows.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Figure:
    """One printed figure: the counted row, the table, "params" or "macs", the print, and why the count differs."""

    row: str
    table: str
    what: str
    printed: str
    why: str = ""


def _figures(table: str, what: str, *entries) -> list[Figure]:
    return [Figure(row, table, what, *rest) for row, *rest in entries]


NO_TOKEN = "the count without the class token"
UNEXPLAINED = "no convention that was tried gives it"
AT_224 = "the figure at 224 repeated: the longer position table at 384 is left out"
NEAR = "within 1.2% of the count; the paper does not say how it counts"
NO_PRODUCTS = "follows the count without the products QKᵀ and AV"
NOMINAL = "EfficientNet's own paper rounds, and counts, a little lower"

CAIT = {  # printed in CaiT's table: parameters, GMACs at 224, at 384
    "XXS24": ("12.0M", "2.5G", "9.5G"), "XXS36": ("17.3M", "3.8G", "14.2G"), "XS24": ("26.6M", "5.4G", "19.3G"),
    "XS36": ("38.6M", "8.1G", "28.8G"), "S24": ("46.9M", "9.4G", "32.2G"), "S36": ("68.2M", "13.9G", "48.0G"),
    "S48": ("89.5M", "18.6G", "63.8G"), "M24": ("185.9M", "36.0G", "116.1G"), "M36": ("270.9M", "53.7G", "173.3G"),
}  # fmt: skip

FIGURES = [
    *_figures(
        "ViT", "params",
        ("ViT-B/16@224", "86M", "truncated; without the head it is 85.8M, which rounds to 86"),
        ("ViT-L/16@224", "307M", "that is L with patches of 32 (306.5M); with 16 it is 304M"),
        ("ViT-H/14@224", "632M"),
    ),
    *_figures("Papers with Code", "params", ("ViT-L/16@224", "304M")),
    *_figures("Papers with Code", "macs",
              ("ViT-L/16@224", "119G", "nearly two operations for every multiply-accumulate, which is 123.1G")),
    *_figures(
        "SAM", "params",
        ("ViT-S/32@224", "23M"), ("ViT-S/16@224", "22M"), ("ViT-S/14@224", "22M"), ("ViT-S/8@224", "22M"),
        ("ViT-B/32@224", "88M"), ("ViT-B/16@224", "87M"),
        ("Mixer-S/32@224", "19M"), ("Mixer-S/16@224", "18M"), ("Mixer-S/8@224", "20M"),
        ("Mixer-B/32@224", "60M"), ("Mixer-B/16@224", "59M"), ("Mixer-B/8@224", "64M"),
        ("ResNet-50@224", "25M"), ("ResNet-101@224", "44M"), ("ResNet-152@224", "60M"),
        ("ResNet-50x2 (v1, BN, all widths x2)@224", "98M"),
        ("ResNet-101x2 (v1, BN, all widths x2)@224", "173M"),
        ("ResNet-152x2 (v1, BN, all widths x2)@224", "236M"),
    ),
    *_figures(
        "Swin", "params",
        ("RegNetY-4G@224", "21M"), ("RegNetY-8G@224", "39M"), ("RegNetY-16G@224", "84M"),
        ("EfficientNet-B3@300", "12M"), ("EfficientNet-B4@380", "19M"), ("EfficientNet-B5@456", "30M"),
        ("EfficientNet-B6@528", "43M"), ("EfficientNet-B7@600", "66M"),
        ("ViT-B/16@384", "86M"),
        ("ViT-L/16@384", "307M", "the round figure of ViT's own table, which is L with patches of 32"),
        ("DeiT-S@224", "22M"), ("DeiT-B@224", "86M"), ("DeiT-B@384", "86M"),
        ("BiT-R101x3@384", "388M"), ("BiT-R152x4@480", "937M"),
        ("Swin-T@224", "29M", "28.3M rounds to 28"), ("Swin-S@224", "50M"), ("Swin-B@224", "88M"),
        ("Swin-B@384", "88M"), ("Swin-L@384", "197M"),
    ),
    *_figures(
        "Swin", "macs",
        ("RegNetY-4G@224", "4.0G"), ("RegNetY-8G@224", "8.0G"),
        ("RegNetY-16G@224", "16.0G", "the budget that the name states"),
        ("EfficientNet-B3@300", "1.8G"), ("EfficientNet-B4@380", "4.2G", NOMINAL),
        ("EfficientNet-B5@456", "9.9G", NOMINAL), ("EfficientNet-B6@528", "19.0G", NOMINAL),
        ("EfficientNet-B7@600", "37.0G", NOMINAL),
        ("ViT-B/16@384", "55.4G", NO_TOKEN), ("ViT-L/16@384", "190.7G", NO_TOKEN),
        ("DeiT-S@224", "4.6G"), ("DeiT-B@224", "17.5G", NO_TOKEN), ("DeiT-B@384", "55.4G", NO_TOKEN),
        ("BiT-R101x3@384", "204.6G", NEAR), ("BiT-R152x4@480", "840.5G", NEAR),
        ("Swin-T@224", "4.5G"), ("Swin-S@224", "8.7G"), ("Swin-B@224", "15.4G"), ("Swin-B@384", "47.0G"),
        ("Swin-L@384", "103.9G"),
    ),
    *_figures(
        "CeiT", "macs",
        ("ResNet-50@224", "4.1G"), ("EfficientNet-B5@456", "10.3G"), ("EfficientNet-B7@600", "37.3G", UNEXPLAINED),
        ("ViT-B/16@224", "18.7G", UNEXPLAINED), ("ViT-L/16@224", "65.8G", UNEXPLAINED),
        ("DeiT-B@224", "17.3G", UNEXPLAINED), ("DeiT-B@384", "52.8G", UNEXPLAINED),
        ("CeiT-T stem64@224", "1.2G", f"{NO_PRODUCTS} (1.216G)"),
        ("CeiT-S stem64@224", "4.5G", "between the count and that without the products QKᵀ and AV (4.402G)"),
        ("CeiT-T stem64@384", "3.6G", f"{NO_PRODUCTS} (3.569G)"),
        ("CeiT-S stem64@384", "12.9G", f"{NO_PRODUCTS} (12.911G)"),
    ),
    *_figures("CaiT", "params", *((f"CaiT-{name}@224", p) for name, (p, _, _) in CAIT.items())),
    *_figures("CaiT", "params", *((f"CaiT-{name}@384", p, AT_224) for name, (p, _, _) in CAIT.items())),
    *_figures("CaiT", "macs", *((f"CaiT-{name}@224", g, NEAR) for name, (_, g, _) in CAIT.items())),
    *_figures("CaiT", "macs", *((f"CaiT-{name}@384", g, NEAR) for name, (_, _, g) in CAIT.items())),
    *_figures(
        "VOLO", "params",
        ("VOLO-D1@224", "26.6M"), ("VOLO-D2@224", "58.7M"), ("VOLO-D3@224", "86.3M"), ("VOLO-D4@224", "193M"),
        ("VOLO-D5@224", "296M", "that is D5 at 512, whose position map is larger (296.1M)"),
    ),
]  # fmt: skip
