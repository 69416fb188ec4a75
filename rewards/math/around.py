r"""What stands directly round a box and so belongs to the answer: ``-\boxed{42}``, ``$\boxed{42}$ million``."""

from __future__ import annotations

import re
from dataclasses import dataclass

from rewards.math.joined import Box, Joined, tokens_of
from rewards.math.units import LETTER_UNITS, measure
from rewards.math.words import is_scale, words

REACH = 300
"""Characters on either side of a box that can belong to its answer."""

_MARK = re.compile(r"(?<!\\)\$\$?|(?<!\\)\\[()\[\]]|\\(?:begin|end)\s*\{(?:align|equation|gather|multline)\w*\*?\}")
_CLOSES = {"$": "$", "$$": "$$", r"\(": r"\)", r"\[": r"\]"}
_NUMERIC = re.compile(r"(?:[-+0-9.,!\s{}/^*$]|\\[,;!$ ]|\\(?:[dt]?frac|sqrt|pi|cdot|times)(?![A-Za-z]))+")
"""A value that may have a unit."""
_PER_CENT = re.compile(r"\s?\\?%")
_PHRASE = re.compile(r"[ \t\u00a0~]{0,2}([A-Za-zµμ]{1,20}(?:[ /^][A-Za-z0-9]{1,12}){0,3})(?![A-Za-z0-9])")
_NO_UNIT = words("in a as at am an is it so by t c d e")
"""Words of running text that are no units there."""
_ENDS = re.compile(r"\s*(?:[.,;:!?)]|$|\n)")
_MINUS = re.compile(r"(?:^|[\s(=])[-\u2212]$")


@dataclass(frozen=True, slots=True)
class Stated:
    """An answer with what is joined to its box, and where both begin and end in the text."""

    answer: str
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class _Formula:
    """Where the formula round a box begins and ends, within its marks and with them."""

    low: int
    high: int
    outer_low: int
    outer_high: int
    marked: bool
    """Whether marks of mathematics say where; else it is the box's line."""


def stated(text: str, found: list[Box]) -> Stated:
    r"""The answer that the last of the boxes gives, with what is joined to it on both sides.

    Other boxes can be parts of it: ``\boxed{1}/\boxed{2}``.
    """
    box = found[-1]
    formula = _formula(text, box)
    tokens = tokens_of(text, formula.low, formula.high, found, formula.marked)
    joined = Joined(tokens, box, formula.marked)
    answer, start, end = joined.answer(), joined.start, joined.end
    if formula.marked:
        before = text[max(0, formula.outer_low - 2) : formula.outer_low]
        if _MINUS.search(before) and not text[formula.low : start].strip():
            answer, start = f"-{{{answer}}}", formula.outer_low - 1
        if text[end : formula.high].strip():
            return Stated(answer, start, end)
        end = formula.outer_high
    return _with_unit(text, Stated(answer, start, end))


def _formula(text: str, box: Box) -> _Formula:
    first = max(text.rfind("\n\n", 0, box.start) + 1, box.start - 5 * REACH, 0)
    opened: re.Match[str] | None = None
    for mark in _MARK.finditer(text, first, box.start):
        if opened is not None:
            opened = None if _closes(opened, mark) else opened
        elif mark.group() in _CLOSES or mark.group().startswith(r"\begin"):
            opened = mark
    if opened is not None:
        for mark in _MARK.finditer(text, box.end, min(len(text), box.end + 5 * REACH)):
            if _closes(opened, mark):
                low, high = max(opened.end(), box.start - REACH), min(mark.start(), box.end + REACH)
                return _Formula(low, high, opened.start(), mark.end(), True)
    line, stop = text.rfind("\n", 0, box.start) + 1, text.find("\n", box.end)
    low = max(line, box.start - REACH)
    high = min(len(text) if stop < 0 else stop, box.end + REACH)
    return _Formula(low, high, low, high, False)


def _closes(opened: re.Match[str], mark: re.Match[str]) -> bool:
    return mark.group() == _CLOSES.get(opened.group()) or (
        opened.group().startswith(r"\begin") and mark.group().startswith(r"\end")
    )


def _with_unit(text: str, found: Stated) -> Stated:
    """A number with the per cent sign, scale or unit that the sentence goes on with."""
    if not _NUMERIC.fullmatch(found.answer):
        return found
    sign = _PER_CENT.match(text, found.end)
    if sign:
        return Stated(rf"{found.answer}\%", found.start, sign.end())
    phrase = _PHRASE.match(text, found.end)
    parts = phrase[1].split(" ") if phrase else []
    for count in range(len(parts), 0, -1):
        unit = " ".join(parts[:count])
        stop = phrase.start(1) + len(unit) if phrase else found.end
        if _is_unit(unit, text, stop):
            return Stated(rf"{found.answer}\text{{ {unit}}}", found.start, stop)
    return found


def _is_unit(unit: str, text: str, stop: int) -> bool:
    """Whether words after a value are its unit or scale, rather than the sentence going on."""
    if unit.lower() in _NO_UNIT or " in" in unit:
        return False
    if len(unit) == 1:
        return unit in LETTER_UNITS and _ENDS.match(text, stop) is not None
    first, _, rest = unit.partition(" ")
    if is_scale(first):
        return not rest or measure(rest) is not None
    return measure(unit) is not None
