"""Drafts a response that copies: the continuation of the span that its latest tokens repeat, for an engine to verify.

BioCopy [2109.12533] marks the tokens of a response that continue a span of the source. Here the mark is not learnt: a
response is taken to copy as long as it agrees with a place of its prompt, or of itself. What is drafted is a guess made
without chance, so that an engine that draws each token from the number of its position keeps exactly those that it
would have drawn (``rollout.engines.noise``).
"""

from __future__ import annotations

from collections.abc import Iterable

FARTHEST = 64
"""Tokens that are compared back from a place, at most: of two longer agreements neither is the better."""
PLACES = 64
"""Places that are compared, at most: the latest, where text says the same again and again."""
DOUBT = 2
"""Tokens that a wrong draft adds to the agreement that the next one needs; a right token takes one off."""
MOST_DOUBT = 8
"""Most that wrong drafts add."""


class SpanDrafter:
    """The tokens of one response so far, with its prompt, and the place that it is taken to copy from.

    A draft is a function of these tokens alone: how many were drawn in a step, and whether they had been drafted, is
    nothing to it. It is as long as the agreement before it, so that a span that goes on doubles it with each step, and
    wrong drafts make the next ones rarer and shorter. A token costs a look-up of the latest ``least`` tokens where the
    response leaves a span, and a comparison where it does not.
    """

    def __init__(self, prompt: Iterable[int], longest: int, least: int) -> None:
        """Draft at most ``longest`` tokens, and only behind ``least`` tokens in a row that stood there before."""
        self._longest = longest
        self._least = least
        self._tokens = list(prompt)
        self._prompt = len(self._tokens)
        self._places: dict[tuple[int, ...], list[int]] = {}
        """For ``least`` tokens in a row the indices of what followed them."""
        self._source = -1
        """Index of the token that should come next; -1: none."""
        self._agreed = 0
        self._doubt = 0
        for place in range(least, self._prompt):
            self._note(place)
        self._find()

    def __len__(self) -> int:
        return len(self._tokens)

    def extend(self, tokens: Iterable[int]) -> None:
        """Add tokens of the response."""
        for token in tokens:
            place = len(self._tokens)
            expected = self._tokens[self._source] if self._source >= 0 else -1
            self._tokens.append(token)
            if place >= self._least:
                self._note(place)
            if token == expected:
                self._source += 1
                self._agreed += 1
                self._doubt = max(0, self._doubt - 1)
                continue
            if self._sure >= self._least:
                self._doubt = min(self._doubt + DOUBT, MOST_DOUBT)
            self._find()

    def draft(self, room: int) -> list[int]:
        """Return at most ``room`` tokens that continue the present span; none where there is none, or too much doubt.

        A span that overlaps the end, as in text that repeats itself, continues in the draft itself.
        """
        if self._sure < self._least:
            return []
        length, drafted = len(self._tokens), list[int]()
        for place in range(self._source, self._source + min(self._sure, self._longest, room)):
            drafted.append(self._tokens[place] if place < length else drafted[place - length])
        return drafted

    @property
    def _sure(self) -> int:
        return self._agreed - self._doubt

    def _note(self, place: int) -> None:
        self._places.setdefault(tuple(self._tokens[place - self._least : place]), []).append(place)

    def _find(self) -> None:
        """Look for the place with the longest agreement: of equals one in the prompt, and then the latest."""
        latest = tuple(self._tokens[len(self._tokens) - self._least :])
        places = self._places.get(latest, ())[-PLACES:]
        found = max(((self._back(place), place < self._prompt, place) for place in places), default=(0, False, -1))
        self._agreed, _, self._source = found

    def _back(self, place: int) -> int:
        """Return how many tokens in a row before ``place`` are the latest ones."""
        tokens, end = self._tokens, len(self._tokens)
        count = self._least
        while count < min(place, FARTHEST) and tokens[place - count - 1] == tokens[end - count - 1]:
            count += 1
        return count
