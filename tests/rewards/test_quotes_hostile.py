"""What a model writes is hostile: bounded work, no exception, and a longer prompt only supports more."""

from __future__ import annotations

import sys
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rewards.quotes import quote_report
from rewards.quotes.report import LONGEST

MEGABYTE = 10**6
HOSTILE = {
    "digits": "1", "brackets": "(", "nested sums": "(1+(1+", "numbers": "7 ", "equations": "1=2 ", "sums": "1+2=3 ",
    "chains": "1+2=", "groups": "1,234,",
    "fractions": r"\frac{1}{", "quotes": 'given "a', "ticks": "given `a", "notes": "<<1", "lines": "\n",
    "fences": "```\n",
    "letters": "3x", "words": "one hundred and ", "hyphens": "a-", "other digits": "١٢٣ ", "names": "aAb Bcd Given ",
    "drawings": "[asy]", "steps": "1.5 2.25 ", "stops": "given. ", "powers": "9^9^", "percents": "7% of ",
    "surrogates": "\ud800", "null": "\0", "squares": "²½", "braces": "{}", "names' case": "ǅ",
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_a_megabyte_of_anything_costs_seconds_as_prompt_and_as_response(name: str) -> None:
    text = HOSTILE[name] * (MEGABYTE // len(HOSTILE[name]))
    began = time.process_time()
    assert quote_report("Tom has 5 eggs.", text).cut
    assert quote_report(text, "Tom has 5 eggs.").cut
    assert time.process_time() - began < 60  # measured: 0.1 to 5 s


def test_time_is_linear_in_the_length() -> None:
    def seconds(length: int) -> float:
        text = "So he has (3 + 41) * 7 = 308 eggs, and Bob 12/5 of these.\n" * (length // 58)
        best = []
        for _ in range(2):
            began = time.process_time()
            quote_report("Tom has 5 eggs.", text)
            best.append(time.process_time() - began)
        return min(best)

    assert seconds(40_000) < 4 * 3 * seconds(10_000)


def test_more_digits_than_python_turns_into_a_number() -> None:
    many = "3" * (sys.get_int_max_str_digits() + 10)
    assert [q.by for q in quote_report(f"It is {many}.", f"It is {many} or {many}4.").quotes] == ["prompt", ""]
    assert quote_report("It is 5.", f"10^{many} = 9^9^9^9^9 = 1/0").quotes


def test_only_the_begin_of_a_text_is_read() -> None:
    assert not quote_report("a" * LONGEST, "b" * LONGEST).cut
    assert quote_report("", " " * LONGEST + "137").quotes == ()


PIECES = st.sampled_from(
    ["3", "47", "1,250", "1.5 million", "20%", "half", "twelve", "Bob", "Maila", "+", "-", "*", "/", "=", "(", ")", "x",
     "eggs", "week", "of", "and", ".", "\n", "$", "<<3*4=12>>", '"he said so and so"', "given", "`solve`", "3/5",
     "²", ":", "answer is", "####"]
)  # fmt: skip
TEXTS = st.lists(PIECES, max_size=40).map(" ".join)


@given(st.text(max_size=300), st.text(max_size=300))
@settings(max_examples=100, deadline=None)
def test_no_text_raises(prompt: str, response: str) -> None:
    report = quote_report(prompt, response)
    assert all(response[quote.start : quote.end] for quote in report.quotes)


@given(TEXTS, TEXTS, TEXTS)
@settings(max_examples=200, deadline=None)
def test_more_prompt_never_takes_support_away(prompt: str, more: str, response: str) -> None:
    before = {quote.start for quote in quote_report(prompt, response).unsupported}
    after = {quote.start for quote in quote_report(f"{prompt}\n{more}", response).unsupported}
    assert after <= before


SENTENCES = (
    "Bob has 48 eggs.", "He sells 1,250 of them for $3.50 each!", "It takes two and a half hours, at 14:35.",
    "A third of the 90 girls in Paris left on Monday.", "How many are 20% of 1.5 million?", "2 + 2 = 5 is false.",
    'The sign says "mind the gap, please".', "Call `solve(nums)` for x = 17.", "He has 3 dozen, i.e. 36.",
)  # fmt: skip


@given(st.permutations(SENTENCES), st.integers(1, len(SENTENCES)))
@settings(max_examples=50, deadline=None)
def test_sentences_of_the_prompt_are_supported_in_any_order(shuffled: list[str], count: int) -> None:
    for joint in (" ", "\n"):
        assert quote_report(joint.join(SENTENCES), joint.join(shuffled[:count])).unsupported == ()
