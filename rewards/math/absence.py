"""Answers that say that there is none: the empty set in words and signs, and what does not exist."""

from __future__ import annotations

import re

from rewards.math.tree import Node, SetOf, Sym, Text

_EMPTY = re.compile(
    r"(?:(?:there (?:is|are)|(?:it|(?:the |this )?(?:equation|inequality|system|problem)) has|we have) )?"
    r"(?:no (?:such )?(?:real |valid |possible )?(?:solutions?|roots?|values?|answers?|numbers?)(?: exists?)?"
    r"|none|(?:the )?(?:empty|null) set|(?:the )?solution set is empty|无解|空集)"
)
_UNDEFINED = re.compile(
    r"(?:(?:the |this )?(?:limit|value|expression|slope|answer|it|function|derivative|integral) )?"
    r"(?:does not exist|doesn['’]?t exist|dne|d\.n\.e|(?:is )?(?:undefined|not defined|non-?existent))"
)


def absence(node: Node) -> str:
    """``empty`` or ``undefined`` for an answer that gives no value; empty for others."""
    if node in (Sym("emptyset"), SetOf(())):
        return "empty"
    if not isinstance(node, Text):
        return ""
    said = " ".join(node.words.casefold().split()).strip(" .")
    if _EMPTY.fullmatch(said):
        return "empty"
    return "undefined" if _UNDEFINED.fullmatch(said) else ""
