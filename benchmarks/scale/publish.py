"""What it takes to bring new weights from the learner's shards to the engines."""

from __future__ import annotations

from benchmarks.scale.hardware import DEFAULT, Constants, Gpu
from benchmarks.scale.learner import link_seconds
from benchmarks.scale.models import Model


def overhead(model: Model, constants: Constants = DEFAULT) -> float:
    """Return the seconds of control and of handling every matrix."""
    return constants.publish + constants.publish_tensor * model.tensors


def broadcast(model: Model, gpu: Gpu, parts: int, value_bytes: float = 2.0, constants: Constants = DEFAULT) -> float:
    """Return the seconds of buckets gathered by all ranks, then sent by one of them through its network card to every
    engine (k15, TRL; from CPU memory checkpoint-engine).
    """
    amount = value_bytes * model.parameters
    gathered = link_seconds(amount, parts, gpu, constants)
    return overhead(model, constants) + gathered + amount / (gpu.network * constants.link)


def resharded(
    model: Model, gpu: Gpu, tensor_parallel: int, value_bytes: float = 2.0, constants: Constants = DEFAULT
) -> float:
    """Return the seconds when every engine GPU gets its own part only, from the ranks that have it (NeMo RL)."""
    amount = value_bytes * model.parameters / tensor_parallel
    return overhead(model, constants) + amount / (gpu.network * constants.link)


def shared(model: Model, gpu: Gpu, parts: int, constants: Constants = DEFAULT) -> float:
    """Return the seconds when engines lie on the learner's GPUs: gathered buckets, copied in memory (CUDA ipc)."""
    amount = 2.0 * model.parameters
    copied = 2 * amount / (constants.bandwidth * gpu.memory_bandwidth)
    return overhead(model, constants) + link_seconds(amount, parts, gpu, constants) + copied


def through_files(model: Model, bandwidth: float) -> float:
    """Return the seconds in which weights are written to a file system of ``bandwidth`` bytes a second."""
    return 2.0 * model.parameters / bandwidth
