"""Expressions and equations in running text, with units and words between: ``3 hats * $4/hat = $12``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from functools import cached_property
from itertools import pairwise

from rewards.math.words import words
from rewards.quotes.evaluate import RANK, Reading, computed
from rewards.quotes.tokens import Kind, Token

MAX_ITEMS = 256
"""Operands, operators and brackets of one expression; a longer one ends there."""
MAX_DEPTH = 8
"""Brackets within each other; what lies deeper is not read as arithmetic."""
UNIT_WORDS = 10
"""Most words between an operand and the operator behind it."""
LEAD_WORDS = 3
"""Most words between an operator or an equals sign and the operand behind it."""
STOP = words(
    "is are was were so then because since and if or but which that who than means gives makes leaves has had have"
)
"""Words that no unit has: an expression ends before them."""


@dataclass(frozen=True)
class Expression:
    """Operands with operators between, or one operand."""

    items: tuple[Token, ...]
    """Operands, operators and brackets, in order; words are left out."""
    start: int
    """Index of its first token."""
    end: int
    """Index behind its last token, units included."""

    @cached_property
    def numbers(self) -> list[Token]:
        """Its numbers, in order."""
        return [item for item in self.items if item.kind is Kind.NUMBER]

    @cached_property
    def computes(self) -> bool:
        """Whether there is an operation in it."""
        return len(self.items) > 1 and any(item.text in RANK and item.kind is Kind.SIGN for item in self.items[1:])

    @cached_property
    def values(self) -> list[float]:
        """Return what it may come to, as it is written and read; nothing where it cannot be computed."""
        if self.algebra:
            return []
        readings = [Reading()]
        if any(number.percent for number in self.numbers):
            readings.append(Reading(hundred=1.0))
        if any(number.plain is not None for number in self.numbers):
            readings.append(Reading(plain=True))
        if len([item for item in self.items if item.text == "/"]) > 1:
            readings.append(Reading(tight=True))
        found = [computed(self.items, reading) for reading in readings]
        return [value for value in found if value is not None]

    def with_letters(self, value: float) -> float | None:
        """Return what it comes to where each variable is ``value``."""
        return computed(self.items, Reading(letters=value))

    @property
    def adds_percent(self) -> bool:
        """Whether a part is added to its whole: ``50 - 20%``."""
        numbers = self.numbers
        mixed = any(n.percent for n in numbers) and not all(n.percent for n in numbers)
        return mixed and any(item.text in ("+", "-") for item in self.items)

    @property
    def is_one(self) -> bool:
        """Whether it is a single number, or one written as a fraction."""
        texts = [item.text for item in self.items if item.text not in ("(", ")", "-")]
        return len(texts) == 1 or (len(texts) == 3 and texts[1] == "/")

    @property
    def lacks(self) -> bool:
        """Whether words stand in the place of a number: ``total / 3``."""
        return any(item.kind is Kind.LETTER and not item.text for item in self.items)

    def parts(self) -> list[float]:
        """Return what its brackets and products come to."""
        found: list[float] = []
        computed(self.items, Reading(), found)
        return found

    @property
    def algebra(self) -> bool:
        """Whether it has variables, or words in the place of numbers."""
        return any(item.kind is Kind.LETTER for item in self.items)


_DONE_BY = {"divided": "/", "multiplied": "*"}


class Holds(Enum):
    """How far an equation is true."""

    EXACTLY = "exactly"
    ROUNDED = "rounded"
    NOT = "not"
    UNKNOWN = "unknown"
    """It has variables, words in the place of numbers, or more than one reading."""


@dataclass(frozen=True)
class Equation:
    """Two expressions with an equals sign between."""

    left: Expression
    right: Expression

    @property
    def numbers(self) -> list[Token]:
        """Its numbers, in order."""
        return [*self.left.numbers, *self.right.numbers]

    @cached_property
    def holds(self) -> Holds:
        """How far it is true."""
        left, right = self.left.values, self.right.values
        if not left or not right or not (self.left.computes or self.right.computes):
            return Holds.UNKNOWN
        step = _step(self)
        pairs = [(a, b) for a in left for b in right]
        if self.right.computes:  # 3 * 4 = 12 + 5 = 17, 1 - 2/3 = 1/3 of 150
            begins = [computed(self.right.items[:length], Reading()) for length in (1, 3)]
            pairs += [(a, begin) for a in left for begin in begins if begin is not None]
        if any(_equal(a, b, 0.0) for a, b in pairs):
            return Holds.EXACTLY
        if any(_equal(a, b, step) for a, b in pairs):
            return Holds.ROUNDED
        unsure = not self.left.computes or self.left.adds_percent or self.right.adds_percent
        return Holds.UNKNOWN if unsure else Holds.NOT  # 2 kg = 2 * 1000 g


def _step(equation: Equation) -> float:
    """Return the step of the coarsest written side: what rounding may take away."""
    sides = [side for side in (equation.left, equation.right) if not side.computes]
    places = [len(n.text.partition(".")[2]) for side in sides for n in side.numbers]
    return 10.0 ** -min(places) if places else 0.0


def _equal(a: float, b: float, step: float) -> bool:
    """Whether values are equal but for less than ``step``, and for cents and dollars or per cent and shares."""
    steps = {1.0: step, 0.01: step / 100, 100.0: step * 100 if step < 1 else 0.0}
    return any(abs(a - b * scale) <= max(0.999 * within, 1e-9 * abs(a)) for scale, within in steps.items())


def expressions(tokens: Sequence[Token]) -> list[Expression]:
    """Return the expressions of some tokens, in order; none goes across a break."""
    found: list[Expression] = []
    at = 0
    while at < len(tokens):
        token = tokens[at]
        if token.kind in (Kind.NUMBER, Kind.LETTER) or token.text == "(" or _unary(tokens, at):
            one = _expression(tokens, at)
            if one is not None:
                found.append(one)
                at = one.end
                continue
            while at + 1 < len(tokens) and tokens[at].text == "(" and tokens[at + 1].text == "(":
                at += 1
        at += 1
    return found


def equations(tokens: Sequence[Token], found: Sequence[Expression]) -> list[Equation]:
    """Return the equations between neighbouring expressions."""
    return [
        Equation(left, right)
        for left, right in pairwise(found)
        if left.end < len(tokens)
        and tokens[left.end].kind is Kind.EQUALS
        and right.start - left.end - 1 <= LEAD_WORDS
        and all(t.kind is Kind.WORD for t in tokens[left.end + 1 : right.start])
    ]


def _unary(tokens: Sequence[Token], at: int) -> bool:
    return (
        tokens[at].text == "-"
        and tokens[at].kind is Kind.SIGN
        and at + 1 < len(tokens)
        and (tokens[at + 1].kind is Kind.NUMBER or tokens[at + 1].text == "(")
    )


def _expression(tokens: Sequence[Token], start: int) -> Expression | None:
    """Return the longest expression from a token on; ``None`` where there is none."""
    items: list[Token] = []
    before = start - 1
    while before > start - MAX_DEPTH and before > 0 and tokens[before].text == "(":
        before -= 1
    if before >= 0 and tokens[before].kind is Kind.SIGN and tokens[before].text in RANK:  # total / 3
        items.append(Token(Kind.LETTER, "", tokens[start].start, tokens[start].start))
    depth, at, good, good_items = 0, start, start, 0
    while len(items) < MAX_ITEMS:
        while at < len(tokens) and (tokens[at].text == "(" or (tokens[at].text == "-" and _unary(tokens, at))):
            depth += tokens[at].text == "("
            items.append(tokens[at])
            at += 1
            if depth > MAX_DEPTH:
                return None
        if at >= len(tokens) or tokens[at].kind not in (Kind.NUMBER, Kind.LETTER):
            break
        items.append(tokens[at])
        at += 1
        while at < len(tokens) and tokens[at].kind is Kind.LETTER:  # 5x
            items.append(tokens[at])
            at += 1
        at = _closed(tokens, at, items, depth)
        depth = _depth(items)
        if depth == 0:
            good, good_items = at, len(items)
        behind = _operator(tokens, at, items)
        if behind is None:
            break
        at, sign = behind
        items.append(sign)
        at = _led(tokens, at)
    if good_items == 0:
        return None
    return Expression(tuple(items[:good_items]), start, _units_end(tokens, good))


def _closed(tokens: Sequence[Token], at: int, items: list[Token], depth: int) -> int:
    """Take the brackets that close, with units before them; return the place behind."""
    while depth:
        end = at
        while end < len(tokens) and end - at < UNIT_WORDS and tokens[end].kind is Kind.WORD:
            end += 1
        if end >= len(tokens) or tokens[end].text != ")":
            break
        items.append(tokens[end])
        at, depth = end + 1, depth - 1
    return at


def _depth(items: Sequence[Token]) -> int:
    return sum((item.text == "(") - (item.text == ")") for item in items)


def _operator(tokens: Sequence[Token], at: int, items: Sequence[Token]) -> tuple[int, Token] | None:
    """Return the operator behind an operand and its units, and the place behind it; ``None`` where none comes."""
    end = at
    while end < len(tokens) and end - at <= UNIT_WORDS:
        token = tokens[end]
        if token.kind is Kind.SIGN and token.text in RANK:
            return (end + 1, token) if _operand_follows(tokens, end + 1) else None
        if token.text == "(" and end == at and (items[-1].text == ")" or items[-1].end == token.start):
            return end, Token(Kind.SIGN, "*", token.start, token.start)
        if not _is_unit(token) or (items[-1].spelled and items[-1].value == 1):
            return None
        if token.text.lower() == "of" and end == at and _is_share(items):
            return (end + 1, _sign(token, "*")) if _operand_follows(tokens, end + 1, 1) else None
        if token.text.lower() in _DONE_BY and end + 1 < len(tokens) and tokens[end + 1].text == "by":
            return (end + 2, _sign(token, _DONE_BY[token.text.lower()])) if _operand_follows(tokens, end + 2) else None
        end += 1
    return None


def _sign(token: Token, text: str) -> Token:
    return Token(Kind.SIGN, text, token.start, token.end)


def _is_share(items: Sequence[Token]) -> bool:
    """Whether the operand before ``of`` is a share: ``20% of``, ``1/2 of``, ``half of``."""
    last = items[-1]
    stroke = len(items) > 1 and items[-2].text == "/"
    return last.kind is Kind.NUMBER and (last.percent or stroke or (last.spelled and last.value == 0.5))


def _led(tokens: Sequence[Token], at: int, most: int = LEAD_WORDS) -> int:
    """Return the place of the operand behind an operator, words left out."""
    end = at
    while end < len(tokens) and end - at < most and _is_unit(tokens[end]):
        end += 1
    return end


def _is_unit(token: Token) -> bool:
    """Whether a word can stand beside an operand of an expression."""
    return token.kind is Kind.WORD and token.text.lower() not in STOP


def _operand_follows(tokens: Sequence[Token], at: int, most: int = LEAD_WORDS) -> bool:
    end = _led(tokens, at, most)
    return end < len(tokens) and (
        tokens[end].kind in (Kind.NUMBER, Kind.LETTER) or tokens[end].text == "(" or _unary(tokens, end)
    )


def _units_end(tokens: Sequence[Token], at: int) -> int:
    """Return the place of an equals sign behind the units of the last operand; else ``at``."""
    end = at
    while end < len(tokens) and end - at < UNIT_WORDS and tokens[end].kind is Kind.WORD:
        end += 1
    return end if end < len(tokens) and tokens[end].kind is Kind.EQUALS else at
