"""Published figures, and what the model says of the same runs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from benchmarks.scale import publish
from benchmarks.scale.hardware import DEFAULT, GIB, H20, H100, H200, H800, Gpu
from benchmarks.scale.learner import Mesh, by_bound, fsdp_seconds, gathered_bytes, in_order, rate, token_bytes, training
from benchmarks.scale.models import (
    DEEPSEEK_V3,
    KIMI_K2,
    QWEN2_1B,
    QWEN2_7B,
    QWEN3_4B,
    QWEN3_30B,
    QWEN3_32B,
    QWEN3_600M,
    QWEN35_9B,
    Model,
)
from benchmarks.scale.rollout import PROMPT, Engine, Lengths, mean_context, phase_seconds

Kind = Literal["fitted", "adjusted", "held out", "extra"]


@dataclass(frozen=True)
class Anchor:
    """A published figure. ``kind``: a constant was ``fitted`` to it; something that its source does not tell was
    ``adjusted`` with the figure in view; it was ``held out``; ``extra``: held out, too, but no goal asks for it.
    """

    what: str
    unit: str
    low: float
    high: float
    source: str
    kind: Kind
    predict: Callable[[], float]

    @property
    def published(self) -> float:
        """Middle of the range."""
        return (self.low + self.high) / 2


def micro_batch_seconds(model: Model, gpu: Gpu, tokens: int, ranks: int, files: bool = True) -> float:
    """Return the seconds of a micro-batch of prime-rl's benchmark: one sequence, two micro-batches a step, and in RL
    (``files``) a step's weights written to files.
    """
    work = rate(model, gpu, train=True).seconds(tokens)
    seconds = max(work, fsdp_seconds(model, Mesh(1, ranks), gpu, train=True))
    return seconds + (DEFAULT.micro_batch + publish.through_files(model, DEFAULT.files) / 2 if files else 0.0)


def peak_memory(model: Model, tokens: int, ranks: int) -> float:
    """Return GiB a GPU in prime-rl's benchmark: float32 weights, gradients and AdamW's two, and one sequence."""
    gathered = gathered_bytes(model) if ranks > 1 else 0.0
    return (16.0 * model.parameters / ranks + gathered + token_bytes(model) * tokens) / GIB


def tokens_per_second(model: Model, gpu: Gpu, tokens: int, ranks: int) -> float:
    """Return the tokens a second of all ranks."""
    return ranks * tokens / micro_batch_seconds(model, gpu, tokens, ranks)


def utilisation(model: Model, gpu: Gpu, tokens: int, ranks: int) -> float:
    """Return the per cent of peak FLOPs as prime-rl counts them (its two lines of a model tell how): 6 a parameter and
    12 a layer, unit of width and token of context, nothing computed twice.
    """
    useful = 6.0 * (model.active + model.head) + 12.0 * model.layers * model.hidden * tokens
    return 100 * tokens_per_second(model, gpu, tokens, ranks) * useful / ranks / gpu.flops


def nemo_rate(model: Model, gpus: int, tensor_parallel: int, mean: float, overlapped: bool) -> float:
    """Return tokens a second and GPU of NeMo RL: 2,048 responses of at most 4,096, 4 updates, log-probs of policy and
    reference; one step off: half of the GPUs each for rollouts and training.
    """
    lengths = Lengths(mean, 4096).drawn(2048)
    part = gpus // 2 if overlapped else gpus
    engine = Engine(model, H100, tensor_parallel)
    drawn = phase_seconds(engine, part // tensor_parallel, [(PROMPT, n) for n in lengths])
    work = training(model, H100, Mesh(1, part), [lengths[i::4] for i in range(4)], 8192)
    trained = work.total + work.reference
    sent = publish.resharded(model, H100, tensor_parallel)
    return sum(lengths) / gpus / ((max(drawn, trained) if overlapped else drawn + trained) + sent)


VERL = Lengths(1500, 28 * 1024)
"""Mean not published: the one at which the model trains the synchronous step on 128 GPUs in the published 113.8 s."""
AREAL = Lengths(4500, 27 * 1024)
"""Mean not published: assumed, and what `SENSITIVITY` is for."""


def verl_rollout(gpus: int, lengths: Lengths = VERL) -> float:
    """Return the seconds in which verl's synchronous run draws its responses."""
    engine = Engine(QWEN2_7B, H20)
    return phase_seconds(engine, gpus, [(PROMPT, n) for n in lengths.drawn(8192)])


def verl_speed_up(gpus: int, lengths: Lengths = VERL) -> float:
    """Return synchronous over asynchronous step time of verl's 7B runs on H20: 8,192 responses of at most 28K.

    Synchronous: 16 updates on all GPUs. Asynchronous: 4 updates on one half, rollouts on the other, no pass for old
    log-probs. Minibatches are dealt out without regard to length; four ranks share a sequence.
    """
    drawn, half = lengths.drawn(8192), gpus // 2
    whole, part = Mesh(1, gpus // 4, 4), Mesh(1, half // 4, 4)
    sync = training(QWEN2_7B, H20, whole, [drawn[i::16] for i in range(16)], 8192, in_order)
    work = training(QWEN2_7B, H20, part, [drawn[i::4] for i in range(4)], 8192, in_order)
    rollouts = sum(drawn) / half / Engine(QWEN2_7B, H20).throughput(mean_context(drawn))
    apart = max(rollouts, work.train + work.optimizer) + publish.broadcast(QWEN2_7B, H20, half)
    return (verl_rollout(gpus, lengths) + sync.total + publish.shared(QWEN2_7B, H20, gpus)) / apart


def areal_speed_up(model: Model, gpus: int, lengths: Lengths = AREAL) -> float:
    """Return synchronous over asynchronous step time of AReaL: 8,192 responses of at most 27K, 4 updates. Which part
    of the GPUs draws when asynchronous is not in its table: the best eighths.
    """
    drawn = lengths.drawn(8192)
    minibatches = [drawn[i::4] for i in range(4)]
    engine = Engine(model, H800)
    sync = phase_seconds(engine, gpus, [(PROMPT, n) for n in drawn]) + publish.shared(model, H800, gpus)
    sync += training(model, H800, Mesh(1, gpus), minibatches, 32768).total
    throughput = engine.throughput(mean_context(drawn))

    def apart(learners: int) -> float:
        work = training(model, H800, Mesh(1, learners), minibatches, 32768, by_bound).total
        rollouts = sum(drawn) / (gpus - learners) / throughput
        return max(rollouts, work) + publish.broadcast(model, H800, learners)

    return sync / min(apart(gpus * eighths // 8) for eighths in range(1, 8))


def speculation(sequences: int = 32, accepted: float = 3.32, depth: int = 3) -> float:
    """Return how much faster SkyRL's engines draw with a draft of one layer and the head, ``depth`` tokens ahead.

    ``accepted``: measured tokens a step. 256 responses on 8 engines.
    """
    engine = Engine(QWEN35_9B, H100)
    step = engine.step(sequences, sequences * 3000)
    layer = QWEN35_9B.matrices / QWEN35_9B.layers
    draft = 2.0 * (layer + QWEN35_9B.head) / (DEFAULT.bandwidth * H100.memory_bandwidth) + DEFAULT.decode_step
    checked = 2.0 * (QWEN35_9B.active + QWEN35_9B.head) * sequences * (depth + 1) / (H100.sustained * H100.flops)
    return accepted * step / (max(step, checked) + depth * draft)


def speculative_step() -> float:
    """Return how much faster SkyRL's whole step gets, from its own times without drafts: 310.1 of 400.7 s drawing."""
    return 400.7 / (400.7 - 310.1 + 310.1 / speculation())


_PRIME = "prime-rl, benchmarks/results/BENCHMARKS.md"
_NEMO = "NeMo RL, performance summary"
_VERL = "verl, docs/advance/fully_async.md"
_AREAL = "AReaL, blog v0.3"
_SKY = "SkyRL, spec_decode"
_REFIT = "NeMo RL, NCCL-reshard refit"

ANCHORS = (
    Anchor("verl 7B, 128 H20: synchronous to asynchronous", "x", 2.35, 2.67, _VERL, "adjusted",
           lambda: verl_speed_up(128)),
    Anchor("AReaL 1.5B, 128 H800: synchronous to asynchronous", "x", 2.77, 2.77, _AREAL, "adjusted",
           lambda: areal_speed_up(QWEN2_1B, 128)),
    Anchor("NeMo 30B-A3B, 32 H100, synchronous", "tok/s/GPU", 1102, 1102, _NEMO, "fitted",
           lambda: nemo_rate(QWEN3_30B, 32, 4, 3158, False)),
    Anchor("NeMo 30B-A3B, 32 H100, one step off", "tok/s/GPU", 1414, 1414, _NEMO, "held out",
           lambda: nemo_rate(QWEN3_30B, 32, 2, 3158, True)),
    Anchor("learner 0.6B, 1 H100, 16K", "tok/s", 11900, 11900, _PRIME, "fitted",
           lambda: tokens_per_second(QWEN3_600M, H100, 16384, 1)),
    Anchor("learner 0.6B, 1 H100, 16K", "% MFU", 11.1, 11.1, _PRIME, "fitted",
           lambda: utilisation(QWEN3_600M, H100, 16384, 1)),
    Anchor("learner 0.6B, 1 H100, 65K", "tok/s", 10150, 10150, _PRIME, "fitted",
           lambda: tokens_per_second(QWEN3_600M, H100, 65536, 1)),
    Anchor("learner 0.6B, 1 H100, 65K", "% MFU", 26.8, 26.8, _PRIME, "fitted",
           lambda: utilisation(QWEN3_600M, H100, 65536, 1)),
    Anchor("learner 4B, 8 H200, 16K", "tok/s", 27440, 27440, _PRIME, "held out",
           lambda: tokens_per_second(QWEN3_4B, H200, 16384, 8)),
    Anchor("learner 4B, 8 H200, 16K", "% MFU", 14.7, 14.7, _PRIME, "held out",
           lambda: utilisation(QWEN3_4B, H200, 16384, 8)),
    Anchor("learner 4B, 8 H200, 65K", "tok/s", 29540, 29540, _PRIME, "held out",
           lambda: tokens_per_second(QWEN3_4B, H200, 65536, 8)),
    Anchor("learner 4B, 8 H200, 65K", "% MFU", 36.1, 36.1, _PRIME, "held out",
           lambda: utilisation(QWEN3_4B, H200, 65536, 8)),
    Anchor("weights of 32B, 16 + 16 H200, gather and broadcast", "s", 2.3, 2.3, "TRL, #7131", "held out",
           lambda: publish.broadcast(QWEN3_32B, H200, 16)),
    Anchor("weights of 30B-A3B, engines of 8 H100, resharded", "s", 0.74, 1.0, _REFIT, "fitted",
           lambda: publish.resharded(QWEN3_30B, H100, 8)),
    Anchor("weights of DeepSeek-V3, engines of 32 H100, resharded", "s", 2.4, 2.8, _REFIT, "held out",
           lambda: publish.resharded(DEEPSEEK_V3, H100, 32)),
    Anchor("weights of Kimi-K2 in FP8, thousands of GPUs", "s", 20, 20, "checkpoint-engine, README", "held out",
           lambda: publish.broadcast(KIMI_K2, H20, 1, 1.0)),
    Anchor("SkyRL 9B, 8 H100: rollout with drafts", "x", 2.03, 2.03, _SKY, "adjusted", speculation),
    Anchor("SkyRL 9B, 8 H100: step with drafts", "x", 1.62, 1.62, _SKY, "adjusted", speculative_step),
    Anchor("verl 7B, 128 H20: generation of a synchronous step", "s", 177.85, 177.85, _VERL, "fitted",
           lambda: verl_rollout(128)),
    Anchor("verl 7B, 32 H20: synchronous to asynchronous (step)", "x", 2.68, 2.68, _VERL, "extra",
           lambda: verl_speed_up(32)),
    Anchor("verl 7B, 64 H20: synchronous to asynchronous (step)", "x", 1.93, 1.93, _VERL, "extra",
           lambda: verl_speed_up(64)),
    Anchor("AReaL 7B, 192 H800: synchronous to asynchronous", "x", 2.27, 2.27, _AREAL, "extra",
           lambda: areal_speed_up(QWEN2_7B, 192)),
    Anchor("NeMo 32B, 32 H100, synchronous (v0.4)", "tok/s/GPU", 540, 540, _NEMO, "extra",
           lambda: nemo_rate(QWEN3_32B, 32, 4, 3206, False)),
    Anchor("NeMo 32B, 64 H100, one step off (v0.4)", "tok/s/GPU", 494, 494, _NEMO, "extra",
           lambda: nemo_rate(QWEN3_32B, 64, 4, 3207, True)),
    Anchor("learner 4B, 8 H100, 65K", "s", 18.10, 18.10, _PRIME, "extra",
           lambda: micro_batch_seconds(QWEN3_4B, H100, 65536, 8)),
    Anchor("learner 30B-A3B, 8 H200, 65K", "s", 41.13, 41.13, _PRIME, "extra",
           lambda: micro_batch_seconds(QWEN3_30B, H200, 65536, 8)),
    Anchor("learner 30B-A3B, 8 H200, 16K, SFT", "s", 3.74, 3.74, _PRIME, "fitted",
           lambda: micro_batch_seconds(QWEN3_30B, H200, 16384, 8, files=False)),
    Anchor("learner 30B-A3B, 8 H200, 16K", "s", 22.06, 22.06, _PRIME, "fitted",
           lambda: micro_batch_seconds(QWEN3_30B, H200, 16384, 8)),
    Anchor("weights of 30B-A3B, engines of 2 H100, resharded", "s", 1.21, 1.52, _REFIT, "extra",
           lambda: publish.resharded(QWEN3_30B, H100, 2)),
    Anchor("memory of 0.6B, 1 H100, 16K", "GiB", 12.5, 12.5, _PRIME, "extra",
           lambda: peak_memory(QWEN3_600M, 16384, 1)),
    Anchor("memory of 0.6B, 1 H100, 65K", "GiB", 19.6, 19.6, _PRIME, "extra",
           lambda: peak_memory(QWEN3_600M, 65536, 1)),
    Anchor("memory of 4B, 8 H200, 16K", "GiB", 17.1, 17.1, _PRIME, "extra",
           lambda: peak_memory(QWEN3_4B, 16384, 8)),
    Anchor("memory of 4B, 8 H200, 65K", "GiB", 36.1, 36.1, _PRIME, "extra",
           lambda: peak_memory(QWEN3_4B, 65536, 8)),
    Anchor("memory of 30B-A3B, 8 H200, 16K", "GiB", 74.6, 74.6, _PRIME, "extra",
           lambda: peak_memory(QWEN3_30B, 16384, 8)),
    Anchor("memory of 30B-A3B, 8 H200, 65K", "GiB", 105.4, 105.4, _PRIME, "extra",
           lambda: peak_memory(QWEN3_30B, 65536, 8)),
)  # fmt: skip

SENSITIVITY: dict[str, Callable[[float], float]] = {
    "verl 7B, 128 H20": lambda mean: verl_speed_up(128, Lengths(mean, 28 * 1024)),
    "AReaL 1.5B, 128 H800": lambda mean: areal_speed_up(QWEN2_1B, 128, Lengths(mean, 27 * 1024)),
    "AReaL 7B, 192 H800": lambda mean: areal_speed_up(QWEN2_7B, 192, Lengths(mean, 27 * 1024)),
}
"""Speed-ups as functions of the mean length that nobody published."""
SENSITIVITY_MEANS = (1500, 3000, 4500, 6000)
