"""MoBA as a dense mask over full scores: the truth that every fast path is tested against [2502.13189 §2.2]."""

from __future__ import annotations

import torch

from kernels.moba.layout import MobaConfig, spans


def gate_dtype(dtype: torch.dtype) -> torch.dtype:
    """Dtype of block means, gate scores and merges: float32, whatever the inputs; float64 stays."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def moba_mask_reference(q: torch.Tensor, k: torch.Tensor, config: MobaConfig) -> torch.Tensor:
    """Return the keys that each query of one sequence sees: q [Tq, H, D], k [Tk, H_kv, D] -> bool [H, Tq, Tk].

    The queries are the last Tq of Tk positions. Candidates are the blocks that end before the query's own begins, so
    every candidate is full; the ``top_k - 1`` of them with the highest q·mean(k) count, the earlier block on a tie.
    """
    size, heads = config.block_size, q.shape[1]
    position = torch.arange(k.shape[0] - q.shape[0], k.shape[0], device=q.device)
    current = position // size
    full = k.shape[0] // size
    dtype = gate_dtype(q.dtype)
    means = k[: full * size].detach().to(dtype).unflatten(0, (full, size)).mean(dim=1)
    means = means.repeat_interleave(heads // k.shape[1], dim=1)
    scores = torch.einsum("qhd,nhd->hqn", q.detach().to(dtype), means)
    candidate = torch.arange(full, device=q.device)[None, :] < current[:, None]
    scores = scores.masked_fill(~candidate, float("-inf"))
    rank = scores.argsort(dim=-1, descending=True, stable=True).argsort(dim=-1)
    chosen = (rank < config.routed) & candidate
    seen = torch.nn.functional.pad(chosen, (0, 1)) | (torch.arange(full + 1, device=q.device) == current[:, None])
    seen |= (position < config.full_below)[:, None]
    key = torch.arange(k.shape[0], device=q.device)
    return seen[:, :, key // size] & (key[None, :] <= position[:, None])


def moba_attention_reference(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    cu_seqlens: torch.Tensor,
    config: MobaConfig,
    cu_seqlens_k: torch.Tensor | None = None,
    scale: float | None = None,
) -> torch.Tensor:
    """q [Tq, H, D]; k, v [Tk, H_kv, D]; boundaries as in ``moba_attention`` -> [Tq, H, D].

    Builds [H, Tq, Tk] scores of each sequence, in float32 (float64 stays): for small inputs only.
    """
    ends_k = cu_seqlens if cu_seqlens_k is None else cu_seqlens_k
    dtype, group = gate_dtype(q.dtype), q.shape[1] // k.shape[1]
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    outputs = []
    for span in spans(cu_seqlens.tolist(), ends_k.tolist(), q.shape[0], k.shape[0]):
        mask = moba_mask_reference(q[span.queries], k[span.keys], config)
        queries = q[span.queries].to(dtype)
        keys, values = (part[span.keys].to(dtype).repeat_interleave(group, dim=1) for part in (k, v))
        scores = torch.einsum("qhd,khd->hqk", queries, keys) * scale
        weights = scores.masked_fill(~mask, float("-inf")).softmax(dim=-1)
        outputs.append(torch.einsum("hqk,khd->qhd", weights, values))
    return torch.cat(outputs).to(q.dtype)
