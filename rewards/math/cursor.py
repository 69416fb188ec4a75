"""A place in the tokens of one answer, and how to step on from it."""

from __future__ import annotations

from rewards.math.tokens import Token
from rewards.math.tree import Unreadable


class Cursor:
    """One pass over the tokens of one answer."""

    def __init__(self, tokens: list[Token], upper: bool) -> None:
        self.tokens = tokens
        self.at = 0
        self.depth = 0
        self.bars = 0
        self.sets = 0
        self.operands_left = 8 * len(tokens) + 8  # plus-minus signs are read twice, four times inside of a set
        self.upper = upper  # whether a plus-minus sign is a plus
        self.saw_pm = False

    def peek(self, ahead: int = 0) -> str:
        """The value of a coming sign or command; empty at the end and for numbers, names and text."""
        if self.at + ahead >= len(self.tokens):
            return ""
        token = self.tokens[self.at + ahead]
        return token.value if token.kind in ("op", "cmd") else ""

    def kind(self) -> str:
        """The coming token's kind; empty at the end."""
        return self.tokens[self.at].kind if self.at < len(self.tokens) else ""

    def take(self, *values: str) -> bool:
        """Whether the coming sign is one of ``values``; then step over it."""
        if self.peek() and self.peek() in values:
            self.at += 1
            return True
        return False

    def need(self, value: str) -> None:
        """Step over a sign that must come."""
        if not self.take(value):
            raise Unreadable(f"no {value.removesuffix('set')!r} where one is needed")

    def script(self) -> str:
        """A subscript or exponent as text."""
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
