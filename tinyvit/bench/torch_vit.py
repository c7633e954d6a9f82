"""The peer: the same ViT in plain PyTorch, eager, as one would write it there, with our weights under our names.

It is fast by PyTorch's own means: scaled_dot_product_attention, its fused AdamW, its convolution for the patches. It
keeps its default allocator. Imported only where PyTorch is installed.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from tinyvit.train import decays

Weights = dict[str, Tensor]


def vit(w: Weights, images: Tensor, *, depth: int, heads: int, patch: int) -> Tensor:
    """Logits of a pre-norm ViT with a class token and learned positions.   (B, 3, H, W) -> (B, K)"""
    z = F.conv2d(images, w["patch_embed.proj.weight"], w["patch_embed.proj.bias"], stride=patch)
    z = z.flatten(2).transpose(1, 2)  # (B, N, D)
    z = torch.cat([w["cls_token"].expand(len(z), -1, -1), z], dim=1) + w["pos_embed"]
    for i in range(depth):
        at = f"blocks.{i}."
        z = z + attention(w, at + "attn.", norm(w, at + "norm1", z), heads)
        z = z + mlp(w, at + "mlp.", norm(w, at + "norm2", z))
    return linear(w, "head", norm(w, "norm", z)[:, 0])


def attention(w: Weights, at: str, z: Tensor, heads: int) -> Tensor:
    """Multi-head self-attention.   (B, N, D) -> (B, N, D)"""
    B, N, D = z.shape
    q, k, v = linear(w, at + "qkv", z).view(B, N, 3, heads, D // heads).permute(2, 0, 3, 1, 4)
    y = F.scaled_dot_product_attention(q, k, v)
    return linear(w, at + "proj", y.transpose(1, 2).reshape(B, N, D))


def mlp(w: Weights, at: str, z: Tensor) -> Tensor:
    """Two linear maps with the exact GELU between."""
    return linear(w, at + "fc2", F.gelu(linear(w, at + "fc1", z)))


def norm(w: Weights, name: str, z: Tensor) -> Tensor:
    """LayerNorm over the channels, with the ε of our models."""
    return F.layer_norm(z, z.shape[-1:], w[name + ".weight"], w[name + ".bias"], eps=1e-6)


def linear(w: Weights, name: str, z: Tensor) -> Tensor:
    """A linear map with its bias."""
    return F.linear(z, w[name + ".weight"], w[name + ".bias"])


# contenders ---------------------------------------------------------------------------------


def training_step(task, threads: int):
    """Forward, cross-entropy, backward, fused AdamW; gives the loss before the update."""
    weights, sizes, images, labels = set_up(task, threads, gradient=True)
    optimizer = adamw(weights, task.rate)

    def step():
        optimizer.zero_grad(set_to_none=True)
        loss = F.cross_entropy(vit(weights, images, **sizes), labels)
        loss.backward()
        optimizer.step()
        return loss.item()

    return step


def inference(task, threads: int):
    """Forward without a graph; gives the logits."""
    weights, sizes, images, _ = set_up(task, threads, gradient=False)

    def step():
        with torch.inference_mode():
            return vit(weights, images, **sizes).numpy()

    return step


def set_up(task, threads: int, *, gradient: bool):
    """Our weights and batch as Tensors (channels first, as PyTorch has them), and the sizes that ``vit`` needs."""
    torch.set_num_threads(threads)
    model, (images, labels) = task.create(), task.data()
    weights = {name: torch.tensor(array, requires_grad=gradient) for name, array in model.state_dict().items()}
    c = model.config
    sizes = {"depth": c.depth, "heads": c.num_heads, "patch": c.patch_size}
    return weights, sizes, torch.tensor(images).permute(0, 3, 1, 2).contiguous(), torch.tensor(labels)


def adamw(weights: Weights, rate: float):
    """PyTorch's fused AdamW with the settings of ours, decaying what ours decays."""
    decayed = [x for name, x in weights.items() if decays(name, x)]
    others = [x for name, x in weights.items() if not decays(name, x)]
    groups = [{"params": decayed, "weight_decay": 0.05}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=rate, betas=(0.9, 0.999), eps=1e-8, fused=True)
