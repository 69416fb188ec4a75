"""Which part of a response is its answer. Pure functions, linear in the text's length: responses are hostile input."""

from __future__ import annotations

import re

_NAMES = "think|thinking|thought|thoughts|reasoning|reflection"
_ATTRIBUTES = r"(?:[ \t\n]{1,9}[\w:-]{1,40}[ \t]{0,9}=[^<>\u25c1\u25b7]{0,200})?"
_TAG = re.compile(
    rf"[<\u25c1][ \t]{{0,9}}(?P<close>/)?[ \t]{{0,9}}(?:{_NAMES}){_ATTRIBUTES}[ \t\n]{{0,9}}[>\u25b7]", re.IGNORECASE
)
"""A tag around reasoning in any case, with or without attributes, in angle brackets or Kimi's triangles."""


def after_thinking(response: str) -> str:
    """The text after the last closing tag of the thinking; all of it without any thinking.

    Nothing when the thinking never ended: when an opening tag follows the last closing one, or there is no closing one.
    ``<think>``, ``<THINK time="3">``, ``<thinking>``, ``< think >`` and Kimi's ``◁think▷`` are all tags.
    """
    if ">" not in response and "\u25b7" not in response:  # no tag ends anywhere
        return response
    end, opened = 0, False
    for tag in _TAG.finditer(response):
        if tag["close"]:
            end, opened = tag.end(), False
        else:
            opened = True
    return "" if opened else response[end:]
