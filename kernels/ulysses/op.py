"""Exchange of heads for tokens, so that each rank attends over whole sequences with a part of the heads."""

from __future__ import annotations

from collections.abc import Sequence
from math import gcd
from typing import Any

import torch
import torch.distributed as dist

from kernels.ulysses.reference import Attend


def check_heads(heads: int, ranks: int) -> None:
    """Raise ``ValueError`` unless ``ranks`` can share ``heads`` query heads evenly."""
    if heads % ranks:
        raise ValueError(f"{ranks} ranks cannot share {heads} query heads evenly; take a number that divides them")


class _Exchange(torch.autograd.Function):
    """[n * t, ...] -> the same shape: chunk r goes to rank r, and the one that comes from there takes its place.

    It is its own inverse, and its own transpose.
    """

    @staticmethod
    def forward(ctx: Any, chunks: torch.Tensor, group: dist.ProcessGroup) -> torch.Tensor:
        ctx.group = group
        return _swapped(chunks, group)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor, None]:
        return _swapped(grads[0], ctx.group), None


def _swapped(chunks: torch.Tensor, group: dist.ProcessGroup) -> torch.Tensor:
    chunks = chunks.contiguous()
    received = torch.empty_like(chunks)
    dist.all_to_all_single(received, chunks, group=group)
    return received


def _shared(part: torch.Tensor, ranks: int) -> torch.Tensor:
    """Repeat the heads of [t, H, D], each the same number of times, until ``ranks`` divides them; gradients add up."""
    times = ranks // gcd(part.shape[1], ranks)
    return part if times == 1 else part.unsqueeze(2).expand(-1, -1, times, -1).flatten(1, 2)


def _whole_sequences(parts: Sequence[torch.Tensor], group: dist.ProcessGroup) -> list[torch.Tensor]:
    """Exchange heads for tokens, all parts in one message: [t, H, D] each -> [n t, H / n, D]."""
    ranks = dist.get_world_size(group)
    per_rank = [part.unflatten(1, (ranks, -1)).flatten(2).transpose(0, 1) for part in parts]  # [n, t, H / n * D]
    received = _Exchange.apply(torch.cat(per_rank, 2).flatten(0, 1), group)
    columns = received.split([part.shape[2] for part in per_rank], 1)
    return [mine.unflatten(1, (-1, part.shape[2])) for mine, part in zip(columns, parts, strict=True)]


def _whole_tokens(out: torch.Tensor, group: dist.ProcessGroup) -> torch.Tensor:
    """Exchange tokens for heads: [n t, H / n, D] -> [t, H, D]."""
    by_rank = _Exchange.apply(out, group).unflatten(0, (dist.get_world_size(group), -1))
    return by_rank.transpose(0, 1).flatten(1, 2)


def ulysses_attention(
    attend: Attend, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, group: dist.ProcessGroup
) -> torch.Tensor:
    """Attention of this rank's tokens to those of all ranks of ``group``; same contract as ``ulysses_reference``.

    q [t, H, D], k [t, H_kv, D], v [t, H_kv, Dv] in one dtype, H a multiple of H_kv and of the n ranks; where n does not
    divide H_kv, key and value heads are repeated as often as it takes. ``attend`` gets whole sequences, T = n t tokens,
    of H / n query heads. Two exchanges each way. Raises ``ValueError`` for heads that the ranks cannot share.
    """
    ranks = dist.get_world_size(group)
    check_heads(q.shape[1], ranks)
    whole = _whole_sequences([q, _shared(k, ranks), _shared(v, ranks)], group)
    return _whole_tokens(attend(*whole), group)


class _GatherRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, own: torch.Tensor, counts: Sequence[int], group: dist.ProcessGroup) -> torch.Tensor:
        ctx.counts, ctx.rank = list(counts), dist.get_rank(group)
        rows = own.new_empty((sum(counts), *own.shape[1:]))
        for rank, part in enumerate(rows.split(list(counts))):
            if rank == ctx.rank:
                part.copy_(own)
            if len(part):
                dist.broadcast(part, group=group, group_src=rank)
        return rows

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        return grads[0].split(ctx.counts)[ctx.rank], None, None


def gather_rows(own: torch.Tensor, counts: Sequence[int], group: dist.ProcessGroup) -> torch.Tensor:
    """Return the rows of all ranks of ``group``, in their order: [counts[rank], ...] -> [sum(counts), ...].

    For ranks that compute the same loss from all rows: a rank's gradient is its own rows' share, and no rank adds up
    what others have found, too. ``counts`` [n] may have zeros, and a rank without rows still has a (zero) gradient.
    """
    return _GatherRows.apply(own, counts, group)
