"""Which problems are taken: piles filled alike, levels of difficulty, farthest first."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recipes.curate.config import CoverageConfig
from recipes.curate.coverage import UNKNOWN, choose, clusters_wanted, even, farthest, filled, levels_of


@given(st.lists(st.integers(0, 40), min_size=1, max_size=12), st.integers(0, 300))
def test_piles_are_filled_alike(counts: list[int], total: int) -> None:
    taken = filled(counts, total)
    assert taken.sum() == min(total, sum(counts))
    assert all(0 <= one <= most for one, most in zip(taken, counts, strict=True))
    short = [int(one) for one, most in zip(taken, counts, strict=True) if one < most]
    if short:  # who could give more gives at least as much as anyone, but for the remainder
        assert max(taken) - min(short) <= 1


def test_levels_by_pass_rate_and_else_by_the_sources_own_difficulty() -> None:
    rates = [1.0, 0.6, 0.3, 0.0, None, None, None, None, None]
    said = [None, None, None, None, 1.0, 5.0, 700.0, 900.0, None]
    found = levels_of(rates, said, [0, 0, 0, 0, 1, 1, 2, 2, 1], 2)
    assert found.tolist() == [0, 0, 1, 1, 0, 1, 0, 1, UNKNOWN]


def test_equal_difficulties_share_a_level() -> None:
    assert levels_of([None] * 4, [3.0] * 4, [0] * 4, 4).tolist() == [0, 0, 0, 0]


def test_each_level_and_in_it_each_cluster_gives_the_same() -> None:
    levels = np.repeat([0, 1], [90, 10])
    clusters = np.tile([0, 1, 2, 2, 2], 20)
    kept = choose(np.zeros((100, 2), np.float32), clusters, levels, 20, CoverageConfig(), seed=0)
    assert kept.sum() == 20
    assert kept[levels == 1].all()
    assert sorted(np.bincount(clusters[kept & (levels == 0)])) == [3, 3, 4]


def test_the_choice_is_the_seeds() -> None:
    vectors, clusters, levels = np.zeros((50, 2), np.float32), np.arange(50) % 5, np.zeros(50, np.int64)
    first, again, other = (choose(vectors, clusters, levels, 25, CoverageConfig(), seed) for seed in (1, 1, 2))
    assert (first == again).all()
    assert (first != other).any()


def test_farthest_first_takes_one_of_each_group_before_a_second() -> None:
    corners = np.eye(4, dtype=np.float32)
    vectors = np.repeat(corners, 10, axis=0) + np.random.default_rng(0).normal(0, 0.01, (40, 4)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    first = farthest(vectors, 4)
    assert sorted(first // 10) == [0, 1, 2, 3]
    assert len(set(farthest(vectors, 40).tolist())) == 40


def test_farthest_first_is_within_twice_the_best_radius() -> None:
    """The guarantee of the greedy algorithm, against all choices of three out of twelve."""
    from itertools import combinations

    vectors = np.random.default_rng(1).normal(size=(12, 3)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    between = np.linalg.norm(vectors[:, None] - vectors[None], axis=2)
    best = min(between[:, list(some)].min(1).max() for some in combinations(range(12), 3))
    assert between[:, farthest(vectors, 3)].min(1).max() <= 2 * best + 1e-6


@pytest.mark.parametrize("size", [0, 1, 7, 10, 50])
def test_even_takes_what_there_is(size: int) -> None:
    picked = even(np.array([3] * 8 + [7] * 2), size, np.random.default_rng(0))
    assert len(set(picked.tolist())) == len(picked) == min(size, 10)


def test_the_number_of_clusters_is_the_square_root_unless_it_is_given() -> None:
    assert clusters_wanted(10_000, CoverageConfig()) == 100
    assert clusters_wanted(3, CoverageConfig(clusters=8)) == 3
