"""A place in the tokens of one answer, and how to step on from it."""

from __future__ import annotations

from rewards.math.tokens import Token
from rewards.math.tree import Unreadable


class Cursor:
    """One pass over the tokens of one answer."""

    def __init__(self, tokens: list[Token], independent: bool = False) -> None:
        self.tokens = tokens
        self.at = 0
        self.depth = 0
        self.bars = 0  # open bars, and builders of sets: what a coming bar closes
        self.sets = 0
        self.operands_left = 16 * len(tokens) + 16  # plus-minus signs are read several times, inside of a set again
        self.independent = independent  # whether each plus-minus sign of a statement is chosen by itself
        self.minus = 0  # bit n: whether the n-th plus-minus sign of a statement is a minus
        self.moduli = 0  # congruences that are being read: "mod" is no operation in them
        self.plus_minus = 0  # those met in this statement

    def peek(self, ahead: int = 0) -> str:
        """Return the value of a coming sign or command; empty at the end and for numbers, names and text."""
        if self.at + ahead >= len(self.tokens):
            return ""
        token = self.tokens[self.at + ahead]
        return token.value if token.kind in ("op", "cmd") else ""

    def kind(self, ahead: int = 0) -> str:
        """Return a coming token's kind; empty at the end."""
        return self.tokens[self.at + ahead].kind if self.at + ahead < len(self.tokens) else ""

    def sign_of(self, plus_minus: str) -> str:
        """``+`` or ``-`` for a sign that may be both."""
        place = self.plus_minus if self.independent else 0
        self.plus_minus += 1
        return "-" if bool(self.minus >> place & 1) == (plus_minus == "pm") else "+"

    def take(self, *values: str) -> bool:
        """Return whether the coming sign is one of ``values``; then step over it."""
        if self.peek() and self.peek() in values:
            self.at += 1
            return True
        return False

    def need(self, value: str) -> None:
        """Step over a sign that must come."""
        if not self.take(value):
            raise Unreadable(f"no {value.removesuffix('set')!r} where one is needed")

    def script(self) -> str:
        """Return a subscript or exponent as text."""
        if self.at >= len(self.tokens):
            raise Unreadable("a sign without its script")
        if not self.take("{"):
            self.at += 1
            return self.tokens[self.at - 1].value
        parts, depth = list[str](), 1
        while self.at < len(self.tokens):
            token = self.tokens[self.at]
            self.at += 1
            depth += (token.value == "{") - (token.value == "}")
            if depth == 0:
                return "".join(parts)
            parts.append(token.value)
        raise Unreadable("unbalanced braces")
