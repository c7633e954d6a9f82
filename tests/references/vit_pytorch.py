"""vit-pytorch's ViT with its distillation wrapper's token, out of our layers, and their names."""

from functools import partial

from tinyvit.models.config import pair
from tinyvit.nn.attention import Block
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
