"""Weight transfer between GPUs, trainer end, on vLLM's own trainer engines.

vLLM's trainer engines drive the inference side themselves, through a client. Here the pool drives it: it may restart an
engine, runs the parity probe and knows who is alive. So the client only notes what the engines must be told, and that
becomes the payload of the ``WeightUpdate``.

- ``ipc``: the engines on the learner's GPU map its tensors. The tensors must not change before the pool has published.
- ``nccl``: a broadcast, in a group formed anew for each publish. It runs in a thread until every engine took part. It
  cannot be repeated for a single restarted engine.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from vllm.distributed.weight_transfer.base import ParamMeta, WeightSource
from vllm.distributed.weight_transfer.factory import WeightTransferTrainerFactory

from rollout.address import free_address
from rollout.engine import WeightUpdate
from rollout.transfer.weights import WeightSender, named_weights

if TYPE_CHECKING:
    import torch
    from torch import nn

    from rollout.types import WeightVersion

JOIN_S = 60.0
"""Seconds to wait for the previous broadcast when the next one begins."""


class PolicySource(WeightSource):
    """The policy's weights as vLLM's trainer engines read them, kept alive as long as this object."""

    def __init__(self, model: nn.Module) -> None:
        self.weights: list[tuple[str, torch.Tensor]] = [
            (name, tensor.contiguous()) for name, tensor in named_weights(model)
        ]

    def metadata(self) -> list[ParamMeta]:
        """Name, type and shape of each tensor."""
        return [ParamMeta(name, tensor.dtype, tuple(tensor.shape)) for name, tensor in self.weights]

    def __iter__(self) -> Iterator[tuple[str, torch.Tensor]]:
        return iter(self.weights)

    @property
    def size(self) -> int:
        """Bytes of all tensors."""
        return sum(tensor.numel() * tensor.element_size() for _, tensor in self.weights)


class Notes:
    """A ``VLLMWeightSyncClient`` that records its calls instead of passing them on."""

    def __init__(self) -> None:
        self.init: dict[str, Any] = {}
        self.update: dict[str, Any] = {}

    def init_weight_transfer_engine(self, init_info: dict[str, Any]) -> None:
        """Record what each engine must be initialised with."""
        self.init = init_info

    def start_weight_update(self) -> None:
        """Do nothing: the engine does this itself."""

    def update_weights(self, update_info: dict[str, Any] | list[dict[str, Any]]) -> None:
        """Record what each engine must load."""
        if not isinstance(update_info, dict):
            raise TypeError("one update for all ranks was expected")
        self.update = update_info

    def finish_weight_update(self, weight_version: str | None = None) -> None:
        """Do nothing: the engine does this itself, and knows the version from the ``WeightUpdate``."""


class IpcSender:
    """Hands out CUDA IPC handles of the learner's own tensors: nothing is copied."""

    def __init__(self) -> None:
        self._source: PolicySource | None = None

    def send(self, model: nn.Module, version: WeightVersion) -> WeightUpdate:
        """See ``WeightSender``."""
        from vllm.distributed.weight_transfer.ipc_engine import IPCTrainerInitInfo

        self._source = PolicySource(model)
        notes = Notes()
        trainer = WeightTransferTrainerFactory.trainer_init(
            IPCTrainerInitInfo(rank=0), client=notes, source=self._source
        )
        trainer.send_weights()
        payload = {"init": [notes.init], "update": notes.update, "size": self._source.size}
        return WeightUpdate(version, "ipc", payload)

    def close(self) -> None:
        """See ``WeightSender``."""
        self._source = None


class NcclSender:
    """Broadcasts the weights to ``engines`` engines of ``ranks`` GPUs each."""

    def __init__(self, engines: int, ranks: int) -> None:
        self.engines = engines
        self.ranks = ranks
        self._thread: threading.Thread | None = None
        self._error: Exception | None = None

    def send(self, model: nn.Module, version: WeightVersion) -> WeightUpdate:
        """See ``WeightSender``. Raises what went wrong in the previous broadcast, if anything did."""
        from vllm.distributed.weight_transfer.nccl_engine import NCCLTrainerInitInfo

        self._join()
        source = PolicySource(model)
        address, port = free_address()
        group = NCCLTrainerInitInfo(address, port, 1 + self.engines * self.ranks, rank=0)
        self._thread = threading.Thread(target=self._broadcast, args=(group, source), name="nccl-publish", daemon=True)
        self._thread.start()
        shared = {
            "master_address": address,
            "master_port": port,
            "world_size": group.world_size,
            "packed": group.packed,
            "packed_buffer_size_bytes": group.packed_buffer_size_bytes,
            "packed_num_buffers": group.packed_num_buffers,
        }
        meta = source.metadata()
        update = {
            "names": [item.name for item in meta],
            "dtype_names": [str(item.dtype).removeprefix("torch.") for item in meta],
            "shapes": [list(item.shape) for item in meta],
        }
        init = [{**shared, "rank_offset": 1 + index * self.ranks} for index in range(self.engines)]
        return WeightUpdate(version, "nccl", {"init": init, "update": update, "size": source.size})

    def _broadcast(self, group: Any, source: PolicySource) -> None:
        """Form the group with the engines and send; both block until every engine takes part."""
        try:
            trainer = WeightTransferTrainerFactory.trainer_init(group, client=Notes(), source=source)
            try:
                trainer.send_weights()
            finally:
                trainer.shutdown()
        except Exception as error:  # noqa: BLE001  a thread's boundary: raised again by the next send
            self._error = error

    def _join(self) -> None:
        if self._thread is not None:
            self._thread.join(JOIN_S)
            if self._thread.is_alive():
                raise TimeoutError(f"the previous nccl broadcast is still waiting for engines after {JOIN_S:.0f} s")
            self._thread = None
        if self._error is not None:
            error, self._error = self._error, None
            raise RuntimeError(f"the previous nccl broadcast failed: {error}") from error

    def close(self) -> None:
        """See ``WeightSender``. A broadcast that still waits ends with the process."""
        self._thread = None


def gpu_sender(transfer: str, engines: int, ranks: int) -> WeightSender:
    """Return the sending end of ``ipc`` or ``nccl``."""
    return IpcSender() if transfer == "ipc" else NcclSender(engines, ranks)
