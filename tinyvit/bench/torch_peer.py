"""The peer: the same in plain PyTorch, eager, as one would write it there, with our weights under our names.

It is fast by PyTorch's own means: scaled_dot_product_attention, its fused AdamW, its convolutions, channels last where
they are faster so. It keeps its default allocator. Every contender has the name of ours whose work it does. Imported
only where PyTorch is installed.
"""

from __future__ import annotations

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from tinyvit.analysis.surface import unflatten
from tinyvit.nn.attention import offset_index
from tinyvit.nn.window import region_mask, window_regions
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


def norm(w: Weights, name: str, z: Tensor, eps: float = 1e-6) -> Tensor:
    """LayerNorm over the channels, with the ε of our models."""
    return F.layer_norm(z, z.shape[-1:], w[name + ".weight"], w[name + ".bias"], eps=eps)


def linear(w: Weights, name: str, z: Tensor) -> Tensor:
    """A linear map with its bias."""
    return F.linear(z, w[name + ".weight"], w[name + ".bias"])


# Swin ---------------------------------------------------------------------------------------


def swin_block(w: Weights, at: str, z: Tensor, *, heads: int, window: int, index: Tensor, mask: Tensor | None = None):
    """Attention in windows, shifted by half of one if there is a mask, and an MLP.   (B, S, S, D) -> (B, S, S, D)"""
    B, S, _, D = z.shape
    n, shift = S // window, window // 2
    y = norm(w, at + "norm1", z, 1e-5)
    if mask is not None:
        y = torch.roll(y, (-shift, -shift), (1, 2))
    y = y.view(B, n, window, n, window, D).transpose(2, 3).reshape(B * n * n, window * window, D)
    y = window_attention(w, at + "attn.", y, heads, index, mask)
    y = y.view(B, n, n, window, window, D).transpose(2, 3).reshape(B, S, S, D)
    if mask is not None:
        y = torch.roll(y, (shift, shift), (1, 2))
    z = z + y
    return z + mlp(w, at + "mlp.", norm(w, at + "norm2", z, 1e-5))


def window_attention(w: Weights, at: str, z: Tensor, heads: int, index: Tensor, mask: Tensor | None) -> Tensor:
    """Attention with a bias by offset, and a mask (W, M, M) for the W windows of every image.   (B·W, M, D)

    Its softmax is written out: the fused attention cannot differentiate the bias, and falls back to something slower.
    """
    windows, M, D = z.shape
    q, k, v = linear(w, at + "qkv", z).view(windows, M, 3, heads, D // heads).permute(2, 0, 3, 1, 4)
    bias = w[at + "relative_position_bias_table"][index].permute(2, 0, 1)  # (h, M, M)
    if mask is not None:
        bias = bias + mask[:, None]
    scores = (q * (D // heads) ** -0.5) @ k.transpose(-1, -2)
    scores = (scores.view(-1, *bias.shape) + bias).view(windows, heads, M, M)
    y = scores.softmax(dim=-1) @ v
    return linear(w, at + "proj", y.transpose(1, 2).reshape(windows, M, D))


# contenders ---------------------------------------------------------------------------------


def training_step(task, threads: int):
    """Forward, cross-entropy, backward, fused AdamW; gives the loss before the update."""
    weights, loss_of = set_up(task, threads)
    optimizer = adamw(weights, task.rate)

    def step():
        optimizer.zero_grad(set_to_none=True)
        loss = loss_of()
        loss.backward()
        optimizer.step()
        return loss.item()

    return step


def inference(task, threads: int):
    """Forward without a graph; gives the logits."""
    weights, sizes, images, _ = placed(task, threads)

    def step():
        with torch.inference_mode():
            return vit(weights, images, **sizes)

    return step


def gradient(task, threads: int):
    """Forward, cross-entropy and backward; gives the loss and the derivative in every parameter."""
    weights, loss_of = set_up(task, threads)

    def step():
        loss = loss_of()
        return loss.detach(), *torch.autograd.grad(loss, list(weights.values()))

    return step


def hessian_products(task, threads: int, *, count: int):
    """The loss's Hessian times ``count`` vectors, the gradient's graph kept for all of them; gives the last product."""
    weights, loss_of = set_up(task, threads)
    parameters = list(weights.values())
    vectors = [[torch.tensor(part) for part in unflatten(v, task.blueprint().parameters())]
               for v in task.directions(count)]  # fmt: skip

    def step():
        with sdpa_kernel(SDPBackend.MATH):  # the fused attention can be differentiated only once
            loss = loss_of()
        first = torch.autograd.grad(loss, parameters, create_graph=True)
        products = [torch.autograd.grad(first, parameters, v, retain_graph=True) for v in vectors]
        return torch.cat([part.flatten() for part in products[-1]])

    return step


def convolution(task, threads: int):
    """Forward and backward; gives the output and the derivatives in input, weight and bias.

    In channels-last memory, which is faster here than PyTorch's default: 2.1 times for W4b, 1.3 for W4a.
    """
    torch.set_num_threads(threads)
    x, weight, bias, cotangent = map(torch.tensor, task.data())
    x, cotangent = (a.permute(0, 3, 1, 2) for a in (x, cotangent))
    inputs = [x, weight.contiguous(memory_format=torch.channels_last), bias]
    for a in inputs:
        a.requires_grad_()

    def step():
        y = F.conv2d(*inputs, **task.settings)
        dx, dweight, dbias = torch.autograd.grad(y, inputs, cotangent)
        return y.detach().permute(0, 2, 3, 1), dx.permute(0, 2, 3, 1), dweight, dbias

    return step


def window_blocks(task, threads: int):
    """Forward and backward; gives the loss (mean of output · cotangent over the maps) and its derivatives."""
    torch.set_num_threads(threads)
    x, cotangent = map(torch.tensor, task.data())
    weights = {name: torch.tensor(array, requires_grad=True) for name, array in task.create().state_dict().items()}
    window, shift = (task.window,) * 2, (task.window // 2,) * 2
    mask = region_mask(window_regions((task.side,) * 2, window, shift))
    index, mask = torch.tensor(offset_index(window)), torch.tensor(mask)
    block = partial(swin_block, weights, heads=task.heads, window=task.window, index=index)

    def step():
        loss = (block("blocks.1.", block("blocks.0.", x), mask=mask) * cotangent).sum() / len(x)
        return loss.detach(), *torch.autograd.grad(loss, list(weights.values()))

    return step


# what they share ----------------------------------------------------------------------------


def set_up(task, threads: int):
    """Our weights as Tensors that require gradients, and the loss of the batch as a function of no arguments."""
    weights, sizes, images, labels = placed(task, threads)
    for w in weights.values():
        w.requires_grad_()
    return weights, lambda: F.cross_entropy(vit(weights, images, **sizes), labels)


def placed(task, threads: int):
    """Our weights and batch as Tensors (channels first, as PyTorch has them), and the sizes that ``vit`` needs."""
    torch.set_num_threads(threads)
    model, (images, labels) = task.create(), task.data()
    weights = {name: torch.tensor(array) for name, array in model.state_dict().items()}
    c = model.config
    sizes = {"depth": c.depth, "heads": c.num_heads, "patch": c.patch_size}
    return weights, sizes, torch.tensor(images).permute(0, 3, 1, 2).contiguous(), torch.tensor(labels)


def adamw(weights: Weights, rate: float):
    """PyTorch's fused AdamW with the settings of ours, decaying what ours decays."""
    decayed = [x for name, x in weights.items() if decays(name, x)]
    others = [x for name, x in weights.items() if not decays(name, x)]
    groups = [{"params": decayed, "weight_decay": 0.05}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=rate, betas=(0.9, 0.999), eps=1e-8, fused=True)
