"""The learner's end of each way of weight transfer."""

from __future__ import annotations

from rollout.transfer.weights import Names, ShmSender, WeightSender


def sender(transfer: str, engines: int = 1, ranks: int = 1, names: Names = "checkpoint") -> WeightSender:
    """Return the sending end of ``shm``, ``local``, ``ipc`` or ``nccl`` (which knows all ``engines`` of ``ranks``
    GPUs).
    """
    if transfer in ("shm", "local"):
        return ShmSender(transfer, names)
    if transfer in ("ipc", "nccl"):
        from rollout.transfer.gpu import gpu_sender

        return gpu_sender(transfer, engines, ranks)
    raise ValueError(f"unknown weight transfer {transfer!r}; it is one of shm, local, ipc, nccl")
