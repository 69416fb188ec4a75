"""Weight transfer, vLLM end: loads the learner's weights into a running model. Lives in vLLM's processes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from vllm.distributed.weight_transfer.base import (
    WeightTransferEngine,
    WeightTransferInitInfo,
    WeightTransferUpdateInfo,
)
from vllm.model_executor.layers.fused_moe.oracle.unquantized import UnquantizedMoeBackend
from vllm.model_executor.layers.fused_moe.unquantized_fused_moe_method import UnquantizedFusedMoEMethod
from vllm.model_executor.model_loader.reload import finalize_layerwise_reload, initialize_layerwise_reload
from vllm.model_executor.model_loader.reload.layerwise import get_layerwise_info

from rollout.transfer.broadcast import Guest, Meeting
from rollout.transfer.weights import ShmReader, receivable, specs_of


@dataclass
class Init(WeightTransferInitInfo):
    """Whom to meet before the first layer is touched: the payload's ``direct.nccl``, this engine and those alive."""

    meeting: dict[str, Any] | None = None
    engine: int = 0
    roster: list[int] = field(default_factory=list)


@dataclass
class Update(WeightTransferUpdateInfo):
    """The payload of a ``WeightUpdate``."""

    path: str
    machine: str
    size: int
    tensors: list[list[Any]]
    handles: dict[str, tuple[str, tuple[Any, ...]]] | None = None
    """CUDA IPC handles by name; ``None``: from the copy, or by broadcast where ``Init`` had a meeting."""


class Receiver(WeightTransferEngine[Init, Update]):
    """vLLM weight transfer engine ``k15``: every way that weights come, so that an engine can take each in turn."""

    init_info_cls = Init
    update_info_cls = Update

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._reader = ShmReader()
        self._guest: Guest | None = None

    def init_transfer_engine(self, init_info: Init) -> None:
        """Join the broadcast, where there is one. Raises ``BroadcastLost``."""
        self.shutdown_broadcast()
        if init_info.meeting is not None:
            meeting = Meeting(**init_info.meeting)
            rank, world = meeting.place(init_info.roster, init_info.engine, self.parallel_config.rank)
            self._guest = Guest(meeting, rank, world, self.device)

    def start_weight_update(self) -> None:
        """Put every layer back into the state in which a checkpoint can be loaded: CPU linears are packed and freed."""
        forget_partial(self.model)
        initialize_layerwise_reload(self.model)
        unpack_experts(self.model)

    def receive_weights(self, update_info: Update) -> None:
        """Load all tensors straight from where they come. Raises ``BroadcastLost`` when the broadcast breaks."""
        for weights in self._weights(update_info):
            tied = bool(getattr(self.model_config.hf_text_config, "tie_word_embeddings", True))
            self.model.load_weights(receivable(self.model, tied, weights))

    def _weights(self, update: Update) -> Iterable[Iterable[tuple[str, torch.Tensor]]]:
        if self._guest is not None:
            try:
                yield from self._guest.receive(specs_of(update.tensors), update.size)
            finally:
                self.shutdown_broadcast()
        elif update.handles is not None:
            yield mapped(update.handles, self.device)
        else:
            payload = {"path": update.path, "machine": update.machine, "size": update.size, "tensors": update.tensors}
            yield self._reader.read(payload)

    def finish_weight_update(self) -> None:
        """Pack the layers again."""
        finalize_layerwise_reload(self.model, self.model_config)

    def shutdown_broadcast(self) -> None:
        """Leave the group of the last broadcast: one that stayed would keep its memory, one for each publish."""
        guest, self._guest = self._guest, None
        if guest is not None:
            guest.close()

    def shutdown(self) -> None:
        """See vLLM."""
        self.shutdown_broadcast()
        self._reader.close()


def mapped(
    handles: Mapping[str, tuple[str, Sequence[Any]]], device: torch.device
) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield the learner's own tensors, mapped into this process. Raises ``ValueError`` for those of another GPU."""
    from torch.multiprocessing.reductions import rebuild_cuda_tensor

    here = str(torch.cuda.get_device_properties(device).uuid)
    for name, (gpu, arguments) in handles.items():
        if gpu != here:
            raise ValueError(f"{name} lies on GPU {gpu} and this engine on {here}: ipc is for one GPU, use nccl")
        there = list(arguments)
        there[6] = device.index  # in the learner's process the GPU may have another
        yield name, rebuild_cuda_tensor(*there)


def forget_partial(model: torch.nn.Module) -> None:
    """Drop what an update that broke off has left in vLLM's layers, so that another can begin."""
    for layer in model.modules():
        info = get_layerwise_info(layer)
        if info.can_load():
            info.loaded_weights.clear()
            info.load_numel = 0


def unpack_experts(model: Any) -> int:
    """Have vLLM pack the experts again when their new weights are there, and return the number of their layers.

    On a CPU vLLM packs (and pads) experts only where it builds a layer's kernel, once: a reload leaves plain weights
    under a kernel that reads packed ones, and says nothing (``UnquantizedFusedMoEMethod._setup_kernel``). Without its
    kernel a layer counts as new.
    """
    methods = [getattr(layer, "quant_method", None) for layer in model.modules()]
    packed = [
        method
        for method in methods
        if isinstance(method, UnquantizedFusedMoEMethod) and method.unquantized_backend is UnquantizedMoeBackend.CPU
    ]
    for method in packed:
        method.moe_kernel = None
    return len(packed)
