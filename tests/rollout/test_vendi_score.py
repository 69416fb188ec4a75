"""The effective number of different vectors against closed forms, and the vectors of responses without a model."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rollout.embedding.bag import BITS, DIMENSION, bags, mixed
from rollout.embedding.diversity import effective_rank, vendi_score
from rollout.embedding.vectors import VectorsError
from rollout.embedding.whitening import Moments

SEEDS = st.integers(0, 2**32 - 1)


def drawn(seed: int, k: int, d: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(k, d))


@pytest.mark.parametrize("k", [1, 2, 8, 64])
def test_the_same_vectors_are_one_and_orthogonal_ones_are_k(k: int) -> None:
    assert vendi_score(np.tile(drawn(0, 1, 64), (k, 1))) == pytest.approx(1, abs=1e-9)
    assert vendi_score(np.linalg.qr(drawn(1, 64, k))[0].T) == pytest.approx(k)


def test_two_vectors_by_their_cosine() -> None:
    """The Gram matrix [[1, c], [c, 1]] has the eigenvalues 1 + c and 1 - c."""
    for c in (0.0, 0.3, 0.9, -0.5):
        shares = np.array([1 + c, 1 - c]) / 2
        vectors = np.array([[1, 0], [c, (1 - c * c) ** 0.5]])
        assert vendi_score(vectors) == pytest.approx(np.exp(-(shares * np.log(shares)).sum()))


def test_groups_of_copies_count_by_their_sizes() -> None:
    """Four of one, three of another, one of a third: exp of the entropy of (1/2, 3/8, 1/8)."""
    vectors = np.repeat(np.eye(3), [4, 3, 1], axis=0)
    assert vendi_score(vectors) == pytest.approx(2**0.5 * (8 / 3) ** (3 / 8) * 8 ** (1 / 8))


@given(SEEDS, st.integers(1, 12), st.integers(1, 12))
@settings(max_examples=60, deadline=None)
def test_it_lies_between_one_and_the_smaller_side_and_forgets_order_scale_and_rotation(
    seed: int, k: int, d: int
) -> None:
    vectors = drawn(seed, k, d)
    found = vendi_score(vectors)
    assert 1 <= found <= min(k, d) * (1 + 1e-12)
    rotation = np.linalg.qr(drawn(seed + 1, d, d))[0]
    order = np.random.default_rng(seed).permutation(k)
    assert vendi_score(-7.5 * vectors[order] @ rotation) == pytest.approx(found)
    assert vendi_score(np.concatenate([vectors, vectors])) == pytest.approx(found), "all of them twice"
    singular = np.linalg.svd(vectors, compute_uv=False) ** 2
    shares = singular / singular.sum()
    assert found == pytest.approx(np.exp(-(shares * np.log(shares)).sum()))


def test_vectors_of_no_length_are_alike_and_what_cannot_be_measured_is_refused() -> None:
    assert vendi_score(np.zeros((4, 3))) == 1
    assert vendi_score(np.concatenate([np.eye(3), np.zeros((2, 3))])) == pytest.approx(3)
    for wrong in (np.zeros((0, 3)), np.ones(3), np.array([[1.0, np.nan]])):
        with pytest.raises(VectorsError, match="vector"):
            vendi_score(wrong)


@given(st.lists(st.lists(st.integers(0, 200_000), min_size=1, max_size=40), min_size=1, max_size=6))
@settings(max_examples=60, deadline=None)
def test_vectors_are_the_mean_of_signs_that_belong_to_tokens_and_pairs(responses: list[list[int]]) -> None:
    found = bags([np.array(response, np.int32) for response in responses])
    assert found.shape == (len(responses), DIMENSION)
    for row, response in zip(found, responses, strict=True):
        pairs = [*zip([2**32 - 1, *response], response, strict=False)]
        expected = [signs(token) for token in response], [signs((a << 32) | b) for a, b in pairs]
        np.testing.assert_allclose(row, np.concatenate([np.mean(each, axis=0) for each in expected]), atol=1e-12)


def signs(key: int) -> list[int]:
    """Splitmix64 in Python's own integers, and the bits of its lower half, from the highest of each byte on."""
    key = (key + 0x9E3779B97F4A7C15) % 2**64
    key = ((key ^ (key >> 30)) * 0xBF58476D1CE4E5B9) % 2**64
    key = ((key ^ (key >> 27)) * 0x94D049BB133111EB) % 2**64
    key ^= key >> 31
    return [1 if key >> (8 * byte + bit) & 1 else -1 for byte in range(4) for bit in reversed(range(8))]


def test_the_bits_are_those_of_the_published_generator() -> None:
    """The first numbers of splitmix64 from the state 0, as in Vigna's splitmix64.c."""
    golden = 0x9E3779B97F4A7C15
    states = np.array([0, golden, 2 * golden % 2**64], np.uint64)
    assert mixed(states).tolist() == [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F]


def test_the_order_of_tokens_counts_and_directions_of_different_ones_are_independent() -> None:
    forth, back = bags([np.array([5, 6, 7], np.int32), np.array([7, 6, 5], np.int32)])
    assert np.array_equal(forth[:BITS], back[:BITS])
    assert not np.array_equal(forth[BITS:], back[BITS:])
    single = bags([np.array([token], np.int32) for token in range(400)])
    cosines = (single @ single.T / DIMENSION)[np.triu_indices(400, 1)]
    assert abs(cosines.mean()) < 0.002
    assert cosines.std() == pytest.approx(DIMENSION**-0.5, rel=0.05)
    with pytest.raises(ValueError, match="without tokens"):
        bags([np.empty(0, np.int32)])


def test_moments_of_responses_streamed_by_iteration_are_those_of_all_at_once() -> None:
    draw = np.random.default_rng(3)
    vectors = bags([draw.integers(0, 50, draw.integers(1, 60)).astype(np.int32) for _ in range(300)])
    streamed = Moments.empty(DIMENSION)
    for start in range(0, 300, 37):
        streamed = streamed.partial_fit(vectors[start : start + 37])
    np.testing.assert_allclose(streamed.scatter, np.cov(vectors, rowvar=False) * 299, atol=1e-10)
    np.testing.assert_allclose(streamed.mean, vectors.mean(axis=0), atol=1e-13)


def test_it_sees_how_far_apart_vectors_are_which_the_rank_of_the_centred_ones_does_not() -> None:
    draw = np.random.default_rng(5)
    nearly = np.ones((8, 64)) / 8 + 1e-4 * draw.normal(size=(8, 64))
    assert effective_rank(nearly) > 6
    assert vendi_score(nearly) == pytest.approx(1, abs=1e-4)
    one_other = np.repeat(np.eye(2), [7, 1], axis=0)
    assert effective_rank(one_other) == pytest.approx(1)
    assert vendi_score(one_other) == pytest.approx(8 / 7 ** (7 / 8))
