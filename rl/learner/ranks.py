"""The learner's processes: which micro-batches and weights each of them has, and what they tell each other."""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, TypeVar

import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh

from rollout.address import interface_to

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh

    from rl.learner.config import RanksConfig

T = TypeVar("T")

FSDP = "fsdp"
"""The dimension of ``Ranks.weights`` over which parameters are cut."""
BACKENDS = {"cpu": "gloo", "cuda": "cpu:gloo,cuda:nccl"}
"""Of ``torch.distributed``: on GPUs also one for what ranks say about tensors."""


@dataclass(frozen=True)
class Seat:
    """What a process must know to join the others."""

    rank: int
    """Its number, from 0; ranks that share a micro-batch follow each other, then those that share a copy's weights."""
    address: str
    """``host:port`` where rank 0 listens."""
    timeout_s: float = 3600.0
    """Limit for one exchange between ranks; a rank that dies ends it at once."""


class Ranks:
    """All ranks of a learner as one of them sees them. Every method is called by all of them in the same order."""

    def __init__(self, config: RanksConfig, device: str) -> None:
        """``torch.distributed`` has been initialised with ``config.size`` processes."""
        self.rank = dist.get_rank()
        self.size = config.size
        if dist.get_world_size() != self.size:
            raise ValueError(f"{dist.get_world_size()} processes for {self.size} ranks of a learner")
        self.shares = config.replicate * config.shard
        """Number of parts that a minibatch is cut into."""
        weights = init_device_mesh(
            device, (config.replicate, config.shard * config.sequence), mesh_dim_names=("replicate", FSDP)
        )
        self.weights: DeviceMesh = weights if config.replicate > 1 else weights[FSDP]
        """Parameters are cut over its dimension ``fsdp``, and the same over the other one if it has two."""
        work = init_device_mesh(device, (self.shares, config.sequence), mesh_dim_names=("share", "sequence"))
        self.share = self.rank // config.sequence
        """Which part of each minibatch this rank works on."""
        self._peers = work.get_group("share")
        self.sequence = work.get_group("sequence") if config.sequence > 1 else None
        """The ranks that work on this rank's micro-batches together with it; ``None``: it is alone on them."""

    @property
    def first(self) -> bool:
        """Whether this rank writes what only one may write."""
        return self.rank == 0

    def gather(self, value: T) -> list[T]:
        """Return the value of each share, in order. Anything that can be pickled; tensors on the CPU."""
        values: list[T | None] = [None] * self.shares
        dist.all_gather_object(values, value, group=self._peers)
        return values  # type: ignore[return-value]


def join(config: RanksConfig, device: str, seat: Seat) -> Ranks:
    """Meet the other ranks of a learner. Raises ``RuntimeError`` when they do not come in time."""
    # Gloo by itself takes the interface of the host's name, which on many machines is the loopback's.
    if name := interface_to(seat.address.rpartition(":")[0]):
        os.environ.setdefault("GLOO_SOCKET_IFNAME", name)
    dist.init_process_group(
        BACKENDS[device],
        init_method=f"tcp://{seat.address}",
        rank=seat.rank,
        world_size=config.size,
        timeout=timedelta(seconds=seat.timeout_s),
    )
    return Ranks(config, device)
