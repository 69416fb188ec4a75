"""Parsing of written numbers: decimals, repeating decimals, digits in a base."""

from __future__ import annotations

import re
from fractions import Fraction

from rewards.math.cursor import Cursor
from rewards.math.tree import Based, Num, Unreadable

_BASES = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"]
_MARKS = ("overline", "bar", "dot")


class Numerals(Cursor):
    """The part of the parser that reads numbers."""

    def numeral(self) -> Num | Based:
        """Return a number; with a subscript it is one in another base."""
        token = self.tokens[self.at]
        digits, end = token.value, self.at + 1
        while end < len(self.tokens) and not self.tokens[end].spaced and self._is_digit(end):
            digits += self.tokens[end].value.upper()
            end += 1
        if end < len(self.tokens) and self.tokens[end].value == "_" and re.fullmatch(r"[0-9A-F]+(\.[0-9]+)?", digits):
            start, self.at = self.at, end + 1
            base = base_of(self.script(), digits)
            lower = any(part.value.islower() for part in self.tokens[start:end])
            if base and (base == 16 or not lower):  # 2a_{12} is twice a term
                return Based(re.sub(r"^0+(?=[0-9A-F])", "", digits), base)
            if digits == token.value:
                raise Unreadable("a number with a subscript that is no base")
            self.at = start
        return self.number()

    def _is_digit(self, place: int) -> bool:
        token = self.tokens[place]
        return token.kind in ("num", "name", "text") and re.fullmatch(r"[0-9A-Fa-f]+", token.value) is not None

    def number(self) -> Num:
        r"""The number that comes, with an ``\overline``, dots or an ellipsis for repeating digits."""
        digits = self.tokens[self.at].value
        self.at += 1
        if "." in digits and "e" not in digits.lower():
            if self.peek() in _MARKS:
                return self.repeating(digits)
            if self.peek() == "..." and (period := _period(digits.partition(".")[2])):
                self.at += 1
                return Num(_repeated(digits[: len(digits) - period], digits[len(digits) - period :]))
        return Num(Fraction(digits.rstrip(".") if digits.endswith(".") else digits.replace(".e", "e")))

    def repeating(self, digits: str) -> Num:
        r"""``0.1\overline{6}``, ``0.\dot{1}2\dot{3}``: all digits from the first mark to the last repeat."""
        first, start = self.peek(), self.at
        period = self.marked()
        if first == "dot" and period:
            between = self.tokens[self.at].value if self.kind() == "num" and self.peek(1) == "dot" else ""
            if between or self.peek() == "dot":
                self.at += bool(between)
                period += between + self.marked()
        if not period.isdigit():
            self.at = start
            raise Unreadable(f"{first!r} over something that is no digit")
        return Num(_repeated(digits, period))

    def marked(self) -> str:
        """Return the digits under a mark: in braces, or a single one."""
        self.at += 1
        if self.kind() == "num" and len(self.tokens[self.at].value) == 1:
            return self.script()
        return self.script() if self.peek() == "{" else ""


def _period(places: str) -> int:
    """Return how many digits at the end repeat, seen at least three times, or twice when there are several."""
    for length in range(1, len(places) // 2 + 1):
        times = 3 if length == 1 else 2
        if len(places) >= times * length and places.endswith(places[-length:] * times):
            return length
    return 0


def _repeated(digits: str, period: str) -> Fraction:
    places = len(digits.partition(".")[2])
    return Fraction(digits.rstrip(".")) + Fraction(int(period), 10**places * (10 ** len(period) - 1))


def base_of(text: str, digits: str) -> int:
    """Return the base that a subscript names; 0 when it names none, or none that has such digits."""
    if text.lower() in _BASES:
        return _BASES.index(text.lower())
    if not re.fullmatch(r"[0-9]{1,2}", text):
        return 0
    base = int(text)
    return base if digits.replace(".", "").isdigit() or 11 <= base <= 36 else 0
