"""What a response states as given, and whether its prompt has it (BioCopy's faithful quotes [2109.12533] as a rule)."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from rewards.quotes.excerpts import judge_excerpts
from rewards.quotes.lines import answers_of, lines_of
from rewards.quotes.names import judge_names
from rewards.quotes.numbers import judge_numbers

LONGEST = 100_000
"""Characters of a prompt and of a response that are read: the time is linear in them, and bounded."""

QuoteKind = Literal["number", "name", "code", "text"]


@dataclass(frozen=True)
class Quote:
    """Something that a response states as given."""

    kind: QuoteKind
    text: str
    """As written."""
    line: int
    """Counted from 1."""
    start: int
    """Of the first character in the response."""
    end: int
    """Behind its last."""
    by: str
    """What supports it: ``prompt``, ``earlier`` (a line before), ``computed``, ``answer`` (the response's own), or weak
    support of a number (``unit``, ``word``, ``rest``, ``share``, ``count``, ``whole``, ``rounded``, ``part``,
    ``terms``, ``step``; docs/quotes.md). Empty: nothing does."""

    @property
    def supported(self) -> bool:
        """Whether something supports it."""
        return bool(self.by)


@dataclass(frozen=True)
class Miscalculation:
    """An equation of a response that does not hold; no quote, but often what a wrong one leads to."""

    text: str
    line: int
    start: int
    end: int


@dataclass(frozen=True)
class QuoteReport:
    """All that a response states as given, in its order."""

    quotes: tuple[Quote, ...]
    miscalculations: tuple[Miscalculation, ...]
    cut: bool
    """Whether prompt or response is longer than what is read."""

    @property
    def unsupported(self) -> tuple[Quote, ...]:
        """Quotes that nothing supports."""
        return tuple(quote for quote in self.quotes if not quote.supported)

    @property
    def share(self) -> float:
        """Share of the quotes that nothing supports; 0 where there are no quotes."""
        return len(self.unsupported) / len(self.quotes) if self.quotes else 0.0

    def of(self, kinds: Iterable[QuoteKind]) -> QuoteReport:
        """Return the report of some kinds alone."""
        wanted = frozenset(kinds)
        return QuoteReport(tuple(q for q in self.quotes if q.kind in wanted), self.miscalculations, self.cut)


def quote_report(prompt: str, response: str) -> QuoteReport:
    """Return what a response states as given. Hostile input costs bounded time; nothing is evaluated or imported."""
    cut = len(prompt) > LONGEST or len(response) > LONGEST
    prompt, response = prompt[:LONGEST], response[:LONGEST]
    begins = [0, *(at + 1 for at, character in enumerate(response) if character == "\n")]

    def line(place: int) -> int:
        return bisect_right(begins, place)

    lines = lines_of(response)
    claims, slips = judge_numbers(prompt, lines, answers_of(response))
    quotes = [
        Quote("number", response[c.token.start : c.token.end], line(c.token.start), c.token.start, c.token.end, c.by)
        for c in claims
    ]
    quotes += [
        Quote("name", name.text, line(name.start), name.start, name.end, "prompt" if name.supported else "")
        for name in judge_names(prompt, response, lines)
    ]
    quotes += [
        Quote(one.kind, one.text, line(one.start), one.start, one.end, "prompt" if one.supported else "")
        for one in judge_excerpts(prompt, response)
    ]
    broken = tuple(Miscalculation(response[s.start : s.end], line(s.start), s.start, s.end) for s in slips)
    return QuoteReport(tuple(sorted(quotes, key=lambda q: (q.start, q.end))), broken, cut)
