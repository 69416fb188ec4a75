"""The effective rank against closed forms and its invariances."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rollout.embedding.diversity import effective_rank
from rollout.embedding.vectors import VectorsError

SHAPES = {"k": st.integers(1, 9), "d": st.integers(1, 9), "seed": st.integers(0, 2**32 - 1)}


def drawn(k: int, d: int, seed: int) -> np.ndarray:
    draw = np.random.default_rng(seed)
    return draw.normal(size=(k, d)) * draw.uniform(0.1, 3, d) + draw.normal(size=d)


@pytest.mark.parametrize("k", [1, 2, 3, 8, 64])
def test_orthogonal_responses_have_rank_k_less_one(k: int) -> None:
    rotation = np.linalg.qr(np.random.default_rng(k).normal(size=(100, 100)))[0]
    assert effective_rank(np.eye(k)) == pytest.approx(max(1, k - 1))
    assert effective_rank((5 * rotation[:k]).astype(np.float32)) == pytest.approx(max(1, k - 1), rel=1e-5)


@pytest.mark.parametrize("k", [0, 1, 2, 8])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_identical_responses_have_rank_one(k: int, dtype: type) -> None:
    vector = np.random.default_rng(0).normal(size=(1, 384)).astype(dtype)
    assert effective_rank(np.repeat(vector, k, axis=0)) == 1.0
    assert effective_rank(np.zeros((k, 3), dtype)) == 1.0


def test_two_answers_in_many_copies_have_rank_one() -> None:
    """A group that says two things spreads along one line."""
    assert effective_rank(np.repeat(np.eye(2), 4, axis=0)) == pytest.approx(1)
    assert effective_rank(np.repeat(np.eye(3), 4, axis=0)) == pytest.approx(2)


def test_unequal_spread_is_the_exponential_of_the_entropy() -> None:
    rows = np.array([[3.0, 0], [-3, 0], [0, 1], [0, -1]])  # eigenvalues 18 and 2
    assert effective_rank(rows) == pytest.approx(np.exp(-0.9 * np.log(0.9) - 0.1 * np.log(0.1)))


@given(**SHAPES)
@settings(max_examples=80, deadline=None)
def test_it_is_that_of_the_covariance_and_within_its_bounds(k: int, d: int, seed: int) -> None:
    rows = drawn(k, d, seed)
    found = effective_rank(rows)
    assert 1 - 1e-9 <= found <= max(1, min(k - 1, d)) * (1 + 1e-9)
    if k > 1:
        shares = np.linalg.svd(rows - rows.mean(axis=0), compute_uv=False) ** 2
        shares = shares[shares > 1e-14 * shares.sum()] / shares.sum()
        assert found == pytest.approx(np.exp(-np.sum(shares * np.log(shares))), rel=1e-6)


@given(**SHAPES, scale=st.sampled_from([1e-3, 1.0, 1e3]))
@settings(max_examples=60, deadline=None)
def test_moving_turning_scaling_and_reordering_change_nothing(k: int, d: int, seed: int, scale: float) -> None:
    rows, draw = drawn(k, d, seed), np.random.default_rng(seed + 1)
    turned = np.linalg.qr(draw.normal(size=(d, d)))[0]
    changed = scale * (draw.permutation(rows) @ turned + draw.normal(size=d))
    assert effective_rank(changed) == pytest.approx(effective_rank(rows), rel=1e-5)


@given(**SHAPES)
@settings(max_examples=30, deadline=None)
def test_every_response_twice_has_the_same_rank(k: int, d: int, seed: int) -> None:
    rows = drawn(k, d, seed)
    assert effective_rank(np.concatenate([rows, rows])) == pytest.approx(effective_rank(rows), rel=1e-5)


@pytest.mark.parametrize("bad", [np.full((2, 3), np.nan), np.ones(3), np.ones((1, 2, 3)), np.array(1.0)])
def test_what_are_no_vectors_is_refused(bad: np.ndarray) -> None:
    with pytest.raises(VectorsError):
        effective_rank(bad)
