"""Names of SimpleViT in vit-pytorch."""

from references.reference import Reference
from tinyvit.models.simple_vit import SimpleViT, SimpleViTConfig
from tinyvit.nn.embed import sincos_2d

MODELS = {
    ("vit-pytorch", "SimpleViT64"): Reference(
        SimpleViT,
        SimpleViTConfig,
        arguments={"image_size": "img_size", "dim": "embed_dim", "heads": "num_heads", "dim_head": "head_dim",
                   "channels": "in_chans"},
        names={
            r"to_patch_embedding": "patch_embed",
            r"to_patch_embedding\.([123])((?:\.\w+)?)": lambda m: f"patch_embed.{int(m[1]) - 1}{m[2]}",
            r"transformer": "norm",
            r"transformer\.norm((?:\.\w+)?)": r"norm\1",
            r"transformer\.layers\.(\d+)\.0": r"blocks.\1.attn",
            r"transformer\.layers\.(\d+)\.0\.norm((?:\.\w+)?)": r"blocks.\1.norm1\2",
            r"transformer\.layers\.(\d+)\.0\.attend": r"blocks.\1.attn.weights",
            r"transformer\.layers\.(\d+)\.0\.to_qkv((?:\.\w+)?)": r"blocks.\1.attn.qkv\2",
            r"transformer\.layers\.(\d+)\.0\.to_out((?:\.\w+)?)": r"blocks.\1.attn.proj\2",
            r"transformer\.layers\.(\d+)\.1": r"blocks.\1.mlp",
            r"transformer\.layers\.(\d+)\.1\.net\.0((?:\.\w+)?)": r"blocks.\1.norm2\2",
            r"transformer\.layers\.(\d+)\.1\.net\.1((?:\.\w+)?)": r"blocks.\1.mlp.fc1\2",
            r"transformer\.layers\.(\d+)\.1\.net\.2": r"blocks.\1.mlp.drop1",
            r"transformer\.layers\.(\d+)\.1\.net\.3((?:\.\w+)?)": r"blocks.\1.mlp.fc2\2",
            r"linear_head((?:\.\w+)?)": r"head\1",
        },
        computed={"pos_embedding": lambda model, _: sincos_2d(model.grid, model.config.embed_dim)},
    ),
}  # fmt: skip
