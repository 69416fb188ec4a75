"""Warm-up demonstrations made of a data set's own fields."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from recipes.run.demonstrations import fill_in
from rl.config import WarmupConfig
from rollout.problems.source import ProblemError
from rollout.types import Problem

PROBLEM = Problem.ask("p1", "Two and three?", "5", "gsm8k", extra={"equation": "2+3=5", "grade": 1})


def test_fields_of_the_row_are_filled_in() -> None:
    assert fill_in("{equation}\n#### {answer}", PROBLEM) == "2+3=5\n#### 5"
    assert fill_in("grade {grade}: {problem}", PROBLEM) == "grade 1: Two and three?"


def test_other_braces_stay_and_values_are_not_filled_in_again() -> None:
    assert fill_in(r"\boxed{{answer}} {} {1} {{ }}", PROBLEM) == r"\boxed{5} {} {1} {{ }}"
    tricky = Problem.ask("p2", "x", "{equation}", "exact", extra={"equation": "no"})
    assert fill_in("{answer}", tricky) == "{equation}"


def test_a_missing_field_names_problem_and_field() -> None:
    with pytest.raises(ProblemError, match=r"problem 'p1' has no 'rationale', which warmup.response asks for"):
        fill_in("{rationale}", PROBLEM)


def test_demonstrations_have_one_origin() -> None:
    with pytest.raises(ValidationError, match=r"exclude each other"):
        WarmupConfig(path="demos.jsonl", response="{answer}")
