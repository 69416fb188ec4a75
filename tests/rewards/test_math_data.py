"""The grader on public data sets; runs where $K15_DATA names their folder.

Golds that need explaining, and every disagreement with the graded files, are in docs/grading.md.
"""

from __future__ import annotations

import json
import os
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import pytest

from rewards.math.clean import clean
from rewards.math.grade import grade
from rewards.math.readings import read_gold
from rewards.math.signs import narrow
from rewards.math.tree import Unreadable

DATA = Path(os.environ.get("K15_DATA", "/no/data"))
SETS = [
    "aime2024", "aime2025", "aime_1983_2023", "amc2023", "amc_2022_2023", "math500", "math_train", "math_test_rest",
    "gsm8k_train", "gsm8k_test", "olympiadbench_oe_maths_en", "minerva_math", "gaokao2023en",
]  # fmt: skip
OUTSIDE_GRAMMAR = 3
"""Golds that only their own text can settle."""

pytestmark = pytest.mark.skipif(not (DATA / "math500.jsonl").exists(), reason="K15_DATA names no folder of data sets")


def lines(name: str) -> list[dict]:
    with (DATA / f"{name}.jsonl").open() as file:
        return [json.loads(line) for line in file]


def golds() -> list[str]:
    return sorted({row["answer"] for name in SETS for row in lines(name)})


def test_every_gold_is_its_own_right_answer() -> None:
    for gold in golds():
        # Typeset otherwise, so that equal text alone does not settle it.
        varied = gold.replace("\\frac", "\\dfrac ").replace("(", "\\left( ").replace(")", "\\right) ")
        assert grade(gold, f"\\boxed{{{gold}}}").correct, gold
        assert grade(gold, f"\\boxed{{{varied}}}").correct, gold


def test_nearly_every_gold_is_inside_of_the_grammar() -> None:
    outside = []
    for gold in golds():
        try:
            read_gold(clean(narrow(gold)))
        except Unreadable:
            outside.append(gold)
    assert len(outside) <= OUTSIDE_GRAMMAR, outside


def test_changed_golds_are_wrong() -> None:
    for gold in golds():
        try:
            value = Fraction(gold.replace("\\frac{", "").replace("}{", "/").replace("}", "").strip("$"))
        except (ValueError, ZeroDivisionError):
            continue
        for other in {value + 1, -value, value * 10, 1 / value if value else value + 2, value + Fraction(1, 1000)} - {
            value
        }:
            spelled = str(other) if other.denominator == 1 else f"\\frac{{{other.numerator}}}{{{other.denominator}}}"
            assert grade(gold, f"\\boxed{{{spelled}}}").verdict == "wrong", (gold, spelled)


def test_golds_of_other_problems_are_wrong() -> None:
    """Neighbours in the sorted list look alike; those that are equal all the same must read as equal numbers."""
    every = golds()
    accepted = []
    for gold, other in pairwise(every):
        if grade(gold, f"\\boxed{{{other}}}").correct:
            accepted.append((gold, other))
    for gold, other in accepted:
        assert grade(other, f"\\boxed{{{gold}}}").correct, (gold, other)
    assert len(accepted) < len(every) / 20, accepted


@pytest.mark.parametrize(
    ("name", "rule", "most"), [("graded_math_outputs", "boxed", 2), ("graded_gsm8k_outputs", "gsm8k", 0)]
)
def test_agreement_with_graded_outputs(name: str, rule: str, most: int) -> None:
    found = [
        row["id"]
        for row in lines(name)
        if (grade(row["answer"], row["prediction"], rule=rule).verdict == "correct") is not row["expected"]
    ]
    assert len(found) <= most, found
