"""Multi-head self-attention, and the pre-norm block built on it."""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np

from tinyvit.equations.attention import self_attention, split_heads
from tinyvit.nn.basic import LayerNorm, Linear, Mlp
from tinyvit.nn.init import trunc_normal
from tinyvit.nn.module import Module, Parameter
from tinyvit.nn.noise import Dropout, DropPath, keep_mask, probability
from tinyvit.primitives.contract import einsum


class Attention(Module):
    """``[softmax(Q₁K₁ᵀ/√d)V₁ … softmax(QₕKₕᵀ/√d)Vₕ] W`` (Vaswani et al. 2017, Sec. 3.2.2).   (B, N, D) -> (B, N, D)

    q, k and v come from one matrix, laid out [which of the three][head][d] as in timm. The weights (B, h, N, N) can
    be captured as ``<name>.weights``. head_dim is D / h, and the scale 1/√d, unless they are given.
    """

    def __init__(self, dim, num_heads, *, head_dim=None, scale=None, qkv_bias=True, proj_bias=True, attn_drop=0.0,
                 proj_drop=0.0, rng):  # fmt: skip
        self.num_heads, self.head_dim, self.scale = num_heads, head_dim or head_width(dim, num_heads), scale
        inner = self.num_heads * self.head_dim
        self.qkv = Linear(dim, 3 * inner, bias=qkv_bias, rng=rng)
        self.proj = Linear(inner, dim, bias=proj_bias, rng=rng)
        self.attn_drop, self.proj_drop = probability(attn_drop, "attn_drop"), Dropout(proj_drop)

    def forward(self, x):
        qkv = self.qkv(x)
        bias, keep = self.position_bias(qkv), self.kept(qkv)
        y = self_attention(qkv, bias, keep, num_heads=self.num_heads, scale=self.scale)
        return self.proj_drop(self.proj(y))

    def position_bias(self, qkv):
        """What is added to the scores, (..., N, N), for where tokens stand: nothing, here."""
        return None  # noqa: RET501 - an answer, not an omission

    def kept(self, qkv):
        """The dropout mask of the weights, (B, h, N, N), in training."""
        if not (self.training and self.attn_drop):
            return None
        B, N, _ = qkv.shape
        return keep_mask(self.rng, (B, self.num_heads, N, N), self.attn_drop, qkv)


def head_width(dim: int, num_heads: int) -> int:
    """A head's share of the channels. Raises ValueError if it is not a whole number, and says which heads would do."""
    if num_heads < 1 or dim % num_heads:
        whole = [h for h in range(1, dim + 1) if dim % h == 0]
        near = [h for h in whole if h < num_heads][-1:] + [h for h in whole if h > num_heads][:1]
        raise ValueError(f"num_heads: {num_heads} heads cannot share a width of {dim} evenly; "
                         f"{' or '.join(map(str, near))} can")  # fmt: skip
    return dim // num_heads


class RelativeAttention(Attention):
    """Attention that also knows how far apart tokens stand (ViT, App. D.4: "relative").

    Every offset i - j of two tokens has an embedding per head; a query's product with it, over √d, is added to the
    score. The table holds the offsets -(N-1) … N-1, for ``num_tokens`` = N.
    """

    def __init__(self, dim, num_heads, *, num_tokens, rng, **options):
        super().__init__(dim, num_heads, rng=rng, **options)
        table = (2 * num_tokens - 1, self.num_heads, self.head_dim)
        self.relative_pos = Parameter(trunc_normal(table, std=0.02, rng=rng))

    def position_bias(self, qkv):
        q, _, _ = split_heads(qkv, self.num_heads)
        offsets = self.relative_pos[offset_index((q.shape[2],))]  # (N, N, h, d)
        return einsum(q, offsets, spec="bhid,ijhd->bhij") / math.sqrt(self.head_dim)


@lru_cache(maxsize=64)
def offset_index(size: tuple[int, ...]) -> np.ndarray:
    """The row of an offset table for query i and key j of a grid with N places, (N, N).

    Along every axis of length n the offset i - j + n - 1 is a digit from 0 to 2n - 2; the row is the number they write.
    """
    places = np.indices(size).reshape(len(size), -1)
    digits = places[:, :, None] - places[:, None, :] + np.subtract(size, 1)[:, None, None]
    index = np.ravel_multi_index(tuple(digits), [2 * n - 1 for n in size])
    index.flags.writeable = False
    return index


class Block(Module):
    """The pre-norm encoder block (ViT, Eqs. 2-3).   (B, N, D) -> (B, N, D)

    The MLP's hidden width is mlp_dim, or mlp_ratio times D.
    """

    def __init__(self, dim, num_heads, *, mlp_ratio=4.0, mlp_dim=None, drop=0.0, drop_path=0.0, eps=1e-6,
                 attention=None, rng, **attn_options):  # fmt: skip
        self.norm1 = LayerNorm(dim, eps=eps, rng=rng)
        self.attn = (attention or Attention)(dim, num_heads, proj_drop=drop, rng=rng, **attn_options)
        self.drop_path1 = DropPath(drop_path)
        self.norm2 = LayerNorm(dim, eps=eps, rng=rng)
        self.mlp = Mlp(dim, mlp_dim or int(mlp_ratio * dim), drop=drop, rng=rng)
        self.drop_path2 = DropPath(drop_path)

    def forward(self, z):
        z = z + self.drop_path1(self.attn(self.norm1(z)))  # z′ₗ = MSA(LN(zₗ₋₁)) + zₗ₋₁
        return z + self.drop_path2(self.mlp(self.norm2(z)))  # zₗ = MLP(LN(z′ₗ)) + z′ₗ
