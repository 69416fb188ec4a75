"""Whitening against closed forms, numpy and scikit-learn."""

from __future__ import annotations

from contextlib import suppress
from functools import reduce
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import spearmanr

from rollout.embedding.config import WhiteningConfig
from rollout.embedding.null import null_from, null_of
from rollout.embedding.vectors import ROWS, VectorsError
from rollout.embedding.whitening import Moments, Whitener, fit, moments


def anisotropic(n: int, d: int, seed: int) -> np.ndarray:
    """A large common mean, correlated and unequal variances."""
    draw = np.random.default_rng(seed)
    rotation = np.linalg.qr(draw.normal(size=(d, d)))[0]
    return draw.normal(size=(n, d)) * np.geomspace(1, 0.02, d) @ rotation + 5 * draw.normal(size=d)


def fitted(vectors: np.ndarray, k: int | None = None, shrink: float | None = None) -> Whitener:
    return fit(vectors, WhiteningConfig(k=k, shrink=shrink))


def covariance(vectors: np.ndarray) -> np.ndarray:
    return np.atleast_2d(np.cov(vectors, rowvar=False))


@pytest.mark.parametrize("k", [1, 7, 24])
def test_the_covariance_becomes_the_identity(k: int) -> None:
    vectors = anisotropic(400, 24, 0)
    mapped = fitted(vectors, k).project(vectors)
    assert np.abs(mapped.mean(axis=0)).max() < 1e-8
    assert np.abs(covariance(mapped) - np.eye(k)).max() < 1e-8


def test_as_the_principal_components_of_scikit_learn() -> None:
    from sklearn.decomposition import PCA

    vectors, fresh = anisotropic(400, 24, 1), anisotropic(50, 24, 2)
    peer = PCA(n_components=8, whiten=True, svd_solver="full").fit(vectors)
    own = fitted(vectors, 8)
    np.testing.assert_allclose(own.variances, peer.explained_variance_, rtol=1e-9)
    signs = np.sign(np.sum(own.matrix * peer.components_.T, axis=0))
    np.testing.assert_allclose(own.project(fresh), peer.transform(fresh) * signs, rtol=1e-7, atol=1e-7)


def test_as_the_authors_compute_kernel_bias() -> None:
    vectors = anisotropic(400, 24, 3)
    u, s, _ = np.linalg.svd(np.cov(vectors.T))  # bojone/BERT-whitening, eng/utils.py
    theirs = (vectors - vectors.mean(axis=0)) @ np.dot(u, np.diag(s**-0.5))[:, :8]
    theirs /= np.clip((theirs**2).sum(axis=1, keepdims=True) ** 0.5, 1e-8, np.inf)
    ours = fitted(vectors, 8).transform(vectors)
    assert ours.dtype == np.float32
    np.testing.assert_allclose(ours @ ours.T, theirs @ theirs.T, atol=1e-5)


@given(
    seed=st.integers(0, 2**32 - 1),
    d=st.integers(1, 6),
    cuts=st.lists(st.integers(0, 60), min_size=0, max_size=5),
    shift=st.sampled_from([0.0, 1.0, 1e4]),
)
@settings(max_examples=60, deadline=None)
def test_batches_and_shards_give_the_moments_of_one_pass(seed: int, d: int, cuts: list[int], shift: float) -> None:
    vectors = np.random.default_rng(seed).normal(size=(60, d)) + shift
    whole = Moments.empty(d).partial_fit(vectors)
    parts = [vectors[start:end] for start, end in pairwise([0, *sorted(cuts), 60])]
    shards = reduce(Moments.merge, [Moments.empty(d).partial_fit(part) for part in parts])
    for found in (moments(parts, d), shards):
        assert found.count == 60
        np.testing.assert_allclose(found.mean, vectors.mean(axis=0), rtol=1e-13, atol=1e-13)
        np.testing.assert_allclose(found.scatter, whole.scatter, rtol=1e-10, atol=1e-10)
    np.testing.assert_allclose(whole.scatter, covariance(vectors) * 59, rtol=1e-9, atol=1e-9)


def test_one_vector_at_a_time_is_not_the_biased_recursion_of_the_paper() -> None:
    vectors = anisotropic(500, 8, 4)
    streamed = moments([row[None] for row in vectors], 8)
    np.testing.assert_allclose(streamed.scatter, covariance(vectors) * 499, rtol=1e-12, atol=1e-10)


def test_more_vectors_than_are_computed_with_at_a_time() -> None:
    vectors = anisotropic(ROWS + 100, 3, 5).astype(np.float32)
    own = fitted(vectors, 3)
    assert np.abs(covariance(own.project(vectors)) - np.eye(3)).max() < 1e-8
    np.testing.assert_array_equal(own.transform(vectors)[ROWS:], own.transform(vectors[ROWS:]))
    assert own.transform(vectors[:0]).shape == (0, 3)


@given(seed=st.integers(0, 2**32 - 1), d=st.integers(1, 8))
@settings(max_examples=30, deadline=None)
def test_with_an_identity_covariance_cosines_stay(seed: int, d: int) -> None:
    draw = np.random.default_rng(seed)
    rows = np.concatenate([np.eye(d), -np.eye(d)]) * np.sqrt((2 * d - 1) / 2)
    own = fitted(rows, d, 0.0)
    np.testing.assert_allclose(own.matrix @ own.matrix.T, np.eye(d), atol=1e-12)
    fresh = draw.normal(size=(5, d))
    unit = fresh / np.linalg.norm(fresh, axis=1, keepdims=True)
    mapped = own.transform(fresh)
    np.testing.assert_allclose(mapped @ mapped.T, unit @ unit.T, atol=1e-5)


def test_cosines_in_a_space_of_latent_rank_order_as_published() -> None:
    """4,000 pairs in 128 dimensions of latent rank 32, under a mean, unequal scales and noise: the best k is the rank,
    and whitening all directions is worse than that.
    """
    draw = np.random.default_rng(0)
    latent = draw.normal(size=(4000, 32))
    partner = latent * 0.6 + 0.8 * draw.normal(size=(4000, 32))
    mix = np.geomspace(3, 0.3, 32)[:, None] * np.linalg.qr(draw.normal(size=(128, 128)))[0][:32]
    common = 3 * draw.normal(size=128)
    left, right = (z @ mix + 0.1 * draw.normal(size=(4000, 128)) + common for z in (latent, partner))
    truth = np.sum(latent * partner, axis=1) / np.linalg.norm(latent, axis=1) / np.linalg.norm(partner, axis=1)
    pool = np.concatenate([left, right])

    def spearman(a: np.ndarray, b: np.ndarray) -> float:
        cosines = np.sum(a * b, axis=1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
        return float(spearmanr(cosines, truth).statistic)

    scores = {k: spearman(own.project(left), own.project(right)) for k in (8, 32, 128) for own in [fitted(pool, k)]}
    raw = spearman(left, right)
    assert raw < scores[8] < scores[32]
    assert scores[128] < scores[32]
    assert scores[32] > 0.93
    assert raw < 0.8


def test_a_third_of_the_directions_unless_told() -> None:
    assert fitted(anisotropic(400, 24, 0)).k == 8
    assert fitted(anisotropic(400, 1, 0)).k == 1
    flat = anisotropic(400, 24, 0)
    flat[:, 3:] = 1.0
    assert fitted(flat).k == 3  # and never more than there are
    assert Moments.empty(24).partial_fit(flat).rank() == 3
    assert Moments.empty(24).rank() == 0


def test_few_vectors_are_shrunk_unless_told() -> None:
    assert fitted(anisotropic(240, 24, 0)).shrink == 0
    few = anisotropic(239, 24, 0)
    own = fitted(few, 24)
    assert own.shrink == 0.05
    sigma = covariance(few)
    shrunk = 0.95 * sigma + 0.05 * np.trace(sigma) / 24 * np.eye(24)
    np.testing.assert_allclose(own.matrix.T @ shrunk @ own.matrix, np.eye(24), atol=1e-9)
    assert np.abs(fitted(anisotropic(20, 24, 0)).matrix).max() < 50  # without: 1e6 and more


def test_wholly_shrunk_it_only_centres() -> None:
    vectors = anisotropic(400, 6, 0)
    own = fitted(vectors, 6, 1.0)
    centred = vectors - vectors.mean(axis=0)
    centred /= np.linalg.norm(centred, axis=1, keepdims=True)
    mapped = own.transform(vectors)
    np.testing.assert_allclose(mapped @ mapped.T, centred @ centred.T, atol=1e-5)


def test_what_lies_on_the_mean_is_like_nothing() -> None:
    vectors = np.concatenate([np.eye(4), -np.eye(4)])
    mapped = fitted(vectors, 4, 0.0).transform(np.zeros((1, 4)))
    assert np.array_equal(mapped, np.zeros((1, 4)))


@pytest.mark.parametrize(
    ("vectors", "k", "shrink", "said"),
    [
        (np.ones((1, 3)), None, None, "1 vectors have no covariance"),
        (np.ones((0, 3)), None, None, "0 vectors have no covariance"),
        (np.full((50, 3), 0.1), None, None, "all 50 vectors are the same"),
        (np.zeros((50, 3)), None, None, "all 50 vectors are the same"),
        (anisotropic(5, 5, 0), None, 0.0, "singular"),
        (anisotropic(5, 5, 0), 5, None, "span 4 directions only"),
        (anisotropic(50, 3, 0), 4, None, "k = 4"),
        (np.full((50, 3), np.nan), None, None, "vector 0 is not finite"),
        (np.array([[0.0, 1], [1, 0], [np.inf, 0]]), None, None, "vector 2 is not finite"),
        (np.array([[1e200, 1], [1, 0], [0, -1e200]]), None, None, "too large"),
        (np.ones(3), None, None, "expected [n, d]"),
    ],
)
@pytest.mark.filterwarnings("ignore:overflow:RuntimeWarning", "ignore:invalid:RuntimeWarning")
def test_what_cannot_be_whitened_is_said(vectors: np.ndarray, k: int | None, shrink: float | None, said: str) -> None:
    with pytest.raises(VectorsError) as caught:
        fitted(vectors, k, shrink)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_another_dimension_is_refused() -> None:
    own = fitted(anisotropic(100, 4, 0))
    with pytest.raises(VectorsError, match=r"expected \[n, 4\]"):
        own.transform(np.ones((2, 5)))
    with pytest.raises(VectorsError, match="do not merge"):
        Moments.empty(4).merge(Moments.empty(5))
    with pytest.raises(VectorsError, match=r"expected \[n, 4\]"):
        Moments.empty(4).partial_fit(np.ones((2, 5)))


def test_a_saved_map_is_the_same_map(tmp_path: Path) -> None:
    own, file = fitted(anisotropic(100, 9, 0)), tmp_path / "map.npz"
    own.save(file)
    found = Whitener.load(file)
    for name in ("mean", "matrix", "variances", "count", "shrink"):
        np.testing.assert_array_equal(getattr(found, name), getattr(own, name))
    assert list(tmp_path.iterdir()) == [file]


def test_a_broken_map_is_said(tmp_path: Path) -> None:
    file = tmp_path / "map.npz"
    with pytest.raises(VectorsError, match="no such file"):
        Whitener.load(file)
    fitted(anisotropic(100, 9, 0)).save(file)
    whole = file.read_bytes()
    kept = dict(np.load(file))
    draw = np.random.default_rng(0)
    for broken in [b"", b"text", whole[:100], whole[:-100], whole[: len(whole) // 2]]:
        file.write_bytes(broken)
        with pytest.raises(VectorsError, match="fit it again"):
            Whitener.load(file)
    for at in draw.integers(0, len(whole), 300):
        file.write_bytes(whole[:at] + bytes([whole[at] ^ 0xFF]) + whole[at + 1 :])
        with suppress(VectorsError):  # and some bytes of a zip file mean nothing
            Whitener.load(file)
    for change, said in [
        ({"version": 2}, "version 2"),
        ({"mean": np.ones(3)}, "do not fit"),
        ({"matrix": np.full((9, 3), np.nan)}, "do not fit"),
    ]:
        np.savez(file, **{**kept, **change})
        with pytest.raises(VectorsError, match=said):
            Whitener.load(file)


def test_random_pairs_have_the_normal_null_of_k_dimensions() -> None:
    vectors = anisotropic(3000, 32, 0)
    null = null_of(fitted(vectors, 32).transform(vectors), seed=0, pairs=200_000)
    assert abs(null.mean) < 0.01
    assert null.deviation == pytest.approx(32**-0.5, rel=0.03)
    assert null.threshold(0.999) == pytest.approx(3.09 * 32**-0.5, rel=0.06)
    again = null_of(fitted(vectors, 32).transform(vectors), seed=0, pairs=200_000)
    np.testing.assert_array_equal(null.cosines, again.cosines)


def test_all_pairs_where_they_are_few() -> None:
    unit = np.eye(5)
    unit[1] = unit[0]
    null = null_of(unit, seed=0)
    assert null.cosines.tolist() == [0.0] * 9 + [1.0]


def test_the_duplicates_of_a_small_set_do_not_lift_its_threshold() -> None:
    draw = np.random.default_rng(0)
    vectors = draw.normal(size=(200, 64))
    vectors[100:120] = vectors[:20]
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    assert null_of(vectors, seed=0).threshold(0.9999) == pytest.approx(3.72 / 8, rel=0.1)


def test_a_threshold_is_the_quantile_of_given_cosines() -> None:
    cosines = np.random.default_rng(0).uniform(-1, 1, 20_000)
    assert null_from(cosines).threshold(0.99) == np.quantile(cosines, 0.99)
    assert null_from(cosines).threshold(0.999999) <= 1
    for bad in (np.ones(0), np.array([np.nan]), np.ones((2, 2))):
        with pytest.raises(VectorsError):
            null_from(bad)
    with pytest.raises(VectorsError, match="quantile"):
        null_from(cosines).threshold(1.0)
    with pytest.raises(VectorsError, match="pairs"):
        null_of(np.ones((1, 3)), seed=0)
