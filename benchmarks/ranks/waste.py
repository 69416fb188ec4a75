"""How much of the ranks' time a cut wastes while they wait for each other, on lengths as rollouts have them."""

from __future__ import annotations

import random
from typing import Any

from rl.learner.balance import Cost, cut, least_cost, lockstep_cost, waste

SEQUENCES, MEDIAN, SIGMA, LONGEST, SEEDS = 64, 4_000, 0.8, 32_768, 3
"""Sequences of each rank, their median length in tokens, and the spread of its logarithm."""
MICRO_BATCH = 32_768
SEVEN_BILLION = Cost.of_model(7_000_000_000, 32, 4_096)
"""What a sequence costs a dense model of that size."""


def measure(shares: int) -> dict[str, Any]:
    """Return the largest waste over some draws of log-normal lengths for a number of ranks."""
    wasted, in_order, over_bound = [], [], []
    for seed in range(SEEDS):
        draw = random.Random(seed)
        lengths = [
            min(LONGEST, max(16, round(draw.lognormvariate(0, SIGMA) * MEDIAN))) for _ in range(SEQUENCES * shares)
        ]
        costs = [SEVEN_BILLION.of(length) for length in lengths]
        found = cut(lengths, costs, shares, MICRO_BATCH)
        wasted.append(waste(found, costs))
        over_bound.append(lockstep_cost(found, costs) / least_cost(lengths, costs, shares, MICRO_BATCH) - 1)
        in_order.append(waste(_in_order(lengths, shares), costs))
    return {
        "part": "balance",
        "shares": shares,
        "waste": round(max(wasted), 4),
        "over_lower_bound": round(max(over_bound), 4),
        "waste_in_order_of_length": round(max(in_order), 4),
    }


def _in_order(lengths: list[int], shares: int) -> list[list[list[int]]]:
    """Return the micro-batches of one process dealt out one after the other."""
    (parts,) = cut(lengths, [0.0] * len(lengths), 1, MICRO_BATCH)
    parts += [[] for _ in range(-len(parts) % shares)]
    return [parts[share::shares] for share in range(shares)]
