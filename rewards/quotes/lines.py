"""The lines of a response as tokens, without the programs and drawings in it."""

from __future__ import annotations

import re

from rewards.quotes.numerals import merged
from rewards.quotes.tokens import Token, tokens_of

ANNOTATION = re.compile(r"<<([^<>\n]{0,300})>>")
"""A calculator's note, as in GSM8K: ``<<48/2=24>>``."""
CODE_SPAN = re.compile(r"`[^`\n]{1,300}`")
FENCE = re.compile(r"^ {0,3}(```|~~~)")
ANSWER = re.compile(
    r"(?:#### {0,3}|\\boxed\{|\b(?:A|Answer|answer|ANSWER)\b(?: is| =| of)?:?\*{0,2})[ $\\(]{0,6}-?\$?(?=[\d.])",
)
"""What marks the number behind it as the response's answer."""
DRAWING = ("[asy]", "[/asy]")
"""What begins and ends a program that draws, as in MATH."""


def spaces(match: re.Match[str]) -> str:
    """Return as many spaces as there is text."""
    return " " * len(match[0])


def prose_lines(text: str) -> list[str]:
    """Return the lines with spaces in the place of programs; each as long as it is."""
    found: list[str] = []
    fenced = drawn = False
    for line in text.split("\n"):
        if fence := FENCE.match(line):
            fenced = not fenced
        drawn |= DRAWING[0] in line
        hidden = fenced or drawn or fence is not None
        found.append(" " * len(line) if hidden else CODE_SPAN.sub(spaces, line) if "`" in line else line)
        drawn &= DRAWING[1] not in line
    return found


def answers_of(text: str) -> frozenset[int]:
    """Return the places of the numbers that a response gives as its answer: its own, and no quotes."""
    return frozenset(match.end() for match in ANSWER.finditer(text))


def lines_of(text: str) -> list[list[Token]]:
    """Return the tokens of the lines of a text, in order; places count from the text's begin. The notes of a calculator
    are lines of their own, behind the line that they stand in.
    """
    body = "\n".join(prose_lines(text))
    plain = ANNOTATION.sub(spaces, body) if "<<" in body else body
    found: list[list[Token]] = []
    at = 0
    for line in body.split("\n"):
        end = at + len(line)
        found.append(merged(tokens_of(plain, at, end)))
        if "<<" in line:
            found += [merged(tokens_of(body, *note.span(1))) for note in ANNOTATION.finditer(body, at, end)]
        at = end + 1
    return found
