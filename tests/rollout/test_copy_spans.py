"""Which tokens may follow while a span is copied: the paper's states, and copies between markers."""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from dataclasses import asdict

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rollout.copying.labels import B, I, O
from rollout.copying.masking import allowed_mask, masked_logprobs
from rollout.copying.spans import OUTSIDE, CopyBetween, Source, choose, follow, tag_of

TOKENS = 6


def occurs(source: Sequence[int], part: Sequence[int]) -> bool:
    return any([*source[i : i + len(part)]] == [*part] for i in range(len(source) - len(part) + 1))


def test_inside_is_forbidden_outside_of_spans() -> None:
    source = Source.of([1, 2])
    assert tag_of([0.1, 0.2, 0.7], OUTSIDE) == B
    span = follow(source, OUTSIDE, choose(source, OUTSIDE, B), 1)
    assert tag_of([0.1, 0.2, 0.7], span) == I
    with pytest.raises(ValueError, match="continues a span"):
        choose(source, OUTSIDE, I)


def test_a_span_goes_on_where_the_source_does() -> None:
    source = Source.of([1, 2, 3, 1, 2, 4])
    first = choose(source, OUTSIDE, B)
    assert first.allowed is not None
    assert first.allowed.tolist() == [1, 2, 3, 4]
    span = follow(source, OUTSIDE, first, 1)
    for token, then in ((2, [3, 4]), (3, [1]), (1, [2])):
        choice = choose(source, span, I)
        span = follow(source, span, choice, token)
        assert choose(source, span, I).allowed.tolist() == then  # type: ignore[union-attr]
    assert span.length == 4
    assert choose(source, span, O).allowed is None
    assert follow(source, span, choose(source, span, O), 0) is OUTSIDE


def test_beyond_the_source_a_span_begins_anew_and_says_so() -> None:
    source = Source.of([1, 2])
    span = follow(source, OUTSIDE, choose(source, OUTSIDE, B), 2)
    choice = choose(source, span, I)
    assert (choice.tag, choice.fell) == (B, True)
    assert follow(source, span, choice, 1).length == 1
    assert choose(Source.of([]), OUTSIDE, B).tag == O


def test_what_ends_a_response_is_never_copied_and_parts_the_source() -> None:
    source = Source.of([1, 2, 9, 3], stops=[9])
    assert source.tokens.tolist() == [1, 2, 3]
    span = follow(source, OUTSIDE, choose(source, OUTSIDE, B), 2)
    assert choose(source, span, I).fell


SEQUENCES = st.lists(st.integers(0, TOKENS - 1), min_size=1, max_size=20)


@settings(deadline=None)
@given(SEQUENCES, st.lists(st.integers(0, 2), max_size=20), st.randoms(use_true_random=False))
def test_a_run_is_always_an_ngram_of_the_source(ids, tags, rng) -> None:
    """Also against the paper's own words: the last n - 1 tokens and the next are an n-gram of the source."""
    source, span, drawn, run = Source.of(ids, stops=[0]), OUTSIDE, [], []
    for wanted in tags:
        tag = tag_of(np.eye(3)[wanted], span)
        choice = choose(source, span, tag)
        token = rng.randrange(TOKENS) if choice.allowed is None else rng.choice(choice.allowed.tolist())
        if choice.tag == I:
            texts = [token for token in range(1, TOKENS) if occurs(ids, [*run, token])]
            assert choice.allowed.tolist() == texts
        run = [] if choice.tag == O else [token] if choice.tag == B else [*run, token]
        assert choice.tag == O or token != 0
        assert occurs(ids, run)
        assert choice.fell == (wanted == I and tag == I and choice.tag == B)
        span = follow(source, span, choice, token)
        assert span.length == len(run)
        drawn.append(token)


QUOTE = CopyBetween(source=(1, 2, 3, 1, 4), opening=(10, 11), closing=(12, 13), stops=(0,))


@pytest.mark.parametrize(
    ("drawn", "expected"),
    [
        ((), None),
        ((5, 10), None),
        ((10, 11), [1, 2, 3, 4]),
        ((5, 10, 11, 1), [2, 4, 12]),
        ((10, 11, 1, 2), [3, 12]),
        ((10, 11, 1, 4), [12]),
        ((10, 11, 1, 12), [13]),
        ((10, 11, 1, 12, 13), None),
        ((10, 11, 1, 12, 13, 7, 10, 11, 3), [1, 12]),
    ],
)
def test_between_markers_everything_is_one_copy(drawn: tuple[int, ...], expected: list[int] | None) -> None:
    found = QUOTE.allowed(drawn)
    assert (None if found is None else found.tolist()) == expected
    if found is not None:
        assert found.dtype == np.int32


def test_a_copy_has_its_least_length_where_the_source_has_one() -> None:
    long = CopyBetween((1, 2, 3, -1, 4, 5), (10,), (12,), least=3)
    assert long.allowed([10]).tolist() == [1]  # type: ignore[union-attr]
    assert long.allowed([10, 1, 2]).tolist() == [3]  # type: ignore[union-attr]
    assert long.allowed([10, 1, 2, 3]).tolist() == [12]  # type: ignore[union-attr]
    assert CopyBetween((1, 2), (10,), (12,), least=3).allowed([10]).tolist() == [12]  # type: ignore[union-attr]
    assert CopyBetween((), (10,), (12,)).allowed([10]).tolist() == [12]  # type: ignore[union-attr]


def test_the_first_closing_marker_closes_also_where_the_source_has_the_same_tokens() -> None:
    both = CopyBetween(source=(1, 7, 2, 1, 7, 8), opening=(9,), closing=(7, 8))
    assert both.allowed([9, 1]).tolist() == [7]  # type: ignore[union-attr]
    assert both.allowed([9, 1, 7]).tolist() == [2, 7, 8]  # type: ignore[union-attr]  on with it, close, or go on closing
    assert both.allowed([9, 1, 7, 2]).tolist() == [1, 7]  # type: ignore[union-attr]
    assert both.allowed([9, 1, 7, 8]) is None


def test_what_was_drawn_against_it_leaves_only_the_way_out() -> None:
    assert QUOTE.allowed([10, 11, 5, 5]).tolist() == [12]  # type: ignore[union-attr]
    assert QUOTE.allowed([10, 11, 5, 12]).tolist() == [13]  # type: ignore[union-attr]


def test_it_is_plain_data() -> None:
    assert pickle.loads(pickle.dumps(QUOTE)) == QUOTE
    lists = {name: [*value] if isinstance(value, tuple) else value for name, value in asdict(QUOTE).items()}
    assert CopyBetween(**lists) == QUOTE
    with pytest.raises(ValueError, match="markers of 0 and 1 tokens"):
        CopyBetween((1,), (), (2,))


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.integers(1, 4), max_size=12),
    st.lists(st.integers(1, 5), min_size=1, max_size=2),
    st.integers(1, 3),
    st.randoms(use_true_random=False),
)
def test_whatever_is_drawn_a_quote_is_an_ngram_of_the_source(ids, closing, least, rng) -> None:
    constraint, drawn = CopyBetween(tuple(ids), (6,), tuple(closing), least), [6]
    for _ in range(40):
        allowed = constraint.allowed(drawn)
        if allowed is None:
            break
        assert len(allowed)
        drawn.append(rng.choice(allowed.tolist()))
    else:
        return  # a source that repeats itself may go on for long
    quote = drawn[1 : -len(closing)]
    assert drawn[-len(closing) :] == closing
    assert occurs(ids, quote)
    assert len(quote) >= least or not quote


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000))
def test_masked_logprobs_are_the_renormalised_ones_and_nothing_where_all_is_allowed(seed) -> None:
    rng = torch.Generator().manual_seed(seed)
    logits = torch.randn(3, 9, generator=rng, dtype=torch.float32).mul_(5).requires_grad_()
    allowed = [np.array([2, 5, 7]), None, np.array([4])]
    found = masked_logprobs(logits, allowed_mask(allowed, 9))
    plain = logits.double().log_softmax(-1)
    expected = plain[0, [2, 5, 7]] - plain[0, [2, 5, 7]].logsumexp(0)
    torch.testing.assert_close(found[0, [2, 5, 7]], expected.float(), rtol=1e-5, atol=1e-5)
    assert found[0].isinf().sum() == 6
    assert found[1].equal(logits[1].log_softmax(-1))
    assert found[2, 4] == 0
    found[[0, 1], [5, 3]].sum().backward()
    assert logits.grad is not None
    assert logits.grad.isfinite().all()
    assert not logits.grad[0, [0, 1, 3, 4, 6, 8]].any()


def test_at_equal_weights_the_masked_log_ratio_is_exactly_0() -> None:
    """Who sampled and who trains rebuild the mask from the tokens alone, and renormalise by the same function."""
    torch.manual_seed(0)
    weight, states = torch.randn(14, 8), torch.randn(12, 8)
    drawn: list[int] = []
    sampled = []
    for state in states:  # one token at a time, as an engine
        logits = (weight @ state)[None]
        logprobs = masked_logprobs(logits, allowed_mask([QUOTE.allowed(drawn)], 14))[0]
        token = 10 if not drawn else 11 if drawn == [10] else int(logprobs.argmax())
        sampled.append(logprobs[token])
        drawn.append(token)
    assert 12 in drawn
    masks = allowed_mask([QUOTE.allowed(drawn[:at]) for at in range(len(drawn))], 14)
    logits = torch.stack([weight @ state for state in states])
    again = masked_logprobs(logits, masks).gather(1, torch.tensor(drawn)[:, None])[:, 0]
    assert (again - torch.stack(sampled)).abs().max() == 0
    unmasked = logits.log_softmax(-1).gather(1, torch.tensor(drawn)[:, None])[:, 0]
    assert (unmasked - again).abs().max() > 0.01


def test_a_row_that_allows_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="row 1 allows no token"):
        allowed_mask([None, np.array([], np.int32)], 4)
