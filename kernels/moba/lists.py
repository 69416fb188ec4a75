"""The choice of blocks turned around on the device: for every block and key head, the queries that chose it
[2502.13189 §2.3; 2511.11571].

Nothing here waits for the device: sizes that only it knows are replaced by bounds that follow from shapes.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Lists:
    """Entries are numbered (query row * H + head) * m + slot, one per choice; list l = block * H_kv + key head."""

    order: torch.Tensor
    """[E] int32: entries, those of one list side by side, in rising order. Entries that chose nothing come last."""
    ends: torch.Tensor
    """[lists + 1] int32: list l holds order[ends[l] : ends[l + 1]]."""


@dataclass(frozen=True)
class Chunks:
    """The lists cut into chunks of equal size, one program each."""

    owner: torch.Tensor
    """[bound] int32: list of each chunk; the number of lists for programs that have nothing to do."""
    first: torch.Tensor
    """[lists] int32: number of each list's first chunk."""

    @property
    def bound(self) -> int:
        """Chunks there can be at most."""
        return self.owner.shape[0]


def turn_around(chosen: torch.Tensor, key_heads: int, blocks: int) -> Lists:
    """chosen [Tq, H, m] int32, blocks numbered over all sequences, -1 for none -> who chose what. Deterministic."""
    heads = chosen.shape[1]
    key_head = torch.arange(heads, dtype=torch.int32, device=chosen.device) * key_heads // heads
    lists = blocks * key_heads
    key = torch.where(chosen >= 0, chosen * key_heads + key_head[:, None], lists).flatten()
    key, order = key.sort(stable=True)
    ends = torch.searchsorted(key, torch.arange(lists + 1, dtype=torch.int32, device=chosen.device))
    return Lists(order.int(), ends.int())


def chunks(lists: Lists, size: int | None) -> Chunks:
    """Cut every list into chunks of ``size`` entries; ``None``: one chunk per list, whatever its length."""
    count = lists.ends.shape[0] - 1
    device = lists.ends.device
    if size is None:
        every = torch.arange(count, dtype=torch.int32, device=device)
        return Chunks(every, every)
    number = (lists.ends.diff() + (size - 1)) // size
    last = number.cumsum(0)
    entries = lists.order.shape[0]
    bound = entries // size + min(count, entries)
    owner = torch.searchsorted(last, torch.arange(bound, device=device), right=True)
    return Chunks(owner.int(), (last - number).int())
