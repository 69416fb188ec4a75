"""Exact verifier of integer answers, for the procedural ``arithmetic`` problems.

A response is right when the text after its *last* ``</think>`` is ``Answer: <integer>`` and nothing else but spaces
and line ends around it. No expression is evaluated and no text is repaired, so a response cannot talk the verifier into
anything.
"""

from __future__ import annotations

import re

from rewards.score import Score

CLOSE = "</think>"
"""Only text after the last one of these counts."""
MAX_TAIL = 64
"""An answer text longer than this many characters is refused unread."""

_INTEGER = r"(0|-?[1-9][0-9]{0,17})"
_ANSWER = re.compile(f"Answer: {_INTEGER}")


def answer_text(response: str, max_tail: int = MAX_TAIL) -> tuple[str, str]:
    """``(tail, "")``: the stripped text after the last ``</think>``; or ``("", reason)`` when there is none to read."""
    _, close, tail = response.rpartition(CLOSE)
    if not close:
        return "", "no closing </think>"
    if len(tail) > max_tail:
        return "", f"answer text longer than {max_tail} characters"
    return tail.strip(" \n"), ""


def verify_arithmetic(response: str, answer: str) -> Score:
    """Right when the answer text is exactly ``Answer: <answer>``, with ``answer`` a plain decimal integer."""
    if re.fullmatch(_INTEGER, answer) is None:
        return Score.ungradable("reference is not a plain integer")
    tail, reason = answer_text(response)
    if reason:
        return Score.wrong(reason)
    match = _ANSWER.fullmatch(tail)
    if match is None:
        return Score.wrong("answer text is not 'Answer: <integer>'")
    found = match.group(1)
    return Score.right(found) if found == answer else Score.wrong("another number", found)
