"""Weight transfer, trainer end: the learner's tensors to where engines fetch them.

On a CPU (and in one process) they go through shared memory: one anonymous memory file per buffer, two buffers in turn,
so the update that engines hold stays valid while the next one is written, and nothing is left behind when the learner
is killed. What is faster between GPUs is in ``rollout.transfer.gpu``, beside such a copy.
vLLM loads ``register`` in each of its processes through the entry point group ``vllm.general_plugins``.
"""

from __future__ import annotations

import math
import mmap
import os
import platform
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from rollout.engine import WeightUpdate
from rollout.models.shards import Names, for_engine, is_sharded
from rollout.types import WeightVersion

if TYPE_CHECKING:
    import torch
    from torch import nn

LOST = "broadcast lost: "
"""How the message of ``rollout.transfer.broadcast.BroadcastLost`` begins; vLLM hands only messages on."""
GONE = "weights gone: "
"""How the message begins when the memory that holds weights cannot be opened; for the same reason."""
RECEIVER = "k15"
"""Name of our receiving end in vLLM's ``WeightTransferEngineFactory``."""
ALIGN = 64
"""Bytes; tensors in a buffer start at multiples of it."""
PIECE = 2**28
"""Bytes of one object that another machine gets."""


def register() -> None:
    """vLLM plug-in, run in each vLLM process: makes our receiving end and our attention backend known, and mends what
    vLLM computes wrongly.
    """
    from vllm.distributed.weight_transfer.factory import WeightTransferEngineFactory
    from vllm.v1.attention.backends.registry import AttentionBackendEnum, register_backend

    if RECEIVER not in WeightTransferEngineFactory._registry:
        WeightTransferEngineFactory.register_engine(RECEIVER, "rollout.transfer.vllm", "Receiver")
    # Only imported where vLLM picks its CPU backend; without a ``moba`` entry in the model it is that backend.
    register_backend(AttentionBackendEnum.CPU_ATTN, "rollout.engines.moba_vllm.MobaCpuBackend")
    register_backend(AttentionBackendEnum.CUSTOM, "rollout.engines.moba_vllm_gpu.MobaFlashBackend")

    from rollout.engines.vllm_rotary import mend

    mend()


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


class WeightSender(Protocol):
    """The learner's end of one way of transfer, on each of its ranks."""

    def send(self, model: nn.Module, version: WeightVersion) -> WeightUpdate:
        """Make the model's current weights fetchable as ``version``, and return the update for the engines.

        Collective where the model is sharded: every rank calls it, and the first one's update is the one for engines.
        """

    def close(self) -> None:
        """Give back buffers and connections. Idempotent."""


class Follower:
    """The end of a rank that is not the first, whatever the way: it takes part in gathering, and keeps nothing."""

    def __init__(self, backend: str, names: Names = "checkpoint") -> None:
        self.backend = backend
        self.names: Names = names

    def send(self, model: nn.Module, version: WeightVersion) -> WeightUpdate:
        """See ``WeightSender``; the update has nothing to fetch."""
        for _ in for_engine(model, self.names).buckets():
            pass
        if self.backend == "ipc":
            release(model)
        return WeightUpdate(version, self.backend, {})

    def close(self) -> None:
        """See ``WeightSender``."""


def release(model: nn.Module) -> None:
    """Give back GPU memory that torch only keeps: an engine that restarts beside the learner needs it."""
    import torch

    if next(model.parameters()).device.type == "cuda":
        torch.cuda.empty_cache()


@dataclass(frozen=True)
class TensorSpec:
    """The place of one tensor in a buffer."""

    name: str
    dtype: str
    """Type, e.g. ``float32`` for ``torch.float32``."""
    shape: tuple[int, ...]
    offset: int
    """Bytes from the start of the buffer."""


def specs_of(tensors: Iterable[Sequence[Any]]) -> list[TensorSpec]:
    """Return the places in a payload's ``tensors``."""
    return [TensorSpec(name, dtype, tuple(shape), offset) for name, dtype, shape, offset in tensors]


@cache
def machine() -> str:
    """Return what processes have in common that see each other's memory files: the running kernel and its numbering of
    processes (a container has its own).
    """
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot}/{os.stat('/proc/self/ns/pid').st_ino}"
    except OSError:
        return platform.node()


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


@dataclass(frozen=True)
class Copy:
    """All weights of one version in shared memory."""

    buffer: Buffer
    specs: Sequence[TensorSpec]

    @property
    def payload(self) -> dict[str, Any]:
        """What a ``ShmReader`` needs."""
        tensors = [[spec.name, spec.dtype, list(spec.shape), spec.offset] for spec in self.specs]
        return {"path": self.buffer.path, "machine": machine(), "size": self.buffer.size, "tensors": tensors}


class ShmSender:
    """Copies all weights into shared memory and describes where they lie.

    Engines of this machine read them there whenever they like, also one that was restarted. ``put``: stores bytes where
    other machines get them, and returns what they get them by (Ray's object store).
    """

    def __init__(
        self, backend: str = "shm", names: Names = "checkpoint", put: Callable[[Any], Any] | None = None
    ) -> None:
        self.backend = backend
        self.names: Names = names
        self._put = put
        self._buffers: list[Buffer] = []

    def send(self, model: nn.Module, version: WeightVersion) -> WeightUpdate:
        """See ``WeightSender``; one pass over the bytes."""
        return WeightUpdate(version, self.backend, self.stored(self.copy(model)))

    def copy(self, model: nn.Module) -> Copy:
        """Copy the weights, bucket by bucket, into the buffer that engines do not hold."""
        weights = for_engine(model, self.names)
        specs, size = layout([pair for bucket in weights.metadata() for pair in bucket])
        buffer = self._next(size)
        places = {spec.name: spec.offset for spec in specs}
        targets = dict(views(specs, buffer.map))
        written: set[int] = set()
        for bucket in weights.buckets():
            for name, tensor in bucket:
                if places[name] not in written:  # a tied tensor comes under two names
                    targets[name].copy_(tensor)
                written.add(places[name])
        return Copy(buffer, specs)

    def stored(self, copy: Copy) -> dict[str, Any]:
        """Return the payload of an update for ``copy``, for other machines too where there is a ``put``."""
        if self._put is None:
            return copy.payload
        whole = memoryview(copy.buffer.map)
        starts = range(0, copy.buffer.size, PIECE)
        return {**copy.payload, "pieces": [self._put(np.asarray(whole[start : start + PIECE])) for start in starts]}

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


def layout(weights: Sequence[tuple[str, torch.Tensor]]) -> tuple[list[TensorSpec], int]:
    """Return where each tensor goes, and the total size in bytes. Tensors that share memory share it there too.

    Tensors on the device ``meta`` will do. Raises ``TypeError`` for shards, whose memory is not the whole tensor.
    """
    specs: list[TensorSpec] = []
    placed: dict[tuple[object, ...], int] = {}
    end = 0
    for name, tensor in weights:
        if is_sharded(tensor):
            raise TypeError(f"{name} is one rank's shard of a tensor; gather it first (rollout.models.shards)")
        # The storage itself: a tensor without data is at address 0, whichever it is.
        key = (tensor.untyped_storage()._cdata, tensor.storage_offset(), tensor.shape, tensor.stride())
        if key not in placed:
            placed[key] = end
            end += -(-tensor.numel() * tensor.element_size() // ALIGN) * ALIGN
        specs.append(TensorSpec(name, str(tensor.dtype).removeprefix("torch."), tuple(tensor.shape), placed[key]))
    return specs, end


def views(specs: Sequence[TensorSpec], memory: mmap.mmap) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield (name, tensor) over ``memory`` without copying."""
    import torch

    return part_views(specs, torch.frombuffer(memory, dtype=torch.uint8)) if specs else iter(())


def part_views(specs: Iterable[TensorSpec], part: torch.Tensor, start: int = 0) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield (name, tensor) over ``part``, the bytes of a buffer from ``start`` on, without copying."""
    import torch

    for spec in specs:
        dtype: torch.dtype = getattr(torch, spec.dtype)
        begin = spec.offset - start
        size = math.prod(spec.shape) * dtype.itemsize
        yield spec.name, part[begin : begin + size].view(dtype).view(spec.shape)


class ShmReader:
    """The engine's end: maps each buffer once and keeps it mapped."""

    def __init__(self) -> None:
        self._maps: dict[tuple[str, int, int], mmap.mmap] = {}

    def read(self, payload: dict[str, Any]) -> Iterator[tuple[str, torch.Tensor]]:
        """Yield (name, tensor) of an update, without copying. The tensors are the learner's memory: only read them.

        Raises ``FileNotFoundError`` when the learner is gone or lives on another machine or in another container.
        """
        return views(specs_of(payload["tensors"]), self._map(payload["path"], payload["size"], payload["machine"]))

    def _map(self, path: str, size: int, owner: str) -> mmap.mmap:
        try:
            if owner != machine():  # the same path may exist here, and be something else
                raise FileNotFoundError(path)
            fd = os.open(path, os.O_RDWR)
        except FileNotFoundError as error:
            raise FileNotFoundError(
                f"{GONE}{path} cannot be opened: the learner ended, or this engine runs on another machine; "
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
