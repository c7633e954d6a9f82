"""What the references call things, and what we call them: one declarative table per paper.

A model of a reference is named by its source and class; it says which of our configs it becomes, under which names
its arguments, parameters and inner values go, and nothing else. A case of an operator file is named by a pattern; it
says which of our functions it calls. There is no layer code here: everything is built of tinyvit's public face.
"""

from __future__ import annotations

from references import (
    bert,
    bit,
    cait,
    ceit,
    convnext,
    deepvit,
    deit,
    densenet,
    efficientnet,
    igpt,
    mixer,
    nat,
    regnet,
    resnest,
    resnet,
    sasa,
    simple_vit,
    swin,
    t2t_vit,
    video_swin,
    vit,
    vit_pytorch,
    volo,
)
from references.reference import Reference

PAPERS = (
    vit,
    vit_pytorch,
    deit,
    deepvit,
    cait,
    simple_vit,
    resnet,
    resnest,
    bit,
    convnext,
    mixer,
    swin,
    video_swin,
    nat,
    volo,
    ceit,
    t2t_vit,
    sasa,
    regnet,
    efficientnet,
    bert,
    igpt,
    densenet,
)
MODELS: dict[tuple[str, str], Reference] = {key: entry for paper in PAPERS for key, entry in paper.MODELS.items()}
