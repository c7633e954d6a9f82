"""Names of iGPT in the transformers package."""

from references.reference import Reference
from tinyvit.models.igpt import ImageGPT, ImageGPTConfig

MODELS = {
    ("transformers", "ImageGPTForCausalImageModeling"): Reference(ImageGPT, ImageGPTConfig, takes=lambda ids: ids),
}
