"""vit-pytorch's ViT with its distillation wrapper's token, and its DeepViT, out of our layers, and their names."""

from dataclasses import dataclass
from functools import partial

from references import simple_vit
from references.reference import Reference
from tinyvit.autodiff.watch import tap
from tinyvit.equations.activation import softmax
from tinyvit.equations.attention import attention_scores, heads_first, heads_last, merge_heads, split_heads
from tinyvit.models.config import pair
from tinyvit.nn.attention import Attention, Block
from tinyvit.nn.basic import LayerNorm, Linear
from tinyvit.nn.embed import grid_of, one_for_each, patchify
from tinyvit.nn.init import zeros
from tinyvit.nn.module import Identity, Module, Parameter, Sequential
from tinyvit.primitives.reduce import mean
from tinyvit.primitives.shape import concatenate

NAMES = {
    r"distillation_token": "student.dist_token",
    r"distill_mlp\.(.+)": r"student.head_dist.\1",
    r"(\w+)\.mlp_head\.(\w+)": r"\1.head.\2",
    r"(\w+)\.transformer\.norm\.(\w+)": r"\1.norm.\2",
    r"(\w+)\.transformer\.layers\.(\d+)\.0\.norm\.(\w+)": r"\1.blocks.\2.norm1.\3",
    r"(\w+)\.transformer\.layers\.(\d+)\.0\.to_qkv\.(\w+)": r"\1.blocks.\2.attn.qkv.\3",
    r"(\w+)\.transformer\.layers\.(\d+)\.0\.to_out\.0\.(\w+)": r"\1.blocks.\2.attn.proj.\3",
    r"(\w+)\.transformer\.layers\.(\d+)\.1\.net\.0\.(\w+)": r"\1.blocks.\2.norm2.\3",
    r"(\w+)\.transformer\.layers\.(\d+)\.1\.net\.1\.(\w+)": r"\1.blocks.\2.mlp.fc1.\3",
    r"(\w+)\.transformer\.layers\.(\d+)\.1\.net\.4\.(\w+)": r"\1.blocks.\2.mlp.fc2.\3",
}


class TokenLast(Module):
    """SimpleViT's stem, a class token and learned positions; a distillation token comes last and has no position.

    images (B, H, W, C) -> logits (B, num_classes), of both heads if there is a distillation token
    """

    def __init__(self, *, image_size, patch_size, num_classes, dim, depth, heads, mlp_dim, pool="cls", channels=3,
                 dim_head=64, distilled=False, mlp_layernorm=False):  # fmt: skip
        rows, columns = grid_of(pair(image_size), patch_size)
        pixels, prefix = channels * patch_size**2, int(pool == "cls")
        norm, linear = partial(LayerNorm, eps=1e-5, rng=None), partial(Linear, rng=None)
        self.pool, self.patch_size, self.distilled = pool, patch_size, distilled
        self.to_patch_embedding = Sequential(Identity(), norm(pixels), linear(pixels, dim), norm(dim))
        self.cls_token = Parameter(zeros((prefix, dim), rng=None))
        self.pos_embedding = Parameter(zeros((prefix + rows * columns, dim), rng=None))
        self.blocks = [Block(dim, heads, head_dim=dim_head, mlp_dim=mlp_dim, eps=1e-5, qkv_bias=False, rng=None)
                       for _ in range(depth)]  # fmt: skip
        self.norm, self.head = norm(dim), linear(dim, num_classes)
        if distilled:
            self.dist_token = Parameter(zeros((1, dim), rng=None))
            self.head_dist = Sequential(norm(dim) if mlp_layernorm else Identity(), linear(dim, num_classes))

    def forward(self, images):
        z = self.to_patch_embedding(patchify(images, self.patch_size))
        if self.pool == "cls":
            z = concatenate(one_for_each(self.cls_token, z), z, axis=1)
        z = z + self.pos_embedding
        N = z.shape[1]
        if self.distilled:
            z = concatenate(z, one_for_each(self.dist_token, z), axis=1)
        for block in self.blocks:
            z = block(z)
        z = self.norm(z)
        logits = self.head(z[:, 0] if self.pool == "cls" else mean(z[:, :N], axis=1))
        return (logits, self.head_dist(z[:, N])) if self.distilled else logits


class HeadNorm(Module):
    """A LayerNorm over the heads of maps (B, h, N, N)."""

    def __init__(self, heads):
        self.norm = LayerNorm(heads, eps=1e-5, rng=None)

    def forward(self, maps):
        return heads_first(self.norm(heads_last(maps)))


class ReAttention(Attention):
    """``Norm(Θᵀ softmax(QKᵀ/√d)) V`` with a Θ without bias, and a LayerNorm over the heads."""

    def __init__(self, dim, num_heads, *, rng, **options):
        super().__init__(dim, num_heads, rng=rng, **options)
        self.reattn_weights = Parameter(zeros((num_heads, num_heads), rng=rng))
        self.reattn_norm = HeadNorm(num_heads)

    def forward(self, x):
        q, k, v = split_heads(self.qkv(x), self.num_heads)
        weights = tap("weights", softmax(attention_scores(q, k)))
        mixed = self.reattn_norm(heads_first(heads_last(weights) @ self.reattn_weights))
        return self.proj(merge_heads(mixed @ v))


class DeepViT(Module):
    """The ViT with re-attention, a class token whatever is pooled, and its last norm in the head."""

    def __init__(self, config: "Config", *, rng):
        c, norm = config, partial(LayerNorm, eps=1e-5, rng=None)
        rows, columns = grid_of(pair(c.image_size), c.patch_size)
        self.pool, self.patch_size, pixels = c.pool, c.patch_size, c.channels * c.patch_size**2
        self.to_patch_embedding = Sequential(Identity(), norm(pixels), Linear(pixels, c.dim, rng=rng), norm(c.dim))
        self.cls_token = Parameter(zeros((1, 1, c.dim), rng=rng))
        self.pos_embedding = Parameter(zeros((1, 1 + rows * columns, c.dim), rng=rng))
        self.blocks = [Block(c.dim, c.heads, head_dim=c.dim_head, mlp_dim=c.mlp_dim, eps=1e-5, qkv_bias=False,
                             attention=ReAttention, rng=rng) for _ in range(c.depth)]  # fmt: skip
        self.transformer = Identity()  # what has come out of all blocks
        self.mlp_head = Sequential(norm(c.dim), Linear(c.dim, c.num_classes, rng=rng))

    def forward(self, images):
        z = self.to_patch_embedding(patchify(images, self.patch_size))
        z = concatenate(one_for_each(self.cls_token, z), z, axis=1) + self.pos_embedding
        for block in self.blocks:
            z = block(z)
        z = self.transformer(z)
        return self.mlp_head(z[:, 0] if self.pool == "cls" else mean(z, axis=1))


@dataclass(frozen=True)
class Config:
    """The arguments of both models."""

    image_size: int
    patch_size: int
    num_classes: int
    dim: int
    depth: int
    heads: int
    mlp_dim: int
    pool: str = "cls"
    channels: int = 3
    dim_head: int = 64


LAYERS = {  # SimpleViT's, with dropout between them
    r"transformer\.layers\.(\d+)\.0\.dropout": r"blocks.\1.attn.weights",
    r"transformer\.layers\.(\d+)\.0\.to_out\.0((?:\.\w+)?)": r"blocks.\1.attn.proj\2",
    r"transformer\.layers\.(\d+)\.1\.net\.3": r"blocks.\1.mlp.drop1",
    r"transformer\.layers\.(\d+)\.1\.net\.4((?:\.\w+)?)": r"blocks.\1.mlp.fc2\2",
} | {k: v for k, v in simple_vit.MODELS["vit-pytorch", "SimpleViT64"].names.items() if "layers" in k}

MODELS = {
    ("vit-pytorch", "ViT"): Reference(
        lambda config, rng: TokenLast(**vars(config)),
        Config,
        names={
            r"transformer": "norm",
            r"transformer\.norm((?:\.\w+)?)": r"norm\1",
            r"mlp_head((?:\.\w+)?)": r"head\1",
        }
        | LAYERS,
    ),
    ("vit-pytorch", "DeepViT"): Reference(
        DeepViT,
        Config,
        names={
            r"transformer\.layers\.(\d+)\.0\.reattn_norm\.1\.(\w+)": r"blocks.\1.attn.reattn_norm.norm.\2",
            r"transformer\.layers\.(\d+)\.0\.(reattn_\w+)": r"blocks.\1.attn.\2",
        }
        | LAYERS,
        maps_last=r".*reattn_norm",
    ),
}
