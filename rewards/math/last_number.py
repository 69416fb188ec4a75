"""The rule ``gsm8k``: one number, after ``####``, in a box, after a label, or the last of the text."""

from __future__ import annotations

import re
from collections import deque

from rewards.math.clean import clean
from rewards.math.extract import Found, bare_answer, boxes, breaks_off, final_box
from rewards.math.readings import read
from rewards.math.signs import ascii_signs
from rewards.math.tree import Num, Op, Unit, Unreadable
from rewards.math.units import measure
from rewards.math.words import is_scale

MARK = "####"
"""What GSM8K puts before an answer."""
MAX_TEXT = 20_000
"""Characters at the end of a text in which the last number is looked for."""
_LABEL = re.compile(r"^[ \t*_]{0,8}(?:A|(?:Final )?Answer)[ *_]{0,4}:[ *_]{0,4}", re.MULTILINE | re.IGNORECASE)
_DIGITS = re.compile(r"[0-9]")
_NUMBER = re.compile(
    r"(?:[0-9]{1,3}(?:(?P<sep>,|\{,\}|,\\!|\\,|\\ |~| )[0-9]{3})(?:(?P=sep)[0-9]{3})*(?![0-9])|[0-9]{1,400})"
    r"(?:\.[0-9]{1,400})?(?:[eE][+-]?[0-9]{1,3}(?![0-9A-Za-z]))?|\.[0-9]{1,400}"
)
_VALUE = re.compile(
    r"(?:[A-Za-z]\s?=)?[\s$(*{+-]*(?:\\(?:\$|[a-z]+\{?)|[£€¥₹])?\s*\.?[0-9]|[\s$(+-]*\\(?:frac|sqrt|pi)"
)
_POWER = re.compile(r"\s?(?:\^\s?\{?-?[0-9]+\}?|\*\*\s?[0-9]+)|\s?(?:\\times|\\cdot|\*)\s?10\s?\^\s?\{?-?[0-9]+\}?")
_BASE = re.compile(
    r"(?<![0-9.,])(?:[0-9]{1,20}(?:\.[0-9]{1,20})?\s?(?:\\times|\\cdot|\*)\s?(?=10))?[0-9]{1,20}(?:\.[0-9]{1,20})?\s?"
    r"(?:\^\s?\{?-?|\*\*\s?)$"
)
_FRACTION = re.compile(r"(?:(?<![0-9.,])[0-9]{1,20}\s?)?\\[dt]?frac\s?\{[0-9]{1,20}\}\s?\{$")
_ORDINAL = re.compile(r"st|nd|rd|th")
_UNIT_POWER = re.compile(r"(?<![A-Za-z])(?P<unit>[A-Za-z]{1,12})\s?\^\s?\{?$")
_WORD = re.compile(r"(?P<gap>\s?)(?P<word>\\?%|[A-Za-z\u00c0-\u024f]+)")
_LETTERS = {"k": "thousand", "K": "thousand"}
_BEFORE = re.compile(r"(?:(?P<sign>-|\\?\$|[£€¥₹]|\\(?:pounds|euro|yen|rupee) ?|\b(?:Rs\.?|USD|US|EUR))\s?){0,3}$")
_FUNCTION = r"(?:log|ln|sin|cos|tan|sqrt)"
_JOINED = re.compile(
    r"(?:[0-9%!)\]}]\s*(?:\bor\b|\band\b|\bto\b|[,;/:|*^_+\u2013-]|\\(?:cdot|times|pm|div|text\{ or \})\b)"  # 4 or, 3/
    rf"|[\^_}}]\s*\{{|\\(?:pm|[dt]?frac|{_FUNCTION}\b)(?:\[[^\]]*\])?\s*\{{?|\b{_FUNCTION}\s*\(?"  # x_{, \frac{, log
    r"|\bbetween)\s*\\?\$?\s*$"
)
_TOUCHING = re.compile(r"[0-9]\Z|[A-Za-z](?:[*^_/+]|\\(?:cdot|times))?\Z")
"""Right before a number that belongs to a name or formula: H2O, x^2."""
_OUTSIDE = re.compile(
    r"\s*(?:[:|^_+](?=\S)|/(?![A-Za-z]{2})(?=\S)|\*(?=\s?[0-9A-Za-z(\\])|\*\s[0-9]|-\s?[0-9]|![0-9=!]|\\(?:cdot|times|div|pm|sqrt|frac|pi|choose)\b|\{)"
)
_LABELS = (
    r"(?:steps?|equations?|eqs?\.?|lines?|parts?|sections?|figures?|fig\.?|tables?|formulas?|notes?|rules?|pages?"
    r"|examples?|hints?)"
)
_REFERENCE = re.compile(
    rf"\s?\((?:also )?(?:see|from|by|cf\.?|per|using|as in|{_LABELS})\b[^()\n]{{0,60}}\)"
    r"|,?\s(?:as (?:shown |seen |found |computed |calculated |derived )?in|see|from|using|by|per|according to|in|of)"
    rf" (?:the )?{_LABELS} ?[#(]?[0-9]{{1,3}}\b\)?(?:(?: and |[-\u2013]|, )[0-9]{{1,3}}\b)?",
    re.IGNORECASE,
)
"""Words that say where in the text something is to be found: "(see step 2)"; its number is no value."""
_MATHS = re.compile(
    r"\\\((?P<a>.{1,400}?)\\\)|\\\[(?P<b>.{1,400}?)\\\]|\$\$(?P<c>.{1,400}?)\$\$"
    r"|(?<!\\)\$(?P<d>[^$\n]{1,400}?)(?<!\\)\$",
    re.DOTALL,
)


def final_number(text: str) -> Found:
    r"""The text after the last ``####``, else in the last box, else after ``A:`` or ``Answer:``, else the last number.

    ``####`` before words is a heading, where more text follows. A sentence after a label is read like any text: by its
    last number. A number that is part of another, or joined to one ("4 or 5", "3/4"), is no single answer.
    """
    marked = _after_mark(text)
    if marked is not None:
        return marked
    if boxes(text) or breaks_off(text):
        boxed = final_box(text)
        return Found(boxed.answer, boxed.reason, marked=False, offered=boxed.offered)
    labels = list(_LABEL.finditer(text))
    if labels:
        tail = text[labels[-1].end() :]
        line = bare_answer(without_references(tail.partition("\n")[0]).strip(" *_")).answer
        if line and is_number(line):
            return Found(line, marked=False)
        if not _DIGITS.search(tail):
            return Found(line, "" if line else "nothing after the answer's label", marked=False)
        return last_number(tail)
    return last_number(text)


def _after_mark(text: str) -> Found | None:
    """Return what follows the last ``####`` that is no heading; ``None`` without one."""
    end = len(text)
    last = True
    while (start := text.rfind(MARK, 0, end)) >= 0:
        line, _, rest = text[start + len(MARK) : end if not last else len(text)].partition("\n")
        answer = bare_answer(without_references(line[:MAX_TEXT]).strip(" *#")).answer
        if (last and not rest.strip()) or (answer and is_number(answer)):
            return Found(answer, "" if answer else "nothing after ####")
        end, last = start, False
    return None


def is_number(text: str) -> bool:
    """Return whether a text is one value, maybe with its unit, rather than a sentence."""
    if not _VALUE.match(text):
        return False
    if len(text) > 400:
        return True
    try:
        return any(isinstance(node, Num | Op | Unit) for node in read(clean(text)))
    except Unreadable:
        return False


def without_references(text: str) -> str:
    """Return the text without the numbers of its own steps, lines and pages; as it is when it has no others."""
    found = _REFERENCE.sub("", text)
    return found if _DIGITS.search(found) else text


def last_number(text: str) -> Found:
    """Return the last number of a text, with what belongs to it: its sign, a power, a per cent sign, a word of
    quantity.
    """
    text = ascii_signs(without_references(text[-MAX_TEXT:])).rstrip()
    last = next(iter(deque(_NUMBER.finditer(text), maxlen=1)), None)
    if last is None:
        return Found("", "no number", marked=False)
    start, end = last.span()
    unit = _UNIT_POWER.search(text[max(0, start - 20) : start])
    if unit and measure(unit["unit"]) and text[start:end] in ("2", "3"):  # 980 cm^3
        return last_number(text[: start - len(unit.group())])
    start, end = _whole(text, start, end)
    before, after = text[max(0, start - 60) : start], text[end : end + 40]
    signs = _BEFORE.search(before)
    sign_start = len(before) - len(signs.group()) if signs else len(before)
    outer = before[:sign_start]
    number = before[sign_start:] + text[start:end]
    is_range = number.lstrip(" $\\").startswith("-") and re.search(r"(?:[0-9%)\]}]\s*|[A-Za-z])\Z", outer) is not None
    if is_range or _JOINED.search(outer) or _TOUCHING.search(outer) or _OUTSIDE.match(after):
        formula = _formula(text, last.start())
        return Found(formula, marked=False) if formula else Found("", "a number that is part of another", marked=False)
    word = _WORD.match(after)
    if word and (word["word"] in ("%", "\\%") or is_scale(word["word"])):
        number += f" {_LETTERS.get(word['word'], word['word'])}"
    elif word and not word["gap"] and not _ORDINAL.fullmatch(word["word"]):  # 72x, 72km
        number += f" {word['word']}" if measure(word["word"]) else word["word"]
    return Found(number.strip(), marked=False)


def _whole(text: str, start: int, end: int) -> tuple[int, int]:
    r"""Where the number begins and ends of which the last digits are a part: ``9.5\times10^3``, a fraction."""
    context = text[max(0, start - 60) : start]
    for pattern in (_BASE, _FRACTION):
        found = pattern.search(context)
        if found:
            closes = found.group().rstrip("- ").endswith("{") and text[end : end + 1] == "}"
            if pattern is _BASE or closes:
                return start - len(found.group()), end + closes
    power = _POWER.match(text, end)
    return start, power.end() if power else end


def _formula(text: str, place: int) -> str:
    """Return the formula between dollar signs or the like in which a place lies; empty when it is in none."""
    for match in _MATHS.finditer(text):
        if match.start() <= place < match.end():
            content = next(part for part in match.groups() if part is not None).strip()
            return content if is_number(content) or "=" in content else ""
    return ""
