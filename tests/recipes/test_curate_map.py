"""The map of a curation: neighbours stay neighbours, the same every time, and no input breaks it."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from recipes.curate.map import chosen_points, project


def clusters(count: int, each: int, k: int = 16) -> NDArray[np.float32]:
    """``each`` rows near each of ``count`` centres [count * each, k]."""
    draw = np.random.default_rng(0)
    centres = np.repeat(draw.normal(size=(count, k)), each, axis=0)
    return (centres + 0.05 * draw.normal(size=centres.shape)).astype(np.float32)


def neighbours(places: NDArray[np.float32]) -> NDArray[np.int64]:
    gaps = np.linalg.norm(places[:, None] - places[None], axis=2)
    np.fill_diagonal(gaps, np.inf)
    return gaps.argmin(axis=1)


@pytest.fixture(scope="module")
def mapped() -> NDArray[np.float32]:
    return project(clusters(6, 20), 0)


def test_clusters_stay_together(mapped: NDArray[np.float32]) -> None:
    assert mapped.dtype == np.float32
    assert mapped.shape == (120, 2)
    assert (neighbours(mapped) // 20 == np.arange(120) // 20).all()


def test_the_map_fills_its_frame_and_is_the_same_again(mapped: NDArray[np.float32]) -> None:
    sides = mapped.max(axis=0) - mapped.min(axis=0)
    assert sides.max() == pytest.approx(2)
    assert (mapped.max(axis=0) + mapped.min(axis=0)) == pytest.approx(0, abs=1e-6)
    assert (project(clusters(6, 20), 0) == mapped).all()


def test_scale_does_not_matter_and_large_numbers_do_no_harm(mapped: NDArray[np.float32]) -> None:
    large = project(clusters(6, 20) * np.float32(2.0**120), 0)  # a power of two: no other rounding
    assert (large == mapped).all()


def test_rows_that_are_no_numbers_have_no_place() -> None:
    vectors = clusters(6, 20)
    vectors[[3, 7], [0, 5]] = np.nan, np.inf
    found = project(vectors, 0)
    assert set(np.flatnonzero(np.isnan(found).any(axis=1))) == {3, 7}
    others = np.delete(np.arange(120), [3, 7])
    assert (neighbours(found[others]) >= 0).all()
    assert np.isfinite(found[others]).all()
    assert np.isnan(project(np.full((3, 2), np.nan, np.float32), 0)).all()


@pytest.mark.parametrize("shape", [(0, 4), (1, 4), (2, 4), (3, 1), (4, 2), (5, 3), (6, 8), (40, 1), (3, 0)])
def test_few_rows_and_few_columns(shape: tuple[int, int]) -> None:
    vectors = np.random.default_rng(1).normal(size=shape).astype(np.float32)
    found = project(vectors, 0)
    assert found.shape == (shape[0], 2)
    assert np.isfinite(found).all()
    assert np.abs(found).max(initial=0) <= 1 + 1e-6


def test_equal_rows_all_lie_in_the_middle() -> None:
    for rows in (1, 3, 50):
        assert (project(np.full((rows, 8), 0.3, np.float32), 0) == 0).all()


def test_rows_along_a_line_lie_along_a_line() -> None:
    along = np.arange(20, dtype=np.float32)
    found = project(np.outer(along, [1, 2, 2]).astype(np.float32), 0)
    assert np.abs(found[:, 1]).max() < 1e-6
    assert np.abs(found[:, 0]) == pytest.approx(np.abs(along / 9.5 - 1), abs=1e-5)


def test_four_points_are_where_principal_components_have_them() -> None:
    vectors = np.array([[0, 0], [4, 0], [0, 2], [4, 2]], np.float32)
    assert project(vectors, 0) == pytest.approx(np.array([[-1, -0.5], [1, -0.5], [-1, 0.5], [1, 0.5]]), abs=1e-6)


def test_vectors_must_be_a_table() -> None:
    with pytest.raises(ValueError, match=r"\[n, k\]"):
        project(np.zeros(3, np.float32), 0)


@given(st.lists(st.sampled_from("aaaaaaaabbbc"), max_size=80), st.integers(0, 90), st.integers(0, 3), st.randoms())
def test_a_choice_is_of_the_rows_each_once(strata: list[str], limit: int, seed: int, shuffle: object) -> None:
    numbers = [3 * i for i in range(len(strata))]
    found = chosen_points(numbers, strata, limit, seed)
    assert found == sorted(set(found))
    assert set(found) <= set(numbers)
    assert len(found) == min(limit, len(numbers))
    order = list(range(len(numbers)))
    shuffle.shuffle(order)  # type: ignore[attr-defined]
    assert chosen_points([numbers[i] for i in order], [strata[i] for i in order], limit, seed) == found


def test_rare_strata_are_to_be_seen_and_the_rest_goes_by_size() -> None:
    strata = ["rare"] * 10 + ["some"] * 1_000 + ["many"] * 98_990
    found = Counter(strata[i] for i in chosen_points(range(100_000), strata, 1_000, 0))
    assert found["rare"] == 10, "fewer than its third of the half that is shared alike"
    assert found["some"] == 245 + round(500 * 755 / (755 + 98_745)), "the half's rest is shared by the other two"
    assert sum(found.values()) == 1_000


def test_other_seeds_choose_other_rows() -> None:
    chosen = [chosen_points(range(1_000), ["a"] * 1_000, 50, seed) for seed in (0, 0, 1)]
    assert chosen[0] == chosen[1] != chosen[2]
    with pytest.raises(ValueError, match="3 rows and 2 strata"):
        chosen_points([1, 2, 3], ["a", "b"], 2, 0)
