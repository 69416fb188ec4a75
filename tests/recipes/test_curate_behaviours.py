"""Behaviours of long reasoning in text: what shows, and what only uses the same words."""

from __future__ import annotations

import json
import os
import time
from collections import Counter
from pathlib import Path

import pytest

from recipes.curate.behaviours import BEHAVIOURS, Hit, hits, shown

DATA = Path(os.environ.get("K15_DATA", "data"))

SHOWN = {
    "planning": [
        "My plan is to count the squares first and subtract the overlaps.",
        "Let me plan this out. The unknowns are a and b.",
        "Plan:\n1. Find the slope.\n2. Find the intercept.",
        "**Plan**: factor, then set each factor to zero.",
        "To solve for x we will follow these steps:",
        "Let's break this problem down into two cases.",
        "First, I'll find the area of the circle. Then I'll subtract the square.",
        "Here's the plan: bound the sum from above, then from below.",
        "Our strategy is induction on n.",
        "Let me outline the steps before computing anything.",
        "The idea is to write both sides as powers of two.",
        "I should first find the prime factors and then count the divisors.",
        "Here\u2019s my plan: work backwards from the end.",
    ],
    "evaluation": [
        "Let me double-check the arithmetic.",
        "Let's verify this by plugging in x = 2.",
        "Let me check: 7 * 8 = 56, good.",
        "As a sanity check, the probabilities add up to one.",
        "Does that make sense? The train is faster, so yes.",
        "Check: 3 + 4 = 7.",
        "To verify, substitute x = 4 into the first equation.",
        "That seems too large for the area of a stamp.",
        "This matches the value we found before.",
        "I should make sure that I counted the endpoints.",
        "We can confirm our answer by adding the parts.",
        "Substituting back into the equation we see that it holds.",
        "Let me re-check the last step.",
        "Let's see if it works for n = 3.",
    ],
    "reflection": [
        "Wait, that is not the number of edges.",
        "But wait - the problem says at most two.",
        "Hmm, I forgot the case where x is negative.",
        "I made a mistake in the second step.",
        "That can't be right, since lengths are positive.",
        "Hold on, the angle is obtuse.",
        "On second thought, the order matters here.",
        "Let me reconsider the assumption about independence.",
        "Oops, I misread the question.",
        "Actually, 17 is prime, so there are only two divisors.",
        "Let me go back to the first equation.",
        "My earlier calculation ignored the remainder.",
        "This is incorrect because 9 is not prime.",
        "Wait that would give a negative area.",
    ],
    "exploration": [
        "Alternatively, use the law of cosines.",
        "Another approach is to count the complement.",
        "What if we set y = 0?",
        "Let's try a substitution such as u = x + 1.",
        "We could also use generating functions here.",
        "Maybe I can write it as a telescoping sum.",
        "Is there an easier way to see this?",
        "A different method would be to draw a tree.",
        "Let me consider another possibility, that k is odd.",
        "Perhaps there is another way to count them.",
        "Instead, let's look at the remainders modulo 7.",
        "One could compute it directly, or alternatively, by symmetry.",
        "Another way to check this is to draw the graph.",
    ],
}
NOT_SHOWN = {
    "planning": [
        "The cheaper phone plan costs $20 a month.",
        "In the plan view the house is a rectangle.",
        "She planned a trip of three days.",
        "Plan B costs twice as much as plan A.",
        "The plane passes through the origin.",
        "First, the bus takes 20 minutes.",
        "He first walks 3 km and then runs 2 km.",
        "The line breaks the square into two triangles.",
        "The plants follow the rows of the field.",
        "Take three steps to the left.",
        "The first term is 3 and then the terms double.",
        "A strategy game costs 30 dollars.",
    ],
    "evaluation": [
        "He puts a check mark beside each name.",
        "She wrote a check for 40 dollars.",
        "There are 12 checkers on the board.",
        "He checked two suitcases at the airport.",
        "To check if 91 is prime, divide it by small primes.",
        "Substituting y = 3 back into the equation, we get x = 5.",
        "The right answer is in the box.",
        "The test has 20 questions.",
        "A match costs 5 cents.",
        "Check the box that is red.",
        "This is a right triangle.",
        "We need to verify a password of 4 digits.",
        "They meet so that they can check out the new robots.",
        "Find the largest number that is consistent with the data.",
        "We can see that this problem asks for the remainder.",
        "By checking each residue modulo 13 we find 17 and 31.",
    ],
    "reflection": [
        "Wait 5 minutes between two doses.",
        "The customers wait for the bus.",
        "Waiting takes 10 minutes.",
        "He actually paid 12 dollars.",
        "This is not a right triangle.",
        "That cannot be a right angle of the triangle.",
        "She forgot her umbrella at school.",
        "The mistake cost the company 500 dollars.",
        "Walking back to school takes 12 minutes.",
        "She leaves the shop before going back to the store.",
        "Case 1: x < 0. This is impossible since x is a length.",
        "If it is not possible to tie, then one of them wins.",
        "He gave three wrong answers.",
        "The probability that the answer is wrong is 1/4.",
        "He returns and goes back home.",
        "Reconsideration is not part of the contract.",
    ],
    "exploration": [
        "The street, alternatively named Elm Road, is 3 km long.",
        "Another way home is 2 km longer.",
        "He drives home by a different route.",
        "She bought another book.",
        "He tried the red key.",
        "The trials were repeated 5 times.",
        "A different number of apples is in each box.",
        "Alternating signs give a convergent series.",
        "There is another triangle inside.",
        "Try on the shoes for 5 minutes.",
        "Maybe 3 of the 10 will come.",
        "The explorers walked 20 km.",
        "Is there a remainder?",
    ],
}


@pytest.mark.parametrize(("behaviour", "text"), [(name, text) for name, texts in SHOWN.items() for text in texts])
def test_what_shows(behaviour: str, text: str) -> None:
    assert behaviour in shown(text), hits(text)
    (first, *_) = (hit for hit in hits(text) if hit.behaviour == behaviour)
    assert 0 <= first.start < first.end <= len(text)
    assert behaviour in shown(f"The sum is 12.\n\n{text} So it goes.")


@pytest.mark.parametrize(("behaviour", "text"), [(name, text) for name, texts in NOT_SHOWN.items() for text in texts])
def test_what_only_uses_the_words(behaviour: str, text: str) -> None:
    assert behaviour not in shown(text), hits(text)


def test_words_of_the_prompt_and_code_do_not_count() -> None:
    prompt = "Solve x + 1 = 2.\n\nMake a plan first. Let's double-check each result!"
    echo = "You say: let's double-check each result. x = 1."
    assert shown(echo) == ("evaluation",)
    assert shown("Let's double-check each result.\nx = 1.", prompt) == ()
    assert shown("Let's double-check each result. Let me double-check 1 + 1.", prompt) == ("evaluation",)
    assert shown("```python\n# let's try another way\nprint(wait)\n```\nIt is 3.") == ()


def test_hits_have_places_one_a_sentence() -> None:
    text = "My plan is this. Wait, no: wait, I made a mistake.\nAlternatively, add."
    found = hits(text)
    assert [(hit.behaviour, text[hit.start : hit.end].strip()) for hit in found] == [
        ("planning", "My plan"),
        ("reflection", "Wait,"),
        ("reflection", "wait,"),
        ("exploration", "Alternatively,"),
    ]
    assert shown(text) == ("planning", "reflection", "exploration")
    assert found[0] == Hit("planning", 0, 7)
    assert shown("") == ()


@pytest.mark.parametrize(
    "text", ["wait " * 40_000, "first, we can " * 20_000, "\n" * 200_000, "let me " * 40_000, "İ" * 100]
)
def test_hostile_texts_take_little_time(text: str) -> None:
    began = time.process_time()
    found = hits(text)
    assert all(hit.end <= len(text) for hit in found)
    assert time.process_time() - began < 20  # quadratic would take minutes


@pytest.mark.skipif(not (DATA / "graded_math_outputs.jsonl").exists(), reason="needs K15_DATA")
def test_on_real_texts() -> None:
    """Solutions of instruct models plan aloud and seldom look back; statements of problems do nothing of the kind."""
    rows = [json.loads(line) for line in (DATA / "graded_math_outputs.jsonl").read_text().splitlines()]
    counts = Counter(name for row in rows for name in shown(row["prediction"], row["problem"]))
    assert 60 <= counts["planning"] <= 140
    assert all(0 < counts[name] < 40 for name in BEHAVIOURS if name != "planning")
    problems = [json.loads(line)["problem"] for line in (DATA / "asdiv.jsonl").read_text().splitlines()]
    assert not [text for text in problems if shown(text)]
