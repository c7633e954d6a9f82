"""How the Mixer paper's own code names and lays out what is in ``mixer.Mixer`` (google-research/vision_transformer).

Kernels have their inputs first, as in ``vit_jax``. The weights it wrote want ``act_layer="gelu_tanh"``.
"""

BLOCK = "MixerBlock_{i}"

NAMES = {
    "stem.proj.weight":                   ("h w i o -> o i h w", "stem/kernel"),
    "stem.proj.bias":                     ("o -> o",             "stem/bias"),
    "blocks.{i}.norm1.weight":            ("D -> D",             f"{BLOCK}/LayerNorm_0/scale"),
    "blocks.{i}.norm1.bias":              ("D -> D",             f"{BLOCK}/LayerNorm_0/bias"),
    "blocks.{i}.mlp_tokens.fc1.weight":   ("i o -> o i",         f"{BLOCK}/token_mixing/Dense_0/kernel"),
    "blocks.{i}.mlp_tokens.fc1.bias":     ("o -> o",             f"{BLOCK}/token_mixing/Dense_0/bias"),
    "blocks.{i}.mlp_tokens.fc2.weight":   ("i o -> o i",         f"{BLOCK}/token_mixing/Dense_1/kernel"),
    "blocks.{i}.mlp_tokens.fc2.bias":     ("o -> o",             f"{BLOCK}/token_mixing/Dense_1/bias"),
    "blocks.{i}.norm2.weight":            ("D -> D",             f"{BLOCK}/LayerNorm_1/scale"),
    "blocks.{i}.norm2.bias":              ("D -> D",             f"{BLOCK}/LayerNorm_1/bias"),
    "blocks.{i}.mlp_channels.fc1.weight": ("i o -> o i",         f"{BLOCK}/channel_mixing/Dense_0/kernel"),
    "blocks.{i}.mlp_channels.fc1.bias":   ("o -> o",             f"{BLOCK}/channel_mixing/Dense_0/bias"),
    "blocks.{i}.mlp_channels.fc2.weight": ("i o -> o i",         f"{BLOCK}/channel_mixing/Dense_1/kernel"),
    "blocks.{i}.mlp_channels.fc2.bias":   ("o -> o",             f"{BLOCK}/channel_mixing/Dense_1/bias"),
    "norm.weight":                        ("D -> D",             "pre_head_layer_norm/scale"),
    "norm.bias":                          ("D -> D",             "pre_head_layer_norm/bias"),
    "head.weight":                        ("i o -> o i",         "head/kernel"),
    "head.bias":                          ("o -> o",             "head/bias"),
}  # fmt: skip
