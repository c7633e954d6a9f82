"""iGPT: "Generative Pretraining from Pixels" (Chen et al., ICML 2020).

    nₗ = norm(hₗ);  aₗ = hₗ + attention(nₗ);  hₗ₊₁ = aₗ + mlp(norm(aₗ))     pre-norm, as GPT-2 (Sec. 2.3)
    norm(x) = x / √(mean x² + ε) · g,   σ(x) = x · sigmoid(1.702 x)
    p(x) = Π p(xᵢ | x₁ … xᵢ₋₁)                                              pixels in raster order (Eq. 1)
    L    = Σ -log p(xᵢ | x without M), i ∈ M                                BERT's: M, 15 % of the pixels, is hidden

An image becomes a sequence of colours, each the nearest of a palette; the model tells every pixel from those before it,
or the hidden ones from all others. The authors' palette is 512 cluster centres of ImageNet's colours, which
``read_clusters`` reads; ``palette`` makes a regular one without data.

Parameters have the names and shapes of the transformers package, biases included; the authors' own code has none.
In that code a hidden pixel keeps its place and loses its colour: zeros stand for it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from tinyvit.autodiff.tensor import raw
from tinyvit.autodiff.watch import no_grad
from tinyvit.backend import like, to_numpy
from tinyvit.blueprint import Blueprint
from tinyvit.equations.attention import causal_mask, self_attention
from tinyvit.equations.convolution import linear
from tinyvit.equations.loss import cross_entropy
from tinyvit.equations.normalize import rms_norm
from tinyvit.models.config import ACTIVATIONS, Paper, Published, one_of
from tinyvit.nn.attention import head_width
from tinyvit.nn.basic import Linear
from tinyvit.nn.embed import Embedding
from tinyvit.nn.init import normal, ones, zeros
from tinyvit.nn.module import Module, Parameter
from tinyvit.nn.noise import Dropout, keep_mask, probability, source
from tinyvit.nn.stored import told
from tinyvit.primitives.reduce import sum
from tinyvit.primitives.shape import swapaxes


@dataclass(frozen=True)
class ImageGPTConfig:
    """An iGPT's sizes, under the transformers package's argument names.

    vocab_size  the palette's colours and, as the last token, the start of the sequence
    bert        whether pixels see all others, for BERT's objective, as the authors' code calls it
    bias        whether linear maps have biases: in the transformers package, not in the authors' code
    """

    vocab_size: int = 512 + 1
    n_positions: int = 32 * 32
    n_embd: int = 512
    n_layer: int = 24
    n_head: int = 8
    n_inner: int | None = None
    activation_function: str = "quick_gelu"
    resid_pdrop: float = 0.1
    embd_pdrop: float = 0.1
    attn_pdrop: float = 0.1
    layer_norm_epsilon: float = 1e-5
    initializer_range: float = 0.02
    bert: bool = False
    bias: bool = True

    def __post_init__(self):
        one_of(ACTIVATIONS, activation_function=self.activation_function)
        head_width(self.n_embd, self.n_head)


class Conv1D(Module):
    """``x W + b``, W stored (in, out) as in GPT-2's code.   (..., i) -> (..., o)"""

    def __init__(self, inputs: int, outputs: int, c: ImageGPTConfig, *, rng):
        self.weight = Parameter(normal((inputs, outputs), std=c.initializer_range, rng=rng))
        self.bias = Parameter(zeros((outputs,), rng=rng)) if c.bias else None

    def forward(self, x):
        return linear(x, swapaxes(self.weight, axis1=0, axis2=1), self.bias)


class Norm(Module):
    """``x / √(mean x² + ε) · g``: no mean is taken off, nothing is added."""

    def __init__(self, c: ImageGPTConfig, *, rng):
        self.weight, self.eps = Parameter(ones((c.n_embd,), rng=rng)), c.layer_norm_epsilon

    def forward(self, x):
        return rms_norm(x, self.weight, eps=self.eps)


class Attention(Module):
    """Every pixel attends to itself and those before it, or to all.   (B, N, D) -> (B, N, D)"""

    def __init__(self, c: ImageGPTConfig, *, rng):
        self.num_heads, self.drop, self.causal = c.n_head, probability(c.attn_pdrop, "attn_pdrop"), not c.bert
        self.c_attn = Conv1D(c.n_embd, 3 * c.n_embd, c, rng=rng)
        self.c_proj = Conv1D(c.n_embd, c.n_embd, c, rng=rng)
        self.resid_dropout = Dropout(c.resid_pdrop)

    def forward(self, x):
        B, N, _ = x.shape
        noisy = self.training and self.drop
        keep = keep_mask(self.rng, (B, self.num_heads, N, N), self.drop, x) if noisy else None
        mask = causal_mask(N) if self.causal else None
        y = self_attention(self.c_attn(x), mask, keep, num_heads=self.num_heads)
        return self.resid_dropout(self.c_proj(y))


class Mlp(Module):
    """``σ(x W₁ + b₁) W₂ + b₂``."""

    def __init__(self, c: ImageGPTConfig, *, rng):
        inner = c.n_inner or 4 * c.n_embd
        self.c_fc, self.c_proj = Conv1D(c.n_embd, inner, c, rng=rng), Conv1D(inner, c.n_embd, c, rng=rng)
        self.act, self.dropout = ACTIVATIONS[c.activation_function], Dropout(c.resid_pdrop)

    def forward(self, x):
        return self.dropout(self.c_proj(self.act(self.c_fc(x))))


class Block(Module):
    """``a = h + attention(norm(h))``, then ``a + mlp(norm(a))`` (Sec. 2.3).   (B, N, D) -> (B, N, D)"""

    def __init__(self, c: ImageGPTConfig, *, rng):
        self.ln_1, self.attn = Norm(c, rng=rng), Attention(c, rng=rng)
        self.ln_2, self.mlp = Norm(c, rng=rng), Mlp(c, rng=rng)

    def forward(self, h):
        a = h + self.attn(self.ln_1(h))
        return a + self.mlp(self.ln_2(a))


class Decoder(Module):
    """Colours and places, the blocks, a norm.   colours (B, N) -> (B, N, D)

    hidden (B, N): booleans, True for pixels that lose their colour
    """

    def __init__(self, c: ImageGPTConfig, *, rng):
        table = {"std": c.initializer_range, "rng": rng}
        self.wte = Embedding(c.vocab_size, c.n_embd, **table)
        self.wpe = Embedding(c.n_positions, c.n_embd, **table)
        self.drop = Dropout(c.embd_pdrop)
        self.h = [Block(c, rng=rng) for _ in range(c.n_layer)]
        self.ln_f = Norm(c, rng=rng)

    def forward(self, colours, hidden=None):
        places = len(self.wpe.weight.data)
        if len(colours.shape) != 2 or colours.shape[1] > places:
            raise ValueError(f"colours: expected (B, N) with N up to {places}, got shape {colours.shape}")
        h = self.wte(colours)
        if hidden is not None:
            h = h * like(~hidden[..., None], raw(h))
        h = self.drop(h + self.wpe.weight[: colours.shape[1]])
        for block in self.h:
            h = block(h)
        return self.ln_f(h)


class ImageGPT(Module):
    """Colours so far, behind the start token -> scores of the next.   integers (B, N) -> (B, N, colours)

    With ``bert``: colours, some of them ``hidden``, (B, N) booleans -> scores of each.
    """

    def __init__(self, config: ImageGPTConfig, *, rng):
        c = self.config = config
        self.transformer = Decoder(c, rng=rng)
        self.lm_head = Linear(c.n_embd, c.vocab_size - 1, bias=False, rng=rng)  # the start is never predicted
        if rng is not None:
            self.lm_head.weight.data[:] = 0  # so begins the paper's

    def forward(self, colours, hidden=None):
        return self.lm_head(self.transformer(colours, hidden))

    def example_inputs(self, batch: int = 1) -> tuple:
        return (Blueprint((batch, self.config.n_positions), np.int64),)

    @property
    def img_size(self) -> int:
        """The side of the square whose pixels, in raster order, are the sequence."""
        return math.isqrt(self.config.n_positions)

    def sample(self, rng: np.random.Generator, begun: np.ndarray, temperature: float = 1.0) -> np.ndarray:
        """Finish images, pixel after pixel in raster order.   begun (B, n), n from 0 -> (B, n_positions)

        Raises ValueError for a model with ``bert``, which tells no pixel from those before it alone.
        """
        if self.config.bert:
            raise ValueError("bert: a model that sees all pixels cannot draw them one after the other")
        pixels = np.asarray(begun, np.int64)
        with no_grad():
            for _ in range(self.config.n_positions - pixels.shape[1]):
                scores = raw(self(shifted(pixels, self.config.vocab_size - 1, whole=True)))[:, -1] / temperature
                gumbel = rng.gumbel(size=scores.shape)  # the largest of scores + Gumbel noise is a draw by softmax
                pixels = np.concatenate([pixels, np.argmax(scores + gumbel, axis=-1)[:, None]], axis=1)
        return pixels


def shifted(pixels: np.ndarray, start: int, whole: bool = False) -> np.ndarray:
    """The start token and all pixels but the last (all of them, if whole).   (B, N) -> (B, N) or (B, N + 1)"""
    begin = np.full_like(pixels[:, :1] if pixels.shape[1] else pixels, start, shape=(len(pixels), 1))
    return np.concatenate([begin, pixels if whole else pixels[:, :-1]], axis=1)


def next_pixel(clusters: np.ndarray):
    """The objective ``(model, batch) -> loss``: every pixel told from those before it (Eq. 1), in nats per pixel.

    clusters (K, C), the palette; of the batch (images (B, H, W, C), labels) only the images are used
    """

    def objective(model, batch):
        pixels = quantise(batch[0], clusters)
        return cross_entropy(model(shifted(pixels, model.config.vocab_size - 1)), pixels)

    return objective


def hidden_pixels(clusters: np.ndarray, *, share: float = 0.15):
    """The objective ``(model, batch) -> loss`` of a model with ``bert``: hidden pixels told from all others.

    Each pixel is hidden with probability ``share``, drawn from the model's generator; the loss is the mean over the
    images of the mean over each one's hidden pixels, as in the authors' code. Otherwise as ``next_pixel``.
    """

    def objective(model, batch):
        if not model.config.bert:
            raise ValueError("model: one that sees only what comes before is trained by next_pixel; use bert=True")
        if not model.training:
            raise ValueError("what is hidden is drawn from the model's generator, and in evaluation mode there is none")
        pixels = quantise(to_numpy(raw(batch[0])), clusters)
        hidden = source(model.rng).random(pixels.shape) < share
        scores = model(pixels, hidden)
        each = cross_entropy(scores, like(pixels, raw(scores)), reduction="none")
        shares = hidden / np.maximum(hidden.sum(axis=1, keepdims=True), 1) / len(pixels)
        return sum(each * like(shares.astype(raw(scores).dtype), raw(scores)))

    return objective


# colours -----------------------------------------------------------------------------------


def palette(bits: int = 3, channels: int = 3, low: float = 0.0, high: float = 1.0) -> np.ndarray:
    """The 2^(bits·channels) colours of a regular grid, the first channel changing slowest.   -> (K, C)"""
    levels = np.linspace(low, high, 2**bits)
    return np.stack(np.meshgrid(*[levels] * channels, indexing="ij"), axis=-1).reshape(-1, channels)


def read_clusters(path) -> np.ndarray:
    """The authors' palette, ``kmeans_centers.npy``, as colours in 0 … 1 (in the file they are in -1 … 1).   -> (K, 3)

    Raises WeightFileError for a file that is no such array; nothing in it is run.
    """
    with told(path, ValueError, EOFError):
        clusters = np.lib.format.open_memmap(path, mode="r")
        if clusters.ndim != 2 or clusters.shape[1] != 3 or clusters.dtype.kind != "f" or len(clusters) > 1 << 16:
            raise ValueError(f"expected colours (K, 3), numbers in -1 … 1, got {clusters.shape} {clusters.dtype}")
        if not (np.abs(clusters) <= 1).all():
            raise ValueError("expected colours (K, 3), numbers in -1 … 1: there are others")
        return (np.asarray(clusters, np.float64) + 1) / 2


def quantise(images: np.ndarray, clusters: np.ndarray) -> np.ndarray:
    """The nearest colour of every pixel, in raster order.   (B, H, W, C), (K, C) -> (B, H·W)"""
    pixels = np.asarray(images).reshape(len(images), -1, 1, clusters.shape[1])
    return np.argmin(((pixels - clusters) ** 2).sum(-1), axis=-1)


def painted(pixels: np.ndarray, clusters: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The images that colours in raster order stand for.   (B, H·W), (K, C) -> (B, H, W, C)"""
    return clusters[pixels].reshape(len(pixels), *size, -1)


# Sec. 3.3 of the paper: 32 × 32 pixels in 512 colours. -------------------------------------

PAPER = Paper("Generative Pretraining from Pixels", "Chen et al.", 2020, "", family="igpt")

#   name          config                                                      counted as
PUBLISHED = {
    "igpt_small":  Published(ImageGPTConfig(),                                        "iGPT-S"),
    "igpt_medium": Published(ImageGPTConfig(n_embd=1024, n_layer=36),                 "iGPT-M"),
    "igpt_large":  Published(ImageGPTConfig(n_embd=1536, n_layer=48, n_head=16),      "iGPT-L"),
    "igpt_xl":     Published(ImageGPTConfig(n_embd=3072, n_layer=60, n_head=24),      "iGPT-XL"),
}  # fmt: skip

ALSO_COUNTED: dict = {}

SMALL = {
    "igpt_digits": ImageGPTConfig(vocab_size=4 + 1, n_positions=64, n_embd=32, n_layer=2, n_head=4, n_inner=64,
                                  resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, initializer_range=0.15),
}  # fmt: skip

MODEL = ImageGPT
