"""Inputs for the MoBA tests."""

from __future__ import annotations

import torch

from kernels.moba import MobaConfig, moba_attention, moba_attention_reference


def ends(lengths):
    return torch.tensor([0, *lengths]).cumsum(0)


def qkv(q_tokens, k_tokens=None, heads=4, kv_heads=2, dim=8, seed=0, dtype=torch.float64, grad=True):
    g = torch.Generator().manual_seed(seed)
    k_tokens = q_tokens if k_tokens is None else k_tokens
    shapes = [(q_tokens, heads, dim), (k_tokens, kv_heads, dim), (k_tokens, kv_heads, dim)]
    return [torch.randn(s, generator=g, dtype=torch.float64).to(dtype).requires_grad_(grad) for s in shapes]


def with_grads(function, tensors, seed=9):
    """Output and gradients of q, k and v under a random upstream gradient."""
    out = function(*tensors)
    upstream = torch.randn(out.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return [out, *torch.autograd.grad((out * upstream.to(out)).sum(), tensors)]


def fast(cu, config, cu_k=None, scale=None):
    def call(q, k, v):
        return moba_attention(
            q,
            k,
            v,
            cu,
            config.block_size,
            config.top_k,
            cu_seqlens_k=cu_k,
            scale=scale,
            full_below=config.full_below,
        )

    return call


def truth(cu, config, cu_k=None, scale=None):
    return lambda q, k, v: moba_attention_reference(q, k, v, cu, config, cu_k, scale)


def full_attention(q, k, v):
    """Causal attention of one sequence, queries being the last positions: independent of everything in kernels.moba."""
    group = q.shape[1] // k.shape[1]
    k, v = (t.repeat_interleave(group, dim=1) for t in (k, v))
    scores = torch.einsum("qhd,khd->hqk", q, k) * q.shape[-1] ** -0.5
    hidden = torch.ones(scores.shape[1:], dtype=torch.bool).triu(k.shape[0] - q.shape[0] + 1)
    return torch.einsum("hqk,khd->qhd", scores.masked_fill(hidden, float("-inf")).softmax(-1), v)


def close(ours, theirs, atol=1e-12):
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=atol)


__all__ = ["MobaConfig", "close", "ends", "fast", "full_attention", "qkv", "truth", "with_grads"]
