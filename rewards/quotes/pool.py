"""What supports the numbers of a response: firmly what is given or computed, weakly what a reader would know."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

from rewards.math.words import words
from rewards.quotes.equations import Expression
from rewards.quotes.numerals import SCALES, TIMES, fractions, merged
from rewards.quotes.tokens import Kind, Token, rounded, tokens_of
from rewards.quotes.units import converted, licensed

NEAR = 64
"""Numbers of the prompt, the first ones, and of the response, the newest ones, from which one step leads on."""
STEPS = 400
"""Most numbers of a response for which a step is looked for; others have none."""
LEAST = 1.0
"""Numbers up to this one lead no step on."""
TRIVIAL = frozenset({0.0, 1.0, 2.0, 100.0})
"""Numbers that need no word of their own: none, one, both, the whole in per cent."""
MOST_LISTED = 12
"""Longest list whose length supports a number."""
WHOLES = frozenset({7.0, 12.0, 24.0})
"""Units of which a number may be a part, and leave a rest: days of a week, months of a year, hours of a day."""
COMPANY = words("friend sibling brother sister roommate neighbor classmate cousin coworker colleague teammate")
"""Whom somebody is counted with: with 3 friends there are 4."""

Key = float | str


@dataclass(frozen=True)
class Given:
    """The numbers of a prompt."""

    firm: frozenset[Key]
    """In every form in which they can be written."""
    order: tuple[float, ...]
    """The same without those of too many digits, in their order."""
    weak: dict[Key, str]
    """What they imply, and how."""
    words: frozenset[str]
    """Words of the prompt, in lower case."""


@lru_cache(maxsize=256)
def given(prompt: str) -> Given:
    """Return the numbers of a prompt; the last ones asked for are kept, since groups share theirs."""
    tokens = merged(tokens_of(prompt))
    firm: dict[Key, None] = {}
    weak: dict[Key, str] = {}

    def hint(value: float, by: str) -> None:
        weak.setdefault(rounded(value), by)

    for token in tokens:
        if token.kind is Kind.NUMBER:
            firm |= dict.fromkeys(forms(token))
            for value, by in implied(token):
                hint(value, by)
    for above, below in fractions(tokens):
        share = above / below
        firm |= dict.fromkeys(map(rounded, (share, above, below, 100 * share)))
        for value in (below - above, 1 - share, 100 - 100 * share, 1 + share, below + above):
            hint(value, "rest")
    said = frozenset(token.text.lower() for token in tokens if token.kind is Kind.WORD)
    for word in sorted(said & TIMES.keys()):
        hint(TIMES[word], "word")
        if TIMES[word] > 1:  # the one and the twice as many are three parts
            hint(TIMES[word] + 1, "whole")
    firm |= dict.fromkeys(SCALES[word] for word in sorted(said & SCALES.keys()))
    wholes = sorted(WHOLES & licensed(said))
    for at, token in enumerate(tokens):
        if token.kind is Kind.NUMBER and token.value is not None:
            for value, by in beside(token.value, [word.text.lower() for word in tokens[at + 1 : at + 4]]):
                hint(value, by)
            for whole in wholes:
                if token.value < whole:
                    hint(whole - token.value, "rest")
    for count in sorted(listed(tokens)):
        hint(count, "count")
    return Given(frozenset(firm), tuple(key for key in firm if isinstance(key, float)), weak, said)


def forms(token: Token) -> list[Key]:
    """Return the forms of a given number: ``1.5 million`` is also 1.5, ``20%`` 0.2, ``0.2`` 20%."""
    found: list[Key] = [token.key]
    if token.value is None:
        return found
    if token.plain is not None:
        found += [rounded(token.plain), rounded(token.value / token.plain if token.plain else 0.0)]
    if token.percent or 0 < token.value < 1:
        share = token.value / 100 if token.percent else token.value
        found += [rounded(share), rounded(100 * share)]
    return found


def implied(token: Token) -> list[tuple[float, str]]:
    """Return what a given number implies: the rest of a share, the sum of whole and share."""
    value = token.value
    if value is None:
        return []
    if token.percent or 0 < value < 1:
        share = value / 100 if token.percent else value
        return [(rest, "rest") for rest in (1 - share, 100 - 100 * share, 1 + share, 100 + 100 * share)]
    if 0 < value <= 100:
        return [(value / 100, "share"), (1 - value / 100, "rest"), (1 + value / 100, "rest")]
    return []


def beside(value: float, behind: Sequence[str]) -> list[tuple[float, str]]:
    """Return what a given number implies with the words behind it: 3 friends and oneself are 4, 3 times as many and the
    one are 4, 2 weeks are 14 days.
    """
    found = [(value + 1, "whole")] if any(word.rstrip("s") in COMPANY for word in behind) else []
    if behind[:1] == ["times"]:
        found += [(value + 1, "whole"), (value - 1, "whole")]
    for word in behind[:2]:
        found += [(other, "unit") for other in converted(value, word)]
    return found


def listed(tokens: Sequence[Token]) -> set[int]:
    """Return how many things a text lists: names, parts between commas, numbers of a sentence."""
    names: set[str] = set()
    found: set[int] = set()
    items, numbers, before = 1, 0, ""
    for token in tokens:
        if token.kind is Kind.WORD and token.text[0].isupper():
            names.add(token.text)
        if token.text == "," or (token.text.lower() == "and" and before != ","):
            items += 1
        elif token.kind is Kind.NUMBER:
            numbers += 1
        elif token.text in (".", "?", "!", "\n"):
            found |= {items, numbers}
            items, numbers = 1, 0
        before = token.text
    return {count for count in found | {len(names), items, numbers} if 2 <= count <= MOST_LISTED}


@dataclass
class Pool:
    """The numbers that a response may use, as its lines are read."""

    given: Given
    units: frozenset[float]
    """Numbers that words of prompt and response license."""
    made: dict[Key, str] = field(default_factory=dict)
    """Firm ones that the response brought: ``earlier`` or ``computed``."""
    order: list[float] = field(default_factory=list)
    """The same, in order."""
    hints: dict[Key, str] = field(default_factory=dict)
    """Weak ones."""
    steps: int = STEPS
    """Numbers for which a step may still be looked for."""

    @classmethod
    def of(cls, prompt: str, words: frozenset[str]) -> Pool:
        """Return the pool before the first line; ``words``: those of the response, in lower case."""
        known = given(prompt)
        return cls(known, frozenset(licensed(known.words | words)) | TRIVIAL)

    def add(self, value: float | None, key: Key, by: str) -> None:
        """Make a number of the response firm."""
        if key not in self.made:
            self.made[key] = by
            if value is not None:
                self.order.append(value)

    def learn(self, expression: Expression) -> None:
        """Take what an expression implies: its rounded value, its brackets, how many numbers are in it, and of algebra
        the sums of like terms: 4p + 24 + p + 6 is 5p + 30.
        """
        self.hints.setdefault(float(len(expression.numbers)), "count")
        for value in expression.values:
            for near in (math.floor(value), math.ceil(value), round(value, 1), round(value, 2)):
                self.hints.setdefault(rounded(near), "rounded")
        for part in expression.parts():
            self.hints.setdefault(rounded(part), "part")
        if expression.algebra:
            constant, whole = expression.with_letters(0.0), expression.with_letters(1.0)
            if constant is not None and whole is not None:
                self.hints.setdefault(rounded(constant), "terms")
                self.hints.setdefault(rounded(whole - constant), "terms")

    def say(self, value: float) -> None:
        """Take a small number in words, which is no claim but a hint."""
        self.hints.setdefault(rounded(value), "word")

    def count(self, counts: Iterable[int]) -> None:
        """Take how many things a line lists."""
        for count in counts:
            self.hints.setdefault(float(count), "count")

    def firmly(self, token: Token) -> str:
        """Return what supports a number firmly; empty: nothing."""
        keys = [token.key] if token.plain is None else [token.key, rounded(token.plain)]
        if any(key in self.given.firm for key in keys):
            return "prompt"
        return next((self.made[key] for key in keys if key in self.made), "")

    def weakly(self, key: Key, kinds: frozenset[str]) -> str:
        """Return which of ``kinds`` supports a number weakly; empty: none."""
        found = [self.given.weak.get(key, ""), self.hints.get(key, ""), "unit" if key in self.units else ""]
        if by := next((by for by in found if by in kinds), ""):
            return by
        if "step" not in kinds or not isinstance(key, float) or self.steps <= 0:
            return ""
        self.steps -= 1
        return "step" if self._a_step_away(key) else ""

    def _a_step_away(self, target: float) -> bool:
        """Whether one operation on two firm numbers, or on one and a unit, gives ``target``."""
        firm, made, units = self.given.firm, self.made, self.units
        for one in (*self.given.order[:NEAR], *self.order[-NEAR:]):
            if one <= LEAST:  # one more or less is what a slip of the pen is
                continue
            others = [other for other in (target - one, one - target, target + one) if other > LEAST]
            factors = [f for f in (target / one, target * one, one / target if target else 0.0) if f != 1]
            if any((key := rounded(value)) in firm or key in made for value in others + factors):
                return True
            if any(rounded(value) in units for value in factors):
                return True
        return False
