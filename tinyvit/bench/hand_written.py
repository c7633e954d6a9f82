"""The gradient of a ViT's cross-entropy with no Tensor in sight: the kernels, called one after the other.

It is a gradient as ``gradient_of`` makes them, from the same kernels; what it saves is what the tape costs.
"""

from __future__ import annotations

import numpy as np

from tinyvit.autodiff.broadcast import sum_to
from tinyvit.equations.activation import gelu, log_softmax
from tinyvit.equations.attention import self_attention
from tinyvit.equations.convolution import conv2d, linear
from tinyvit.equations.normalize import layer_norm


def vit_gradient(model, batch):
    """The loss, and name -> derivative, of a ViT with a class token, learned positions and no noise."""
    images, labels = batch
    w, c = model.state_dict(), model.config
    d: dict = {}  # the derivatives, by name

    def layer(op, name, x, **settings):
        """An op with weight and bias: its value, and what takes a cotangent of it to one of ``x``."""
        y, pullback = op.fast(x, w[name + ".weight"], w[name + ".bias"], **settings)

        def pull(g):
            dx, *others = pullback(g)
            for key, value in zip((name + ".weight", name + ".bias"), others, strict=True):
                d[key] = sum_to(now(value), shape=w[key].shape)
            return None if op is conv2d else now(dx)  # nobody asks for the derivative in the images

        return y, pull

    # z₀ = [x_class; x¹ₚE; …; xᴺₚE] + E_pos
    patches, embed = layer(conv2d, "patch_embed.proj", images, stride=c.patch_size)
    B, D = len(images), c.embed_dim
    one_each = np.broadcast_to(w["cls_token"], (B, 1, D))
    z = np.concatenate([one_each, np.reshape(patches, (B, -1, D))], axis=1) + w["pos_embed"]

    # z′ₗ = MSA(LN(zₗ₋₁)) + zₗ₋₁, zₗ = MLP(LN(z′ₗ)) + z′ₗ
    blocks = []
    for i in range(c.depth):
        at = f"blocks.{i}."
        y, norm1 = layer(layer_norm, at + "norm1", z)
        y, qkv = layer(linear, at + "attn.qkv", y)
        y, attend = self_attention.fast(y, num_heads=c.num_heads)
        y, proj = layer(linear, at + "attn.proj", y)
        z = z + y
        y, norm2 = layer(layer_norm, at + "norm2", z)
        y, fc1 = layer(linear, at + "mlp.fc1", y)
        y, act = gelu.fast(y)
        y, fc2 = layer(linear, at + "mlp.fc2", y)
        z = z + y
        blocks.append((norm1, qkv, attend, proj, norm2, fc1, act, fc2))

    # y = LN(z⁰_L), and the loss of its linear map
    y, norm = layer(layer_norm, "norm", z)
    logits, head = layer(linear, "head", y[:, 0])
    log_p, _ = log_softmax.fast(logits)
    rows = np.arange(B), labels
    loss = -np.mean(log_p[rows])

    # and all of it backwards
    g = np.exp(log_p)
    g[rows] -= 1
    dy = np.zeros_like(y)
    dy[:, 0] = head(g / g.dtype.type(B))
    dz = norm(dy)
    for norm1, qkv, attend, proj, norm2, fc1, act, fc2 in reversed(blocks):
        dz = dz + norm2(fc1(*act(fc2(dz))))
        dz = dz + norm1(qkv(attend(proj(dz))[0]))
    d["cls_token"], d["pos_embed"] = (np.sum(part, axis=0, keepdims=True) for part in (dz[:, :1], dz))
    embed(np.reshape(dz[:, 1:], patches.shape))
    return float(loss), {name: d[name] for name in w}


def now(cotangent):
    """A cotangent that a kernel left to be computed on demand, or has computed."""
    return cotangent() if callable(cotangent) else cotangent
