"""Verifier of GSM8K-style answers: one number, compared by value."""

from __future__ import annotations

from rewards.math.grade import grade
from rewards.score import GRADER_TIMEOUT_S, Score


def verify_gsm8k(response: str, answer: str, timeout_s: float = GRADER_TIMEOUT_S) -> Score:
    """``rewards.math.grade.grade`` with the rule ``gsm8k``; ``answer`` may be a rationale that ends in ``#### number``.

    Part ``format``: 1 when the answer was marked with ``####``.
    """
    return grade(answer, response, rule="gsm8k", timeout_s=timeout_s)
