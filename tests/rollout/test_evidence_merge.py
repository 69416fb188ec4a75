"""NBCE's arithmetic: the method's golden step, its special cases, and what it must not depend on."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from rollout.evidence.config import MergingConfig
from rollout.evidence.merge import FEW, contrast, entropy, merge, nucleus

GOLDEN = torch.tensor([[1, 1, 0.5, 0, -1], [0.2, 2, 0.1, 0, -1], [0.5, 0.6, 0.4, 0.5, 0.3], [-1, 0, 4, 0, -2]])
PLAIN = MergingConfig(beta=0, eta=0, top_p=1)


def rows(seed: int, windows: int, size: int = 50) -> torch.Tensor:
    return 3 * torch.randn(windows + 1, size, generator=torch.Generator().manual_seed(seed))


def test_the_golden_step() -> None:
    found = merge(GOLDEN, MergingConfig())
    kept = nucleus(GOLDEN.log_softmax(-1), 0.95)
    assert entropy(kept).tolist() == pytest.approx([1.300986, 0.960264, 1.604347, 0.042863], abs=1e-6)
    assert found.entropies.tolist() == pytest.approx([0.960264, 1.604347, 0.042863], abs=1e-6)
    assert found.pointer == 3
    assert found.logits.tolist() == pytest.approx([-math.inf, -math.inf, 0.3526, -math.inf, -math.inf], abs=1e-4)


def test_exact_naive_bayes_of_the_golden_rows() -> None:
    found = merge(GOLDEN, MergingConfig(pooling="exact")).logits.softmax(-1)
    assert found.tolist() == pytest.approx([0.002696, 0.049004, 0.890604, 0.044341, 0.013355], abs=1e-6)


def test_exact_is_bayes_where_windows_are_independent() -> None:
    """A joint distribution built as p(T) prod p(S_k|T): the posterior in float64 is what naive Bayes gives."""
    random = np.random.default_rng(0)
    prior = random.dirichlet(np.ones(6))
    likelihood = [random.dirichlet(np.ones(3), 6) for _ in range(4)]
    seen = [0, 2, 1, 1]
    single = [prior * table[:, s] for table, s in zip(likelihood, seen, strict=True)]
    expected = prior * np.prod([table[:, s] for table, s in zip(likelihood, seen, strict=True)], 0)
    logits = torch.tensor(np.log([prior, *single]), dtype=torch.float32)
    found = merge(logits, MergingConfig(pooling="exact")).logits.softmax(-1)
    assert found.tolist() == pytest.approx((expected / expected.sum()).tolist(), abs=1e-6)


def test_one_window_without_contrast_is_plain_decoding() -> None:
    logits = rows(1, 1)
    assert torch.equal(merge(logits, PLAIN).logits, logits[1].log_softmax(-1))


@pytest.mark.parametrize("pooling", ["entropy", "mean"])
def test_identical_windows_are_guidance_by_one(pooling: str) -> None:
    logits = rows(2, 1)[[0, 1, 1, 1]]
    found = merge(logits, MergingConfig(pooling=pooling, top_p=1, beta=0.25)).logits
    one, prior = logits[1].log_softmax(-1), logits[0].log_softmax(-1)
    assert torch.allclose(found, 1.25 * one - 0.25 * prior, atol=1e-5)


@given(st.integers(0, 10_000), st.integers(2, 6), st.sampled_from(["entropy", "mean", "exact"]))
def test_the_order_of_windows_does_not_matter(seed: int, windows: int, pooling: str) -> None:
    logits = rows(seed, windows)
    order = torch.randperm(windows, generator=torch.Generator().manual_seed(seed))
    merging = MergingConfig(pooling=pooling)
    one, other = merge(logits, merging), merge(torch.cat([logits[:1], logits[1:][order]]), merging)
    assert torch.allclose(one.logits, other.logits, atol=1e-4)
    assert int(order[other.pointer - 1]) + 1 == one.pointer


def test_the_row_without_evidence_has_no_vote() -> None:
    logits = torch.zeros(3, 5)
    logits[0, 2] = 50.0  # the surest of all
    logits[2, 4] = 3.0
    found = merge(logits, MergingConfig())
    assert found.pointer == 2
    assert int(found.logits.argmax()) == 4


def test_the_window_that_spoke_speaks_on_within_eta() -> None:
    logits = torch.zeros(3, 4)
    logits[1, 0], logits[2, 1] = 2.0, 2.02  # the second is surer by a little
    plain = merge(logits, MergingConfig(top_p=1))
    assert plain.pointer == 2
    gap = float(plain.entropies[0] - plain.entropies[1])
    assert 0 < gap < 0.1
    assert merge(logits, MergingConfig(top_p=1), last=1).pointer == 1
    assert merge(logits, MergingConfig(top_p=1, eta=gap / 2), last=1).pointer == 2


def test_tokens_that_the_prior_does_not_support_are_not_penalised() -> None:
    pooled = torch.tensor([-1.0, -2.0, -math.inf])
    prior = torch.tensor([-0.5, -math.inf, -0.5])
    assert contrast(pooled, prior, 0.25).tolist() == pytest.approx([-1.125, -2.0, -math.inf])
    assert contrast(pooled, prior, 0.0).tolist() == pytest.approx([-1.0, -2.0, -math.inf])


def test_forbidden_tokens_stay_forbidden_and_nothing_is_nan() -> None:
    logits = rows(3, 3)
    logits[:, 10:] = -torch.inf
    for pooling in ("entropy", "mean", "exact"):
        found = merge(logits, MergingConfig(pooling=pooling)).logits
        assert not found.isnan().any()
        assert bool((found[10:] == -torch.inf).all())
        assert found[:10].isfinite().any()


@given(st.integers(0, 10_000), st.floats(0.05, 0.999))
def test_the_nucleus_is_the_smallest_set_of_best_tokens(seed: int, top_p: float) -> None:
    logits = torch.randn(2, 5 * FEW, generator=torch.Generator().manual_seed(seed))
    logprobs = (logits * torch.tensor([[0.1], [5.0]])).log_softmax(-1)  # a flat one needs many, a steep one few
    found = nucleus(logprobs, top_p)
    for row, kept in zip(logprobs, found, strict=True):
        best = row.double().exp().sort(descending=True).values
        count = int(kept.isfinite().sum())
        assert best[: count - 1].sum() < top_p + 1e-5
        assert best[:count].sum() > top_p - 1e-5
        assert torch.equal(kept[kept.isfinite()].sort().values, row.sort(descending=True).values[:count].sort().values)


def test_settings_that_contradict_each_other() -> None:
    assert MergingConfig(pooling="exact").weight(5) == 4
    assert MergingConfig().weight(5) == 0.25
    with pytest.raises(ValidationError, match="beta of exact"):
        MergingConfig(pooling="exact", beta=1.0)
