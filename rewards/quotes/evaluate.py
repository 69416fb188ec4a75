"""The value of an expression in doubles, in time linear in it. Nothing is evaluated as a program."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rewards.quotes.tokens import Kind, Token

RANK = {"+": 1, "-": 1, "*": 2, "/": 2, "^": 4}
"""Operators, and how strongly they bind."""
HIGHEST = 1e30
"""Values beyond are none."""


def computed(items: Sequence[Token], reading: Reading, parts: list[float] | None = None) -> float | None:
    """Return the value of an expression; ``None`` where it has none. ``parts`` takes the values of its brackets and
    products.
    """
    machine = _Machine(parts)
    before = "("
    for at, item in enumerate(items):
        if item.kind in (Kind.NUMBER, Kind.LETTER):
            if before in ("n", ")"):
                machine.sign("*", 2.0)
            if (value := reading.value(item)) is None:
                return None
            machine.values.append(value)
            before = "n"
            continue
        if item.text == "(":
            if before in ("n", ")"):
                machine.sign("*", 2.0)
            machine.signs.append(("(", 0.0))
        elif item.text == ")":
            machine.close()
        elif item.text == "-" and before not in ("n", ")"):
            machine.signs.append(("~", 3.0))
        else:
            tight = reading.tight and item.text == "/" and items[at - 1].end == item.start
            machine.sign(item.text, 2.5 if tight else RANK[item.text])
        before = item.text
    return machine.result()


@dataclass(frozen=True)
class Reading:
    """How an expression is read."""

    hundred: float = 100.0
    """What per cent divides by."""
    plain: bool = False
    """Whether millions and dozens are units."""
    tight: bool = False
    """Whether ``25 / 1/3`` divides by a third."""
    letters: float | None = None
    """Value of variables."""

    def value(self, item: Token) -> float | None:
        """Return the value of an operand."""
        if item.kind is Kind.LETTER:
            return self.letters
        value = item.plain if self.plain and item.plain is not None else item.value
        return value / self.hundred if item.percent and value is not None else value


class _Machine:
    """Two stacks, as in Dijkstra's shunting yard; what cannot be computed has no result."""

    def __init__(self, parts: list[float] | None) -> None:
        self.parts = parts
        self.values: list[float] = []
        self.signs: list[tuple[str, float]] = []
        self.failed = False

    def sign(self, text: str, rank: float) -> None:
        """Take an operator with two operands."""
        while self.signs and self.signs[-1][0] != "(" and self.signs[-1][1] >= rank:
            self._apply()
        self.signs.append((text, rank))

    def close(self) -> None:
        """Take a bracket that closes."""
        while self.signs and self.signs[-1][0] != "(":
            self._apply()
        if self.signs:
            self.signs.pop()
            if self.parts is not None and self.values:
                self.parts.append(self.values[-1])
        else:
            self.failed = True

    def result(self) -> float | None:
        """Return the value of all."""
        while self.signs and not self.failed:
            self.failed |= self.signs[-1][0] == "("
            self._apply()
        fine = not self.failed and len(self.values) == 1 and abs(self.values[0]) < HIGHEST
        return self.values[0] if fine else None

    def _apply(self) -> None:
        text, _ = self.signs.pop()
        needed = 1 if text == "~" else 2
        if self.failed or len(self.values) < needed:
            self.failed = True
            return
        right = self.values.pop()
        found = -right if text == "~" else _operation(text, self.values.pop(), right)
        self.failed |= found is None
        self.values.append(found or 0.0)
        if self.parts is not None and text in "*/" and found is not None:
            self.parts.append(found)


def _operation(sign: str, left: float, right: float) -> float | None:
    """Return the result, or ``None`` where there is none that is a number of reasonable size."""
    if sign == "+":
        return left + right
    if sign == "-":
        return left - right
    if sign == "*":
        return left * right
    if sign == "/":
        return left / right if right else None
    if not (0 < abs(left) < 1e6 and abs(right) <= 20) or (left < 0 and right != int(right)):
        return None
    found = left**right
    return found if abs(found) < HIGHEST else None
