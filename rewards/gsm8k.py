"""Verifier of GSM8K-style answers: one number, compared by value."""

from __future__ import annotations

import re
from decimal import Decimal

from rewards.response import after_thinking
from rewards.score import Score

MARK = "####"
_NUMBER = re.compile(r"(?<![\d.])-?\$?\d[\d,]{0,39}(?:\.\d{1,40})?|-?\$?\.\d{1,40}")


def number(text: str) -> Decimal | None:
    """The value of a number as people write it (``$1,234.50``, ``-3``); ``None`` when the text holds none."""
    match = _NUMBER.search(text)
    return Decimal(match.group().replace(",", "").replace("$", "")) if match else None


def extract(response: str) -> tuple[str, bool]:
    """The answer's text and whether it was marked: the number after the last ``####``, else the last number."""
    text = after_thinking(response)
    _, mark, tail = text.rpartition(MARK)
    if mark:
        match = _NUMBER.search(tail)
        return (match.group() if match else "", True)
    found = ""
    for match in _NUMBER.finditer(text):
        found = match.group()
    return found, False


def verify_gsm8k(response: str, answer: str) -> Score:
    """Right when the response's number equals the answer's; part ``format`` is 1 when it was marked with ``####``.

    ``answer`` is a number, or a GSM8K rationale that ends in ``#### number``. Raises ``ValueError`` when it holds none.
    """
    gold = number(answer.rpartition(MARK)[2])
    if gold is None:
        raise ValueError(f"reference answer {answer[-80:]!r} holds no number; choose another verifier for it")
    text, marked = extract(response)
    if not text:
        return Score.wrong("no number found", format=float(marked))
    if number(text) == gold:
        return Score.right(text, format=float(marked))
    return Score.wrong("another number", text, format=float(marked))
