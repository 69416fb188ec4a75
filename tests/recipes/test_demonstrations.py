"""Warm-up demonstrations made of a data set's own fields."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from recipes.run.demonstrations import fill_in
from rl.config import WarmupConfig
from rollout.problems.rows import demonstration_of
from rollout.problems.source import ProblemError
from rollout.types import Message, Problem

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


def test_a_response_made_of_no_field_is_refused() -> None:
    for response in ("{answer", "the answer", "{}", "{1}"):
        with pytest.raises(ValidationError, match="names no field"):
            WarmupConfig(response=response)


SYSTEM, ASKS, SAYS, ASKS_MORE = (
    {"role": role, "content": text}
    for role, text in (("system", "Add."), ("user", "1+1"), ("assistant", "2"), ("user", "2+3"))
)
CALLS, TOOL, ENDS = (
    {"role": role, "content": text}
    for role, text in (("assistant", "run 2+3"), ("tool", "5"), ("assistant", "It is 5"))
)


@pytest.mark.parametrize(
    ("row", "asked", "learnt"),
    [
        ({"problem": "1+1", "response": "2"}, ["1+1"], "2"),
        ({"messages": [SYSTEM, ASKS], "response": "2"}, ["Add.", "1+1"], "2"),
        ({"messages": [SYSTEM, ASKS, SAYS]}, ["Add.", "1+1"], ["2"]),
        ({"messages": [ASKS, SAYS, ASKS_MORE, CALLS, TOOL, ENDS]}, ["1+1", "2", "2+3"], ["run 2+3", "5", "It is 5"]),
        ({"problem": "1+1", "response": "2", "messages": [ASKS_MORE, ENDS]}, ["1+1"], "2"),
    ],
)
def test_what_is_asked_and_what_is_learnt(row: dict[str, Any], asked: list[str], learnt: str | list[str]) -> None:
    """Of a conversation everything behind the user's last message, as most data sets of conversations mean it."""
    problem, response = demonstration_of(row, "demos:1")
    assert [message.content for message in problem.messages] == asked
    assert (response if isinstance(response, str) else [message.content for message in response]) == learnt
    if not isinstance(response, str):
        assert all(isinstance(message, Message) for message in response)


@pytest.mark.parametrize(
    ("row", "fault"),
    [
        ({"messages": [ASKS]}, "end with the assistant's"),
        ({"messages": [SYSTEM, SAYS]}, "have to hold a user's message"),
        ({"messages": [ASKS, SAYS], "response": "2"}, "the last one must be the user's"),
        ({"messages": []}, "messages is no list"),
        ({"problem": "1+1"}, "no response"),
        ({"response": "2"}, "no problem"),
    ],
)
def test_a_row_that_shows_nothing_is_refused(row: dict[str, Any], fault: str) -> None:
    with pytest.raises(ValueError, match=fault):
        demonstration_of(row, "demos:1")
