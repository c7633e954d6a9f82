"""How the ViT paper's own code names and lays out what is in ``vit.ViT`` (google-research/vision_transformer, .npz).

Layers of one block are counted together there, whatever their kind: 0 norm, 1 attention, 2 norm, 3 MLP. Kernels have
their inputs first: (in, out) of dense layers, (height, width, in, out) of convolutions; those of attention have the
heads as an axis of its own. Its GELU is the tanh form; here, as in timm, these weights meet the exact one.
"""

BLOCK = "Transformer/encoderblock_{i}"
ATTENTION = f"{BLOCK}/MultiHeadDotProductAttention_1"
QKV = ("query", "key", "value")
MLP = f"{BLOCK}/MlpBlock_3"

NAMES = {
    "cls_token":                   ("b N D -> b N D",     "cls"),
    "pos_embed":                   ("b N D -> b N D",     "Transformer/posembed_input/pos_embedding"),
    "patch_embed.proj.weight":     ("h w i o -> o i h w", "embedding/kernel"),
    "patch_embed.proj.bias":       ("o -> o",             "embedding/bias"),
    "blocks.{i}.norm1.weight":     ("D -> D",             f"{BLOCK}/LayerNorm_0/scale"),
    "blocks.{i}.norm1.bias":       ("D -> D",             f"{BLOCK}/LayerNorm_0/bias"),
    "blocks.{i}.attn.qkv.weight":  ("D h d -> (h d) D",   *(f"{ATTENTION}/{x}/kernel" for x in QKV)),
    "blocks.{i}.attn.qkv.bias":    ("h d -> (h d)",       *(f"{ATTENTION}/{x}/bias" for x in QKV)),
    "blocks.{i}.attn.proj.weight": ("h d D -> D (h d)",   f"{ATTENTION}/out/kernel"),
    "blocks.{i}.attn.proj.bias":   ("D -> D",             f"{ATTENTION}/out/bias"),
    "blocks.{i}.norm2.weight":     ("D -> D",             f"{BLOCK}/LayerNorm_2/scale"),
    "blocks.{i}.norm2.bias":       ("D -> D",             f"{BLOCK}/LayerNorm_2/bias"),
    "blocks.{i}.mlp.fc1.weight":   ("i o -> o i",         f"{MLP}/Dense_0/kernel"),
    "blocks.{i}.mlp.fc1.bias":     ("o -> o",             f"{MLP}/Dense_0/bias"),
    "blocks.{i}.mlp.fc2.weight":   ("i o -> o i",         f"{MLP}/Dense_1/kernel"),
    "blocks.{i}.mlp.fc2.bias":     ("o -> o",             f"{MLP}/Dense_1/bias"),
    "norm.weight":                 ("D -> D",             "Transformer/encoder_norm/scale"),
    "norm.bias":                   ("D -> D",             "Transformer/encoder_norm/bias"),
    "pre_logits.fc.weight":        ("i o -> o i",         "pre_logits/kernel"),
    "pre_logits.fc.bias":          ("o -> o",             "pre_logits/bias"),
    "head.weight":                 ("i o -> o i",         "head/kernel"),
    "head.bias":                   ("o -> o",             "head/bias"),
}  # fmt: skip
