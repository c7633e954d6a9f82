"""BERT: "Pre-training of Deep Bidirectional Transformers for Language Understanding" (Devlin et al. 2019, 1810.04805).

    z₀  = LN(token + position + segment)                  (Fig. 2)
    z′ₗ = LN(zₗ₋₁ + MSA(zₗ₋₁))                            the encoder of Vaswani et al. 2017, norm behind the sum
    zₗ  = LN(z′ₗ + W₂ gelu(W₁ z′ₗ))
    pooled = tanh(W z⁰_L)                                 of the first token, [CLS]

Two tasks without labels (Sec. 3.1): say which token stood where 15 % of them are hidden, and whether the second
sentence follows the first. ViT's encoder is this one with its norms moved in front, its masked patches these tokens.

Parameters have the names and shapes of the transformers package. The pooler, the layer before the decoder and the
decoder's bias are in the authors' code, and not in the paper.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from tinyvit.autodiff.tensor import raw
from tinyvit.backend import like, to_numpy
from tinyvit.blueprint import Blueprint
from tinyvit.equations.attention import by_head, merge_heads, scaled_dot_product_attention
from tinyvit.equations.convolution import linear
from tinyvit.equations.loss import cross_entropy
from tinyvit.models.config import ACTIVATIONS, Paper, Published, one_of
from tinyvit.nn.attention import head_width
from tinyvit.nn.basic import LayerNorm, Linear
from tinyvit.nn.embed import Embedding
from tinyvit.nn.init import zeros
from tinyvit.nn.module import Module, Parameter
from tinyvit.nn.noise import Dropout, keep_mask, probability, source
from tinyvit.primitives.elementwise import tanh

IGNORED = -1  # the class of a token that is not to be predicted


@dataclass(frozen=True)
class BertConfig:
    """A BERT's sizes and choices, under the transformers package's argument names.

    heads        "none": encoder and pooler · "masked_lm": ``BertForMaskedLM`` · "pretraining": ``BertForPreTraining``
    pad_token_id what fills short sequences: its row in the table learns nothing from standing there
    """

    vocab_size: int = 30522
    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    hidden_act: str = "gelu"
    hidden_dropout_prob: float = 0.1
    attention_probs_dropout_prob: float = 0.1
    max_position_embeddings: int = 512
    type_vocab_size: int = 2
    initializer_range: float = 0.02
    layer_norm_eps: float = 1e-12
    pad_token_id: int | None = 0
    heads: str = "none"

    def __post_init__(self):
        one_of(HEADS, heads=self.heads)
        one_of(ACTIVATIONS, hidden_act=self.hidden_act)

    def linear(self, inputs: int, outputs: int, rng) -> Linear:
        """A linear map with this config's initial values (a Linear has σ = 0.02)."""
        layer = Linear(inputs, outputs, rng=rng)
        if rng is not None:
            layer.weight.data *= np.float32(self.initializer_range / 0.02)
        return layer

    def norm(self, rng) -> LayerNorm:
        return LayerNorm(self.hidden_size, eps=self.layer_norm_eps, rng=rng)


# the encoder -------------------------------------------------------------------------------


class Embeddings(Module):
    """``LN(token + position + segment)``.   ids (B, N), segments (B, N) -> (B, N, D)"""

    def __init__(self, c: BertConfig, *, rng):
        table = {"std": c.initializer_range, "rng": rng}
        self.word_embeddings = Embedding(c.vocab_size, c.hidden_size, padding=c.pad_token_id, **table)
        self.position_embeddings = Embedding(c.max_position_embeddings, c.hidden_size, **table)
        self.token_type_embeddings = Embedding(c.type_vocab_size, c.hidden_size, **table)
        self.LayerNorm = c.norm(rng)
        self.dropout = Dropout(c.hidden_dropout_prob)

    def forward(self, ids, segments=None):
        places = len(self.position_embeddings.weight.data)
        if len(ids.shape) != 2 or ids.shape[1] > places:
            raise ValueError(f"ids: expected token numbers (B, N) with N up to {places}, got shape {ids.shape}")
        segments = raw(ids) * 0 if segments is None else segments
        positions = self.position_embeddings.weight[: ids.shape[1]]
        z = self.word_embeddings(ids) + self.token_type_embeddings(segments) + positions
        return self.dropout(self.LayerNorm(z))


class SelfAttention(Module):
    """All heads side by side, without the map that joins them.   (B, N, D) -> (B, N, D)

    may_attend (B, 1, 1, N): booleans, False for tokens that are only there to fill
    """

    def __init__(self, c: BertConfig, *, rng):
        head_width(c.hidden_size, c.num_attention_heads)
        self.num_heads = c.num_attention_heads
        self.query, self.key, self.value = (c.linear(c.hidden_size, c.hidden_size, rng) for _ in range(3))
        self.drop = probability(c.attention_probs_dropout_prob, "attention_probs_dropout_prob")

    def forward(self, z, may_attend=None):
        q, k, v = (by_head(part(z), self.num_heads) for part in (self.query, self.key, self.value))
        keep = None
        if self.training and self.drop:
            keep = keep_mask(self.rng, (*q.shape[:3], k.shape[2]), self.drop, q)
        return merge_heads(scaled_dot_product_attention(q, k, v, may_attend, keep))


class Output(Module):
    """The end of every sub-layer: ``LN(z + W y)``.   y (B, N, E), z (B, N, D) -> (B, N, D)"""

    def __init__(self, width: int, c: BertConfig, *, rng):
        self.dense = c.linear(width, c.hidden_size, rng)
        self.LayerNorm = c.norm(rng)
        self.dropout = Dropout(c.hidden_dropout_prob)

    def forward(self, y, z):
        return self.LayerNorm(z + self.dropout(self.dense(y)))


class Attention(Module):
    """``z′ = LN(z + MSA(z))``."""

    def __init__(self, c: BertConfig, *, rng):
        self.self = SelfAttention(c, rng=rng)
        self.output = Output(c.hidden_size, c, rng=rng)

    def forward(self, z, may_attend=None):
        return self.output(self.self(z, may_attend), z)


class Intermediate(Module):
    """``gelu(W₁ z)``."""

    def __init__(self, c: BertConfig, *, rng):
        self.dense = c.linear(c.hidden_size, c.intermediate_size, rng)
        self.act = ACTIVATIONS[c.hidden_act]

    def forward(self, z):
        return self.act(self.dense(z))


class Layer(Module):
    """``z′ = LN(z + MSA(z))``, then ``LN(z′ + W₂ gelu(W₁ z′))``.   (B, N, D) -> (B, N, D)"""

    def __init__(self, c: BertConfig, *, rng):
        self.attention = Attention(c, rng=rng)
        self.intermediate = Intermediate(c, rng=rng)
        self.output = Output(c.intermediate_size, c, rng=rng)

    def forward(self, z, may_attend=None):
        z = self.attention(z, may_attend)
        return self.output(self.intermediate(z), z)


class Encoder(Module):
    """The layers, one after the other."""

    def __init__(self, c: BertConfig, *, rng):
        self.layer = [Layer(c, rng=rng) for _ in range(c.num_hidden_layers)]

    def forward(self, z, may_attend=None):
        for layer in self.layer:
            z = layer(z, may_attend)
        return z


class Pooler(Module):
    """``tanh(W z⁰)``: what the first token has gathered.   (B, N, D) -> (B, D)"""

    def __init__(self, c: BertConfig, *, rng):
        self.dense = c.linear(c.hidden_size, c.hidden_size, rng)

    def forward(self, z):
        return tanh(self.dense(z[:, 0]))


class Bert(Module):
    """Encoder and pooler.   ids (B, N) -> tokens (B, N, D), pooled (B, D)

    token_type_ids  (B, N), which sentence a token is of; all of the first if left out
    attention_mask  (B, N), 1 (or True) for tokens that are read, 0 for those that fill
    Without a pooler, ``pooled`` is None.
    """

    def __init__(self, config: BertConfig, *, pooler: bool = True, rng):
        c = self.config = config
        self.embeddings = Embeddings(c, rng=rng)
        self.encoder = Encoder(c, rng=rng)
        self.pooler = Pooler(c, rng=rng) if pooler else None

    def forward(self, ids, token_type_ids=None, attention_mask=None):
        may_attend = None if attention_mask is None else (raw(attention_mask) != 0)[:, None, None]
        z = self.encoder(self.embeddings(ids, token_type_ids), may_attend)
        return z, self.pooler(z) if self.pooler else None

    def example_inputs(self, batch: int = 1) -> tuple:
        """As many tokens as pre-training begins with: 128 (App. A.2), or as there are places for."""
        return (Blueprint((batch, min(128, self.config.max_position_embeddings)), np.int64),)


# the heads of pre-training -----------------------------------------------------------------


class Transform(Module):
    """``LN(gelu(W z))``."""

    def __init__(self, c: BertConfig, *, rng):
        self.dense = c.linear(c.hidden_size, c.hidden_size, rng)
        self.LayerNorm = c.norm(rng)
        self.act = ACTIVATIONS[c.hidden_act]

    def forward(self, z):
        return self.LayerNorm(self.act(self.dense(z)))


class Decoder(Module):
    """Scores of every token of the vocabulary, by the table they were read with: ``z Eᵀ + b``."""

    def __init__(self, table: Parameter, bias: Parameter):
        self.weight, self.bias = table, bias

    def forward(self, z):
        return linear(z, self.weight, self.bias)


class Predictions(Module):
    """Which token stood here?   (B, N, D) -> (B, N, V)"""

    def __init__(self, c: BertConfig, table: Parameter, *, rng):
        self.bias = Parameter(zeros((c.vocab_size,), rng=rng))
        self.transform = Transform(c, rng=rng)
        self.decoder = Decoder(table, self.bias)

    def forward(self, z):
        return self.decoder(self.transform(z))


class MaskedHead(Module):
    """The first of the heads, alone.   tokens (B, N, D) -> (B, N, V)"""

    def __init__(self, c: BertConfig, table: Parameter, *, rng):
        self.predictions = Predictions(c, table, rng=rng)

    def forward(self, z):
        return self.predictions(z)


class Heads(Module):
    """Both heads.   tokens (B, N, D), pooled (B, D) -> (B, N, V), (B, 2)"""

    def __init__(self, c: BertConfig, table: Parameter, *, rng):
        self.predictions = Predictions(c, table, rng=rng)
        self.seq_relationship = c.linear(c.hidden_size, 2, rng)

    def forward(self, z, pooled):
        return self.predictions(z), self.seq_relationship(pooled)


class BertForPreTraining(Module):
    """BERT with both heads.   ids (B, N) -> scores of tokens (B, N, V), of the sentences' order (B, 2)

    Of the second, class 0 says "follows", class 1 "is another's". Inputs as of ``Bert``.
    """

    def __init__(self, config: BertConfig, *, rng):
        self.config = config
        self.bert = Bert(config, rng=rng)
        self.cls = Heads(config, self.bert.embeddings.word_embeddings.weight, rng=rng)

    def forward(self, ids, token_type_ids=None, attention_mask=None):
        return self.cls(*self.bert(ids, token_type_ids, attention_mask))

    def example_inputs(self, batch: int = 1) -> tuple:
        return self.bert.example_inputs(batch)


class BertForMaskedLM(Module):
    """BERT without a pooler, that tells hidden tokens only.   ids (B, N) -> scores of tokens (B, N, V)"""

    def __init__(self, config: BertConfig, *, rng):
        self.config = config
        self.bert = Bert(config, pooler=False, rng=rng)
        self.cls = MaskedHead(config, self.bert.embeddings.word_embeddings.weight, rng=rng)

    def forward(self, ids, token_type_ids=None, attention_mask=None):
        z, _ = self.bert(ids, token_type_ids, attention_mask)
        return self.cls(z)

    def example_inputs(self, batch: int = 1) -> tuple:
        return self.bert.example_inputs(batch)


HEADS = {"none": Bert, "masked_lm": BertForMaskedLM, "pretraining": BertForPreTraining}


def bert(config: BertConfig, *, rng) -> Module:
    """Encoder and pooler, or the encoder with heads."""
    return HEADS[config.heads](config, rng=rng)


# pre-training ------------------------------------------------------------------------------


class Special(NamedTuple):
    """Tokens that are no words, by number: as in the authors' vocabulary unless said otherwise."""

    pad: int = 0
    cls: int = 101
    sep: int = 102
    mask: int = 103


def segments(ids: np.ndarray, sep: int) -> np.ndarray:
    """0 up to the first [SEP], it included, and 1 after it.   (B, N) -> (B, N)"""
    seen = np.cumsum(ids == sep, axis=1) - (ids == sep)
    return (seen > 0).astype(ids.dtype)


def masked(rng: np.random.Generator, ids: np.ndarray, vocab_size: int, special: Special, share: float = 0.15):
    """Hide some of the words: 80 % of them become [MASK], 10 % any token, 10 % stay (App. A.1).

    ids (B, N) -> what the model reads (B, N), the words to be told (B, N), IGNORED where there is nothing to tell
    """
    chosen = (rng.random(ids.shape) < share) & ~np.isin(ids, special)
    fate = rng.random(ids.shape)
    read = np.where(chosen & (fate < 0.8), special.mask, ids)
    read = np.where(chosen & (fate >= 0.9), rng.integers(vocab_size, size=ids.shape), read)
    return read, np.where(chosen, ids, IGNORED)


def masked_words(special: Special | None = None, *, share: float = 0.15):
    """The objective ``(model, batch) -> loss`` of a BertForMaskedLM: cross-entropy of the words that were hidden.

    Of a batch (ids (B, N), …) only the first is used. What is hidden is drawn from the model's generator.
    """
    special = special or Special()

    def objective(model, batch):
        ids = to_numpy(raw(batch[0]))
        read, words = _hidden(model, ids, special, share)
        return _told(model(read, segments(ids, special.sep), ids != special.pad), words)

    return objective


def pretraining(special: Special | None = None, *, share: float = 0.15):
    """The objective ``(model, batch) -> loss`` of a BertForPreTraining: the sum of both tasks' cross-entropies.

    A batch is (ids (B, N), order (B,)): two sentences, [CLS] a … [SEP] b … [SEP] [PAD] …, and 0 where b follows a, 1
    where it does not. What is hidden is drawn from the model's generator.
    """
    special = special or Special()

    def objective(model, batch):
        ids, order = (to_numpy(raw(x)) for x in batch)
        read, words = _hidden(model, ids, special, share)
        scores, follows = model(read, segments(ids, special.sep), ids != special.pad)
        return _told(scores, words) + cross_entropy(follows, like(order, raw(scores)))

    return objective


def _hidden(model, ids: np.ndarray, special: Special, share: float):
    """``masked``, drawn from the model's generator."""
    if not model.training:
        raise ValueError("what is hidden is drawn from the model's generator, and in evaluation mode there is none")
    return masked(source(model.rng), ids, model.config.vocab_size, special, share)


def _told(scores, words):
    """Cross-entropy over the words that are to be told."""
    return cross_entropy(scores, like(words, raw(scores)), ignore_index=IGNORED)


# Sec. 3 of the paper. ----------------------------------------------------------------------

PAPER = Paper("BERT", "Devlin et al.", 2019, "1810.04805", family="bert")

BASE = BertConfig()
LARGE = BertConfig(hidden_size=1024, num_hidden_layers=24, num_attention_heads=16, intermediate_size=4096)

HEADED = {"heads": "pretraining"}

#   name                                     config                         counted as
PUBLISHED = {
    "bert_base_uncased":              Published(BASE,                       "BERT-Base encoder+pooler, 128 tokens"),
    "bert_large_uncased":             Published(LARGE,                      "BERT-Large encoder+pooler, 128 tokens"),
    "bert_base_uncased_pretraining":  Published(replace(BASE, **HEADED), "BERT-Base pre-training heads, 128 tokens"),
    "bert_large_uncased_pretraining": Published(replace(LARGE, **HEADED), "BERT-Large pre-training heads, 128 tokens"),
}  # fmt: skip

ALSO_COUNTED: dict = {}

SMALL = {
    "bert_micro": BertConfig(vocab_size=20, hidden_size=32, num_hidden_layers=2, num_attention_heads=4,
                             intermediate_size=64, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
                             max_position_embeddings=16, initializer_range=0.15, heads="pretraining"),
}  # fmt: skip

MODEL = bert
