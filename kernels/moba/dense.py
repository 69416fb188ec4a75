"""Full causal attention for the early positions that ``full_below`` names, where no routed kernel covers them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch.nn.attention.bias import causal_lower_right

from kernels.moba.layout import Span
from kernels.varlen import packed_attention


def split(sequences: Sequence[Span], edge: int) -> tuple[list[Span], list[slice], list[Span], list[slice]]:
    """Cut every sequence at position ``edge``: the early parts and the late parts, each as a packed call of its own.

    Returns the early spans with the rows of k that they need, and the late spans with the rows of q that they take; the
    late ones keep k as it is. An early part is itself a sequence, of the first ``edge`` positions.
    """
    early: list[Span] = []
    early_keys: list[slice] = []
    late: list[Span] = []
    late_queries: list[slice] = []
    for span in sequences:
        keys = min(span.k_len, edge)
        queries = max(0, keys - span.offset)
        if queries:
            start = early[-1].q_start + early[-1].q_len if early else 0
            early.append(Span(start, queries, early[-1].k_start + early[-1].k_len if early else 0, keys))
            early_keys.append(slice(span.k_start, span.k_start + keys))
        if queries < span.q_len:
            start = late[-1].q_start + late[-1].q_len if late else 0
            late.append(Span(start, span.q_len - queries, span.k_start, span.k_len))
            late_queries.append(slice(span.q_start + queries, span.q_start + span.q_len))
    return early, early_keys, late, late_queries


def full_attention(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, sequences: Sequence[Span], scale: float
) -> torch.Tensor:
    """Causal attention of packed sequences whose queries are the last positions of their keys: [Tq, H, D]."""
    if all(span.offset == 0 for span in sequences):
        return packed_attention(q, k, v, [0, *(span.q_start + span.q_len for span in sequences)], scale)
    grouped, out = q.shape[1] != k.shape[1], []
    for span in sequences:
        turned = (q[span.queries], k[span.keys], v[span.keys])
        queries, keys, values = (part.transpose(0, 1)[None] for part in turned)
        bias = causal_lower_right(span.q_len, span.k_len)
        each = F.scaled_dot_product_attention(queries, keys, values, bias, scale=scale, enable_gqa=grouped)
        out.append(each[0].transpose(0, 1))
    return torch.cat(out)
