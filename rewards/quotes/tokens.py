"""Numbers, words and signs of a text, in order. One pass, linear in the text's length: responses are hostile input."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass, replace
from enum import Enum

from rewards.math.words import CARDINALS, words

EXACT_DIGITS = 15
"""Numbers of more digits are compared by their digits only: a double does not hold them."""

UNIT_LETTERS = "gmlLhs"
"""Letters that are units behind a number and a space, or a stroke: ``60 g``, ``ml/g``."""
NAME_LETTERS = 4
"""Most letters right before digits that make them part of a name: ``x2``, ``D3``, but not ``because20``."""

_TOKEN = re.compile(
    r"(?P<number>(?:\d{1,3}(?:(?:,|\{,\}|\\,|,\\!|\u202f)\d{3})+(?!\d)|\d{1,3}(?: 000)+(?!\d)|\d+)(?:\.\d+)?|\.\d+)"
    r"|(?P<fraction>[½⅓⅔¼¾⅕⅖⅗⅘⅙⅚⅛⅜⅝⅞])"
    r"|(?P<word>[^\W\d_]+(?:['’][^\W\d_]+)*)"
    r"|(?P<tex>\\[A-Za-z]+|\\[^\w\s])"
    r"|(?P<relation>[<>!=]=|=>|->|[=≈≅≠≤≥<>])"
    r"|(?P<sign>\*\*|[-+*/×·⋅÷^−–()\[\]{}%])"
    r"|(?P<break>\n|[^\s\\$€£¥₹¢])"
)
_SIGNS = {"×": "*", "·": "*", "⋅": "*", "÷": "/", "−": "-", "–": "-", "[": "(", "]": ")", "{": "(", "}": ")"}
_TEX_SIGNS = {"times": "*", "cdot": "*", "div": "/"}
_TEX_FRACTIONS = frozenset({"frac", "dfrac", "tfrac", "cfrac"})
_TEX_SILENT = words("left right text mathrm textbf boxed quad qquad displaystyle big Big dollar")
_WORD_SIGNS = {"plus": "+", "minus": "-", "times": "*"}


class Kind(Enum):
    """What a token is."""

    NUMBER = "number"
    WORD = "word"
    SIGN = "sign"
    """An operator or a bracket of arithmetic."""
    EQUALS = "equals"
    LETTER = "letter"
    """A variable, or a function that is not computed here."""
    BREAK = "break"
    """What an expression does not go across."""


@dataclass(frozen=True, slots=True)
class Token:
    """A piece of a text."""

    kind: Kind
    text: str
    """As written; of a sign its plain form, of a number in digits these alone."""
    start: int
    end: int
    value: float | None = None
    """Of a number; ``None`` where a double does not hold its digits."""
    plain: float | None = None
    """Of a number with a scale the number alone: 1.5 of 1.5 million."""
    percent: bool = False
    named: bool = False
    """Whether a number counts nothing: ``2nd``, the ``1.`` of a list."""
    spelled: bool = False
    """Whether a number is in words."""

    @property
    def key(self) -> float | str:
        """What equal numbers share, however they are written."""
        return rounded(self.value) if self.value is not None else self.text


def rounded(value: float) -> float:
    """Return a value without what floating point adds to it."""
    return float(f"{value:.10g}")


def digits_of(text: str) -> str:
    """Return a written number as plain digits, without what groups them."""
    return "".join(c if c == "." else str(unicodedata.decimal(c)) for c in text if c == "." or c.isdecimal())


def number(text: str, start: int, end: int, percent: bool = False, named: bool = False) -> Token:
    """Return the token of a number in digits of any script."""
    digits = digits_of(text)
    plain = digits.strip("0.") if "." in digits else digits.lstrip("0")
    value = float(digits) if len(plain) <= EXACT_DIGITS else None
    return Token(Kind.NUMBER, digits, start, end, value, percent=percent, named=named)


def tokens_of(text: str, start: int = 0, end: int | None = None) -> list[Token]:
    """Return the tokens of a part of a text; places count from the text's begin."""
    found = list(_raw(text, start, len(text) if end is None else end))
    return [_in_context(found, at, text, start) for at in range(len(found))]


def _raw(text: str, start: int, end: int) -> Iterator[Token]:
    """Yield tokens each on its own, with the strokes of LaTeX fractions."""
    depth, strokes = 0, []
    for match in _TOKEN.finditer(text, start, end):
        kind, piece, a, b = match.lastgroup, match[0], match.start(), match.end()
        if kind == "number":
            yield number(piece, a, b, percent=text[b : b + 2].lstrip("\\")[:1] == "%")
        elif kind == "word":
            yield Token(Kind.WORD, piece, a, b)
        elif kind == "tex":
            name = piece[1:]
            if name in _TEX_FRACTIONS:
                strokes.append(depth)
            elif name in _TEX_SIGNS:
                yield Token(Kind.SIGN, _TEX_SIGNS[name], a, b)
            elif name == "approx":
                yield Token(Kind.EQUALS, piece, a, b)
            elif name.isalpha() and name not in _TEX_SILENT:
                yield Token(Kind.LETTER, piece, a, b)
        elif kind == "relation":
            yield Token(Kind.EQUALS if piece in "=≈≅" or piece == "==" else Kind.BREAK, piece, a, b)
        elif kind == "sign" and piece not in ("%", "**"):
            sign = _SIGNS.get(piece, piece)
            yield Token(Kind.SIGN, sign, a, b)
            depth += (piece == "{") - (piece == "}")
            if piece == "}" and strokes and strokes[-1] == depth and text[b : b + 1] == "{":
                strokes.pop()
                yield Token(Kind.SIGN, "/", b, b)
        elif kind == "fraction":
            yield Token(Kind.NUMBER, piece, a, b, unicodedata.numeric(piece))
        elif kind == "break" and (piece != "." or not _abbreviates(text, b)):
            yield Token(Kind.BREAK, piece, a, b)


def _abbreviates(text: str, end: int) -> bool:
    """Whether the full stop before a place ends an abbreviation: ``3 lbs. of coffee``."""
    return text[end : end + 1] == " " and text[end + 1 : end + 2].islower()


def _in_context(found: list[Token], at: int, text: str, start: int) -> Token:
    """Return a token as its neighbours make it: a times sign, the stroke of a unit, a hyphen, a variable."""
    token = found[at]
    before = found[at - 1] if at else None
    after = found[at + 1] if at + 1 < len(found) else None
    if token.kind is Kind.NUMBER:
        if at > 1 and before and before.text in "xX" and found[at - 2].end == before.start:  # 3x4
            before = None if found[at - 2].kind is Kind.NUMBER else before
        return _number_in_context(token, before, after, text, start)
    if token.text.lower() == "equals":
        return _as(token, Kind.EQUALS)
    if token.kind is Kind.WORD and (sign := _WORD_SIGNS.get(token.text.lower())):
        counts = after is not None and (_begins(after) or after.text.lower() in CARDINALS)
        return Token(Kind.SIGN, sign, token.start, token.end) if counts else token
    if token.kind is Kind.WORD and len(token.text) == 1:
        return _letter(token, before, after, text)
    if token.kind is Kind.SIGN and token.text in "/-+*":
        word_next = after is not None and after.kind is Kind.WORD and len(after.text) > 1
        if token.text == "/" and before is not None and after is not None and _is_per(before, after):
            return _as(token, Kind.WORD)
        if _hyphen(token, before, word_next):
            return _as(token, Kind.WORD)
        bullet = (before is None or before.text == "\n") and text[token.end : token.end + 1] == " "
        if bullet or (word_next and token.text == "-"):
            return _as(token, Kind.BREAK)
    return token


def _letter(token: Token, before: Token | None, after: Token | None, text: str) -> Token:
    """Return a letter that stands alone: a times sign, a variable, or the article."""
    beside = before is not None and before.kind is Kind.NUMBER and before.end == token.start
    if token.text in "xX" and not beside and before and after and _ends(before) and _begins(after):
        return Token(Kind.SIGN, "*", token.start, token.end)
    if token.text in "xX" and beside and after and _begins(after) and after.start == token.end:  # 3x4
        return Token(Kind.SIGN, "*", token.start, token.end)
    if (
        token.text in UNIT_LETTERS
        and before is not None
        and (before.text == "/" or (before.kind is Kind.NUMBER and not beside))
    ):
        return token
    word = text[token.end : token.end + 1] == "-" and text[token.end + 1 : token.end + 2].isalpha()  # T-shirt
    if word or (token.text in "aI" and not beside):
        return token
    return _as(token, Kind.LETTER)


def _number_in_context(token: Token, before: Token | None, after: Token | None, text: str, start: int) -> Token:
    """Return a number, ``named`` where it counts nothing, or as a letter where it is part of a name."""
    if token.start and text[token.start - 1] == "_":
        return _as(token, Kind.LETTER)
    word = before if before is not None and before.kind is Kind.WORD else None
    if word is not None and word.end == token.start and len(word.text) <= NAME_LETTERS:
        return _as(token, Kind.LETTER)
    named = False
    if after is not None and after.kind is Kind.WORD and after.start == token.end:
        named = after.text.lower() in ("st", "nd", "rd", "th", "d")
    if (before is None and not text[start : token.start].strip()) or (before and before.text in ("\n", "#")):
        closes = text[token.end : token.end + 1] in (".", ")", ":")
        named |= closes and text[token.end + 1 : token.end + 2] in (" ", "\n", "\t", "")
    if word is not None:
        named |= word.text.lower() in ("step", "case", "part", "equation", "question", "method", "option")
    return replace(token, named=True) if named else token


def _as(token: Token, kind: Kind) -> Token:
    return Token(kind, token.text, token.start, token.end)


def _ends(token: Token) -> bool:
    """Whether an operand can end here."""
    return token.kind in (Kind.NUMBER, Kind.WORD) or token.text in (")", "%")


def _begins(token: Token) -> bool:
    """Whether an operand can begin here."""
    return token.kind is Kind.NUMBER or token.text == "("


def _is_per(before: Token, after: Token) -> bool:
    """Whether a stroke is part of a unit: ``stickers/page``, ``$4/hat``, ``15 ml/g``."""
    if after.kind is not Kind.WORD or before.kind not in (Kind.WORD, Kind.NUMBER):
        return False
    return len(after.text) > 1 or (before.kind is Kind.WORD and len(before.text) > 1 and after.text in UNIT_LETTERS)


def _hyphen(token: Token, before: Token | None, word_next: bool) -> bool:
    """Whether a stroke joins words: ``time-outs``, ``T-shirt``."""
    joins = token.text == "-" and before is not None and before.kind is Kind.WORD and before.end == token.start
    return joins and before is not None and (word_next or len(before.text) > 1)
