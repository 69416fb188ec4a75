"""Evaluation problems as they come back in training data: with other numbers, or said in other words."""

from __future__ import annotations

import difflib
import random
import re

from benchmarks.contamination.synonyms import NAMES, NO_NAMES, pairs

LEAST, MOST = 0.15, 0.30
"""Share of words that a re-wording changes."""
_FORMULA = re.compile(
    r"\[asy\].*?\[/asy\]|\$\$.*?\$\$|\$[^$]*\$|\\\[.*?\\\]|\\\(.*?\\\)|\\begin\{.*?\\end\{\w+\*?\}", re.DOTALL
)
_NUMBER = re.compile(r"(?<![\d.])\d+(?:,\d{3})*(?:\.\d+)?")
_WORDS = ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve")
_NUMERAL = re.compile(rf"\b({'|'.join(_WORDS[1:])})\b", re.IGNORECASE)
_TABLE = pairs()
_PHRASE = re.compile(rf"\b(?:{'|'.join(sorted(map(re.escape, _TABLE), key=len, reverse=True))})\b", re.IGNORECASE)
_NAME = re.compile(r"(?<![\\\w])[A-Z][a-z]{2,}\b")
_SPELLINGS = (
    (r"\dfrac", r"\frac"),
    (r"\cdot", r"\times"),
    (r"\left(", "("),
    (r"\right)", ")"),
    (r"\le ", r"\leq "),
    (r"\ldots", r"\dots"),
    (r"\overline", r"\bar"),
    (r"^\circ", r"^{\circ}"),
    (r"\[", "$$"),
    (r"\]", "$$"),
)
_OPENINGS = ("Here is a problem: ", "Please solve this. ", "A question: ", "Consider the following. ")
_CLOSINGS = (" Show your reasoning.", " Explain how you get there.", " Justify the result.")


def renumbered(text: str, rng: random.Random) -> str:
    """Return the text with every number replaced by another of the same number of digits, the same one everywhere."""
    there: dict[str, str] = {}

    def other(match: re.Match[str]) -> str:
        number = match[0]
        if number not in there:
            there[number] = _another(number, rng)
        return there[number]

    def numeral(match: re.Match[str]) -> str:
        word = rng.choice([word for word in _WORDS[1:] if word != match[0].lower()])
        return word.capitalize() if match[0][0].isupper() else word

    return _NUMERAL.sub(numeral, _NUMBER.sub(other, text))


def _another(number: str, rng: random.Random) -> str:
    """Return another number with as many digits, commas and decimals in the same places."""
    while True:
        digits = [rng.choice("0123456789") if char.isdigit() else char for char in number]
        if number[0] != "0" or len(number) == 1:
            digits[0] = rng.choice("23456789" if len(number) == 1 else "123456789")
        found = "".join(digits)
        if found != number:
            return found


def changed(one: str, other: str) -> float:
    """Return which part of the words of ``one`` outside of formulas does not stand in ``other``, in order."""
    left, right = (_FORMULA.sub(" ", text).split() for text in (one, other))
    matched = sum(
        block.size for block in difflib.SequenceMatcher(None, left, right, autojunk=False).get_matching_blocks()
    )
    return 1 - matched / max(1, len(left))


def reworded(text: str, rng: random.Random) -> str:
    """Return the text with other names, synonyms, clause order, openings and spellings of LaTeX: ``LEAST`` to ``MOST``
    of its words changed where the table knows enough of them.
    """
    text = _names(text, rng)
    if rng.random() < 0.5:
        text = _flipped(text)
    original = text
    for chance in (0.35, 0.5, 0.7, 0.9, 1.0):
        found = _synonyms(original, rng, chance)
        if changed(original, found) >= LEAST:
            break
    while changed(original, found) > MOST and chance > 0.05:
        chance *= 0.7
        found = _synonyms(original, rng, chance)
    for spelling, another in _SPELLINGS:
        if rng.random() < 0.7:
            found = found.replace(spelling, another)
    if changed(text, found) < LEAST:
        found = rng.choice(_OPENINGS) + found if rng.random() < 0.5 else found + rng.choice(_CLOSINGS)
    return found


def _outside(text: str, change) -> str:  # type: ignore[no-untyped-def]
    """Return the text with ``change`` made to what is no formula."""
    parts, end = [], 0
    for formula in _FORMULA.finditer(text):
        parts += [change(text[end : formula.start()]), formula[0]]
        end = formula.end()
    return "".join([*parts, change(text[end:])])


def _names(text: str, rng: random.Random) -> str:
    prose = _outside(text, lambda part: part)
    spots = [found for found in _NAME.finditer(prose) if found[0] not in NO_NAMES]
    # At the beginning of a sentence any word has a capital: only those are names that have one elsewhere, too, or 's.
    inner = {
        found[0]
        for found in spots
        if (found.start() and prose[: found.start()].rstrip()[-1:] not in ".?!:\n")
        or prose[found.end() :][:2] in ("'s", "’s")
    }
    first = {
        found[0]
        for found in spots
        if re.match(r" (?:has|had|is|was|and|bought|buys|can|wants|makes|needs|gets)\b", prose[found.end() :])
    }
    fresh = rng.sample(NAMES, len(NAMES))
    table = dict(zip(sorted(inner | first), fresh, strict=False))
    return _outside(text, lambda part: _NAME.sub(lambda found: table.get(found[0], found[0]), part))


def _flipped(text: str) -> str:
    """Return the text with its last ``If A, what is B?`` as ``What is B if A?``."""
    found = re.search(
        r"(?:(?<=[.?!] )|^)If ([^.?!]*?), ((?:what|how|find|compute|determine)\b[^.?!]*)([.?])\s*$", text, re.IGNORECASE
    )
    if found is None:
        return text
    question = found[2][0].upper() + found[2][1:]
    return f"{text[: found.start()]}{question} if {found[1]}{found[3]}"


def _synonyms(text: str, rng: random.Random, chance: float) -> str:
    def other(found: re.Match[str]) -> str:
        if rng.random() > chance:
            return found[0]
        word = rng.choice(_TABLE[found[0].lower()])
        return word[0].upper() + word[1:] if found[0][0].isupper() else word

    return _outside(text, lambda part: _PHRASE.sub(other, part))
