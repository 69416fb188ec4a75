"""The boxed answer of a response. Pure functions, one pass over the text."""

from __future__ import annotations

import re
from decimal import Decimal

MAX_ANSWER = 1000
"""An answer longer than this many characters is refused unread; the longest gold of MATH has about 160."""

_TOKEN = re.compile(r"\\(?:boxed|fbox)\s*\{|\\.|[{}]", re.DOTALL)
_PLAIN = re.compile(r"[-+]?(?:\d{1,40}(?:\.\d{1,40})?|\.\d{1,40})")
_SPACE = re.compile(r"(?<!\d)\s+|\s+(?!\d)")
_LAYOUT = (("\\dfrac", "\\frac"), ("\\tfrac", "\\frac"), ("\\left", ""), ("\\right", ""), ("\\!", ""), ("$", ""))


def last_boxed(text: str) -> str | None:
    r"""Content of the ``\boxed{...}`` that starts last among those whose braces balance; ``None`` without one."""
    stack: list[tuple[int, int]] = []  # where a brace's command begins (-1: no box) and where its content begins
    best, span = -1, (0, 0)
    for match in _TOKEN.finditer(text):
        token = match.group()
        if token[-1] == "{" and token != r"\{":
            stack.append((match.start() if len(token) > 1 else -1, match.end()))
        elif token == "}" and stack:
            start, content = stack.pop()
            if start > best:
                best, span = start, (content, match.start())
    return text[slice(*span)].strip() if best >= 0 else None


def tidy(answer: str) -> str:
    r"""An answer without marks of layout (``\left``, ``\!``, ``$``), its outer white space and its full stop."""
    for mark, replacement in _LAYOUT:
        if mark in ("\\left", "\\right"):  # not \leftarrow, \rightarrow
            answer = re.sub(re.escape(mark) + r"(?![A-Za-z])", replacement, answer)
        else:
            answer = answer.replace(mark, replacement)
    return answer.strip().removesuffix(".").strip()


def plain_number(text: str) -> Decimal | None:
    """The value of a plain decimal number; ``None`` for anything else."""
    return Decimal(text) if _PLAIN.fullmatch(text) else None


def same_text(one: str, other: str) -> bool:
    """Equal to a reader: spaces count only between two digits (``2 1/2`` is not ``21/2``)."""
    return _SPACE.sub("", one) == _SPACE.sub("", other)
