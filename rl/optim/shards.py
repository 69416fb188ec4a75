"""The shards that FSDP2 leaves of a model's parameters: which rows this rank has, and who has the others."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Replicate, Shard


class ShardingError(ValueError):
    """A parameter that is not sharded as the others are, or not by rows."""


@dataclass(frozen=True)
class Shards:
    """The ranks that share the rows of every parameter. Each has a chunk, as ``torch.chunk`` cuts it: none, maybe.

    On a mesh of replicas: those of this rank's replica; the other replicas do the same among themselves.
    """

    group: dist.ProcessGroup
    ranks: int
    """Size of the group."""
    rank: int
    """This process's number in it."""
    device: torch.device
    """Device of what is sent; offloaded shards lie on another one."""

    @staticmethod
    def of(named: Iterable[tuple[str, torch.Tensor]]) -> Shards | None:
        """Return the ranks that share these parameters; ``None`` when all of them are whole.

        Raises ``ShardingError`` unless all lie on one mesh, [shard] or [replicate, shard], cut along their first
        dimension.
        """
        tensors = dict(named)
        meshes = {name: p.device_mesh for name, p in tensors.items() if isinstance(p, DTensor)}
        if not meshes:
            return None
        first, mesh = next(iter(meshes.items()))
        for name, p in tensors.items():
            if fault := _fault(p, mesh, first):
                raise ShardingError(f"parameter {name} {list(p.shape)} {fault}")
        last = mesh.ndim - 1
        rank = mesh.get_local_rank(last)
        return Shards(mesh.get_group(last), mesh.size(last), rank, torch.device(mesh.device_type))

    def total(self, values: torch.Tensor) -> torch.Tensor:
        """Return the sum of ``values`` over the ranks; one collective."""
        summed = values.to(self.device, copy=True)
        dist.all_reduce(summed, group=self.group)
        return summed


def _fault(p: torch.Tensor, mesh: DeviceMesh, first: str) -> str | None:
    """What is wrong with a parameter's place, in words; ``first`` lies on ``mesh``."""
    advice = "give fully_shard every module that has parameters, one mesh, and no shard_placement_fn"
    if not isinstance(p, DTensor):
        return f"is whole on every rank while {first} is sharded; {advice}"
    if p.device_mesh != mesh:
        return f"is on {p.device_mesh}, {first} on {mesh}; {advice}"
    # Subclasses of Shard order the rows otherwise.
    *outer, inner = p.placements
    if len(outer) > 1 or any(type(place) is not Replicate for place in outer) or type(inner) is not Shard or inner.dim:
        return f"has placements {p.placements}, not [Shard(0)] or [Replicate(), Shard(0)]; {advice}"
    rows = chunk(p.shape[0], mesh.size(mesh.ndim - 1), mesh.get_local_rank(mesh.ndim - 1))
    if len(p.to_local()) != len(rows):
        return f"has {len(p.to_local())} rows here where torch.chunk leaves {len(rows)}; {advice}"
    return None


def chunk(rows: int, ranks: int, rank: int) -> range:
    """Return the rows of ``rank`` as ``torch.chunk`` cuts them: of equal size but for the last ones, which may be
    empty.
    """
    size = -(-rows // ranks)
    return range(min(rows, rank * size), min(rows, (rank + 1) * size))


def local(tensor: torch.Tensor) -> torch.Tensor:
    """Return this rank's rows of a sharded tensor, not a copy, or a whole tensor as it is."""
    if not isinstance(tensor, DTensor):
        return tensor
    with torch.no_grad():
        return tensor.to_local()
