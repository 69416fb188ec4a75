"""The subject of a problem, by its source's own field or by its words."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest

from recipes.curate.domain_words import PRIOR, SUBJECTS, WEIGHTS
from recipes.curate.domains import DOMAINS, domain

DATA = Path(os.environ.get("K15_DATA", "/no/data"))
MATH = {
    "algebra": "algebra",
    "intermediate_algebra": "algebra",
    "prealgebra": "arithmetic",
    "geometry": "geometry",
    "number_theory": "number_theory",
    "counting_and_probability": "counting",
    "precalculus": "precalculus",
}


@pytest.mark.parametrize(
    ("row", "found"),
    [
        ({"subject": "Intermediate Algebra"}, "algebra"),
        ({"subject": "counting_and_probability"}, "counting"),
        ({"type": "Prealgebra", "level": 3}, "arithmetic"),
        ({"problem_type": "Number Theory"}, "number_theory"),
        ({"topic": "Mathematics -> Applied Mathematics -> Statistics -> Mathematical Statistics"}, "statistics"),
        ({"topic": "Mathematics -> Algebra -> Nothing that is known"}, "algebra"),
        ({"subject": "Introduction to Solid State Chemistry (3.091 Fall 2010)"}, "chemistry"),
        ({"domain": ["Physics", "Algebra"]}, "physics"),
        ({"subject": "", "type": "LCM"}, "number_theory"),
        ({"type": "train", "tests": [{"input": "1"}]}, "code"),
    ],
)
def test_a_known_field_decides(row: dict[str, object], found: str) -> None:
    assert domain("What is the area of a circle of radius 3?", row) == found


@pytest.mark.parametrize("row", [{}, {"type": "unknown"}, {"subject": 3}, {"subject": None}, {"topic": []}])
def test_without_one_the_words_do(row: dict[str, object]) -> None:
    assert domain("A circle of radius 3 touches the sides of triangle $ABC$. What is its area?", row) == "geometry"


@pytest.mark.parametrize(
    ("statement", "found"),
    [
        ("Tom buys 3 pens for 2 dollars each. How much money does he spend?", "arithmetic"),
        ("Find all real solutions of the equation $x^3 - 4x + 3 = 0$.", "algebra"),
        ("What is the remainder when $7^{100}$ is divided by 13?", "number_theory"),
        ("Two dice are rolled. What is the probability that the sum is 7?", "counting"),
        ("Compute $\\sin 15^\\circ \\cos 15^\\circ$.", "precalculus"),
        ("Evaluate $\\int_0^1 x e^x \\, dx$.", "calculus"),
        ("Find the eigenvalues and eigenvectors of the matrix.", "linear_algebra"),
        ("The sample mean is 4 and the standard deviation 2. Give a 95% confidence interval.", "statistics"),
        ("A photon has a wavelength of 500 nm. What is its momentum?", "physics"),
        ("How many moles of electrons take part in the reaction?", "chemistry"),
        ("Given the utility function $u$, find the marginal rate of substitution.", "economics"),
        ("Write a function that reverses a list.", "code"),
        ("Of three people one always lies. A says that B is a knave. Who is it?", "logic"),
        ("Who wrote this poem?", "general"),
        ("已知三角形的三边长为 3, 4, 5，求它的面积。", "geometry"),
        ("", "general"),
    ],
)
def test_what_words_say(statement: str, found: str) -> None:
    assert domain(statement, {}) == found


def test_the_table_is_whole() -> None:
    assert set(SUBJECTS) <= set(DOMAINS)
    assert len(PRIOR) == len(SUBJECTS)
    assert all(len(weights) == len(SUBJECTS) for weights in WEIGHTS.values())
    assert 200 < len(WEIGHTS) < 300


@pytest.mark.skipif(not (DATA / "math500.jsonl").exists(), reason="K15_DATA names no folder of data sets")
def test_agreement_with_the_subjects_of_math() -> None:
    rows = [json.loads(line) for line in (DATA / "math500.jsonl").open(encoding="utf-8")]
    wanted = [MATH[row["subject"].lower().replace(" & ", "_and_").replace(" ", "_")] for row in rows]
    assert [domain(row["problem"], row) for row in rows] == wanted
    by_words = [domain(row["problem"], {}) for row in rows]
    assert sum(found == want for found, want in zip(by_words, wanted, strict=True)) >= 0.75 * len(rows)


def test_hostile_text_takes_no_longer() -> None:
    begin = time.process_time()
    for text in ("(", "[asy]", "\\a", "->", "given a ", "write a ", "求", "a" * 999 + " "):
        long = text * (200_000 // len(text))
        assert domain(long, {"topic": long, "subject": [long]}) in DOMAINS
    assert time.process_time() - begin < 1
