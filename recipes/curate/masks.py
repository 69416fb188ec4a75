"""What two tellings of one problem may differ in: who it is about, and how its numbers are written. Pure functions."""

from __future__ import annotations

import re
from collections.abc import Sequence

NAME = "@"
"""What stands for any name."""
MOST_NAMES = 6
"""Texts with more different capitalised words have other reasons for capitals (titles, German): none is a name."""
_CAPITALISED = re.compile(r"(?<![^\W_])(?<!\\)[A-Z][a-zà-ÿ]+(?![^\W_])")
_SMALL = re.compile(r"\b[a-zà-ÿ]+")
_SENTENCE_START = re.compile(r"(?:^|[.!?:;\n\"“”(\[{$])[\s\"'“‘(]*\Z")
_OPENERS = frozenset(
    """a about above according across add after all also although altogether among an and another answer any arrange as
    assume assuming at because before below between both but by calculate can choose circle combine complete compute
    consider convert count define denote describe despite determine did do does draw during each eight either eleven
    estimate evaluate even every exactly expand express factor few fifteen fifty fill find finally first five following
    for forty four from give given half has have he her here his how however hundred if in initially instead into is it
    its last later later let list long made make many mr mrs ms dr more most multiply my name next nine no note now of
    on once one only or order other our out over part people per point points prove provide put question recall round
    second select several seven she show simplify since six sixty sketch so solve some sort specify square starting
    state subtract sum suppose ten that the their them then there therefore these they third this those though thousand
    three through thus to together total triangle twelve twenty two under unless until up use using was we were what
    when whenever where whether which while who whole whose will with within without work write yesterday you
    your""".split()  # noqa: SIM905  a list of words reads worse
)
"""Words that begin a sentence without being a name."""
_NEVER = frozenset("i mr mrs ms dr miss".split())  # noqa: SIM905
_STAND_INS = {
    "he": NAME, "she": NAME, "her": "his", "him": "his", "hers": "his", "himself": "his", "herself": "his",
}  # fmt: skip
"""Whom a pronoun stands for is the same person by name."""
_UNITS = dict(
    zip(
        """zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen
        seventeen eighteen nineteen""".split(),  # noqa: SIM905
        range(20),
        strict=True,
    )
)
_TENS = dict(
    zip("twenty thirty forty fifty sixty seventy eighty ninety".split(), range(20, 100, 10), strict=True)  # noqa: SIM905
)
_SCALES = {"hundred": 100, "thousand": 1_000, "million": 1_000_000, "billion": 1_000_000_000}
_SPELLED = frozenset(_UNITS) | frozenset(_TENS) | frozenset(_SCALES)


def masked(text: str, tokens: Sequence[str]) -> list[str]:
    """Return the tokens of a text (its ``words``) with every name, and every pronoun in the place of one, replaced by
    ``NAME``, "her" and "Ann's" by "his", and numbers in words written in digits.
    """
    who = names(text)
    other = dict.fromkeys(who, NAME) | {f"{name}'s": "his" for name in who} | _STAND_INS
    return [other.get(token, token) for token in in_digits(tokens)]


def names(text: str) -> frozenset[str]:
    """Return the words of a text, in lower case, that look like names: with a capital inside a sentence, or as its
    first word, unless sentences often begin with that one or the text has it without a capital, too. Nothing where
    there are more than ``MOST_NAMES``.
    """
    found: set[str] = set()
    small: frozenset[str] | None = None
    for match in _CAPITALISED.finditer(text):
        word = match.group().casefold()
        if word in found or word in _NEVER:
            continue
        if _SENTENCE_START.search(text, max(0, match.start() - 8), match.start()) is not None:
            if word in _OPENERS:
                continue
            small = small or frozenset(_SMALL.findall(text))
            if word in small:
                continue
        found.add(word)
    return frozenset(found) if len(found) <= MOST_NAMES else frozenset()


def numbers(tokens: Sequence[str]) -> list[str]:
    """Return the numbers among ``masked`` tokens, sorted, without 1, which is as often an article ("one of them") or
    left out ("1 mile", "a mile").
    """
    found = [token for token in tokens if token[0] in "0123456789"]
    return sorted(number for number in map(_plain, found) if number != "1")


def in_digits(tokens: Sequence[str]) -> Sequence[str]:
    """Return the tokens with numbers in words written in digits: "twenty-one" and "2 hundred" are 21 and 200."""
    if _SPELLED.isdisjoint(tokens):
        return tokens
    found: list[str] = []
    at = 0
    while at < len(tokens):
        token = tokens[at]
        at += 1
        if token in _TENS:
            value = _TENS[token]
            hyphen = at < len(tokens) and tokens[at] == "-"
            unit = _UNITS.get(tokens[at + hyphen], 0) if at + hyphen < len(tokens) else 0
            if 0 < unit < 10:
                value, at = value + unit, at + hyphen + 1
            found.append(str(value))
        elif token in _UNITS:
            found.append(str(_UNITS[token]))
        elif token in _SCALES and found and found[-1].isdigit() and len(found[-1]) < 6:
            found[-1] = str(int(found[-1]) * _SCALES[token])
        else:
            found.append(token)
    return found


def _plain(number: str) -> str:
    return number.rstrip("0").rstrip(".") if "." in number else number
