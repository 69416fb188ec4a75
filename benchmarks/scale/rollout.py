"""What engines take: a decoding step is bound by memory bandwidth, a batch by its longest response."""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from benchmarks.scale.hardware import DEFAULT, GIB, Constants, Gpu
from benchmarks.scale.models import Model

SLOTS = 256
"""Sequences that an engine is at, the default of ``engine.max_concurrency``."""
ENGINE_RESERVED = 5 * GIB
"""CUDA graphs, activations of a prefill, context."""
PROMPT = 256


@dataclass(frozen=True)
class Lengths:
    """Log-normal lengths of responses, cut off at ``longest``."""

    mean: float
    longest: int
    sigma: float = 1.0

    def drawn(self, count: int, seed: int = 0) -> list[int]:
        """Return evenly spaced quantiles of the distribution in a random order: no luck of the draw."""
        places = (np.arange(count) + 0.5) / count
        normal = np.sqrt(2.0) * _inverse_error(2 * places - 1)
        low, high = 0.0, math.log(self.longest) + 3 * self.sigma
        for _ in range(60):  # the median of which the cut-off mean is the one wanted
            middle = (low + high) / 2
            mean = np.minimum(np.exp(middle + self.sigma * normal), self.longest).mean()
            low, high = (middle, high) if mean < self.mean else (low, middle)
        values = np.clip(np.exp(low + self.sigma * normal), 1, self.longest).astype(int)
        return np.random.default_rng(seed).permutation(values).tolist()


def _inverse_error(values: np.ndarray) -> np.ndarray:
    """Return the inverse error function (Giles 2010, single precision)."""
    w = -np.log((1 - values) * (1 + values))
    near, far = w - 2.5, np.sqrt(np.maximum(w, 5.0)) - 3
    central = (2.81022636e-08, 3.43273939e-07, -3.5233877e-06, -4.39150654e-06, 0.00021858087, -0.00125372503,
               -0.00417768164, 0.246640727, 1.50140941)  # fmt: skip
    tails = (-0.000200214257, 0.000100950558, 0.00134934322, -0.00367342844, 0.00573950773, -0.0076224613,
             0.00943887047, 1.00167406, 2.83297682)  # fmt: skip
    return values * np.where(w < 5, np.polyval(central, near), np.polyval(tails, far))


@dataclass(frozen=True)
class Engine:
    """One engine over ``tensor_parallel`` GPUs of a node. ``resident``: bytes a GPU that others hold."""

    model: Model
    gpu: Gpu
    tensor_parallel: int = 1
    resident: float = 0.0
    constants: Constants = DEFAULT

    @property
    def capacity(self) -> int:
        """Tokens in the key-value cache; 0 or less where the weights do not fit."""
        room = self.gpu.memory - self.resident - ENGINE_RESERVED - 2.0 * self.model.parameters / self.tensor_parallel
        return math.floor(room / self.model.cache_bytes(self.tensor_parallel))

    def step(self, sequences: int, context: float) -> float:
        """Return the seconds of a decoding step of ``sequences`` with ``context`` tokens before them in all."""
        model, constants, tensor_parallel = self.model, self.constants, self.tensor_parallel
        touched = 1 - (1 - model.chosen / model.experts) ** sequences if model.experts else 0.0
        experts = touched * model.sparse_layers * model.experts * model.expert
        weights = 2.0 * (model.dense_parameters + model.head + experts) / tensor_parallel
        moved = weights + context * model.cache_bytes(tensor_parallel)
        flops = 2.0 * (model.active + model.head) * sequences / tensor_parallel
        gpu = max(
            moved / (constants.bandwidth * self.gpu.memory_bandwidth), flops / (self.gpu.sustained * self.gpu.flops)
        )
        reduces = 2 * model.layers * constants.all_reduce if tensor_parallel > 1 else 0.0
        return gpu + reduces + constants.decode_step + constants.decode_sequence * sequences

    def concurrency(self, context: float, slots: int = SLOTS) -> int:
        """Return the sequences that an engine is at when they have ``context`` tokens on average."""
        return min(slots, math.floor(self.capacity / context))

    def throughput(self, context: float, slots: int = SLOTS) -> float:
        """Return tokens a second while there is always another request."""
        sequences = self.concurrency(context, slots)
        return sequences / self.step(sequences, sequences * context) if sequences > 0 else 0.0


def mean_context(lengths: Sequence[int]) -> float:
    """Return the tokens before a token that is being drawn, over time: long responses are there for longer."""
    values = np.asarray(lengths, float)
    return PROMPT + float((values**2).sum() / (2 * values.sum()))


def drained(step: Callable[[int, float], float], requests: Sequence[tuple[int, int]], at_once: int) -> float:
    """Return the seconds until an engine has drawn all ``requests``, (tokens before, tokens to draw), in that order
    and at most ``at_once`` of them at a time.
    """
    waiting = list(reversed(requests))
    running: list[tuple[int, int]] = []  # (step at which it ends, context at its end)
    now, seconds, context = 0, 0.0, 0.0
    while waiting or running:
        while waiting and len(running) < at_once:
            before, tokens = waiting.pop()
            heapq.heappush(running, (now + tokens, before + tokens))
            context += before
        until = running[0][0]
        taken = until - now
        if taken:
            seconds += taken * step(len(running), context + len(running) * taken / 2)
            context += len(running) * taken
            now = until
        context -= heapq.heappop(running)[1]
    return seconds


def segmented(lengths: Sequence[int], segment: int) -> list[tuple[int, int]]:
    """Return what an iteration of partial rollouts draws when it finishes as many responses as ``lengths`` has: every
    segment of at most ``segment`` tokens, each of another response, as (tokens before, tokens to draw).
    """
    return [(PROMPT + start, min(segment, length - start)) for length in lengths for start in range(0, length, segment)]


def phase_seconds(engine: Engine, engines: int, requests: Sequence[tuple[int, int]], slots: int = SLOTS) -> float:
    """Return the seconds until ``engines`` have drawn all ``requests``, shared out evenly; the one with the longest
    counts. Infinite where the longest does not fit.
    """
    longest = max(before + tokens for before, tokens in requests)
    if engines < 1 or engine.capacity < longest:
        return math.inf
    ordered = sorted(requests, key=lambda request: -request[1])[::engines]
    mixed = [ordered[i] for i in np.random.default_rng(0).permutation(len(ordered))]
    weights = np.array([tokens for _, tokens in ordered], float)
    middle = np.array([before + tokens / 2 for before, tokens in ordered])
    at_once = engine.concurrency(float((weights * middle).sum() / weights.sum()), slots)
    return drained(engine.step, mixed, max(1, at_once))
