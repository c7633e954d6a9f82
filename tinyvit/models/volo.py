"""VOLO: "VOLO: Vision Outlooker for Visual Recognition" (Yuan et al. 2021, arXiv 2106.13112).

    X̃ = OutlookAtt(LN(X)) + X                            (Eq. 1)
    Z = MLP(LN(X̃)) + X̃                                   (Eq. 2)
    Y_Δij = softmax(Âij) V_Δij                            (Eq. 4)
    Ỹij = Σ_mn Y_Δ(i+m, j+n), over the windows on ij      (Eq. 5)

A convolutional stem gives a map of H/8 × W/8; outlookers refine it; a convolution halves it; transformer blocks follow;
two class-attention blocks (as in CaiT, without its LayerScale) gather what the class token needs. Every patch token has
logits too (token labelling, Jiang et al. 2021), of which the largest count half. Its training mixes the stem's tokens
of two images (MixToken, of the same paper): ``train.token_labelling(mix=1.0)``.

Parameters have timm's names and shapes. Where the official code, which timm follows, goes beyond the paper: scores are
divided by √d; they are predicted once for every 2×2 places; stochastic depth spares the outlookers and class blocks.
The depths in the paper's tables leave the class blocks out.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from tinyvit.equations.attention import merge_heads, scaled_dot_product_attention, split_heads
from tinyvit.equations.outlook import outlook_attention
from tinyvit.equations.pooling import avg_pool2d
from tinyvit.equations.resize import resize
from tinyvit.models.config import Paper, Published, pair
from tinyvit.nn.attention import Attention, Block, head_width
from tinyvit.nn.basic import BatchNorm, Conv2d, LayerNorm, Linear, ReLU
from tinyvit.nn.embed import RESAMPLING, check_images, fit_tables, one_for_each
from tinyvit.nn.init import trunc_normal
from tinyvit.nn.lifting import lift_class_attention, lift_outlook
from tinyvit.nn.mixing import Box, from_partner
from tinyvit.nn.module import Identity, Module, Parameter, Sequential
from tinyvit.nn.noise import Dropout, drop_path_rates, keep_mask, probability
from tinyvit.primitives.reduce import max, mean
from tinyvit.primitives.shape import concatenate, reshape


@dataclass(frozen=True)
class VOLOConfig:
    """A VOLO's sizes and choices, under timm's argument names; a tuple has one entry per stage.

    layers             blocks per stage
    downsamples        whether the map is halved behind a stage; behind the first it always is
    outlook_attention  whether a stage is made of outlookers or of transformer blocks
    stem_hidden_dim    width of the stem's three convolutions
    mlp_ratio          one for all stages, or a tuple
    global_pool        "token": the class token · "avg": the mean of all tokens
    post_layers        a "ca" for every class-attention block
    use_aux_head       whether patch tokens have logits (token labelling)
    drop_rate          dropout before the heads
    """

    img_size: int | tuple[int, int] = 224
    patch_size: int = 8
    in_chans: int = 3
    num_classes: int = 1000
    layers: tuple[int, ...] = (4, 4, 8, 2)
    embed_dims: tuple[int, ...] = (192, 384, 384, 384)
    num_heads: tuple[int, ...] = (6, 12, 12, 12)
    downsamples: tuple[bool, ...] = (True, False, False, False)
    outlook_attention: tuple[bool, ...] = (True, False, False, False)
    stem_hidden_dim: int = 64
    mlp_ratio: float | tuple[float, ...] = 3.0
    qkv_bias: bool = False
    global_pool: str = "token"
    post_layers: tuple[str, ...] = ("ca", "ca")
    use_aux_head: bool = True
    drop_rate: float = 0.0
    pos_drop_rate: float = 0.0
    attn_drop_rate: float = 0.0
    drop_path_rate: float = 0.0

    def __post_init__(self):
        n = len(self.layers)
        for name in ("embed_dims", "num_heads", "mlp_ratio", "downsamples", "outlook_attention"):
            value = getattr(self, name)
            if not isinstance(value, int | float) and len(value) < n:
                raise ValueError(f"{name}: expected one for each of the {n} stages, got {value}")
        if self.patch_size < 2 or self.patch_size % 2:
            raise ValueError(f"patch_size: expected an even number, as the stem's first convolution halves the image, "
                             f"got {self.patch_size}")  # fmt: skip
        if not self.downsamples[0] or self.downsamples[n - 1]:
            raise ValueError(f"downsamples: expected True for the first stage, behind which the positions are added, "
                             f"and False for the last, got {self.downsamples}")  # fmt: skip
        if len(self.embed_dims) > n or len(set(self.embed_dims[1:])) > 1:
            raise ValueError(f"embed_dims: expected {n} widths, all but the first the same, got {self.embed_dims}")
        if self.global_pool not in ("token", "avg"):
            raise ValueError(f"global_pool: expected 'token' or 'avg', got {self.global_pool!r}")
        if not self.post_layers or set(self.post_layers) != {"ca"}:
            raise ValueError(f"post_layers: expected a 'ca' for every class-attention block, got {self.post_layers!r}")
        halvings = sum(self.downsamples[:n])
        if not all(self.map_size(halvings)):
            raise ValueError(f"img_size: {self.img_size} is too small; {n} stages with patches of {self.patch_size} "
                             f"need {self.patch_size * 2**halvings - 1} pixels at least")  # fmt: skip

    def map_size(self, halvings: int = 0) -> tuple[int, int]:
        """Height and width of the stem's map, halved so many times; what does not fill a place is left out."""
        rows, columns = (-(-n // 2) // (self.patch_size // 2) // 2**halvings for n in pair(self.img_size))
        return rows, columns


# outlookers --------------------------------------------------------------------------------


class OutlookAttention(Module):
    """Neighbours' values mixed by weights that the place in the middle predicts (Eqs. 3-5).   (B, H, W, C), same again

    One linear map gives all of a K×K window's K²×K² weights, at every s-th place, from the mean of s×s of them. The
    weights, (B, h, ⌈H/s⌉⌈W/s⌉, K², K²), can be captured as ``<name>.weights``.
    """

    def __init__(self, dim, num_heads, *, kernel_size=3, padding=1, stride=1, qkv_bias=False, attn_drop=0.0,
                 proj_drop=0.0, rng):  # fmt: skip
        head_width(dim, num_heads)
        self.num_heads, self.kernel_size, self.padding, self.stride = num_heads, kernel_size, padding, stride
        self.v = Linear(dim, dim, bias=qkv_bias, rng=rng)
        self.attn = Linear(dim, num_heads * kernel_size**4, rng=rng)
        self.proj = Linear(dim, dim, rng=rng)
        self.attn_drop, self.proj_drop = probability(attn_drop, "attn_drop"), Dropout(proj_drop)

    def forward(self, x):
        scores = self.attn(avg_pool2d(x, size=self.stride, ceil_mode=True))
        y = outlook_attention(self.v(x), scores, self.kept(scores), num_heads=self.num_heads,
                              kernel_size=self.kernel_size, padding=self.padding, stride=self.stride)  # fmt: skip
        return self.proj_drop(self.proj(y))

    def kept(self, scores):
        """The dropout mask of the weights, (B, h, n, K², K²), in training."""
        if not (self.training and self.attn_drop):
            return None
        B, rows, columns, _ = scores.shape
        square = self.kernel_size**2
        return keep_mask(self.rng, (B, self.num_heads, rows * columns, square, square), self.attn_drop, scores)

    def token_map(self, weights, shape):
        return lift_outlook(weights, shape[1:-1], stride=self.stride, padding=self.padding)


class Outlooker(Block):
    """``X̃ = OutlookAtt(LN(X)) + X``, ``Z = MLP(LN(X̃)) + X̃`` (Eqs. 1-2).   (B, H, W, C) -> (B, H, W, C)"""

    def __init__(self, dim, num_heads, *, rng, **options):
        super().__init__(dim, num_heads, eps=1e-5, attention=OutlookAttention, stride=2, rng=rng, **options)


# transformer and class-attention blocks ----------------------------------------------------


class MapAttention(Attention):
    """Self-attention of all places of a map.   (B, H, W, C) -> (B, H, W, C)"""

    def forward(self, x):
        B, H, W, C = x.shape
        return reshape(super().forward(reshape(x, shape=(B, H * W, C))), shape=x.shape)


class TransformerBlock(Block):
    """The pre-norm encoder block, on a map.   (B, H, W, C) -> (B, H, W, C)"""

    def __init__(self, dim, num_heads, *, rng, **options):
        super().__init__(dim, num_heads, eps=1e-5, attention=MapAttention, rng=rng, **options)


class ClassAttention(Module):
    """``softmax(q kᵀ/√d) v`` with the class token's query alone (Touvron et al. 2021).   (B, 1 + N, D) -> (B, 1, D)

    The weights, (B, h, 1, 1 + N), can be captured as ``<name>.weights``.
    """

    def __init__(self, dim, num_heads, *, qkv_bias=False, attn_drop=0.0, proj_drop=0.0, rng):
        head_width(dim, num_heads)
        self.num_heads = num_heads
        self.kv = Linear(dim, 2 * dim, bias=qkv_bias, rng=rng)
        self.q = Linear(dim, dim, bias=qkv_bias, rng=rng)
        self.proj = Linear(dim, dim, rng=rng)
        self.attn_drop, self.proj_drop = probability(attn_drop, "attn_drop"), Dropout(proj_drop)

    def forward(self, z):
        (q,) = split_heads(self.q(z[:, :1]), self.num_heads, parts=1)
        k, v = split_heads(self.kv(z), self.num_heads, parts=2)
        keep = None
        if self.training and self.attn_drop:
            keep = keep_mask(self.rng, (*q.shape[:3], k.shape[2]), self.attn_drop, q)
        return self.proj_drop(self.proj(merge_heads(scaled_dot_product_attention(q, k, v, None, keep))))

    def token_map(self, weights, shape):
        return lift_class_attention(weights)


class ClassBlock(Block):
    """The encoder block for the class token alone: it reads all tokens, the others stay.   (B, 1 + N, D), same again"""

    def __init__(self, dim, num_heads, *, rng, **options):
        super().__init__(dim, num_heads, eps=1e-5, attention=ClassAttention, rng=rng, **options)

    def forward(self, z):
        cls = z[:, :1]
        cls = cls + self.drop_path1(self.attn(self.norm1(z)))
        cls = cls + self.drop_path2(self.mlp(self.norm2(cls)))
        return concatenate(cls, z[:, 1:], axis=1)


# the model ---------------------------------------------------------------------------------


class ConvStem(Module):
    """Three convolutions, of which the first halves the image, then patches.   (B, H, W, C) -> (B, H/P, W/P, D)"""

    def __init__(self, in_chans, hidden_dim, embed_dim, patch_size, *, rng):
        layers = []
        for width, size, stride in ((in_chans, 7, 2), (hidden_dim, 3, 1), (hidden_dim, 3, 1)):
            conv = Conv2d(width, hidden_dim, size, stride=stride, padding=size // 2, bias=False, rng=rng)
            layers += [conv, BatchNorm(hidden_dim, rng=rng), ReLU()]
        self.conv = Sequential(*layers)
        self.proj = Conv2d(hidden_dim, embed_dim, patch_size // 2, stride=patch_size // 2, rng=rng)

    def forward(self, images):
        return self.proj(self.conv(images))


class Downsample(Module):
    """Every 2×2 places mapped to one.   (B, H, W, C) -> (B, ⌊H/2⌋, ⌊W/2⌋, C')"""

    merges = 2

    def __init__(self, in_dim, out_dim, *, rng):
        self.proj = Conv2d(in_dim, out_dim, 2, stride=2, rng=rng)

    def forward(self, x):
        return self.proj(x)


class VOLO(Module):
    """Vision outlooker.   images (B, H, W, C) -> logits (B, num_classes)"""

    def __init__(self, config: VOLOConfig, *, rng):
        c = self.config = config
        dim = c.embed_dims[-1]
        self.patch_embed = ConvStem(c.in_chans, c.stem_hidden_dim, c.embed_dims[0], c.patch_size, rng=rng)
        self.pos_embed = Parameter(trunc_normal((1, *c.map_size(1), dim), std=0.02, rng=rng))
        self.pos_drop = Dropout(c.pos_drop_rate)
        self.network = self.make_network(rng)
        self.cls_token = Parameter(trunc_normal((1, 1, dim), std=0.02, rng=rng))
        self.post_network = [ClassBlock(**self.block_options(-1), rng=rng) for _ in c.post_layers]
        self.norm = LayerNorm(dim, eps=1e-5, rng=rng)
        self.head_drop = Dropout(c.drop_rate)
        self.head = Linear(dim, c.num_classes, rng=rng) if c.num_classes else Identity()
        self.aux_head = Linear(dim, c.num_classes, rng=rng) if c.num_classes and c.use_aux_head else None

    def make_network(self, rng) -> list:
        """The stages, each a Sequential of blocks, with what halves the map behind them."""
        c, network = self.config, []
        rates = iter(drop_path_rates(c.drop_path_rate, sum(c.layers)))
        for i, depth in enumerate(c.layers):
            rate = [next(rates) for _ in range(depth)]
            if c.outlook_attention[i]:
                blocks = [Outlooker(**self.block_options(i), rng=rng) for _ in rate]
            else:
                blocks = [TransformerBlock(**self.block_options(i), drop_path=p, rng=rng) for p in rate]
            network.append(Sequential(*blocks))
            if c.downsamples[i]:
                network.append(Downsample(c.embed_dims[i], c.embed_dims[i + 1], rng=rng))
        return network

    def block_options(self, stage: int) -> dict:
        """What blocks of all kinds are told in a stage."""
        c = self.config
        ratio = c.mlp_ratio if isinstance(c.mlp_ratio, int | float) else c.mlp_ratio[stage]
        return {"dim": c.embed_dims[stage], "num_heads": c.num_heads[stage], "mlp_ratio": ratio,
                "qkv_bias": c.qkv_bias, "attn_drop": c.attn_drop_rate}  # fmt: skip

    def forward(self, images):
        if self.aux_head is None:
            return self.head(self.pooled(self.tokens(images)))
        logits, token_logits = self.labelled(images)
        return logits + 0.5 * max(token_logits, axis=1)

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of the patches that have logits."""
        return self.config.map_size(sum(self.config.downsamples))

    def labelled(self, images, box: Box | None = None):
        """What token labelling trains: logits of the image and of every patch.   -> (B, K), (B, N, K)

        box  patches whose tokens come from the image's partner (MixToken): they are mixed behind the stem

        Raises ValueError for a model without the auxiliary head.
        """
        if self.aux_head is None:
            raise ValueError("use_aux_head: this model was made without logits for its patches")
        z = self.tokens(images, box)
        return self.head(self.pooled(z)), self.aux_head(self.head_drop(z)[:, 1:])

    def pooled(self, z):
        """One vector for every image.   (B, 1 + N, D) -> (B, D)"""
        return self.head_drop(z[:, 0] if self.config.global_pool == "token" else mean(z, axis=1))

    def tokens(self, images, box: Box | None = None):
        """The class token and the last stage's places, normed.   (B, H, W, C) -> (B, 1 + N, D)"""
        x = self.stages(images, box)[-1]
        B, h, w, D = x.shape
        z = reshape(x, shape=(B, h * w, D))
        z = concatenate(one_for_each(self.cls_token, z), z, axis=1)
        for block in self.post_network:
            z = block(z)
        return self.norm(z)

    def stages(self, images, box: Box | None = None) -> list:
        """The map after every stage, finest first."""
        check_images(images, self.config.in_chans, pair(self.config.img_size))
        x = self.patch_embed(images)
        if box:
            finer = 2 ** sum(self.config.downsamples)  # the stem's places along the side of a patch
            x = from_partner(x, tuple(finer * edge for edge in box))
        maps = []
        for i, part in enumerate(self.network):
            if i == 2:  # behind the first stage and its downsampling
                x = self.pos_drop(x + self.pos_embed)
            x = part(x)
            if not isinstance(part, Downsample):
                maps.append(x)
        return maps

    def fitted(self, state: dict, method: str = "timm") -> dict:
        """A state from another resolution with its position map resized to this model's (see embed.py).

        A map that fits already, or is of another width, comes back as it is. Raises ValueError for an unknown method.
        """
        resample = lambda table, shape, method: resize(table, size=shape[1:3], **RESAMPLING[method])  # noqa: E731
        return fit_tables(state, {"pos_embed": self.pos_embed.shape}, resample, method)


# The paper's Table 2. ----------------------------------------------------------------------

PAPER = Paper("VOLO: Vision Outlooker for Visual Recognition", "Yuan et al.", 2021, "2106.13112", family="volo")

D1 = VOLOConfig()
D2 = VOLOConfig(layers=(6, 4, 10, 4), embed_dims=(256, 512, 512, 512), num_heads=(8, 16, 16, 16))
D3 = replace(D2, layers=(8, 8, 16, 4))
D4 = replace(D3, embed_dims=(384, 768, 768, 768), num_heads=(12, 16, 16, 16))
D5 = replace(D4, layers=(12, 12, 20, 4), mlp_ratio=4.0, stem_hidden_dim=128)

#   name                      config                        counted as
PUBLISHED = {
    "volo_d1_224": Published(D1,                          "VOLO-D1@224"),
    "volo_d1_384": Published(replace(D1, img_size=384),   "VOLO-D1@384"),
    "volo_d2_224": Published(D2,                          "VOLO-D2@224"),
    "volo_d2_384": Published(replace(D2, img_size=384),   "VOLO-D2@384"),
    "volo_d3_224": Published(D3,                          "VOLO-D3@224"),
    "volo_d3_448": Published(replace(D3, img_size=448),   "VOLO-D3@448"),
    "volo_d4_224": Published(D4,                          "VOLO-D4@224"),
    "volo_d4_448": Published(replace(D4, img_size=448),   "VOLO-D4@448"),
    "volo_d5_224": Published(D5,                          "VOLO-D5@224"),
    "volo_d5_448": Published(replace(D5, img_size=448),   "VOLO-D5@448"),
    "volo_d5_512": Published(replace(D5, img_size=512),   "VOLO-D5@512"),
}  # fmt: skip

ALSO_COUNTED = {"VOLO-D1-noaux@224": replace(D1, use_aux_head=False)}

SMALL = {
    "volo_digits": VOLOConfig(img_size=8, patch_size=2, in_chans=1, num_classes=10, layers=(1, 2), embed_dims=(24, 32),
                              num_heads=(3, 4), stem_hidden_dim=16, mlp_ratio=2.0),
    "volo_micro":  VOLOConfig(img_size=32, patch_size=4, num_classes=10, layers=(2, 3), embed_dims=(36, 72),
                              num_heads=(3, 6), stem_hidden_dim=24),
}  # fmt: skip

MODEL = VOLO
