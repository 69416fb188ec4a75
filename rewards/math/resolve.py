"""Interpretation of runs of letters: words, units after a value, or products of variables."""

from __future__ import annotations

from rewards.math.tokens import Token
from rewards.math.units import BARE, LETTER_UNITS, measure
from rewards.math.words import SHORT_WORDS, is_number_word

_OPENING = frozenset({",", ";", "and", "or", "(", "[", "{set", "newline", "&", "lor", "land", "{"})
_CLOSING = frozenset({",", ";", "and", "or", ")", "]", "}set", "newline", "&", "lor", "land", "}"})
_AFTER_UNIT = _CLOSING | {"/", "^", "cdot"}
_RELATIONS = frozenset({"=", "<", ">", "leq", "geq", "neq", ":"})


def resolve(tokens: list[Token], units: bool) -> list[Token]:
    """Return the tokens with every ``word`` turned into text or single names.

    ``units``: a single letter that is a unit is one after a value and a space (``5 m``); else it is a variable.
    """
    found: list[Token] = []
    at = 0
    while at < len(tokens):
        token = tokens[at]
        if token.kind not in ("word", "text"):
            found.append(token)
            at += 1
            continue
        end = at
        while end < len(tokens) and tokens[end].kind in ("word", "text"):
            end += 1
        before = found[-1] if found else None
        after = tokens[end] if end < len(tokens) else None
        run = tokens[at:end]
        if _is_prose(run, before, after, found):
            upright = all(word.upright for word in run)
            found.append(Token("text", " ".join(word.value for word in run), True, upright))
            at = end
        else:
            _one(token, after if end == at + 1 else tokens[at + 1], found, units)
            at += 1
    return found


def _is_prose(run: list[Token], before: Token | None, after: Token | None, found: list[Token]) -> bool:
    """Return whether words that fill a place between separators are a text: ``no solution``, ``DNE``, ``Amy``."""
    sided = (before is not None and before.value in _RELATIONS) or (after is not None and after.value in _RELATIONS)
    opened = before is None or before.value in _OPENING or before.value in _RELATIONS
    closed = after is None or after.value in _CLOSING or after.value in _RELATIONS
    if not (opened and closed):
        return False
    letters = [word for word in run if word.kind == "word" and len(word.value) == 1 and word.value.islower()]
    if len(letters) < len(run) and any(letter.value != "a" for letter in letters):
        return False  # "if x", "all even n"
    if all(word.kind == "text" for word in run):
        return True
    if before is not None and before.value in ("(", "[", "{") and len(found) > 1 and found[-2].kind in ("name", "cmd"):
        return False  # the argument of a function
    return any(_is_word(word, len(run) == 1 and not sided) for word in run)


def _is_word(token: Token, alone: bool) -> bool:
    """Return whether a run of letters is a word rather than a product of variables."""
    word = token.value
    if token.kind == "text" or len(word) > 4 or not word.isascii():
        return True
    if not alone:
        return len(word) > 1 and (word.lower() in SHORT_WORDS or len(word) == 4)
    if len(word) == 1:
        return False
    return len(word) == 4 or word.isupper() or (len(word) > 2 and word.istitle()) or word.lower() in SHORT_WORDS


def _one(token: Token, after: Token | None, found: list[Token], units: bool) -> None:
    """Append one word as a unit, a text or single names."""
    word = token.value
    before = found[-1] if found else None
    if token.kind == "text":
        _append_text(word, token.spaced, found)
        return
    if before is not None and _ends_value(before) and _is_unit(token, found, after, units):
        _append_text(word, token.spaced, found)
        return
    prefixed = before is not None and before.value == "mu" and measure(f"μ{word}") is not None
    after_value = prefixed and len(found) > 1 and _ends_value(found[-2])
    in_braces = before is not None and before.value == "{" and len(found) > 1 and _ends_value(found[-2])
    if (in_braces and len(word) > 1 and measure(word) is not None) or (after_value and units):
        found.append(Token("text", word, token.spaced, True))
        return
    if token.upright and (prefixed or (word in LETTER_UNITS and _in_unit(found))):
        found.append(Token("text", word, token.spaced, True))
        return
    joins = before is not None and before.kind == "text" and token.spaced
    if joins and (len(word) > 1 or token.upright or word in LETTER_UNITS or word in ("a", "I")):
        _append_text(word, True, found)
    elif _after_slash(found) and measure(word) is not None:
        found.append(Token("text", word, token.spaced, True))
    elif len(word) > 4 or not word.isascii():
        _append_text(word, token.spaced, found)
    else:
        found.extend(Token("name", letter, token.spaced and not place) for place, letter in enumerate(word))


def _append_text(word: str, spaced: bool, found: list[Token]) -> None:
    if found and found[-1].kind == "text":
        word = f"{found.pop().value} {word}"
    found.append(Token("text", word, spaced, True))


def _ends_value(token: Token) -> bool:
    """Return whether a value may end with this token."""
    return token.kind == "num" or token.value in ("}", ")", "]", "pi", "circ", "%", "]", "!", "£", "€", "'")


def _after_slash(found: list[Token]) -> bool:
    """Return whether the tokens end with a unit and a sign of division or multiplication: ``m/``, ``m^2/``."""
    if len(found) < 2 or found[-1].value not in ("/", "cdot", "*"):
        return False
    if found[-2].kind == "num" and len(found) > 3 and found[-3].value == "^":
        return found[-4].kind == "text"
    return found[-2].kind == "text"


def _in_unit(found: list[Token]) -> bool:
    r"""Whether a fraction of units has just begun after a value: ``5\frac{\mathrm{m}}{\mathrm{s}}``."""
    values = [token.value for token in found[-5:]]
    if values[-1:] in (["["], ["("], ["{"]) and len(found) > 1 and _ends_value(found[-2]):
        return True
    if values[-2:] == ["frac", "{"]:
        return len(found) > 2 and _ends_value(found[-3])
    return values[-2:] == ["}", "{"] and len(found) > 4 and found[-3].kind == "text"


def _is_unit(token: Token, found: list[Token], after: Token | None, units: bool) -> bool:
    """Return whether a word right after a value is its unit, or says of what it is a number."""
    word = token.value
    if not word.isascii():
        return True
    if len(word) == 1:
        degrees = "circ" in [before.value for before in found[-2:]] and word in "CF"
        ends = after is None or after.kind in ("text", "word", "num") or after.value in _AFTER_UNIT
        if token.upright:
            return degrees or (word in LETTER_UNITS and ends)
        return ends and (degrees or (units and token.spaced and word in LETTER_UNITS))
    if token.upright:
        return True
    if word in BARE:
        return True
    known = is_number_word(word) or (measure(word) is not None and len(word) > 1)
    return (token.spaced and (len(word) > 3 or known)) or len(word) > 4


def has_letter_unit(tokens: list[Token]) -> bool:
    """Return whether a single bare letter could be a unit, so that there are two readings."""
    return any(
        token.kind == "word" and not token.upright and token.spaced and token.value in LETTER_UNITS for token in tokens
    )
