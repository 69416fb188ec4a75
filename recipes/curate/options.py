"""Questions with options to choose from."""

from __future__ import annotations

import re
from itertools import pairwise

from recipes.curate.wording import ASKS, Wording

_MARK = re.compile(
    r"(?<![\w\\}^'])(?:"
    r"\(([A-K])\)|\[([A-K])\]"  # (A) [A]
    r"|(?:(?<=[\n.?!:;,)。？：])|(?<=[\n.?!:;,)] )|^)(?:option |choice )?([A-K])(?:\s?[.):]{1,2}(?![\w=])|[．、：])"
    r"|\b([B-K])(?:\s?[.):．、：]{1,2}(?=\s)|[．、：])"  # the second and later ones on one line
    r")"
)
_SMALL = re.compile(
    r"(?<![\w\\}^'])(?:\(([a-k])\)|(?:(?<=[\n.?!:;,])|(?<=[\n.?!:;,] )|^)([a-k])[.)]{1,2}|\b([b-k])[.)](?=\s))(?![\w=])"
)
_NUMBERED = re.compile(r"(?:(?<=[\n:.?])|(?<=[\n:.?] ))\(?([1-9])[.)]\)?(?=\s)")
_ROMAN = re.compile(r"(?<![\w(])\(?(i{1,3}|iv|v|vi)\)(?=\s)")
_STEM = re.compile(
    "|".join(
        (
            r"\bwhich (?:one |two |ones? |\w+ )?(?:of|from|among) "
            r"(?:the (?:following|above|\w+ (?:below|above))|these|the options|the choices)\b",
            r"\b(?:choose|select|pick) (?:the |an? |one |all |your |any )?(?:\w+ ){0,4}?"
            r"(?:from (?:the )?(?:options|following|list|choices|answers)|that apply|"
            r"(?:correct|best|right) (?:answer|option|choice)s?|one:)",
            r"\banswer (?:choices|options)\b|\boptions ?:|\bfrom the (?:options|choices)\b|\bmultiple[- ]choice\s?:",
            r"\bletters? (?:of the (?:correct|graphs?|options?|answers?|choices?|statements?|figures?)"
            r"|corresponding to|in front|only)\b",
            r"\b(?:the|an?) (?:correct )?letter(?: only)?[:.,]? ?(?:\(|a[,)]|$)|\bcorrect letter\b",
            r"\b(?:enter|type|provide|choose|select) (?:only )?the letter\b",
            r"\bas an? (?:list|block) of (?:letters|those options)\b",
            r"\b(?:one|two) of (?:these|the following) (?:graphs?|statements?|expressions?|options?|answers?)\b",
            r"\bi+, i+(?:,| and| only)|\bone of the following\b[^.?]{0,80}\bwhich one\b",
            r"\b(?:enter|with|use|write|answer) [\"'`“]{1,2}[a-z][\"'`”]{1,2} for (?:an? )?[a-z]{4}",
            r"下列[^。？]{0,60}(?:的是|是)\s?[（(]\s{0,9}[)）]|选项",
        )
    )
)
_STEM_WORDS = (
    "which", "choose", "select", "pick", "option", "choice", "letter", "one of", "two of", "ii,", '" for ', "' for ",
    "” for ", "` for ", "下列", "选项",
)  # fmt: skip
"""Each match of ``_STEM`` has one of them."""
_MARKS = tuple(
    tuple(f"{letter}{sign}" for sign in (")", ".", "]", ":", "．", "、", "：", " )", " .", " :")) for letter in "cba"
)
"""How the first three options may be marked: without them there is no list."""
_COUNTED = re.compile(r"\bhow many\b|\bnumber of\b|\badd up\b|\bin how many ways\b|\bprobability\b")
_LETTERS_NAMED = re.compile(r"\ba\W{1,6}b\W{1,6}(?:c\W{1,6})?(?:d\W{1,6})?(?:e\W{1,6})?or\W{1,4}[b-k]\b")
_LETTERS = re.compile(r"\(?[A-K]\)?(?:\s*(?:,|and)\s*\(?[A-K]\)?)*\.?|[A-K]{2,6}")
_LONGEST_OPTION = 200
"""Characters."""
_SIGNS = re.compile(r"[\s${}\\(),.;:]+")


def has_options(read: Wording) -> bool:
    """Whether a problem has options, or had them, or asks for a letter."""
    letter = _LETTERS.fullmatch(read.answer) is not None
    stem = read.near(_STEM, *_STEM_WORDS)
    if stem and (letter or _COUNTED.search(read.text) is None):
        return True
    if letter and _LETTERS_NAMED.search(read.text):
        return True
    marks = _MARKS[1:] if letter or read.is_letter else _MARKS  # a letter for an answer is one of two, too
    return (
        all(read.has(*some) for some in marks)
        and (_lettered(read, _MARK, letter, stem) or _lettered(read, _SMALL, read.is_letter, stem))
    ) or (stem and _is_an_index(read))


def _lettered(read: Wording, mark: re.Pattern[str], letter: bool, stem: bool) -> bool:
    """Whether marks A, B, C stand in order, and what follows them is options rather than parts of a question."""
    expected, starts = "a", []
    for found in mark.finditer(read.plain):
        if (found[found.lastindex or 0]).lower() == expected:
            starts.append((found.start(), found.end()))
            expected = chr(ord(expected) + 1)
    if len(starts) < (2 if letter else 3):
        return False
    texts = [read.plain[end:begin].lower() for (_, end), (begin, _) in pairwise([*starts, (len(read.plain), 0)])]
    if letter or stem:
        return True
    if sum(ASKS.search(text.strip()) is not None for text in texts[:-1]) > 1:
        return False
    if mark is _MARK and len(starts) > 3 and all(len(text) < _LONGEST_OPTION for text in texts[:-1]):
        return True
    wanted = _SIGNS.sub("", read.said)
    return bool(wanted) and any(_SIGNS.sub("", text).startswith(wanted) for text in texts)


def _is_an_index(read: Wording) -> bool:
    """Whether the answer is the number of an option: ``3`` of (1), (2), (3), (4)."""
    marks = _ROMAN if read.said in ("i", "ii", "iii", "iv", "v", "vi") else _NUMBERED
    found = [match[1] for match in marks.finditer(read.text)]
    return len(found) >= 3 and read.said in found
