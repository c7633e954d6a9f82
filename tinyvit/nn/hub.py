"""Weights by their name on the Hugging Face hub: ``hf-hub:timm/vit_tiny_patch16_224.augreg_in21k``."""

from __future__ import annotations

import re
from pathlib import Path

PREFIX = "hf-hub:"
NAME = re.compile(r"hf-hub:([\w.-]+/[\w.-]+)(?:@([\w./-]+))?")
FILE = "model.safetensors"


def on_this_machine(weights) -> Path:
    """The file that ``weights`` stands for: a path as it is, a name on the hub fetched, or found in the hub's cache.

    weights  a path, or "hf-hub:owner/name", or "hf-hub:owner/name@revision" for one commit, branch or tag

    Raises ValueError for a name of another form, and OSError, saying what to do, where the file cannot be fetched.
    """
    if not str(weights).startswith(PREFIX):
        return Path(weights)
    match = NAME.fullmatch(str(weights))
    if not match:
        raise ValueError(f"weights: expected hf-hub:owner/name or hf-hub:owner/name@revision, got {str(weights)!r}")
    try:
        from huggingface_hub import hf_hub_download
    except ImportError as error:
        raise OSError(f"{weights}: this needs huggingface_hub ({error}): pip install 'tinyvit[hub]'") from error
    try:
        return Path(hf_hub_download(repo_id=match[1], filename=FILE, revision=match[2]))
    except Exception as error:  # the library and the one below it have dozens, and change them
        said = str(error).strip().split("\n")[0]
        raise OSError(f"{weights}: {FILE} cannot be fetched ({type(error).__name__}: {said}). Check the name and the "
                      "network; or fetch that file in another way, and pass its path") from error  # fmt: skip
