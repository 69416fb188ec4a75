"""Faults that were found in this and other graders, by kind, and further cases of each kind in both directions.

``data/grader_cases.jsonl``: one response a line, ``kind`` names the report that prompted it.
``data/grader_variations.jsonl``: one reference a line, with answers that are right and answers that are wrong; under
the rule ``bare`` they are put into a box.
"""

from __future__ import annotations

import json
from fractions import Fraction

import pytest
from paths import DATA

from rewards.math.grade import grade

CONTESTED = {"hacks-h226": "the list holds exactly the elements of the set; braces may be left out, as everywhere"}
"""Cases whose expectation is not ours, with the reason."""


def lines(name: str) -> list[dict]:
    return [json.loads(line) for line in (DATA / name).read_text().splitlines()]


CASES = [row for row in lines("grader_cases.jsonl") if row["id"] not in CONTESTED]
VARIATIONS = lines("grader_variations.jsonl")


def tolerance(row: dict) -> Fraction | None:
    return Fraction(row["tolerance"]) if row.get("tolerance") else None


@pytest.fixture(scope="module", autouse=True)
def started() -> None:
    """The pool's start is nobody's item."""
    assert grade(r"\sqrt{8}", r"\boxed{2\sqrt{2}}").correct


@pytest.mark.parametrize("row", CASES, ids=[row["id"] for row in CASES])
def test_case(row: dict) -> None:
    score = grade(row["gold"], row["prediction"], rule=row["rule"], tolerance=tolerance(row))
    if row["expected"] == "not correct":
        assert score.verdict != "correct", score
    else:
        assert score.verdict == row["expected"], score


@pytest.mark.parametrize("row", VARIATIONS, ids=[f"{row['kind']}-{row['gold'][:40]}" for row in VARIATIONS])
def test_variations(row: dict) -> None:
    rule = "boxed" if row["rule"] == "bare" else row["rule"]
    missed = []
    for verdict, answers in (("correct", row.get("right", [])), ("wrong", row.get("wrong", []))):
        for answer in answers:
            response = f"So $\\boxed{{{answer}}}$." if row["rule"] == "bare" else answer
            score = grade(row["gold"], response, rule=rule, tolerance=tolerance(row))
            if score.verdict != verdict:
                missed.append((verdict, answer, score))
    assert not missed, missed
