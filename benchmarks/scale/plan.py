"""From a model and a number of GPUs to a mesh, a step time, memory and bytes."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

from benchmarks.scale import publish
from benchmarks.scale.hardware import NODE, Gpu
from benchmarks.scale.learner import (
    Lockstep,
    Mesh,
    Training,
    by_bound,
    by_cut,
    gathered_bytes,
    most_tokens,
    rate,
    state_bytes,
    token_bytes,
    training,
    ulysses_bytes,
)
from benchmarks.scale.models import Model
from benchmarks.scale.rollout import PROMPT, SLOTS, Engine, Lengths, mean_context, phase_seconds, segmented

MOST_TOKENS = 65_536
"""Of a micro-batch on one GPU; more would not make it faster."""
UPDATES = 4
STALENESS = 1
"""Steps that a response may be older than the learner: (STALENESS + 1) steps' responses are begun at most."""


@dataclass(frozen=True)
class Workload:
    """What an iteration trains on."""

    lengths: Lengths
    responses: int = 8192

    @property
    def longest(self) -> int:
        """Tokens of the longest sequence, prompt included."""
        return self.lengths.longest + PROMPT

    @property
    def segment(self) -> int:
        """Most tokens that a partial rollout gets in an iteration: a quarter of the longest."""
        return self.lengths.longest // 4


@dataclass(frozen=True)
class Plan:
    """How a model is trained: ``mesh`` of the learner, ``engines`` of ``tensor_parallel`` GPUs; the same GPUs where
    they are ``shared``.
    """

    mesh: Mesh
    engines: int
    tensor_parallel: int
    shared: bool
    rollout: float
    """Seconds to draw the responses of a step."""
    learning: Training
    publish: float
    """Seconds in which weights are on their way and nobody works."""
    again: float
    """Seconds of a prefill, in the engines, of what had been begun under older weights."""
    tokens: int
    """Tokens of a step."""

    @property
    def step(self) -> float:
        """Seconds of an iteration: one after the other on shared GPUs, else at the same time."""
        if self.shared:
            return self.rollout + self.again + self.learning.total + self.publish
        return max(self.rollout + self.again, self.learning.total) + self.publish

    @property
    def gpus(self) -> int:
        """GPUs in use."""
        return self.mesh.size if self.shared else self.mesh.size + self.engines * self.tensor_parallel


def meshes(model: Model, gpus: int) -> Iterator[Mesh]:
    """Yield the meshes over ``gpus``: sequences over ranks of one node that divide the heads, parameters over the node,
    more nodes, or all.
    """
    for sequence in (1, 2, 4, 8):
        if model.heads % sequence or gpus % sequence:
            continue
        shard = 1
        while shard * sequence <= gpus:
            if gpus % (shard * sequence) == 0 and (shard * sequence >= min(NODE, gpus)):
                yield Mesh(gpus // (shard * sequence), shard, sequence)
            shard *= 2
        if shard * sequence // 2 < gpus:  # not a power of two
            yield Mesh(1, gpus // sequence, sequence)


def learners(model: Model, gpu: Gpu, gpus: int, longest: int) -> Iterator[tuple[Mesh, int]]:
    """Yield the meshes whose GPUs hold the state and the longest sequence, with the tokens of a GPU's micro-batch."""
    for mesh in meshes(model, gpus):
        tokens = min(most_tokens(model, mesh.parts, gpu), MOST_TOKENS)
        if tokens * mesh.sequence >= longest:
            yield mesh, tokens


def samplers(model: Model, gpu: Gpu, gpus: int, longest: int, resident: float) -> Iterator[Engine]:
    """Yield the engines, none larger than a node, whose GPUs hold weights and the longest sequence."""
    for tensor_parallel in (1, 2, 4, 8):
        engine = Engine(model, gpu, tensor_parallel, resident)
        if tensor_parallel <= gpus and engine.capacity >= longest:
            yield engine


def _learning(model: Model, gpu: Gpu, mesh: Mesh, tokens: int, lengths: list[int], lockstep: Lockstep) -> Training:
    """Return the seconds of all updates; in the search, of one that stands for all (minibatches are alike)."""
    sequences = [PROMPT + n for n in lengths]
    if lockstep is by_cut:
        return training(model, gpu, mesh, [sequences[i::UPDATES] for i in range(UPDATES)], tokens, by_cut)
    one = training(model, gpu, mesh, [sequences[::UPDATES]], tokens, lockstep)
    return Training(one.reference * UPDATES, one.train * UPDATES, one.optimizer * UPDATES, one.waste)


def synchronous(model: Model, gpu: Gpu, gpus: int, work: Workload, partial: bool) -> Plan | None:
    """Return the fastest plan in which all GPUs draw, then train; ``None`` if nothing fits.

    The learner's state stays on the GPUs while engines draw; engines give their memory back while it trains.
    ``partial``: rollouts of at most a segment an iteration.
    """
    lengths = work.lengths.drawn(work.responses)
    requests = segmented(lengths, work.segment) if partial else [(PROMPT, n) for n in lengths]
    drawn: dict[tuple[int, int], float] = {}
    found: list[tuple[float, Mesh, int, Engine]] = []
    for mesh, tokens in learners(model, gpu, gpus, work.longest):
        seconds = _learning(model, gpu, mesh, tokens, lengths, by_bound).total
        for engine in samplers(model, gpu, gpus, work.longest, state_bytes(model, mesh.parts)):
            key = mesh.parts, engine.tensor_parallel
            if key not in drawn:
                drawn[key] = phase_seconds(engine, gpus // engine.tensor_parallel, requests)
            found.append((seconds + drawn[key], mesh, tokens, engine))
    if not found:
        return None
    _, mesh, tokens, engine = min(found, key=lambda plan: plan[0])
    learning = _learning(model, gpu, mesh, tokens, lengths, by_cut)
    rollout = drawn[mesh.parts, engine.tensor_parallel]
    engines = gpus // engine.tensor_parallel
    sent = publish.shared(model, gpu, mesh.parts)
    prefill = rate(model, gpu, train=False)
    again = math.fsum(prefill.seconds(before) for before, _ in requests if before > PROMPT) / gpus
    return Plan(mesh, engines, engine.tensor_parallel, True, rollout, learning, sent, again, sum(lengths))


def overlapped(model: Model, gpu: Gpu, gpus: int, work: Workload) -> Plan | None:
    """Return the fastest plan in which some GPUs draw while others train; ``None`` if nothing fits.

    Engines always have requests, but no more than staleness allows. A publish stops them, and the caches of what they
    had begun are computed anew.
    """
    lengths = work.lengths.drawn(work.responses)
    best: Plan | None = None
    for eighths in range(1, 8):
        learner = gpus * eighths // 8
        meshes_left = list(learners(model, gpu, learner, work.longest))
        for engine in samplers(model, gpu, gpus - learner, work.longest, 0.0):
            rollout, again = steady(engine, (gpus - learner) // engine.tensor_parallel, lengths)
            for mesh, tokens in meshes_left:
                learning = _learning(model, gpu, mesh, tokens, lengths, by_bound)
                sent = publish.broadcast(model, gpu, mesh.parts)
                engines = (gpus - learner) // engine.tensor_parallel
                plan = Plan(mesh, engines, engine.tensor_parallel, False, rollout, learning, sent, again, sum(lengths))
                best = plan if best is None or plan.step < best.step else best
    if best is None:
        return None
    tokens = min(most_tokens(model, best.mesh.parts, gpu), MOST_TOKENS)
    return replace(best, learning=_learning(model, gpu, best.mesh, tokens, lengths, by_cut))


def steady(engine: Engine, engines: int, lengths: list[int]) -> tuple[float, float]:
    """Return the seconds in which ``engines`` draw as much as ``lengths`` while they are never short of requests, and
    those of a prefill of what they have begun.
    """
    context = mean_context(lengths)
    slots = min(SLOTS, math.ceil((STALENESS + 1) * len(lengths) / engines))
    prefill = rate(engine.model, engine.gpu, train=False).seconds(context) / engine.tensor_parallel
    return (
        sum(lengths) / engines / engine.throughput(context, slots),
        engine.concurrency(context, slots) * prefill,
    )


def memory(model: Model, plan: Plan, work: Workload) -> dict[str, float]:
    """Return bytes a GPU: the learner's state, what it has at the longest sequence besides, weights of an engine."""
    parts = plan.mesh.parts
    activations = token_bytes(model) * math.ceil(work.longest / plan.mesh.sequence)
    return {
        "state": state_bytes(model, parts),
        "activations": activations + (gathered_bytes(model) if parts > 1 else 0.0),
        "engine_weights": 2.0 * model.parameters / plan.tensor_parallel,
    }


def traffic(model: Model, plan: Plan) -> dict[str, float]:
    """Return bytes that a GPU of the learner receives: in FSDP a micro-batch, in Muon and Ulysses a step; and what a
    publish brings to an engine.
    """
    parts, sequence = plan.mesh.parts, plan.mesh.sequence
    return {
        "fsdp_micro_batch": 8.0 * model.parameters * (parts - 1) / parts,
        "muon": 4.0 * model.matrices / parts * (parts > 1),
        "ulysses": ulysses_bytes(model, sequence, train=True) * plan.tokens / UPDATES / plan.mesh.size,
        "publish": 2.0 * model.parameters,
    }


def fits(model: Model, gpu: Gpu, gpus: int, longest: int) -> bool:
    """Return whether ``gpus`` can train ``model`` on sequences of ``longest`` tokens, on shared GPUs or on halves."""
    for mesh, _ in learners(model, gpu, gpus, longest):
        if any(samplers(model, gpu, gpus, longest, state_bytes(model, mesh.parts))):
            return True
    halves = gpus // 2
    return any(learners(model, gpu, halves, longest)) and any(samplers(model, gpu, gpus - halves, longest, 0.0))


def largest_state(gpu: Gpu, gpus: int) -> float:
    """Return the parameters of a model whose learner's state alone (12 bytes each) fills three quarters of ``gpus``:
    what the learner could hold if no engine had to be on one node.
    """
    return math.floor(0.75 * gpu.memory * gpus / 12)
