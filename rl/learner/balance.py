"""Cutting a minibatch over ranks that run in lockstep: pure functions of lengths and costs.

Under FSDP the ranks meet in every layer, so the n-th micro-batches of all of them take as long as the costliest one.
What a cut costs is the sum over these steps of the largest cost; what it wastes is that beyond the mean over ranks.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from torch import nn
from transformers import PreTrainedModel

from rl.learner.batch import split_by_tokens

Cut = list[list[list[int]]]
"""[share][micro-batch][unit]: which units each share takes, micro-batch by micro-batch; equal counts, some empty."""

ENOUGH = 0.02
"""Waste over the lower bound at which one more step is not tried: it would cost a round of collectives."""
MORE_STEPS = 2
"""How many numbers of steps above the fewest are tried, at least; an eighth of the fewest if that is more."""


@dataclass(frozen=True)
class Cost:
    """What a sequence costs: length * (linear + quadratic * length), in any unit."""

    linear: float
    quadratic: float

    @classmethod
    def of_model(cls, parameters: int, layers: int, width: int) -> Cost:
        """Return the cost in FLOPs of one forward and backward pass.

        ``parameters``: those that a token is multiplied with, head included, embedding and idle experts not: 6 FLOPs
        each. ``width``: heads times their dimension; causal attention spends 12 * width a layer on each pair of
        tokens, and half of all pairs exist.
        """
        return cls(6.0 * parameters, 6.0 * layers * width)

    def of(self, length: int) -> float:
        """Return the cost of one sequence of ``length`` tokens."""
        return length * (self.linear + self.quadratic * length)


def cost_of(model: PreTrainedModel) -> Cost:
    """Return what a sequence costs a transformers model with full attention, by its parameters' shapes and its
    configuration. Of a stack of experts [n, A, B] a token meets ``num_experts_per_tok``.
    """
    text = model.config.get_text_config()
    chosen = getattr(text, "num_experts_per_tok", None)
    head = model.get_output_embeddings()
    heads = {id(parameter) for parameter in head.parameters()} if head is not None else set()
    lookups = {
        id(parameter)
        for module in model.modules()
        if isinstance(module, nn.Embedding)
        for parameter in module.parameters()
    }
    multiplied = 0.0
    for parameter in model.parameters():
        if parameter.ndim > 1 and id(parameter) not in lookups - heads:
            idle = chosen is not None and parameter.ndim == 3
            multiplied += parameter.numel() * (min(1.0, chosen / parameter.shape[0]) if idle else 1.0)
    size = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    of_keys, of_values = getattr(text, "qk_head_dim", None) or size, getattr(text, "v_head_dim", None) or size
    width = text.num_attention_heads * (of_keys + of_values) // 2
    return Cost.of_model(round(multiplied), text.num_hidden_layers, width)


def unit_costs(lengths: Sequence[int], unit: int, cost: Cost) -> list[float]:
    """Return the cost of each unit of ``unit`` neighbouring sequences; ``lengths`` [n] tokens of each sequence."""
    each = [cost.of(length) for length in lengths]
    return [math.fsum(each[start : start + unit]) for start in range(0, len(each), unit)]


def cut(lengths: Sequence[int], costs: Sequence[float], shares: int, max_tokens: int) -> Cut:
    """Return the units of a minibatch as micro-batches of at most ``max_tokens`` tokens for ``shares`` ranks.

    ``lengths`` [units] tokens of each unit, ``costs`` [units] what it costs. A unit longer than ``max_tokens`` is
    alone. All shares get equally many micro-batches, empty ones where nothing is left: the fewest that waste little.
    The costliest come first. One share gets ``split_by_tokens``.

    Cutting again what was put into the order of a cut (share by share, micro-batch by micro-batch) gives the same
    micro-batches: reference and training agree (invariant 5).
    """
    if shares < 1 or len(lengths) != len(costs):
        raise ValueError(f"{shares} shares, {len(lengths)} lengths and {len(costs)} costs: need 1 or more, and equals")
    if shares == 1:
        return [split_by_tokens(lengths, max_tokens)]
    order = sorted(range(len(lengths)), key=lambda i: (-costs[i], -lengths[i], i))
    sizes, prices = [lengths[i] for i in order], [costs[i] for i in order]
    found = _best(sizes, prices, shares, max_tokens)
    return _named(_dealt(found, prices, shares), order, sizes, prices)


def lockstep_cost(cut: Cut, costs: Sequence[float]) -> float:
    """Return what ranks in lockstep pay for a cut: the largest cost of every step, summed."""
    return math.fsum(max(_total(part, costs) for part in step) for step in zip(*cut, strict=True))


def waste(cut: Cut, costs: Sequence[float]) -> float:
    """Return the share of what ``cut`` costs beyond the ideal, an equal share of all costs for every rank."""
    ideal = math.fsum(costs) / len(cut)
    return lockstep_cost(cut, costs) / ideal - 1 if ideal else 0.0


def least_cost(lengths: Sequence[int], costs: Sequence[float], shares: int, max_tokens: int) -> float:
    """Return a lower bound of ``lockstep_cost`` of any cut: units cannot be parted, and micro-batches are small.

    An equal share at least, and the two cheapest of the ``shares`` + 1 costliest units, since two of these meet on one
    rank. Units over half of ``max_tokens`` do not share a micro-batch, so that the first of each ``shares`` of them
    sets what a step takes at least; where the costliest tokens do not suffice to keep all ranks busy that long, the
    difference is wasted.
    """
    even = math.fsum(costs) / shares
    ordered = sorted(costs, reverse=True)
    pair = math.fsum(ordered[shares - 1 : shares + 1]) if len(ordered) > shares else 0.0
    alone = sorted((cost for cost, n in zip(costs, lengths, strict=True) if 2 * n > max_tokens), reverse=True)
    most = _most_cost(lengths, costs, max_tokens)
    idle, level = 0.0, 0.0
    for steps, costliest in enumerate(alone[::shares] or ordered[:1], start=1):
        level += costliest
        idle = max(idle, level - most(steps * shares) / shares)
    return max(even + idle, level, pair)


def _most_cost(lengths: Sequence[int], costs: Sequence[float], max_tokens: int) -> Callable[[int], float]:
    """Return an upper bound of what a number of micro-batches can cost together: some of them hold the costliest units
    that are too long for any other, the rest are full of the costliest tokens.
    """
    pairs = list(zip(lengths, costs, strict=True))
    long = sorted((cost for n, cost in pairs if n > max_tokens), reverse=True)
    dense = sorted(((n, cost) for n, cost in pairs if n <= max_tokens), key=lambda pair: -pair[1] / pair[0])
    tokens, spent = np.cumsum(np.array([(0.0, 0.0), *dense]), axis=0).T
    singles, alone = np.arange(len(long) + 1), np.cumsum([0.0, *long])

    def most(parts: int) -> float:
        filled = np.interp((parts - singles[: parts + 1]) * max_tokens, tokens, spent)
        return float((alone[: parts + 1] + filled).max())

    return most


def _total(part: Sequence[int], costs: Sequence[float]) -> float:
    return math.fsum(costs[i] for i in part)


def _best(sizes: list[int], prices: list[float], shares: int, max_tokens: int) -> list[list[int]]:
    """Return micro-batches, a multiple of ``shares``, of units in falling order of cost: the first tried number of
    steps that wastes little, or else the one that costs least.
    """
    bound = least_cost(sizes, prices, shares, max_tokens)
    best, least = [], math.inf
    for parts in _tried(sizes, prices, shares, max_tokens):
        price = lockstep_cost(_dealt(parts, prices, shares), prices)
        if price < least:
            best, least = parts, price
        if price <= (1 + ENOUGH) * bound:
            break
    return best


def _tried(sizes: list[int], prices: list[float], shares: int, max_tokens: int) -> Iterator[list[list[int]]]:
    """Yield packings in rising number of steps: levelled ones where they fit, and the tightest at its own number."""
    tight = _filled(sizes, max_tokens, shares)
    fewest = math.ceil(fewest_parts(sizes, max_tokens) / shares)
    last = max(len(tight) // shares, fewest + max(MORE_STEPS, fewest // 8))
    for steps in range(fewest, last + 1):
        levelled = _levelled(sizes, prices, shares, steps, max_tokens)
        if levelled is not None:
            yield levelled
        if len(tight) == steps * shares:
            yield tight


def fewest_parts(sizes: Sequence[int], max_tokens: int) -> int:
    """Return a lower bound of the micro-batches that hold units of ``sizes`` tokens."""
    fit = [size for size in sizes if size <= max_tokens]
    by_tokens = math.ceil(sum(fit) / max_tokens)
    return len(sizes) - len(fit) + max(by_tokens, sum(2 * size > max_tokens for size in fit))


def _levels(prices: list[float], shares: int, steps: int) -> list[float]:
    """Return the cost that each rank is to have in each step: equal ones, but no less than a unit that has to be there.

    ``prices`` fall. While the costliest unit left exceeds an equal share of what is left, it sets the level of a step,
    which all ranks fill.
    """
    levels: list[float] = []
    left, top = math.fsum(prices), 0
    while len(levels) < steps:
        even = left / (shares * (steps - len(levels)))
        costliest = prices[top] if top < len(prices) else 0.0
        if costliest <= even:
            return levels + [even] * (steps - len(levels))
        levels.append(costliest)
        left = max(0.0, left - shares * costliest)
        top += shares
    return levels


def _levelled(
    sizes: list[int], prices: list[float], shares: int, steps: int, max_tokens: int
) -> list[list[int]] | None:
    """Return ``steps`` * ``shares`` micro-batches, each unit (costliest first) where most is missing to the level of
    its step and it fits; ``None`` if one fits nowhere.
    """
    missing = np.repeat(np.array(_levels(prices, shares, steps)), shares)
    room = np.full(len(missing), max_tokens, np.int64)
    parts: list[list[int]] = [[] for _ in missing]
    for unit, (size, price) in enumerate(zip(sizes, prices, strict=True)):
        fits = room >= min(size, max_tokens)
        place = int(np.argmax(np.where(fits, missing, -np.inf)))
        if not fits[place]:
            return None
        parts[place].append(unit)
        missing[place] -= price
        room[place] -= size
    return parts


def _filled(sizes: list[int], max_tokens: int, shares: int) -> list[list[int]]:
    """Return few micro-batches, whatever they cost: each unit, longest first, into the fullest one that has room.
    Empty ones make them a multiple of ``shares``.
    """
    parts: list[list[int]] = []
    room = np.zeros(len(sizes), np.int64)
    for unit in sorted(range(len(sizes)), key=lambda i: (-sizes[i], i)):
        left = room[: len(parts)] - sizes[unit]
        fits = np.where(left >= 0, left, np.iinfo(np.int64).max)
        place = int(np.argmin(fits)) if len(parts) else 0
        if not len(parts) or left[place] < 0:
            place = len(parts)
            parts.append([])
            room[place] = max_tokens
        parts[place].append(unit)
        room[place] -= sizes[unit]
    return parts + [[] for _ in range(-len(parts) % shares)]


def _dealt(parts: list[list[int]], prices: list[float], shares: int) -> Cut:
    """Return micro-batches as steps of neighbours in cost, the costliest of a step to the share with the least so
    far.
    """
    totals = [_total(part, prices) for part in parts]
    order = sorted(range(len(parts)), key=lambda i: (-totals[i], i))
    dealt: Cut = [[] for _ in range(shares)]
    spent = [0.0] * shares
    for start in range(0, len(order), shares):
        least_first = sorted(range(shares), key=lambda share: (spent[share], share))
        for share, part in zip(least_first, order[start : start + shares], strict=True):
            dealt[share].append(parts[part])
            spent[share] += totals[part]
    return dealt


def _named(dealt: Cut, order: list[int], sizes: list[int], prices: list[float]) -> Cut:
    """Return the cut with the caller's numbers for units, in order of length; equal units come in order of number.

    Which of several equal units a place gets must not depend on how they were ordered before: see ``cut``.
    """
    equals: dict[tuple[int, float], list[int]] = defaultdict(list)
    for unit in reversed(range(len(order))):
        equals[sizes[unit], prices[unit]].append(order[unit])

    def named(part: list[int]) -> list[int]:
        return [equals[sizes[unit], prices[unit]].pop() for unit in sorted(part, key=lambda i: (sizes[i], prices[i]))]

    return [[named(part) for part in share] for share in dealt]
