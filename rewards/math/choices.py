"""A choice by its letter, with or without the text that belongs to it."""

from __future__ import annotations

import re

from rewards.math.clean import flat
from rewards.math.verdict import SAME, Verdict, differs
from rewards.math.words import ALPHABETIC, REMARKS

_CHOICE = re.compile(r"\(?([A-J])\)?")
_WITH_TEXT = re.compile(
    r"(?:(?:[Oo]ption|[Cc]hoice)\s*)?\(?\[?([A-J])(?:[).:\]]\)?|\s*-(?=\s)|(?=$))\s*(.*)", re.DOTALL
)
_LETTER = re.compile(r"(?<![A-Za-z\\{_^])[A-J](?![A-Za-z])(?! [a-z])")
_ARTICLE = re.compile(r"^A(?= )")
_NONE = re.compile(r"(?:none|neither|all) of (?:the above|these|the other\w*|them)", re.IGNORECASE)


def choice(gold: str, answer: str) -> Verdict | None:
    """Return the verdict on a choice, ``(B) 12`` for ``B``; ``None`` when the reference, or the answer, is no choice.

    The text after the letter may say anything but that the choice is another, or wrong.
    """
    asked = _CHOICE.fullmatch(flat(gold))
    given = _WITH_TEXT.fullmatch(flat(answer))
    if asked is None or given is None:
        return None
    letter, text = given[1], given[2].strip()
    if letter != asked[1]:
        return differs("another choice")
    if not text:
        return SAME
    words = {word.lower() for word in ALPHABETIC.findall(text.replace("\\", " "))}
    if (words & REMARKS and not _NONE.fullmatch(text)) or text.split()[0].lower() in ("is", "and", "or"):
        return differs("a choice with a remark on it")
    return differs("another choice, or several") if _LETTER.search(_ARTICLE.sub("", text)) else SAME
