"""Tensors that leave their device for a while: their bytes wait in host memory, their device memory is given back.

The tensors stay the objects that they are, parameters, shards and views alike; their storages are empty meanwhile. So
an optimiser, FSDP2 or an engine that holds them never learns of it, and what comes back is what went, bit for bit.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import torch
from torch.distributed.tensor import DTensor

SLAB = 2**28
"""Bytes of one piece of host memory. Pinned memory comes in powers of two: by tensor, up to half of it were wasted."""


class Offload:
    """Moves what ``tensors`` returns at the time from ``device`` into host memory, and back.

    While they are away nothing may compute with the tensors: they look as ever, and have no memory. What is not on
    ``device``, or in memory that is not torch's own (of a mapped file), stays where it is.
    """

    def __init__(self, device: str, tensors: Callable[[], Iterable[torch.Tensor]]) -> None:
        self.device = device
        self._tensors = tensors
        self._host = _Slabs(pinned=device == "cuda")
        self._away: list[_Away] = []

    @property
    def bytes(self) -> int:
        """Size of what is in host memory now."""
        return sum(each.size for each in self._away)

    def away(self) -> None:
        """Give the device memory back; what is away already stays so."""
        self._settle()  # other streams may still work on it
        for storage in storages(self._tensors(), self.device):
            size, start = storage.nbytes(), self.bytes
            for offset, piece in self._host.pieces(start, size):
                piece.copy_(_bytes(storage)[offset : offset + len(piece)], non_blocking=True)
            # In the order of the stream: whoever gets this memory next uses it behind the copy.
            storage.resize_(0)
            self._away.append(_Away(storage, size, start))
        self._settle()
        if self.device == "cuda":
            gc.collect()
            torch.cuda.empty_cache()

    def back(self) -> None:
        """Take device memory again for all that is away. When that fails, what has none yet stays away."""
        while self._away:
            storage, size, start = self._away[-1]
            storage.resize_(size)
            for offset, piece in self._host.pieces(start, size):
                _bytes(storage)[offset : offset + len(piece)].copy_(piece, non_blocking=True)
            self._away.pop()
        self._settle()
        self._host.rest()

    def _settle(self) -> None:
        """Wait for the device: copies from and to pinned memory, above all, are under way until then."""
        if self.device == "cuda":
            torch.cuda.synchronize()


class _Away(NamedTuple):
    """A storage without memory."""

    storage: torch.UntypedStorage
    size: int
    """Bytes."""
    start: int
    """Where they are in host memory."""


def storages(tensors: Iterable[torch.Tensor], device: str) -> list[torch.UntypedStorage]:
    """Return the storages behind ``tensors`` that lie on ``device``, hold anything and can let go of it, each once.

    Of a sharded tensor: that of this rank's shard.
    """
    found: dict[int, torch.UntypedStorage] = {}
    for tensor in tensors:
        own = tensor._local_tensor if isinstance(tensor, DTensor) else tensor
        storage = own.untyped_storage()
        if storage.device.type == device and storage.nbytes() and storage.resizable():
            found.setdefault(storage._cdata, storage)
    return [*found.values()]


def _bytes(storage: torch.UntypedStorage) -> torch.Tensor:
    return torch.empty(0, dtype=torch.uint8, device=storage.device).set_(storage)  # type: ignore[call-overload,no-any-return]


class _Slabs:
    """Host memory in slabs of one size, as one range of bytes that grows."""

    def __init__(self, pinned: bool) -> None:
        self._pinned = pinned
        self._slabs: list[torch.Tensor] = []

    def pieces(self, start: int, size: int) -> Iterator[tuple[int, torch.Tensor]]:
        """Yield the parts of the range from ``start`` on, each with its distance from there."""
        offset = 0
        while offset < size:
            slab, at = divmod(start + offset, SLAB)
            while len(self._slabs) <= slab:
                self._slabs.append(torch.empty(SLAB, dtype=torch.uint8, pin_memory=self._pinned))
            piece = self._slabs[slab][at : min(SLAB, at + size - offset)]
            yield offset, piece
            offset += len(piece)

    def rest(self) -> None:
        """Nothing is in use. Pinned memory is kept for the next time: making it takes longer than filling it."""
        if not self._pinned:
            self._slabs = []
