"""Drafts of spans: what they continue, how long they are, and that they depend on the tokens alone."""

from __future__ import annotations

import time

from hypothesis import given
from hypothesis import strategies as st

from rollout.copying.drafts import FARTHEST, SpanDrafter

TEXTS = st.lists(st.integers(0, 3), max_size=40)


def drafter(prompt: list[int], response: list[int], longest: int = 16, least: int = 2) -> SpanDrafter:
    made = SpanDrafter(prompt, longest, least)
    made.extend(response)
    return made


@given(TEXTS, TEXTS, st.integers(1, 20), st.integers(1, 4), st.integers(0, 20))
def test_a_draft_continues_a_place_where_the_latest_tokens_stood(
    prompt: list[int], response: list[int], longest: int, least: int, room: int
) -> None:
    draft = drafter(prompt, response, longest, least).draft(room)
    text = prompt + response
    assert len(draft) <= min(longest, room)
    if draft:
        whole, end = text + draft, len(text)
        assert any(
            text[p - least : p] == text[end - least :] and whole[p : p + len(draft)] == draft for p in range(least, end)
        )


@given(TEXTS, TEXTS, st.data())
def test_neither_cuts_nor_drafts_in_between_change_a_draft(
    prompt: list[int], response: list[int], data: st.DataObject
) -> None:
    at_once, piecewise = drafter(prompt, response), SpanDrafter(prompt, 16, 2)
    rest = list(response)
    while rest:
        piecewise.draft(data.draw(st.integers(0, 9)))
        size = data.draw(st.integers(1, len(rest)))
        piecewise.extend(rest[:size])
        rest = rest[size:]
    assert piecewise.draft(16) == at_once.draft(16)


@given(TEXTS, TEXTS, st.integers(1, 4))
def test_the_first_place_found_is_the_longest_agreement(prompt: list[int], response: list[int], least: int) -> None:
    """Found by trying all places; the last token has not occurred, so that no span is being continued before it."""
    text, end = [*prompt, *response, 9, *prompt[-6:]], len(prompt) + len(response) + 1 + len(prompt[-6:])
    made = SpanDrafter([*prompt, *response, 9], 16, least)
    for token in prompt[-6:]:
        made = SpanDrafter(made._tokens, 16, least)  # forgets the span
        made.extend([token])

    def agreement(place: int) -> int:
        count = 0
        while count < min(place, FARTHEST) and text[place - count - 1] == text[end - count - 1]:
            count += 1
        return count

    places = [place for place in range(1, end) if agreement(place) >= least]
    if not prompt:
        return
    if not places:
        assert made.draft(16) == []
    else:
        assert made._agreed == max(map(agreement, places))


def test_prompt_before_response_and_the_latest_of_equals() -> None:
    assert drafter([1, 2, 7, 1, 2, 8, 0], [1, 2]).draft(1) == [8]
    assert drafter([1, 2, 7, 0], [1, 2, 8, 0, 1, 2]).draft(1) == [8], "the longer agreement, 0 1 2"
    assert drafter([1, 2, 3, 4, 7, 0], [1, 2, 3, 4, 8, 5, 1, 2, 3, 4]).draft(1) == [7]


def test_a_span_goes_on_at_its_source_and_doubles() -> None:
    span = list(range(10, 400))
    made = SpanDrafter([*span, 0, 10, 11, 12, 99, 0], 64, 3)
    made.extend([10, 11, 12])
    assert made.draft(1) == [99], "0 10 11 12 agrees longest"
    made.extend([13])
    assert made.draft(64) == [], "left that span; 11 12 13 is another, and the wrong draft counts against it"
    sizes, at = [], 14
    while at < 200:
        draft = made.draft(64)
        sizes.append(len(draft))
        assert draft == list(range(at, at + len(draft)))
        made.extend(range(at, at + len(draft) + 1))
        at += len(draft) + 1
    assert sizes == sorted(sizes)
    assert sizes[-1] == 64
    assert len(sizes) < 12


def test_text_that_repeats_itself_is_drafted_beyond_its_end() -> None:
    assert drafter([0], [5, 6] * 8).draft(7) == [5, 6, 5, 6, 5, 6, 5]


def test_wrong_drafts_make_the_next_ones_rarer() -> None:
    prompt = [token for i in range(30) for token in (1, 2, i + 10)]
    made = SpanDrafter(prompt, 16, 2)
    offered = 0
    for i in range(30):
        made.extend([1, 2])
        offered += bool(made.draft(16))
        made.extend([100 + i])
    assert offered < 10


def test_a_token_costs_the_same_in_a_long_text() -> None:
    """CPU time of long against short, with room for noise; a search of the whole text would be 50 times slower."""

    def cost(length: int) -> float:
        made = SpanDrafter([i * i % 7919 for i in range(length)], 16, 3)
        began = time.process_time()
        made.extend([i * i % 7907 for i in range(2000)])
        return time.process_time() - began

    assert min(cost(100_000) for _ in range(3)) < 10 * min(cost(2_000) for _ in range(3))


def test_a_text_of_one_token_costs_no_more_the_longer_it_is() -> None:
    def cost(length: int) -> float:
        made = SpanDrafter([7] * length, 16, 3)
        began = time.process_time()
        made.extend([7, 7, 7, 7, 7, 7, 8] * 100)
        return time.process_time() - began

    assert min(cost(50_000) for _ in range(3)) < 10 * min(cost(500) for _ in range(3))
