"""The learner's end of each way of weight transfer."""

from __future__ import annotations

from rollout.models.shards import Names
from rollout.transfer.weights import Follower, ShmSender, WeightSender


def sender(
    transfer: str, engines: int = 1, ranks: int = 1, names: Names = "checkpoint", first: bool = True
) -> WeightSender:
    """Return the sending end of ``shm``, ``local``, ``ipc`` or ``nccl`` (which knows all ``engines`` of ``ranks``
    GPUs); ``first``: on the learner's rank whose updates go to engines.
    """
    if transfer not in ("shm", "local", "ipc", "nccl"):
        raise ValueError(f"unknown weight transfer {transfer!r}; it is one of shm, local, ipc, nccl")
    if not first:
        return Follower(transfer, names)
    if transfer in ("shm", "local"):
        return ShmSender(transfer, names)
    from rollout.transfer.gpu import gpu_sender

    return gpu_sender(transfer, engines, ranks)
