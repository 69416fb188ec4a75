"""What a learner takes: FLOPs, memory and bytes on links of FSDP2, Ulysses and distributed Muon."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from benchmarks.scale.hardware import DEFAULT, GIB, NODE, Constants, Gpu
from benchmarks.scale.models import Model
from rl.learner.balance import cut, least_cost, lockstep_cost
from rl.learner.batch import split_by_tokens

HEAD_ROWS = 1024
"""Rows of logits that exist at a time."""
RESERVED = 6 * GIB
"""CUDA context, NCCL, workspaces, fragmentation."""
LIVE = 34
"""bfloat16 values a unit of width that the one layer being computed keeps a token."""


@dataclass(frozen=True)
class Mesh:
    """``replicate`` x ``shard`` x ``sequence`` GPUs; parameters lie over shard x sequence."""

    replicate: int = 1
    shard: int = 1
    sequence: int = 1

    @property
    def size(self) -> int:
        """GPUs."""
        return self.replicate * self.shard * self.sequence

    @property
    def parts(self) -> int:
        """Ranks that a parameter is cut over."""
        return self.shard * self.sequence

    @property
    def shares(self) -> int:
        """Groups of ranks that take micro-batches."""
        return self.replicate * self.shard


@dataclass(frozen=True)
class Rate:
    """Seconds of one GPU for a sequence of n tokens: linear * n + quadratic * n * n."""

    linear: float
    quadratic: float

    def seconds(self, length: float) -> float:
        """Return the seconds of one sequence."""
        return length * (self.linear + self.quadratic * length)


def rate(model: Model, gpu: Gpu, train: bool, constants: Constants = DEFAULT) -> Rate:
    """Return what tokens cost on one GPU, in a forward pass, or in training with a checkpoint a layer: two forward
    passes and a backward one of twice (attention: 2.5 times) as much; the head is not computed twice.
    """
    body, head, attention, traffic = (4.0, 3.0, 4.5, 1.0) if train else (1.0, 1.0, 1.0, 0.25)
    dense = 2.0 * (body * model.dense_parameters + head * model.head) / (gpu.sustained * gpu.flops)
    experts = 2.0 * body * model.expert_active / (constants.experts * gpu.sustained * gpu.flops)
    bytes_moved = 2.0 * traffic * constants.traffic * model.layers * model.hidden
    pairs = attention * 2.0 * model.layers * model.attention_width / (constants.attention * gpu.sustained * gpu.flops)
    return Rate(dense + experts + bytes_moved / (constants.bandwidth * gpu.memory_bandwidth), pairs)


def link_seconds(amount: float, ranks: int, gpu: Gpu, constants: Constants = DEFAULT) -> float:
    """Return the seconds in which every one of ``ranks`` neighbouring GPUs gets (or gives) ``amount`` bytes of a
    gathered whole: over NVLink in a node, else through all network cards of each node at once.
    """
    if ranks == 1:
        return 0.0
    outside = amount / (NODE * gpu.network) if ranks > NODE else 0.0
    return max(amount * (ranks - 1) / ranks / gpu.nvlink, outside) / constants.link


def fsdp_seconds(model: Model, mesh: Mesh, gpu: Gpu, train: bool, constants: Constants = DEFAULT) -> float:
    """Return the seconds on links of one micro-batch: bfloat16 weights gathered for each pass, float32 gradients
    reduced.
    """
    amount = (2.0 + 2.0 + 4.0 if train else 2.0) * model.parameters
    return link_seconds(amount, mesh.parts, gpu, constants)


def ulysses_bytes(model: Model, sequence: int, train: bool) -> float:
    """Return the bytes that a rank receives for a token of its own: queries, keys, values and outputs change their
    axis, in two forward passes and a backward one when training.
    """
    width = 2 * model.attention_width + 2 * model.kv_heads * model.head_dim
    return 2.0 * model.layers * width * (3 if train else 1) * (sequence - 1) / sequence


def ulysses_seconds(model: Model, sequence: int, gpu: Gpu, train: bool, constants: Constants = DEFAULT) -> float:
    """Return the seconds on links for a token of a rank's own."""
    return ulysses_bytes(model, sequence, train) / (gpu.nvlink if sequence <= NODE else gpu.network) / constants.link


def muon_seconds(model: Model, mesh: Mesh, gpu: Gpu, constants: Constants = DEFAULT) -> float:
    """Return the seconds of a step: replicas add their gradients, momentum goes to one owner a matrix and back in
    bfloat16, owners orthogonalise (20 m^2 n + 10 m^3 FLOPs), and everybody updates its shard.
    """
    shard = model.parameters / mesh.parts
    replicas = 2 * 4.0 * shard / (gpu.network * constants.link) if mesh.replicate > 1 else 0.0
    exchange = link_seconds(4.0 * model.matrices, mesh.parts, gpu, constants) / mesh.parts
    side = model.expert_width or model.hidden
    orthogonal = model.matrices * 30.0 * min(side, model.hidden) / mesh.parts / (gpu.sustained * gpu.flops)
    update = 32.0 * shard / (constants.bandwidth * gpu.memory_bandwidth)
    return replicas + exchange + orthogonal + update


def state_bytes(model: Model, parts: int) -> float:
    """Return the bytes a GPU of float32 weights and gradients, Muon's momentum, and AdamW's two for the rest."""
    rest = model.parameters - model.matrices
    return (8.0 * model.parameters + 4.0 * model.matrices + 8.0 * rest) / parts


def token_bytes(model: Model) -> float:
    """Return the bytes of activations a token: a checkpoint a layer, one layer alive, the last states in float32."""
    middle = 3.0 * (model.chosen + model.shared) * model.expert_width if model.experts else 3.0 * model.intermediate
    live = LIVE * model.hidden + 2.0 * middle * 2
    return 2.0 * model.layers * model.hidden + live + 8.0 * model.hidden


def gathered_bytes(model: Model) -> float:
    """Return the bytes of two gathered layers, their gradients, the root, and a chunk of logits."""
    layer = model.matrices / model.layers
    root = model.parameters - model.matrices
    return 2 * 2.0 * layer + 4.0 * layer + 6.0 * root + 3 * 4.0 * HEAD_ROWS * model.vocab


def most_tokens(model: Model, parts: int, gpu: Gpu) -> int:
    """Return the tokens of a micro-batch that a GPU holds; 0 or less where the state alone does not fit."""
    single = gathered_bytes(model) if parts > 1 else 6.0 * (model.parameters - model.matrices)
    left = gpu.memory - RESERVED - state_bytes(model, parts) - single
    return math.floor(left / token_bytes(model))


@dataclass(frozen=True)
class Training:
    """Seconds of the learner in an iteration."""

    reference: float
    train: float
    optimizer: float
    waste: float
    """Share of ``train`` that ranks wait for each other."""

    @property
    def total(self) -> float:
        """Seconds."""
        return self.reference + self.train + self.optimizer


Lockstep = Callable[[Sequence[int], Sequence[float], int, int], tuple[float, int]]
"""Lengths, what each costs, shares, tokens of a micro-batch: seconds of the slowest ranks, and micro-batches."""


def by_cut(lengths: Sequence[int], costs: Sequence[float], shares: int, max_tokens: int) -> tuple[float, int]:
    """As k15 cuts a minibatch."""
    found = cut(lengths, costs, shares, max_tokens)
    return lockstep_cost(found, costs), len(found[0])


def by_bound(lengths: Sequence[int], costs: Sequence[float], shares: int, max_tokens: int) -> tuple[float, int]:
    """As no cut can be faster; quicker to find."""
    return least_cost(lengths, costs, shares, max_tokens), math.ceil(sum(lengths) / shares / max_tokens)


def in_order(lengths: Sequence[int], costs: Sequence[float], shares: int, max_tokens: int) -> tuple[float, int]:
    """As a learner that deals out sequences like cards and waits for the unluckiest rank."""
    hands = [range(share, len(lengths), shares) for share in range(shares)]
    steps = max(len(split_by_tokens([lengths[i] for i in hand], max_tokens)) for hand in hands)
    return max(math.fsum(costs[i] for i in hand) for hand in hands), steps


def training(
    model: Model,
    gpu: Gpu,
    mesh: Mesh,
    minibatches: Sequence[Sequence[int]],
    max_tokens: int,
    lockstep: Lockstep = by_cut,
    constants: Constants = DEFAULT,
) -> Training:
    """Return the learner's seconds for ``minibatches`` (lengths of sequences), a step each; ``max_tokens`` a GPU."""
    limit = max_tokens * mesh.sequence
    seconds, ideal = {False: 0.0, True: 0.0}, 0.0
    for passes in (False, True):  # the reference, then training
        per_token = rate(model, gpu, passes, constants)
        exchange = ulysses_seconds(model, mesh.sequence, gpu, passes, constants)
        links = fsdp_seconds(model, mesh, gpu, passes, constants)
        for lengths in minibatches:
            costs = [(per_token.seconds(n) + exchange * n) / mesh.sequence for n in lengths]
            compute, steps = lockstep(lengths, costs, mesh.shares, limit)
            seconds[passes] += max(compute, steps * links) + steps * constants.micro_batch
            ideal += math.fsum(costs) / mesh.shares if passes else 0.0
    optimizer = len(minibatches) * muon_seconds(model, mesh, gpu, constants)
    return Training(seconds[False], seconds[True], optimizer, 1 - ideal / seconds[True] if minibatches else 0.0)
