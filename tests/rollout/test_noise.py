"""Draws for a whole batch: right frequencies, log-probs, and noise that is a function of seed and position."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from rollout.engines.noise import BITS, choose, uniforms

DRAWS = 40_000


def seeds(count: int, start: int = 0) -> np.ndarray:
    """Neighbouring integers: the worst that a hash can be given."""
    return np.arange(start, start + count, dtype=np.uint64)


def chi_square(counts: np.ndarray, expected: np.ndarray) -> float:
    """The statistic in standard deviations above its mean, cells below five expected draws taken together."""
    rare = expected < 5
    cells = [*zip(counts[~rare], expected[~rare], strict=True)]
    if rare.any() and expected[rare].sum() >= 5:
        cells.append((counts[rare].sum(), expected[rare].sum()))
    freedom = len(cells) - 1
    statistic = sum((seen - due) ** 2 / due for seen, due in cells)
    return (statistic - freedom) / (2 * freedom) ** 0.5


@pytest.mark.parametrize("vocabulary", [2, 7, 100, 512, 1000])
def test_tokens_come_as_often_as_the_softmax_says(vocabulary: int) -> None:
    logits = 2 * torch.randn(vocabulary, generator=torch.Generator().manual_seed(vocabulary))
    tokens, _ = choose(logits.expand(DRAWS, -1), torch.from_numpy(uniforms(seeds(DRAWS), np.full(DRAWS, 17))))
    counts = np.bincount(tokens.numpy(), minlength=vocabulary)
    assert abs(chi_square(counts, DRAWS * logits.double().softmax(-1).numpy())) < 4


def test_noise_is_even_and_independent_between_seeds_and_positions() -> None:
    by_seed = uniforms(seeds(DRAWS), np.full(DRAWS, 3))
    by_position = uniforms(np.full(DRAWS, 5, np.uint64), np.arange(DRAWS))
    far = uniforms(seeds(DRAWS) << np.uint64(40), np.full(DRAWS, 3))
    for noise in (by_seed, by_position, far):
        assert noise.min() >= 0
        assert noise.max() < 1
        assert abs(chi_square(np.histogram(noise, 64, (0, 1))[0], np.full(64, DRAWS / 64))) < 4
        pairs = np.histogram2d(noise[:-1], noise[1:], 12, [[0, 1], [0, 1]])[0].ravel()
        assert abs(chi_square(pairs, np.full(144, (DRAWS - 1) / 144))) < 4
    assert abs(np.corrcoef(by_seed, by_position)[0, 1]) < 4 / DRAWS**0.5
    lagged = uniforms(seeds(DRAWS), np.full(DRAWS, 4))
    assert abs(np.corrcoef(by_seed, lagged)[0, 1]) < 4 / DRAWS**0.5


def test_noise_depends_on_nothing_but_seed_and_position() -> None:
    one = uniforms(np.array([11, 12], np.uint64), np.array([5, 900]))
    other = uniforms(np.array([77, 12, 11], np.uint64), np.array([1, 900, 5]))
    assert one.tolist() == other[[2, 1]].tolist()
    assert uniforms(np.array([11], np.uint64), np.array([5], np.int32)).tolist() == one[:1].tolist()
    assert len({*uniforms(np.array([2**63 - 1] * 3, np.uint64), np.array([0, 1, 2**31 - 1]))}) == 3


@pytest.mark.parametrize("vocabulary", [1, 2, 100, 512, 513, 50_000, 150_000])
def test_choices_are_the_inverse_of_the_distribution_and_log_probs_those_of_its_tokens(vocabulary: int) -> None:
    logits = 3 * torch.randn(12, vocabulary, generator=torch.Generator().manual_seed(1))
    noise = torch.linspace(0, 1, 13, dtype=torch.float64)[:-1]
    tokens, logprobs = choose(logits, noise)
    exact = logits.double().log_softmax(-1)
    edges = exact.exp().cumsum(-1)
    below = edges.gather(1, (tokens - 1).clamp(min=0)[:, None])[:, 0] * (tokens > 0)
    assert (below <= noise + 1e-6).all()
    assert (edges.gather(1, tokens[:, None])[:, 0] >= noise - 1e-6).all()
    assert logprobs.dtype == torch.float32
    assert torch.allclose(logprobs.double(), exact.gather(1, tokens[:, None])[:, 0], atol=1e-5)


@pytest.mark.parametrize("vocabulary", [5, 700])
def test_what_has_no_chance_is_never_drawn_at_any_noise(vocabulary: int) -> None:
    logits = torch.full((4, vocabulary), float("-inf"))
    allowed = [[0], [vocabulary - 1], [1, vocabulary - 2], [2]]
    for row, tokens in enumerate(allowed):
        logits[row, tokens] = torch.tensor([80.0, -60.0])[: len(tokens)]
    largest = (2.0**BITS - 1) / 2.0**BITS
    for noise in (0.0, 0.5, largest):
        tokens, _ = choose(logits, torch.full((4,), noise, dtype=torch.float64))
        assert all(token in row for token, row in zip(tokens.tolist(), allowed, strict=True))


def test_a_rare_token_of_a_large_vocabulary_keeps_its_chance() -> None:
    """A running sum in float32 would never reach it: behind a sum of one, 2e-8 is nothing."""
    logits = torch.zeros(1, 150_000)
    logits[0, 0] = 18.0
    share = logits.double().softmax(-1)[0, 1:].sum().item()
    noise = torch.linspace(1 - share, 1 - 2.0**-BITS, 1001, dtype=torch.float64)
    tokens, _ = choose(logits.expand(1001, -1), noise)
    assert (tokens[1:] > 0).all()
    steps = (tokens[1:] - tokens[:-1]).double()
    assert steps.mean().item() == pytest.approx(149.999, rel=1e-2)
    assert steps.min() > 100


def test_a_fixed_token_is_taken_and_has_its_log_prob() -> None:
    logits = torch.tensor([[0.0, 1.0, 2.0], [0.0, 1.0, 2.0]])
    tokens, logprobs = choose(logits, torch.zeros(2, dtype=torch.float64), torch.tensor([2, -1]))
    assert tokens.tolist() == [2, 0]
    assert torch.allclose(logprobs, logits.log_softmax(-1)[0, [2, 0]])
