"""Cuts of a minibatch over ranks in lockstep: whole, within the limits, the same everywhere, and with little waste."""

from __future__ import annotations

import math
import random
from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import MixtralConfig, MixtralForCausalLM

from rl.learner.balance import (
    MORE_STEPS,
    Cost,
    cost_of,
    cut,
    fewest_parts,
    least_cost,
    lockstep_cost,
    unit_costs,
    waste,
)
from rl.learner.batch import split_by_tokens
from tests.tiny_models import tiny_llama

SEVEN_B = Cost.of_model(parameters=7_000_000_000, layers=28, width=3584)
LIMIT = 32_768

lengths_of_units = st.lists(st.integers(1, 300), max_size=60)
shares_of_ranks = st.integers(1, 9)
limits = st.integers(1, 400)


def costs_of(lengths: list[int]) -> list[float]:
    return unit_costs(lengths, 1, Cost(1.0, 0.01))


def drawn(units: int, sigma: float, seed: int, longest: int = LIMIT) -> list[int]:
    """Return log-normal lengths, as responses of reasoning models have them, no longer than ``longest``."""
    lengths = np.random.default_rng(seed).lognormal(np.log(3000), sigma, units)
    return np.clip(lengths, 64, longest).astype(int).tolist()


@settings(deadline=None)
@given(lengths_of_units, shares_of_ranks, limits)
def test_every_unit_is_in_one_micro_batch_within_the_limit(lengths: list[int], shares: int, limit: int) -> None:
    found = cut(lengths, costs_of(lengths), shares, limit)
    parts = [part for share in found for part in share]
    assert sorted(unit for part in parts for unit in part) == list(range(len(lengths)))
    assert all(sum(lengths[unit] for unit in part) <= limit or len(part) == 1 for part in parts)


@settings(deadline=None)
@given(lengths_of_units, shares_of_ranks, limits)
def test_all_shares_have_equally_many_micro_batches_and_no_step_is_idle(
    lengths: list[int], shares: int, limit: int
) -> None:
    found = cut(lengths, costs_of(lengths), shares, limit)
    assert len(found) == shares
    assert len({len(share) for share in found}) == 1
    assert all(any(step) for step in zip(*found, strict=True))


@settings(deadline=None)
@given(lengths_of_units, limits)
def test_one_share_gets_the_cut_of_one_rank(lengths: list[int], limit: int) -> None:
    assert cut(lengths, costs_of(lengths), 1, limit) == [split_by_tokens(lengths, limit)]


@settings(deadline=None)
@given(lengths_of_units, shares_of_ranks, limits)
def test_a_minibatch_in_the_order_of_its_cut_is_cut_alike(lengths: list[int], shares: int, limit: int) -> None:
    found = cut(lengths, costs_of(lengths), shares, limit)
    assert cut(lengths, costs_of(lengths), shares, limit) == found
    order = [unit for share in found for part in share for unit in part]
    ordered = [lengths[unit] for unit in order]
    again = cut(ordered, costs_of(ordered), shares, limit)
    assert [[[order[place] for place in part] for part in share] for share in again] == found


@settings(deadline=None)
@given(lengths_of_units, shares_of_ranks, limits, st.randoms(use_true_random=False))
def test_what_a_step_costs_does_not_depend_on_the_order_of_the_units(
    lengths: list[int], shares: int, limit: int, order: random.Random
) -> None:
    mixed = list(lengths)
    order.shuffle(mixed)

    def shape(lengths: list[int]) -> list[list[list[int]]]:
        found = cut(lengths, costs_of(lengths), shares, limit)
        return [[[lengths[unit] for unit in part] for part in share] for share in found]

    assert shape(lengths) == shape(mixed)


@settings(max_examples=20, deadline=None)
@given(st.lists(st.integers(1, 20), min_size=1, max_size=4), st.integers(2, 3), st.integers(5, 30))
def test_no_cut_costs_less_than_the_bound(lengths: list[int], shares: int, limit: int) -> None:
    costs = costs_of(lengths)
    bound = least_cost(lengths, costs, shares, limit) * (1 - 1e-12)
    assert lockstep_cost(cut(lengths, costs, shares, limit), costs) >= bound
    steps = min(3, len(lengths))
    for places in product(range(steps * shares), repeat=len(lengths)):
        parts = [[unit for unit, place in enumerate(places) if place == part] for part in range(steps * shares)]
        if all(len(part) < 2 or sum(lengths[unit] for unit in part) <= limit for part in parts):
            anyone = [parts[share * steps : (share + 1) * steps] for share in range(shares)]
            assert lockstep_cost(anyone, costs) >= bound


@pytest.mark.parametrize("shares", [2, 4, 8, 16, 32, 64])
@pytest.mark.parametrize("units", [64, 256, 1024, 4096])
def test_at_most_a_twentieth_is_wasted_where_units_are_small_enough(shares: int, units: int) -> None:
    """Eight units a share at least. Where even the bound wastes (one unit outweighs a rank's share of the work, or
    fills a micro-batch with costlier tokens than others can), the cut stays as close to the bound.
    """
    if units < 8 * shares:
        return
    for sigma, seed, limit in product((0.6, 0.9, 1.2), range(2 if units < 4096 else 1), (LIMIT, 2 * LIMIT)):
        lengths = drawn(units, sigma, seed)
        costs = unit_costs(lengths, 1, SEVEN_B)
        found = cut(lengths, costs, shares, limit)
        ideal, bound = math.fsum(costs) / shares, least_cost(lengths, costs, shares, limit)
        assert lockstep_cost(found, costs) <= 1.05 * bound
        if bound <= 1.001 * ideal:
            assert waste(found, costs) <= 0.05


def test_parts_are_as_few_as_fit_or_waste_less() -> None:
    for shares, sigma, seed in product((2, 8, 32), (0.6, 1.2), range(3)):
        lengths = drawn(1024, sigma, seed)
        steps = len(cut(lengths, unit_costs(lengths, 1, SEVEN_B), shares, LIMIT)[0])
        fewest = math.ceil(fewest_parts(lengths, LIMIT) / shares)
        assert fewest <= steps <= fewest + max(MORE_STEPS, fewest // 8)


def test_the_order_of_length_wastes_what_the_cut_saves() -> None:
    lengths = drawn(512, 0.9, 0)
    costs = unit_costs(lengths, 1, SEVEN_B)
    parts = split_by_tokens(lengths, LIMIT)
    parts += [[] for _ in range(-len(parts) % 8)]
    assert waste([parts[share::8] for share in range(8)], costs) > 0.1
    assert waste(cut(lengths, costs, 8, LIMIT), costs) < 0.05


def test_a_long_unit_is_alone_and_others_get_dummies() -> None:
    assert cut([50], [50.0], 3, 10) == [[[0]], [[]], [[]]]
    assert cut([], [], 2, 10) == [[], []]
    found = cut([50, 4, 4], [50.0, 4.0, 4.0], 2, 10)
    assert sorted(part for share in found for part in share) == [[0], [1, 2]]


def test_equal_units_spread_evenly() -> None:
    found = cut([10] * 12, [1.0] * 12, 3, 20)
    assert [[len(part) for part in share] for share in found] == [[2, 2]] * 3


def test_nonsense_is_refused() -> None:
    with pytest.raises(ValueError, match="0 shares"):
        cut([1], [1.0], 0, 10)
    with pytest.raises(ValueError, match="2 lengths and 1 costs"):
        cut([1, 2], [1.0], 2, 10)


def test_the_cost_of_a_model() -> None:
    """6 FLOPs a parameter and token; 12 * width a layer and pair of tokens, for half of the pairs."""
    cost = Cost.of_model(parameters=100, layers=2, width=8)
    assert cost.of(10) == 6 * 100 * 10 + 12 * 2 * 8 * (10 * 10) / 2
    assert unit_costs([1, 2, 3, 4], 2, Cost(1.0, 1.0)) == [2 + 6, 12 + 20]


@pytest.mark.parametrize("tied", [True, False])
def test_the_cost_of_a_dense_model_counts_the_head_once_and_no_lookup(tied: bool) -> None:
    """Width 64, two heads of 32 with one of keys and values, 96 in the middle, vocabulary 32, two layers."""
    layer = 64 * 64 + 2 * 64 * 32 + 64 * 64 + 3 * 64 * 96
    assert cost_of(tiny_llama(tied=tied)) == Cost.of_model(2 * layer + 32 * 64, layers=2, width=64)


def test_idle_experts_cost_nothing() -> None:
    with torch.device("meta"):
        config = MixtralConfig(
            vocab_size=32,
            hidden_size=64,
            intermediate_size=96,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=1,
            num_local_experts=8,
            num_experts_per_tok=2,
        )
        model = MixtralForCausalLM(config)
    layer = 64 * 64 + 2 * 64 * 32 + 64 * 64 + 2 * 3 * 64 * 96 + 8 * 64
    assert cost_of(model) == Cost.of_model(2 * layer + 32 * 64, layers=2, width=64)
