"""Neighbours and clusters against plain products of numpy."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rollout.embedding.neighbours import Index, clusters
from rollout.embedding.vectors import VectorsError


def units(n: int, k: int, seed: int) -> np.ndarray:
    found = np.random.default_rng(seed).normal(size=(n, k)).astype(np.float32)
    return found / np.linalg.norm(found, axis=1, keepdims=True)


def topics(n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Vectors around 12 centres, and which."""
    draw = np.random.default_rng(seed)
    of = draw.integers(0, 12, n)
    found = units(12, 32, 99)[of] + 0.05 * draw.normal(size=(n, 32))
    return (found / np.linalg.norm(found, axis=1, keepdims=True)).astype(np.float32), of


@given(n=st.integers(1, 40), q=st.integers(0, 30), most=st.integers(1, 50), seed=st.integers(0, 1000))
@settings(max_examples=40, deadline=None)
def test_exact_neighbours_are_those_of_a_full_sort(n: int, q: int, most: int, seed: int) -> None:
    vectors, queries = units(n, 8, seed), units(q, 8, seed + 1)
    cosines, rows = Index(vectors).search(queries, most)
    full = queries.astype(np.float64) @ vectors.T.astype(np.float64)
    assert rows.shape == cosines.shape == (q, min(n, most))
    np.testing.assert_allclose(cosines, -np.sort(-full, axis=1)[:, :most], atol=1e-6)
    np.testing.assert_allclose(np.take_along_axis(full, rows, axis=1), cosines, atol=1e-6)


def test_an_inverted_file_finds_nearly_all_that_is_near() -> None:
    vectors, _ = topics(5000, 0)
    exact = Index(vectors)
    inverted = Index(vectors, exact=100, seed=3)
    assert exact.exact
    assert not inverted.exact
    true, rows = exact.search(vectors[:500], 10)
    found, theirs = inverted.search(vectors[:500], 10)
    recall = np.mean([len({*a} & {*b}) / 10 for a, b in zip(rows, theirs, strict=True)])
    assert 0.9 < recall <= 1
    assert (theirs[:, 0] == np.arange(500)).mean() > 0.99
    shared = rows == theirs
    np.testing.assert_allclose(found[shared], true[shared], atol=1e-6)


def test_an_inverted_file_of_directions_at_random_finds_the_duplicate_all_the_same() -> None:
    vectors = units(3000, 32, 0)
    close = vectors[:300] + 0.1 * units(300, 32, 1)
    close /= np.linalg.norm(close, axis=1, keepdims=True)
    _, rows = Index(vectors, exact=100).search(close, 1)
    assert (rows[:, 0] == np.arange(300)).mean() > 0.99


@pytest.mark.parametrize("exact", [100, 10_000])
def test_the_same_on_each_call_and_with_any_number_of_threads(exact: int) -> None:
    vectors, _ = topics(2000, 1)
    first, *others = (
        Index(vectors, exact=exact, seed=5, threads=threads).search(vectors[:200], 5) for threads in (1, 1, 2)
    )
    for cosines, rows in others:
        np.testing.assert_allclose(cosines, first[0], atol=1e-6)
        assert (rows == first[1]).mean() > 0.99  # equal but for rounding
    np.testing.assert_array_equal(first[1], others[0][1])


def test_threads_are_as_before_afterwards() -> None:
    import faiss

    before = faiss.omp_get_max_threads()
    Index(units(5, 4, 0), threads=before + 3).search(units(2, 4, 0), 1)
    assert faiss.omp_get_max_threads() == before


def test_what_was_not_found_is_like_nothing() -> None:
    vectors = np.repeat(np.eye(64, dtype=np.float32), 4, axis=0)
    cosines, rows = Index(vectors, exact=1).search(vectors[:1], 256)
    assert rows.shape == (1, 256)
    assert (cosines[rows < 0] == -1).all()
    assert cosines[0, :4].tolist() == [1, 1, 1, 1]


def test_clusters_are_the_topics() -> None:
    vectors, of = topics(600, 2)
    labels, cosines = clusters(vectors, 40, seed=0)
    counts = np.bincount(labels)
    assert (counts[:-1] >= counts[1:]).all()
    assert counts.min() >= 1
    for label in range(len(counts)):
        assert len({*of[labels == label]}) == 1
    assert cosines.min() > 0.9
    again, _ = clusters(vectors, 40, seed=0)
    np.testing.assert_array_equal(labels, again)


@given(n=st.integers(1, 12), k=st.integers(1, 20), seed=st.integers(0, 2**40))
@settings(max_examples=40, deadline=None)
def test_any_number_of_clusters_of_any_number_of_vectors(n: int, k: int, seed: int) -> None:
    vectors = units(n, 4, seed % 2**32)
    labels, cosines = clusters(vectors, k, seed=seed)
    assert labels.shape == cosines.shape == (n,)
    assert {*labels} == {*range(labels.max() + 1)}
    assert labels.max() < min(n, k)
    if k >= n:
        np.testing.assert_allclose(cosines, 1, atol=1e-5)


def test_one_cluster_is_the_mean() -> None:
    vectors = units(50, 4, 0)
    labels, cosines = clusters(vectors, 1)
    centre = vectors.mean(axis=0) / np.linalg.norm(vectors.mean(axis=0))
    assert not labels.any()
    np.testing.assert_allclose(cosines, vectors @ centre, atol=1e-5)


def test_equal_vectors_are_one_cluster() -> None:
    labels, cosines = clusters(np.repeat(units(2, 4, 0), [30, 20], axis=0), 10)
    assert labels.tolist() == [0] * 30 + [1] * 20
    np.testing.assert_allclose(cosines, 1, atol=1e-6)


@pytest.mark.parametrize(
    ("vectors", "said"),
    [
        (np.full((3, 4), np.nan), "vector 0 is not finite"),
        (2 * np.eye(4), "vector 0 has length 2, not 1"),
        (np.empty((0, 4)), "at least one"),
        (np.ones(4), "shape (4,)"),
    ],
)
def test_what_is_no_set_of_unit_vectors_is_said(vectors: np.ndarray, said: str) -> None:
    for use in (Index, lambda found: clusters(found, 2)):
        with pytest.raises(VectorsError) as caught:
            use(vectors)
        assert said in str(caught.value)
    with pytest.raises(VectorsError):
        Index(np.eye(3)).search(np.eye(4), 1)
    with pytest.raises(VectorsError):
        Index(np.eye(3)).search(np.eye(3), 0)


def test_whitened_means_of_length_zero_are_taken() -> None:
    vectors = np.concatenate([np.zeros((1, 4)), np.eye(4)])
    _, rows = Index(vectors).search(np.eye(4), 1)
    assert rows[:, 0].tolist() == [1, 2, 3, 4]
    assert clusters(vectors, 2)[0].shape == (5,)


def test_nothing_is_printed() -> None:
    """faiss writes to the process's own stderr when it has few points for its centres."""
    code = (
        "import numpy as np; from rollout.embedding.neighbours import *; v = np.eye(64);"
        "Index(v, exact=1).search(v, 3); clusters(v, 60); clusters(v, 64); clusters(np.repeat(v, 300, axis=0), 2)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, env=os.environ, check=True)
    assert done.stdout == done.stderr == b""
