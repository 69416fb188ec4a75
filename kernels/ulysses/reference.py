"""Every rank gathers all tokens and attends with all heads: the truth that the exchange is tested against."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.distributed as dist
from torch.distributed.nn.functional import all_gather

Attend = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]
"""Attention of whole sequences: q [T, H, D], k [T, H_kv, D], v [T, H_kv, Dv] -> [T, H, Dv]."""


def ulysses_reference(
    attend: Attend, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, group: dist.ProcessGroup
) -> torch.Tensor:
    """Attention of this rank's tokens to those of all ranks of ``group``.

    q [t, H, D], k [t, H_kv, D], v [t, H_kv, Dv]: t tokens of a stream of T = n t, which lie on the n ranks in order.
    Returns [t, H, Dv].
    """
    whole = (torch.cat(all_gather(part, group)) for part in (q, k, v))
    return attend(*whole).chunk(dist.get_world_size(group))[dist.get_rank(group)]
