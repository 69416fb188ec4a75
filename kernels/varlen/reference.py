"""Packed attention as a block-diagonal mask: the truth that the fast path is tested against."""

from __future__ import annotations

import torch


def packed_attention_reference(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    cu_seqlens: torch.Tensor,
    scale: float,
    window: int | None = None,
    softcap: float | None = None,
    causal: bool = True,
) -> torch.Tensor:
    """Attention inside each packed sequence: causal, or of every token to all of its sequence.

    q [T, H, D]; k [T, H_kv, D], v [T, H_kv, Dv] with H a multiple of H_kv; ``cu_seqlens`` [n + 1] ints: 0, ends of the
    sequences, the last one T. A query sees ``window`` keys, itself included (``None``: its whole past). With
    ``softcap`` c a score s becomes c tanh(s / c). Returns [T, H, Dv]. Builds [H, T, T] scores: for small inputs only.
    """
    tokens, heads = q.shape[:2]
    k = k.repeat_interleave(heads // k.shape[1], dim=1)
    v = v.repeat_interleave(heads // v.shape[1], dim=1)
    position = torch.arange(tokens, device=q.device)
    sequence = torch.searchsorted(cu_seqlens.to(position.dtype), position, right=True)
    visible = sequence[:, None] == sequence[None, :]
    if causal:
        visible &= position[:, None] >= position[None, :]
    if window is not None:
        visible &= position[:, None] - position[None, :] < window
    scores = torch.einsum("qhd,khd->hqk", q, k) * scale
    if softcap is not None:
        scores = softcap * torch.tanh(scores / softcap)
    weights = scores.masked_fill(~visible, float("-inf")).softmax(dim=-1)
    return torch.einsum("hqk,khd->qhd", weights, v)
