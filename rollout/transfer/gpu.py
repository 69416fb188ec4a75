"""Weight transfer between GPUs, trainer end: a faster way beside the copy in shared memory.

Every publish leaves the copy (``ShmSender``), from which any engine takes the weights at any time, with no help of the
learner: one that was restarted, or one that the faster way failed. The faster way is for the engines that are alive at
the publish; it is the ``direct`` of the update's payload.

- ``ipc``: engines on the learner's GPU map its tensors, which must not change before the pool has published. Not for a
  sharded model, whose whole tensors exist only bucket by bucket.
- ``nccl``: a broadcast from the copy, in a thread: the learner's ranks gather without waiting for an engine, and may go
  on (a gather between sends to another group can deadlock).
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import torch

from rollout.address import own_address
from rollout.engine import WeightUpdate
from rollout.models.shards import Names, for_engine, is_sharded
from rollout.transfer.broadcast import PATIENCE_S, BroadcastLost, Host, Meeting
from rollout.transfer.weights import Copy, ShmSender, release

if TYPE_CHECKING:
    from torch import nn

    from rollout.types import WeightVersion

Put = Callable[[Any], Any]


class IpcSender:
    """Hands out CUDA IPC handles of the learner's own tensors, beside the copy."""

    def __init__(self, names: Names = "checkpoint", put: Put | None = None) -> None:
        self.names: Names = names
        self._copies = ShmSender("ipc", names, put)
        self._held: list[torch.Tensor] = []

    def send(self, model: nn.Module, version: WeightVersion) -> WeightUpdate:
        """See ``WeightSender``."""
        payload = self._copies.stored(self._copies.copy(model))
        self._held = []
        if not any(is_sharded(parameter) for parameter in model.parameters()):
            payload["direct"] = {"ipc": self._handles(model)}
        release(model)
        return WeightUpdate(version, "ipc", payload)

    def _handles(self, model: nn.Module) -> dict[str, tuple[str, tuple[Any, ...]]]:
        """Return (GPU, arguments of ``rebuild_cuda_tensor``) of each weight; what they stand for is kept alive."""
        from torch.multiprocessing.reductions import reduce_tensor

        handles = {}
        for bucket in for_engine(model, self.names).buckets():
            for name, tensor in bucket:
                self._held.append(tensor.contiguous())
                handles[name] = (gpu_of(tensor.device), tuple(reduce_tensor(self._held[-1])[1]))
        return handles

    def close(self) -> None:
        """See ``WeightSender``."""
        self._held = []
        self._copies.close()


class NcclSender:
    """Broadcasts each copy to the engines that come for it; each has ``ranks`` GPUs."""

    def __init__(
        self, ranks: int, names: Names = "checkpoint", put: Put | None = None, patience_s: float = PATIENCE_S
    ) -> None:
        self.ranks = ranks
        self.patience_s = patience_s
        self.lost = ""
        """Why the last broadcast that broke did; engines took the copy instead."""
        self._copies = ShmSender("nccl", names, put)
        self._host: Host | None = None
        self._sent = 0
        self._thread: threading.Thread | None = None
        self._stop = threading.Event()
        self._error: Exception | None = None

    def send(self, model: nn.Module, version: WeightVersion) -> WeightUpdate:
        """See ``WeightSender``; engines that still take the previous version make it wait."""
        self._join()
        device = device_of(model)
        if self._host is None or self._host.device != device:
            self._host = Host(own_address(), device, self.ranks, self.patience_s)
        copy = self._copies.copy(model)
        self._sent += 1
        meeting = self._host.meeting(f"publish-{self._sent}")
        self._stop.clear()
        arguments = (self._host, meeting, copy)
        self._thread = threading.Thread(target=self._broadcast, args=arguments, name="nccl-publish", daemon=True)
        self._thread.start()
        return WeightUpdate(version, "nccl", {**self._copies.stored(copy), "direct": {"nccl": asdict(meeting)}})

    def _broadcast(self, host: Host, meeting: Meeting, copy: Copy) -> None:
        try:
            host.send(meeting, copy.buffer.map, copy.specs, self._stop.is_set)
        except BroadcastLost as error:
            self.lost = str(error)
        except Exception as error:  # noqa: BLE001  a thread's boundary: raised again by the next send
            self._error = error

    def _join(self) -> None:
        """End a broadcast that nobody came for; wait for one that is under way, which ends by itself."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        if self._error is not None:
            error, self._error = self._error, None
            raise RuntimeError(f"the previous nccl broadcast failed: {error}") from error

    def close(self) -> None:
        """See ``WeightSender``; receivers of a broadcast that is under way get it first."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        self._copies.close()


def device_of(model: nn.Module) -> torch.device:
    """Return the device that a model is computed on, also where its shards are kept in host memory between layers."""
    parameter = next(model.parameters())
    if not is_sharded(parameter):
        return parameter.device
    computed_on: str = parameter.device_mesh.device_type  # type: ignore[attr-defined]
    return (
        torch.device(computed_on, torch.cuda.current_device()) if computed_on == "cuda" else torch.device(computed_on)
    )


def gpu_of(device: torch.device) -> str:
    """Return what a GPU is called in every process."""
    return str(torch.cuda.get_device_properties(device).uuid)
