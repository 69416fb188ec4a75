"""Names, quoted texts and code of a response that it has, or says it has, from its prompt."""

from __future__ import annotations

import pytest

from rewards.quotes import quote_report


def unsupported(prompt: str, response: str) -> list[tuple[str, str]]:
    return [(quote.kind, quote.text) for quote in quote_report(prompt, response).unsupported]


@pytest.mark.parametrize(
    ("prompt", "response", "expected"),
    [
        ("Julie reads. Ann too.", "So Ann and Julie read.", []),
        ("Julie reads.", "So in all Maila reads.", ["Maila"]),
        ("Jeremy reads.", "Jeremey's books are red, and Jeremy's too.", ["Jeremey"]),
        ("Jennifer reads.", "So Jen reads.", []),  # short for it
        ("Jen reads.", "So Jennifer reads.", []),
        ("Two foxes read.", "So the Foxes read, a Fox reads.", []),
        ("Julie reads.", "Therefore she reads in May, on Monday, by the Pythagorean theorem, Mr. X.", []),
        ("Julie reads.", "Maila reads.", []),  # at the begin of a sentence every word has its capital
        ("Julie reads.", "The total is the Total of all.", []),  # written without the capital elsewhere
        ("Julie reads.", "So Maila reads.\nThen Maila eats.", ["Maila"]),  # once
    ],
)
def test_names(prompt: str, response: str, expected: list[str]) -> None:
    assert unsupported(prompt, response) == [("name", name) for name in expected]


PROBLEM = (
    "Write a function solve(nums, k).\n'It returns the k-th largest number.'\n```python\ndef solve(nums, k): ...\n```"
)


@pytest.mark.parametrize(
    ("response", "expected"),
    [
        ('The problem says "it returns the k-th  largest number".', []),  # case and white space
        ("The problem says “it returns the k‑th largest number.”", []),  # other quotes and dashes
        ('The problem says "it returns the k-th smallest number".', ["it returns the k-th smallest number"]),
        ('The problem says "it returns ... largest number".', []),  # left out in between
        ('I call this "a greedy exchange argument".', []),  # not the prompt's
        ('They say "hi".', []),  # too short to be a quotation
    ],
)
def test_quoted_text_that_is_attributed_to_the_prompt(response: str, expected: list[str]) -> None:
    assert unsupported(PROBLEM, response) == [("text", text) for text in expected]


@pytest.mark.parametrize(
    ("response", "expected"),
    [
        ("The given function `solve(nums, k)` sorts.", []),
        ("The given function `solve_all(nums, k)` sorts.", ["solve_all(nums, k)"]),
        ("I write a helper `partition(nums)`.", []),  # its own
        ("I write a helper `partition`.\nThe task says to call `partition`.", []),  # defined before
        ("The given code is:\n```python\ndef solve(nums, k): ...\n```", []),
        ("The given code is:\n```python\ndef solve(items, k):\n    pass\n```", ["def solve(items, k):"]),
        ("My code:\n```python\ndef other(items): ...\n```", []),
    ],
)
def test_code_that_is_attributed_to_the_prompt(response: str, expected: list[str]) -> None:
    assert unsupported(PROBLEM, response) == [("code", text) for text in expected]
