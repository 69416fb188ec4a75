"""Sees at each new token whether a response has begun to repeat itself [2501.12599 §2.6.2]."""

from __future__ import annotations


class Repetition:
    """The tail of one response; says when it ends in ``count`` copies of one pattern.

    The decision is that of ``rollout.partial.repeats`` for the tokens so far, at a cost that hardly depends on the
    number of patterns: tokens are characters, and a pattern is where the latest characters are found once more.
    """

    def __init__(self, min_pattern: int, max_pattern: int, count: int) -> None:
        """Patterns of ``min_pattern`` to ``max_pattern`` tokens, ``count`` of them in a row (at least 2)."""
        self._least = max(min_pattern, 1)
        self._most = max_pattern
        self._times = count - 1
        self._kept = max_pattern * count
        self._tail = ""

    def add(self, token: int) -> bool:
        """Add a token (an id below 1,114,112) and return True when the response repeats itself."""
        tail = self._tail + chr(token)
        if len(tail) > 2 * self._kept:
            tail = tail[-self._kept :]
        self._tail = tail
        end = len(tail) - self._least
        if end < self._least:
            return False
        latest, first = tail[end:], max(end - self._most, 0)
        found = tail.rfind(latest, first, end)
        while found >= 0:
            size = end - found
            span = size * self._times
            if size + span <= len(tail) and tail[-span:] == tail[-span - size : -size]:
                return True
            found = tail.rfind(latest, first, found + self._least - 1)
        return False
