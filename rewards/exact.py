"""Verifier for answers that must match to the letter."""

from __future__ import annotations

from rewards.response import after_thinking
from rewards.score import Score


def verify_exact(response: str, answer: str) -> Score:
    """Right when the text after the thinking, outer white space aside, is the answer."""
    found = after_thinking(response).strip()
    if found == answer.strip():
        return Score.right(found)
    return Score.wrong("another text" if found else "no answer after the thinking", found[:200])
