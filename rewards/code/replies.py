"""Replies of a program's sandbox, one line of JSON a call: what the program claims, to be read with care.

``["value", v]``, ``["object", type, truth]`` (not plain data), ``["raised", type, builtin base, text]`` and, instead of
all of them, ``["refused", text]``. Values are left unread here: the judge's own process reads one only if it is about
as long as the expected result (``rewards.code.judge``), and test code reads them inside of its sandbox. Sent into that
sandbox too: standard library only.
"""

from __future__ import annotations

import json
from typing import Any, NamedTuple, NoReturn

MAX_SHORT = 8192
"""Bytes of the longest reply that is no value."""
_FORMS: dict[str, tuple[type, ...]] = {
    "value": (object,),
    "object": (str, bool),
    "raised": (str, str, str),
    "refused": (str,),
}
"""Kind of a reply -> types of what follows."""


class Reply(NamedTuple):
    """The reply to one call: the program's claim, or the judge's word that it ``failed`` to answer."""

    kind: str
    claim: bytes = b""
    """The line as the program's sandbox wrote it."""
    verdict: str = ""
    """Of a failed call; with it, why."""
    reason: str = ""


def read_replies(channel: bytes, expected: int) -> tuple[list[Reply], bool]:
    """Replies up to the first line that is none, and whether all lines were. A program may have written anything."""
    found: list[Reply] = []
    start = 0
    while (end := channel.find(b"\n", start)) >= 0:  # what follows the last line end was cut short
        line, start = channel[start:end], end + 1
        kind = _kind(line)
        if not kind or len(found) == expected:
            return found, False
        found.append(Reply(kind, line))
    return found, True


def _kind(line: bytes) -> str:
    """Return the kind of a reply, empty when it is none; a value is looked at from outside only."""
    if line.startswith(b'["value", ') and line.endswith(b"]"):
        return "value"
    parts = parse(line) if len(line) <= MAX_SHORT else None
    return str(parts[0]) if parts is not None and parts[0] != "value" else ""


def parse(line: bytes | str) -> list[Any] | None:
    """Return the parts of a reply, or ``None`` when it is none. Linear in its length, and so is the memory: some thirty
    bytes for each of the line.
    """

    def refuse(_: str) -> NoReturn:
        raise ValueError

    try:
        reply = json.loads(line, parse_constant=refuse)
    except (ValueError, RecursionError):
        return None
    if type(reply) is not list or not reply or type(reply[0]) is not str:
        return None
    form, rest = _FORMS.get(reply[0]), reply[1:]
    if form is None or len(form) != len(rest):
        return None
    if any(kind is not object and type(part) is not kind for kind, part in zip(form, rest, strict=True)):
        return None
    return reply
