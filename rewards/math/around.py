r"""Text directly before or after a box that is part of its answer: ``-\boxed{42}``, ``\boxed{42}\%``.

The box is the answer that a response declares. Its text may go on round it, as in ``3\cdot 7!=\boxed{15120}x^3`` or
``$\boxed{2.2}$ million tons are used``: that is the sentence, and mostly the question's own unit or factor. Only a sign
that nothing stands before, and a per cent sign, are the value's own.
"""

from __future__ import annotations

import re

_SIGN = re.compile(r"(?P<sign>[-\u2212\u00b1]|\\pm)(?P<space>[ \t]*)\$?\Z")
_MEANS = {"\u00b1": r"\pm ", r"\pm": r"\pm "}
"""What a sign other than a minus is read as."""
_OPERAND = re.compile(r"(?:(?<![A-Za-z])[A-Za-z]|[0-9)\]}!%])\Z")
"""The end of what a sign subtracts from; a word of several letters is none."""
_PER_CENT = re.compile(r"[ \t]{0,3}\$?[ \t]{0,3}\\?%")
_REACH = 40
"""Characters before a box in which its sign is looked for."""


def with_signs(text: str, start: int, end: int, content: str) -> str:
    """Return the ``content`` of the box from ``start`` to ``end`` with its own sign and per cent sign."""
    before = text[max(0, start - _REACH) : start]
    found = _SIGN.search(before)
    if found:
        left = before[: found.start()].rstrip(" \t$")
        is_dash = found["space"] and not left.endswith("=")
        if not is_dash and not _OPERAND.search(left):
            content = f"{_MEANS.get(found['sign'], '-')}({content})"
    if _PER_CENT.match(text, end) and "%" not in content:
        content = rf"{content}\%"
    return content
