"""Names of MLP-Mixer in timm."""

from references.reference import Reference
from tinyvit.models.mixer import Mixer, MixerConfig

MODELS = {
    ("timm", "MlpMixer"): Reference(
        Mixer,
        MixerConfig,
        names={r"(blocks\.\d+\.mlp_(?:tokens|channels))\.(?:act|norm)": r"\1.drop1", r"stem\.norm": "stem"},
    ),
}
