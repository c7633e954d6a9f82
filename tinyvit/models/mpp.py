"""Masked patch prediction: a ViT that learns from images without labels (Dosovitskiy et al. 2021, App. B.1.2).

As in BERT, half of the patch embeddings are corrupted: 80 % of these become a learned [mask], 10 % another patch's
embedding, 10 % stay. At each of them the encoder's output has to tell the patch's mean colour, in 3 bits per channel:
one of 8³ = 512 classes.

    gradient = gradient_of(masked_patches())            # in place of classification(); the batch's labels are not used
    vit.load_state_dict(pretrained.encoder.state_dict(), strict=False)          # all but the new head, to fine-tune

The vit-pytorch package corrupts 15 %, and pixels instead of embeddings; its classes and its loss are the same.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from tinyvit.autodiff.tensor import raw
from tinyvit.backend import like, to_numpy
from tinyvit.equations.loss import cross_entropy
from tinyvit.models.vit import ViT, ViTConfig
from tinyvit.nn.basic import Linear
from tinyvit.nn.embed import patchify
from tinyvit.nn.init import trunc_normal
from tinyvit.nn.module import Module, Parameter
from tinyvit.nn.noise import source
from tinyvit.primitives.elementwise import where

BITS = 3  # of every channel's mean
SHARE, MASKED, SWAPPED = 0.5, 0.8, 0.1  # of the patches: corrupted; of the corrupted: masked, swapped


class Corruption(NamedTuple):
    """What happens to the patches of a batch, arrays (B, N).

    corrupted (booleans): to be predicted · masked (booleans): become [mask] · origin: whose embedding stands here
    """

    corrupted: np.ndarray
    masked: np.ndarray
    origin: np.ndarray


def corrupt(rng: np.random.Generator, batch: int, patches: int) -> Corruption:
    """Draw a Corruption: the same number of patches in every image, and what becomes of each.

    Raises ValueError for an image of one patch, which has no other.
    """
    if patches < 2:
        raise ValueError(f"patches: expected at least two, one to tell the other from, got {patches}")
    shape = (batch, patches)
    corrupted = rng.random(shape).argsort(axis=1).argsort(axis=1) < math.ceil(SHARE * patches)
    fate = rng.random(shape)
    here = np.arange(patches)
    other = (here + rng.integers(1, patches, shape)) % patches
    swapped = corrupted & (fate >= MASKED) & (fate < MASKED + SWAPPED)
    return Corruption(corrupted, corrupted & (fate < MASKED), np.where(swapped, other, here))


class MaskedPatchPrediction(Module):
    """A ViT encoder with a [mask] token and a colour head.   images (B, H, W, C) -> logits (B, N, 8ᶜ) of every patch

    encoder  a ViT without a head, under ``encoder.`` in names
    """

    def __init__(self, config: ViTConfig, *, rng):
        c = self.config = replace(config, num_classes=0)
        self.encoder = ViT(c, rng=rng)
        self.mask_token = Parameter(trunc_normal((1, 1, c.embed_dim), std=0.02, rng=rng))
        self.head = Linear(c.embed_dim, 2 ** (BITS * c.in_chans), rng=rng)

    def forward(self, images, corruption: Corruption | None = None):
        vit = self.encoder
        z = vit.patch_embed(images)
        if corruption is not None:
            z = self.corrupted(z, corruption)
        z = vit.fc_norm(vit.encoded(vit.assembled(z)))  # one of the two norms is the identity
        return self.head(z[:, vit.prefix :])

    def corrupted(self, z, corruption: Corruption):
        """Embedded patches, some of them another's or [mask].   (B, N, D) -> (B, N, D)"""
        z = z[np.arange(len(corruption.origin))[:, None], corruption.origin]
        return where(like(corruption.masked[..., None], raw(z)), self.mask_token, z)

    def draw(self, batch: int) -> Corruption:
        """A Corruption from the model's generator. Raises ValueError in evaluation mode, which has none."""
        if not self.training:
            raise ValueError("corruption: in evaluation mode there is no generator; pass corrupt(rng, batch, patches)")
        return corrupt(source(self.rng), batch, math.prod(self.encoder.patch_embed.grid))


def masked_patches(*, mean=0.0, std=1.0):
    """The objective ``(model, batch) -> loss`` of a MaskedPatchPrediction; of the batch only the images are used.

    mean, std  numbers, or one for each channel, with which images · std + mean are colours in 0 … 1
    """

    def objective(model, batch):
        images = batch[0]
        corruption = model.draw(len(images))
        colours = to_numpy(raw(images)) * np.asarray(std) + np.asarray(mean)
        classes = colour_classes(mean_colours(colours, model.config.patch_size))
        return masked_loss(model(images, corruption), classes, corruption.corrupted)

    return objective


def masked_loss(logits, classes: np.ndarray, corrupted: np.ndarray):
    """Cross-entropy, averaged over the corrupted patches.   (B, N, K), (B, N), (B, N) -> ()"""
    return cross_entropy(logits, like(np.where(corrupted, classes, -1), raw(logits)), ignore_index=-1)


def mean_colours(images: np.ndarray, patch_size: int) -> np.ndarray:
    """The mean of every patch and channel, what is over 1 counting as 1.   (B, H, W, C) -> (B, N, C)"""
    patches = patchify(np.minimum(images, 1), patch_size)
    return patches.reshape(*patches.shape[:2], patch_size**2, -1).mean(axis=2)


def colour_classes(colours: np.ndarray, bits: int = BITS) -> np.ndarray:
    """Colours as class numbers ``Σ_c bin_c · 2^(bits·c)``; a bin holds its upper end.   (..., C) in 0 … 1 -> (...)"""
    edges = np.arange(1, 2**bits) / 2**bits
    bins = np.searchsorted(edges, colours, side="left")
    return bins @ 2 ** (bits * np.arange(colours.shape[-1]))
