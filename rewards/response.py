"""The part of a response that is its answer. Pure functions, linear in the text's length: responses are hostile
input.
"""

from __future__ import annotations

import re

_NAMES = r"(?:[\w-]{1,20}:)?(?:think|thinking|thought|thoughts|reasoning|reflection)"
_ATTRIBUTES = r"(?:[ \t\n]{1,9}[\w:-]{1,40}[ \t]{0,9}=[^<>\u25c1\u25b7]{0,200})?"
_TAG = re.compile(
    rf"[<\u25c1][ \t]{{0,9}}(?P<close>/)?[ \t]{{0,9}}{_NAMES}{_ATTRIBUTES}[ \t\n]{{0,9}}[>\u25b7]"
    r"|(?-i:\[(?P<close_square>/)?THINK\])",
    re.IGNORECASE,
)
"""A tag around reasoning in any case, with or without attributes or a name space, in angle brackets or Kimi's
triangles; Magistral's ``[THINK]`` in capitals only, since square brackets are ordinary text elsewhere."""


def _last_opened(text: str) -> tuple[int, int | None]:
    """End of the last closing tag (0 without any), and the start of the first opening tag after it, if there is one."""
    end: int = 0
    opened: int | None = None
    if not any(mark in text for mark in (">", "\u25b7", "THINK]")):  # no tag ends anywhere
        return end, opened
    for tag in _TAG.finditer(text):
        if tag["close"] or tag["close_square"]:
            end, opened = tag.end(), None
        elif opened is None:
            opened = tag.start()
    return end, opened


def after_thinking(response: str) -> str:
    """Return the text after the last closing tag of the thinking; all of it without any thinking.

    Nothing when the thinking never ended: when an opening tag follows the last closing one, or there is no closing one.
    ``<think>``, ``<THINK time="3">``, ``<thinking>``, ``< think >``, ``<seed:think>``, ``[THINK]`` and Kimi's
    ``◁think▷`` are all tags.
    """
    end, opened = _last_opened(response)
    return response[end:] if opened is None else ""


def thinking_tags(text: str) -> tuple[tuple[int, int], ...]:
    """Return where the tags stand that frame the thinking of a response: the first, where it opens, and the last one
    that closes. Nothing without a closing tag.
    """
    tags = list(_TAG.finditer(text))
    closing = [tag for tag in tags if tag["close"] or tag["close_square"]]
    if not closing:
        return ()
    first = () if tags[0] in closing else (tags[0].span(),)
    return (*first, closing[-1].span())


def unended_thinking(text: str) -> str:
    """Return the thinking that ``text`` opens and does not end, from its tag on; empty when there is none."""
    _, opened = _last_opened(text)
    return "" if opened is None else text[opened:]


def is_opening_tag(text: str) -> bool:
    """Return whether ``text`` is one opening tag and white space behind it."""
    tag = _TAG.match(text)
    return tag is not None and not (tag["close"] or tag["close_square"]) and not text[tag.end() :].strip()
