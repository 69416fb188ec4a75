"""Verifier of maths answers in LaTeX."""

from __future__ import annotations

from rewards.math.grade import grade
from rewards.score import GRADER_TIMEOUT_S, Score


def verify_math(response: str, answer: str, timeout_s: float = GRADER_TIMEOUT_S) -> Score:
    r"""``rewards.math.grade.grade`` with the rule ``boxed``. Part ``format``: 1 when a box was found."""
    return grade(answer, response, timeout_s=timeout_s)
