"""Weight transfer, trainer end: the learner's tensors to where engines fetch them.

On a CPU (and in one process) they go through shared memory: one anonymous memory file per buffer, two buffers in turn,
so the update that engines hold stays valid while the next one is written, and nothing is left behind when the learner
is killed. GPU transfer is in ``rollout.transfer.gpu``.
vLLM loads ``register`` in each of its processes through the entry point group ``vllm.general_plugins``.
"""

from __future__ import annotations

import mmap
import os
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol

from rollout.engine import WeightUpdate
from rollout.types import WeightVersion

if TYPE_CHECKING:
    import torch
    from torch import nn

SHM_BACKEND = "k15_shm"
"""Name of our receiving end in vLLM's ``WeightTransferEngineFactory``."""
ALIGN = 64
"""Bytes; tensors in a buffer start at multiples of it."""


def register() -> None:
    """vLLM plug-in, run in each vLLM process: makes our receiving end and our attention backend known."""
    from vllm.distributed.weight_transfer.factory import WeightTransferEngineFactory
    from vllm.v1.attention.backends.registry import AttentionBackendEnum, register_backend

    if SHM_BACKEND not in WeightTransferEngineFactory._registry:
        WeightTransferEngineFactory.register_engine(SHM_BACKEND, "rollout.transfer.vllm", "ShmReceiver")
    # Only imported where vLLM picks its CPU backend; without a ``moba`` entry in the model it is that backend.
    register_backend(AttentionBackendEnum.CPU_ATTN, "rollout.engines.moba_vllm.MobaCpuBackend")
    register_backend(AttentionBackendEnum.CUSTOM, "rollout.engines.moba_vllm_gpu.MobaFlashBackend")


Names = Literal["checkpoint", "module"]
"""The names of an engine's weights: vLLM uses those of checkpoints, transformers those of its modules."""


def named_weights(model: nn.Module, names: Names = "checkpoint") -> Iterator[tuple[str, torch.Tensor]]:
    """Yield every weight that an engine must receive, under the name that the engine has for it, adapters merged.

    The one place where the learner's names become an engine's. An ``hf`` engine is the same architecture, so it has the
    learner's own; a checkpoint may name, fuse and stack otherwise (GPT-NeoX, experts, the text model of Gemma 3).

    A tied LM head is listed although the model stores it only once: vLLM packs it separately, and without it a publish
    reports success and serves a stale head.
    """
    adapted = _without_peft(model)
    merged = dict(_merged(adapted))
    if names == "module":
        yield from merged.items()
        return
    head = adapted.get_output_embeddings()
    if head is not None:
        prefix = next(name for name, module in adapted.named_modules() if module is head)
        merged.setdefault(f"{prefix}.weight", head.weight.detach())
    yield from _in_checkpoint(adapted, merged).items()


def receivable(
    model: nn.Module, tied: bool, weights: Iterable[tuple[str, torch.Tensor]]
) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield ``weights`` without a tied LM head where the engine's model has none and takes its embeddings (Gemma in
    vLLM).
    """
    has_head = any(name.rpartition(".")[2] == "lm_head" for name, _ in model.named_modules())
    for name, tensor in weights:
        if not (tied and not has_head and name.endswith("lm_head.weight")):
            yield name, tensor


def checkpoint_weights(model: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield every tensor of a checkpoint of ``model``, under its name there, adapters merged, tied ones once."""
    adapted = _without_peft(model)
    merged = dict(_merged(adapted))
    kept = set(adapted.state_dict())
    buffers = {_plain(name): buffer.detach() for name, buffer in adapted.named_buffers() if name in kept}
    yield from _in_checkpoint(adapted, {**merged, **buffers}).items()


def _without_peft(model: nn.Module) -> Any:
    return model.get_base_model() if hasattr(model, "get_base_model") else model  # type: ignore[operator]


def _in_checkpoint(model: nn.Module, weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return ``weights`` as the family's checkpoints have them: transformers stacks experts, for example."""
    from transformers.core_model_loading import revert_weight_conversion

    reverted: dict[str, torch.Tensor] = revert_weight_conversion(model, weights)
    return reverted


def _merged(model: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield parameters under their names without peft, with each adapter's update added to what it adapts.

    An adapter of a linear layer adapts its ``weight``; one of a stack of experts names the parameter, and wraps the
    adapter of another one of the same module.
    """
    adapters: dict[str, Any] = {}
    for name, module in model.named_modules():
        if hasattr(module, "get_delta_weight"):
            adapters[f"{_plain(name)}.{getattr(module, 'parameter_name', 'weight')}"] = module
    for name, parameter in model.named_parameters():
        if ".lora_" in name:
            continue
        tensor, layer = parameter.detach(), adapters.get(_plain(name))
        if layer is not None:
            tensor = tensor + sum(layer.get_delta_weight(adapter).detach() for adapter in layer.active_adapters)
        yield _plain(name), tensor


def _plain(name: str) -> str:
    """Return a module's or parameter's name without peft's wrappers around it."""
    return ".".join(part for part in name.split(".") if part != "base_layer")


class WeightSender(Protocol):
    """The learner's end of one way of transfer."""

    def send(self, model: nn.Module, version: WeightVersion) -> WeightUpdate:
        """Make the model's current weights fetchable as ``version``, and return the update for the engines."""

    def close(self) -> None:
        """Give back buffers and connections. Idempotent."""


@dataclass(frozen=True)
class TensorSpec:
    """The place of one tensor in a buffer."""

    name: str
    dtype: str
    """Type, e.g. ``float32`` for ``torch.float32``."""
    shape: tuple[int, ...]
    offset: int
    """Bytes from the start of the buffer."""


class Buffer:
    """Shared memory of one size, mapped once; other processes of this machine open it by ``path``."""

    def __init__(self, size: int) -> None:
        self.size = size
        if hasattr(os, "memfd_create"):
            # Anonymous: the kernel frees it when the last process that maps it is gone, however it died.
            self._fd = os.memfd_create("k15-weights")
            self.path = f"/proc/{os.getpid()}/fd/{self._fd}"
        else:
            self._fd, self.path = tempfile.mkstemp(prefix="k15-weights-")
        os.ftruncate(self._fd, size)
        self.map = mmap.mmap(self._fd, size)

    def close(self) -> None:
        """Drop the memory file; pages live on while something still maps them."""
        os.close(self._fd)
        if not self.path.startswith("/proc/"):
            os.unlink(self.path)


class ShmSender:
    """Copies all weights into shared memory and describes where they lie."""

    def __init__(self, backend: str = "shm", names: Names = "checkpoint") -> None:
        self.backend = backend
        self.names: Names = names
        self._buffers: list[Buffer] = []

    def send(self, model: nn.Module, version: WeightVersion) -> WeightUpdate:
        """See ``WeightSender``; one pass over the bytes."""
        weights = list(named_weights(model, self.names))
        specs, size = layout(weights)
        buffer = self._next(size)
        for (_, source), (_, target) in zip(weights, views(specs, buffer.map), strict=True):
            target.copy_(source)
        payload = {
            "path": buffer.path,
            "size": size,
            "tensors": [[spec.name, spec.dtype, list(spec.shape), spec.offset] for spec in specs],
        }
        return WeightUpdate(version, self.backend, payload)

    def _next(self, size: int) -> Buffer:
        """Return the buffer that the engines do not hold, ready for ``size`` bytes."""
        if self._buffers and self._buffers[0].size != size:
            self.close()
        if len(self._buffers) < 2:
            self._buffers.append(Buffer(size))
            return self._buffers[-1]
        self._buffers.reverse()
        return self._buffers[-1]

    def close(self) -> None:
        """See ``WeightSender``."""
        for buffer in self._buffers:
            buffer.close()
        self._buffers = []


def layout(weights: list[tuple[str, torch.Tensor]]) -> tuple[list[TensorSpec], int]:
    """Return where each tensor goes, and the total size in bytes. Tensors that share memory share it there too."""
    specs: list[TensorSpec] = []
    placed: dict[tuple[int, torch.Size], int] = {}
    end = 0
    for name, tensor in weights:
        key = (tensor.data_ptr(), tensor.shape)
        if key not in placed:
            placed[key] = end
            end += -(-tensor.numel() * tensor.element_size() // ALIGN) * ALIGN
        specs.append(TensorSpec(name, str(tensor.dtype).removeprefix("torch."), tuple(tensor.shape), placed[key]))
    return specs, end


def views(specs: list[TensorSpec], memory: mmap.mmap) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield (name, tensor) over ``memory`` without copying."""
    import torch

    for spec in specs:
        dtype = getattr(torch, spec.dtype)
        count = 1
        for length in spec.shape:
            count *= length
        yield spec.name, torch.frombuffer(memory, dtype=dtype, count=count, offset=spec.offset).view(spec.shape)


class ShmReader:
    """The engine's end: maps each buffer once and keeps it mapped."""

    def __init__(self) -> None:
        self._maps: dict[tuple[str, int, int], mmap.mmap] = {}

    def read(self, payload: dict[str, Any]) -> Iterator[tuple[str, torch.Tensor]]:
        """Yield (name, tensor) of an update, without copying. The tensors are the learner's memory: only read them.

        Raises ``FileNotFoundError`` when the learner is gone or lives on another machine or in another container.
        """
        specs = [TensorSpec(name, dtype, tuple(shape), offset) for name, dtype, shape, offset in payload["tensors"]]
        return views(specs, self._map(payload["path"], payload["size"]))

    def _map(self, path: str, size: int) -> mmap.mmap:
        try:
            fd = os.open(path, os.O_RDWR)
        except FileNotFoundError as error:
            raise FileNotFoundError(
                f"weights at {path} cannot be opened: the learner ended, or this engine runs on another machine; "
                "use engine.weight_transfer nccl across machines"
            ) from error
        try:
            stat = os.fstat(fd)
            key = (path, stat.st_dev, stat.st_ino)
            if key not in self._maps:
                if len(self._maps) >= 2:
                    self._maps.clear()
                self._maps[key] = mmap.mmap(fd, size)
            return self._maps[key]
        finally:
            os.close(fd)

    def close(self) -> None:
        """Forget the mappings; each goes when the last tensor over it does."""
        self._maps.clear()
