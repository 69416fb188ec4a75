"""What is counted in a rank: collectives, whole tensors that it gathered, bytes of its own."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import torch
from torch.distributed.tensor import DTensor
from torch.utils._python_dispatch import TorchDispatchMode


class Collectives(TorchDispatchMode):
    """Counts the collectives within a block, by torch's names of them."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if any(issubclass(kind, DTensor) for kind in types):
            return NotImplemented  # it comes again with what a DTensor does
        if func.namespace in ("c10d", "_c10d_functional"):
            self.counts[func._schema.name.rpartition("::")[2].strip("_")] += 1
        return func(*args, **(kwargs or {}))


def state_bytes(optimizer: torch.optim.Optimizer) -> int:
    """Return the bytes of an optimiser's state on this rank."""
    tensors = [value for state in optimizer.state.values() for value in state.values() if torch.is_tensor(value)]
    return sum(local(tensor).nbytes for tensor in tensors if tensor.ndim)


def local(tensor: torch.Tensor) -> torch.Tensor:
    """Return this rank's part of a tensor."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


@contextmanager
def counted_gathers() -> Iterator[list[None]]:
    """Count the calls of ``full_tensor`` within a block; yields a list with an item for each."""
    calls: list[None] = []
    real = DTensor.full_tensor

    def full_tensor(self: DTensor, **options: Any) -> torch.Tensor:
        calls.append(None)
        return real(self, **options)

    with patch.object(DTensor, "full_tensor", full_tensor):
        yield calls
