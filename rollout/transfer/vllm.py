"""Weight transfer, vLLM end: loads the learner's shared memory into a running model. Lives in vLLM's processes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from vllm.distributed.weight_transfer.base import (
    WeightTransferEngine,
    WeightTransferInitInfo,
    WeightTransferUpdateInfo,
)
from vllm.model_executor.layers.fused_moe.oracle.unquantized import UnquantizedMoeBackend
from vllm.model_executor.layers.fused_moe.unquantized_fused_moe_method import UnquantizedFusedMoEMethod
from vllm.model_executor.model_loader.reload import finalize_layerwise_reload, initialize_layerwise_reload

from rollout.transfer.weights import ShmReader, receivable


@dataclass
class ShmInit(WeightTransferInitInfo):
    """Empty, since each update says where it lies."""


@dataclass
class ShmUpdate(WeightTransferUpdateInfo):
    """The payload of a ``WeightUpdate`` with backend ``shm``."""

    path: str
    size: int
    tensors: list[list[Any]]


class ShmReceiver(WeightTransferEngine[ShmInit, ShmUpdate]):
    """vLLM weight transfer engine ``k15_shm``."""

    init_info_cls = ShmInit
    update_info_cls = ShmUpdate

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._reader = ShmReader()

    def init_transfer_engine(self, init_info: ShmInit) -> None:
        """See vLLM; there is no rendezvous."""

    def start_weight_update(self) -> None:
        """Put every layer back into the state in which a checkpoint can be loaded: CPU linears are packed and freed."""
        initialize_layerwise_reload(self.model)
        unpack_experts(self.model)

    def receive_weights(self, update_info: ShmUpdate) -> None:
        """Load all tensors straight from the learner's memory."""
        payload = {"path": update_info.path, "size": update_info.size, "tensors": update_info.tensors}
        tied = bool(getattr(self.model_config.hf_text_config, "tie_word_embeddings", True))
        self.model.load_weights(receivable(self.model, tied, self._reader.read(payload)))

    def finish_weight_update(self) -> None:
        """Pack the layers again."""
        finalize_layerwise_reload(self.model, self.model_config)

    def shutdown(self) -> None:
        """See vLLM."""
        self._reader.close()


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
