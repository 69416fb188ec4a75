"""The learner's end of each way of weight transfer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rollout.models.shards import Names
from rollout.transfer.weights import Follower, ShmSender, WeightSender


def sender(
    transfer: str,
    ranks: int = 1,
    names: Names = "checkpoint",
    first: bool = True,
    put: Callable[[Any], Any] | None = None,
) -> WeightSender:
    """Return the sending end of ``shm``, ``local``, ``ipc`` or ``nccl`` (to engines of ``ranks`` GPUs).

    ``first``: on the learner's rank whose updates go to engines. ``put`` stores bytes for engines on other machines
    (``ray.put``), and must be given where there are such.
    """
    if transfer not in ("shm", "local", "ipc", "nccl"):
        raise ValueError(f"unknown weight transfer {transfer!r}; it is one of shm, local, ipc, nccl")
    if not first:
        return Follower(transfer, names)
    if transfer in ("shm", "local"):
        return ShmSender(transfer, names, put)
    from rollout.transfer.gpu import IpcSender, NcclSender

    return IpcSender(names, put) if transfer == "ipc" else NcclSender(ranks, names, put)
