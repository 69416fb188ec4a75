"""Which part of a response is its answer. Pure functions, linear in the text's length: responses are hostile input."""

from __future__ import annotations

OPEN, CLOSE = "<think>", "</think>"


def after_thinking(response: str) -> str:
    """The text after the last ``</think>``; all of it without any thinking; nothing when the thinking never ended."""
    _, close, tail = response.rpartition(CLOSE)
    if close:
        return tail
    return "" if OPEN in response else response
