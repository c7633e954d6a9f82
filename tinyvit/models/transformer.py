"""The Transformer: "Attention Is All You Need" (Vaswani et al. 2017, arXiv 1706.03762).

    x = LN(x + MultiHead(x, x, x));   x = LN(x + FFN(x))                             encoder layer (Sec. 3.1)
    y = LN(y + MultiHead(y, y, y)), nobody looking ahead;   y = LN(y + MultiHead(y, x, x));   y = LN(y + FFN(y))
    FFN(x) = max(0, x W₁ + b₁) W₂ + b₂                                              (Eq. 2)
    PE(p, 2i) = sin(p / 10000^(2i/D)),   PE(p, 2i+1) = cos(p / 10000^(2i/D))         (Sec. 3.5)

Source, target and output share one table of embeddings, which are multiplied by √D (Sec. 3.4). Layers have the names
and shapes of PyTorch's. Theirs put a norm behind each stack and have biases in the attention; the paper has neither,
and its formulas here come without the former (final_norm=False).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from tinyvit.autodiff.tensor import raw
from tinyvit.autodiff.watch import no_grad
from tinyvit.blueprint import Blueprint
from tinyvit.equations.attention import causal_mask, multi_head_attention
from tinyvit.equations.convolution import linear
from tinyvit.equations.loss import cross_entropy
from tinyvit.models.config import Paper, Published
from tinyvit.nn.attention import head_width
from tinyvit.nn.basic import LayerNorm, Linear
from tinyvit.nn.embed import Embedding, beside, sinusoid_1d
from tinyvit.nn.init import xavier_uniform, zeros
from tinyvit.nn.module import Module, Parameter
from tinyvit.nn.noise import Dropout
from tinyvit.primitives.elementwise import relu


@dataclass(frozen=True)
class TransformerConfig:
    """A Transformer's sizes, under PyTorch's argument names.

    vocab_size   of both languages together
    norm_first   norms in front of the sub-layers instead of behind the sums
    final_norm   a norm behind each stack, as PyTorch has it
    max_len      as many tokens as example inputs have; positions are a formula and have no end
    """

    vocab_size: int = 37000
    d_model: int = 512
    nhead: int = 8
    num_encoder_layers: int = 6
    num_decoder_layers: int = 6
    dim_feedforward: int = 2048
    dropout: float = 0.1
    norm_first: bool = False
    final_norm: bool = False
    layer_norm_eps: float = 1e-5
    max_len: int = 64

    def __post_init__(self):
        if self.d_model % 2:
            raise ValueError(f"d_model: sines and cosines come in pairs; expected an even width, got {self.d_model}")
        head_width(self.d_model, self.nhead)


# layers ------------------------------------------------------------------------------------


class MultiheadAttention(Module):
    """``MultiHead(Q, K, V)`` (Sec. 3.2.2).   query (B, N, D), memory (B, M, D) -> (B, N, D)"""

    def __init__(self, dim: int, num_heads: int, *, rng):
        self.num_heads = num_heads
        self.in_proj_weight = Parameter(xavier_uniform((3 * dim, dim), rng=rng))
        self.in_proj_bias = Parameter(zeros((3 * dim,), rng=rng))
        self.out_proj = xavier(dim, dim, rng)

    def forward(self, query, memory, may_attend=None):
        return multi_head_attention(query, memory, memory, self.in_proj_weight, self.in_proj_bias,
                                    self.out_proj.weight, self.out_proj.bias, may_attend,
                                    num_heads=self.num_heads)  # fmt: skip


def xavier(inputs: int, outputs: int, rng) -> Linear:
    """A linear map with Xavier's initial values."""
    layer = Linear(inputs, outputs, rng=rng)
    layer.weight.data = xavier_uniform((outputs, inputs), rng=rng)
    return layer


class Layer(Module):
    """What both kinds of layer have: self-attention, FFN, a norm and a residual around every sub-layer."""

    def __init__(self, c: TransformerConfig, *, rng):
        self.self_attn = MultiheadAttention(c.d_model, c.nhead, rng=rng)
        self.linear1 = xavier(c.d_model, c.dim_feedforward, rng)
        self.linear2 = xavier(c.dim_feedforward, c.d_model, rng)
        self.norm1, self.norm2 = (LayerNorm(c.d_model, eps=c.layer_norm_eps, rng=rng) for _ in range(2))
        self.dropout, self.norm_first = Dropout(c.dropout), c.norm_first

    def add(self, norm, x, sublayer):
        """``LN(x + Sublayer(x))``; with norm_first ``x + Sublayer(LN(x))``."""
        if self.norm_first:
            return x + self.dropout(sublayer(norm(x)))
        return norm(x + self.dropout(sublayer(x)))

    def ffn(self, x):
        return self.linear2(self.dropout(relu(self.linear1(x))))


class EncoderLayer(Layer):
    """Self-attention, FFN.   (B, M, D) -> (B, M, D)"""

    def forward(self, x, may_attend=None):
        x = self.add(self.norm1, x, lambda x: self.self_attn(x, x, may_attend))
        return self.add(self.norm2, x, self.ffn)


class DecoderLayer(Layer):
    """Self-attention to what is written already, attention to the source, FFN.   (B, N, D), (B, M, D) -> (B, N, D)"""

    def __init__(self, c: TransformerConfig, *, rng):
        super().__init__(c, rng=rng)
        self.multihead_attn = MultiheadAttention(c.d_model, c.nhead, rng=rng)
        self.norm3 = LayerNorm(c.d_model, eps=c.layer_norm_eps, rng=rng)

    def forward(self, y, memory, may_attend=None, may_read=None):
        y = self.add(self.norm1, y, lambda y: self.self_attn(y, y, may_attend))
        y = self.add(self.norm2, y, lambda y: self.multihead_attn(y, memory, may_read))
        return self.add(self.norm3, y, self.ffn)


class Stack(Module):
    """Layers, and perhaps a norm behind them."""

    def __init__(self, layer: type, number: int, c: TransformerConfig, *, rng):
        self.layers = [layer(c, rng=rng) for _ in range(number)]
        self.norm = LayerNorm(c.d_model, eps=c.layer_norm_eps, rng=rng) if c.final_norm else None

    def forward(self, x, *others):
        for layer in self.layers:
            x = layer(x, *others)
        return x if self.norm is None else self.norm(x)


class EncoderDecoder(Module):
    """Both stacks, on vectors.   source (B, M, D), target (B, N, D) -> (B, N, D)

    target_mask  booleans (N, N), where a target token may look; anywhere if left out
    source_mask  booleans (B, 1, 1, M), False for source tokens that only fill
    """

    def __init__(self, c: TransformerConfig, *, rng):
        self.config = c
        self.encoder = Stack(EncoderLayer, c.num_encoder_layers, c, rng=rng)
        self.decoder = Stack(DecoderLayer, c.num_decoder_layers, c, rng=rng)

    def forward(self, source, target, target_mask=None, source_mask=None):
        return self.decoder(target, self.encoder(source, source_mask), target_mask, source_mask)


class Transformer(EncoderDecoder):
    """From one sequence to another.   source (B, M), target so far (B, N), integers -> scores of the next (B, N, V)"""

    def __init__(self, config: TransformerConfig, *, rng):
        super().__init__(config, rng=rng)
        self.embed = Embedding(config.vocab_size, config.d_model, std=config.d_model**-0.5, rng=rng)
        self.dropout = Dropout(config.dropout)

    def forward(self, source, target, source_mask=None):
        ahead = causal_mask(target.shape[1])
        y = super().forward(self.embedded(source), self.embedded(target), ahead, source_mask)
        return linear(y, self.embed.weight)

    def embedded(self, tokens):
        """``√D E[tokens] + PE``.   (B, N) -> (B, N, D)"""
        x = self.embed(tokens) * math.sqrt(self.config.d_model)
        return self.dropout(x + beside(sinusoid_1d(tokens.shape[1], self.config.d_model), x))

    def example_inputs(self, batch: int = 1) -> tuple:
        return (Blueprint((batch, self.config.max_len), np.int64),) * 2

    def greedy(self, source, start: int, length: int) -> np.ndarray:
        """The likeliest next token, again and again, after ``start``.   (B, M) -> (B, length)"""
        target = np.full((len(source), 1), start)
        with no_grad():
            for _ in range(length):
                best = np.argmax(raw(self(source, target))[:, -1], axis=-1)
                target = np.concatenate([target, best[:, None]], axis=1)
        return target[:, 1:]


def translation(start: int, *, smoothing: float = 0.1):
    """The objective ``(model, batch) -> loss``: every target token told from those before it, smoothed (Sec. 5.4).

    A batch is (source (B, M), target (B, N)); the decoder reads the target behind the token ``start``.
    """

    def objective(model, batch):
        source, target = batch
        so_far = np.concatenate([np.full_like(target[:, :1], start), target[:, :-1]], axis=1)
        return cross_entropy(model(source, so_far), target, smoothing=smoothing)

    return objective


# Table 3 of the paper; 37,000 tokens for English and German, 32,000 for English and French. ----

PAPER = Paper("Attention Is All You Need", "Vaswani et al.", 2017, "1706.03762", family="transformer")

BASE = TransformerConfig()
BIG = TransformerConfig(d_model=1024, nhead=16, dim_feedforward=4096, dropout=0.3)
FRENCH = {"vocab_size": 32000}

#   name                        config                                     counted as
PUBLISHED = {
    "transformer_base":       Published(BASE,                    "Transformer-base, tied vocab 37000, 64->64 tokens"),
    "transformer_big":        Published(BIG,                     "Transformer-big, tied vocab 37000, 64->64 tokens"),
    "transformer_base_en_fr": Published(replace(BASE, **FRENCH), "Transformer-base, tied vocab 32000, 64->64 tokens"),
    "transformer_big_en_fr":  Published(replace(BIG, **FRENCH),  "Transformer-big, tied vocab 32000, 64->64 tokens"),
}  # fmt: skip

ALSO_COUNTED: dict = {}

SMALL = {
    "transformer_micro": TransformerConfig(vocab_size=12, d_model=32, nhead=4, num_encoder_layers=2,
                                           num_decoder_layers=2, dim_feedforward=64, dropout=0.0, max_len=6),
}  # fmt: skip

MODEL = Transformer
