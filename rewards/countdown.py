"""Exact verifier of countdown answers: an expression over given numbers that equals a target.

The reference is ``<target> from <n1> <n2> ...``. A response is right when the text after its last ``</think>`` is
``Answer: <expression>``, the expression uses only ``+ - * /``, parentheses and the given numbers, each given number at
most as often as it is given, and its value, in exact rational arithmetic, is the target. The expression is read by the
small parser below, which bounds its length and depth; nothing is ever passed to ``eval``.
"""

from __future__ import annotations

import re
from collections import Counter
from fractions import Fraction

from rewards.arithmetic import answer_text
from rewards.score import Score

MAX_EXPRESSION = 256
"""Characters of the longest expression that is read."""
MAX_DEPTH = 16
"""Deepest nesting of parentheses that is read."""

_REFERENCE = re.compile(r"([0-9]{1,9}) from ([0-9]{1,9}(?: [0-9]{1,9}){0,15})")
_EXPRESSION = re.compile(rf"Answer: ([0-9+*/() -]{{1,{MAX_EXPRESSION}}})")
_TOKEN = re.compile(r"[0-9]+|[-+*/()]")


class ExpressionError(ValueError):
    """The text is no expression of this grammar, or has no value."""


class _Parser:
    """Recursive descent: ``sum = product (+|- product)*``, ``product = atom (*|/ atom)*``, ``atom = n | ( sum )``."""

    def __init__(self, text: str) -> None:
        self.tokens = _TOKEN.findall(text)
        self.at = 0
        self.numbers: list[int] = []

    def peek(self) -> str:
        return self.tokens[self.at] if self.at < len(self.tokens) else ""

    def take(self) -> str:
        token = self.peek()
        self.at += 1
        return token

    def sum(self, depth: int = 0) -> Fraction:
        value = self.product(depth)
        while self.peek() in ("+", "-"):
            value = value + self.product(depth) if self.take() == "+" else value - self.product(depth)
        return value

    def product(self, depth: int) -> Fraction:
        value = self.atom(depth)
        while self.peek() in ("*", "/"):
            if self.take() == "*":
                value *= self.atom(depth)
                continue
            divisor = self.atom(depth)
            if divisor == 0:
                raise ExpressionError("division by zero")
            value /= divisor
        return value

    def atom(self, depth: int) -> Fraction:
        token = self.take()
        if token == "(":
            if depth >= MAX_DEPTH:
                raise ExpressionError(f"parentheses deeper than {MAX_DEPTH}")
            value = self.sum(depth + 1)
            if self.take() != ")":
                raise ExpressionError("unbalanced parentheses")
            return value
        if not token.isdigit() or len(token) > 9 or len(self.numbers) >= 16:
            raise ExpressionError("not a sum of products of plain numbers")
        self.numbers.append(int(token))
        return Fraction(int(token))


def evaluate(expression: str) -> tuple[Fraction, list[int]]:
    """Exact value of an expression and the numbers it uses; raises ``ExpressionError``."""
    if len(expression) > MAX_EXPRESSION or not re.fullmatch(r"[0-9+*/() -]+", expression):
        raise ExpressionError("too long, or characters other than 0-9 + - * / ( )")
    if re.search(r"[0-9] +[0-9]", expression):
        raise ExpressionError("two numbers without an operator")
    parser = _Parser(expression)
    value = parser.sum()
    if parser.peek():
        raise ExpressionError("text after the expression")
    return value, parser.numbers


def verify_countdown(response: str, answer: str) -> Score:
    """Right when the answer expression reaches the target with the given numbers; see the module docstring."""
    reference = _REFERENCE.fullmatch(answer)
    if reference is None:
        return Score.ungradable("reference is not '<target> from <numbers>'")
    tail, reason = answer_text(response, max_tail=MAX_EXPRESSION + 32)
    if reason:
        return Score.wrong(reason)
    match = _EXPRESSION.fullmatch(tail)
    if match is None:
        return Score.wrong("answer text is not 'Answer: <expression>'")
    expression = match.group(1)
    try:
        value, used = evaluate(expression)
    except ExpressionError as error:
        return Score.wrong(str(error), expression)
    surplus = Counter(used) - Counter(int(number) for number in reference.group(2).split())
    if surplus:
        return Score.wrong("uses a number that is not given, or one too often", expression)
    if value != int(reference.group(1)):
        return Score.wrong("another value", expression)
    return Score.right(expression)
