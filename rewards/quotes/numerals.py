"""Numbers in words and with words: ``twenty-five``, ``half``, ``1.5 million``, ``1 and 1/2``, ``three-fifths``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from rewards.math.words import CARDINALS
from rewards.quotes.tokens import Kind, Token

SCALES = {"hundred": 100.0, "thousand": 1e3, "million": 1e6, "billion": 1e9, "trillion": 1e12, "dozen": 12.0}
"""Words that multiply the number before them."""
PARTS = {
    "half": 2, "halves": 2, "third": 3, "thirds": 3, "quarter": 4, "quarters": 4, "fourth": 4, "fourths": 4,
    "fifth": 5, "fifths": 5, "sixth": 6, "sixths": 6, "seventh": 7, "sevenths": 7, "eighth": 8, "eighths": 8,
    "ninth": 9, "ninths": 9, "tenth": 10, "tenths": 10, "twelfth": 12, "twelfths": 12, "twentieth": 20,
    "hundredth": 100, "hundredths": 100,
}  # fmt: skip
"""Words for a part of a whole, and into how many it is divided; most are ordinals as well."""
TIMES = {
    "once": 1, "twice": 2, "thrice": 3, "single": 1, "double": 2, "doubled": 2, "doubles": 2, "doubling": 2,
    "triple": 3, "tripled": 3, "triples": 3, "tripling": 3, "quadruple": 4, "quadrupled": 4, "quadruples": 4,
    "quintuple": 5, "both": 2, "pair": 2, "pairs": 2, "couple": 2, "couples": 2, "twin": 2, "twins": 2,
    "twofold": 2, "threefold": 3, "fourfold": 4, "tenfold": 10, "dozens": 12, "first": 1, "second": 2,
    "duo": 2, "trio": 3, "triplets": 3, "quartet": 4, "quadruplets": 4, "solo": 1, "either": 2, "neither": 2,
    "halved": 2, "halving": 2, "nobody": 0, "none": 0, "no": 0, "each": 1, "a": 1, "an": 1, "another": 1, "alone": 1,
    "every": 1, "per": 1,
}  # fmt: skip
"""Other words that say a number."""


def merged(tokens: Sequence[Token]) -> list[Token]:
    """Return the tokens with each number in words as one token, and a number with its scale as one."""
    return _with_parts(_in_digits(tokens))


def _in_digits(tokens: Sequence[Token]) -> list[Token]:
    """Return the tokens with each number in words as one."""
    found: list[Token] = []
    at = 0
    while at < len(tokens):
        token = tokens[at]
        scale = at > 0 and tokens[at - 1].kind is Kind.NUMBER and token.text.lower() in SCALES
        if token.kind is Kind.WORD and not scale and (read := _spelled(tokens, at)):
            value, end = read
            text = " ".join(t.text for t in tokens[at:end])
            dozens = value / 12 if end - at > 1 and tokens[end - 1].text.lower() == "dozen" else None
            found.append(Token(Kind.NUMBER, text, token.start, tokens[end - 1].end, value, dozens, spelled=True))
            at = end
        else:
            found.append(token)
            at += 1
    return found


def _with_parts(tokens: Sequence[Token]) -> list[Token]:
    """Return the tokens with each number and its scale, or its fraction, as one."""
    found: list[Token] = []
    at = 0
    while at < len(tokens):
        token = tokens[at]
        if (mixed := _mixed(tokens, at)) is not None:
            found.append(mixed[0])
            at = mixed[1]
        elif (scale := _scale_behind(tokens, at)) is not None and token.value is not None:
            found.append(replace(token, value=token.value * scale, end=tokens[at + 1].end, plain=token.value))
            at += 2
        else:
            found.append(token)
            at += 1
    return found


def _mixed(tokens: Sequence[Token], at: int) -> tuple[Token, int] | None:
    """Return the mixed number that begins at a token, and the place behind it: ``1 1/2``, ``1 and 1/2``, ``one and a
    half``.
    """
    whole = tokens[at].value if tokens[at].kind is Kind.NUMBER and not tokens[at].percent else None
    if whole is None or whole != int(whole):
        return None
    at_once = at + 1
    for joint in ("and", "a"):
        at_once += at_once < len(tokens) and tokens[at_once].text.lower() == joint
    part = tokens[at_once : at_once + 3]
    if at_once > at + 1 and part and part[0].text.lower() == "half":
        return replace(tokens[at], text=f"{tokens[at].text} 1/2", end=part[0].end, value=whole + 0.5), at_once + 1
    if len(part) < 3 or part[1].text != "/" or part[0].kind is not Kind.NUMBER or part[2].kind is not Kind.NUMBER:
        return None
    above, below = part[0].value, part[2].value
    if not above or not below or above >= below:
        return None
    text = f"{tokens[at].text} {part[0].text}/{part[2].text}"
    return replace(tokens[at], text=text, end=part[2].end, value=whole + above / below), at_once + 3


def _scale_behind(tokens: Sequence[Token], at: int) -> float | None:
    """Return what the word behind a number in digits multiplies it with."""
    if tokens[at].kind is not Kind.NUMBER or at + 1 >= len(tokens) or tokens[at + 1].kind is not Kind.WORD:
        return None
    return SCALES.get(tokens[at + 1].text.lower())


def _spelled(tokens: Sequence[Token], at: int) -> tuple[float, int] | None:
    """Return the number in words that begins at a token, and the place behind it."""
    first = tokens[at].text.lower()
    if first == "half":
        return 0.5, at + 1
    if first not in CARDINALS and first not in SCALES:
        return None
    total, current, end = 0.0, 0.0, at
    while end < len(tokens):
        here = end + 1 if end > at and _joins(tokens, end) else end
        word = tokens[here].text.lower() if here < len(tokens) and tokens[here].kind is Kind.WORD else ""
        if word in CARDINALS and (end == at or _fits(current, CARDINALS[word])):
            current += CARDINALS[word]
        elif word == "dozen":
            return total + (current or 1) * 12, here + 1
        elif word == "hundred" and current < 100:
            current = (current or 1) * 100
        elif word in ("thousand", "million", "billion", "trillion") and (current or end == at):
            total, current = total + (current or 1) * SCALES[word], 0.0
        else:
            break
        end = here + 1
    return total + current, end


def _fits(current: float, value: int) -> bool:
    """Whether a word for ``value`` goes on with a number: twenty-five, a hundred and five, but not five six."""
    if current % 100 == 0:
        return True
    return current % 100 >= 20 and current % 10 == 0 and 0 < value < 10


def _joins(tokens: Sequence[Token], at: int) -> bool:
    """Whether a hyphen or ``and`` joins the number word before with one that follows."""
    if at + 1 >= len(tokens) or tokens[at + 1].kind is not Kind.WORD:
        return False
    joint, word = tokens[at], tokens[at + 1].text.lower()
    if joint.text == "-":
        return joint.start == tokens[at - 1].end and (word in CARDINALS or word in SCALES)
    return joint.text == "and" and tokens[at - 1].text.lower() in SCALES and word in CARDINALS


def fractions(tokens: Sequence[Token]) -> Iterator[tuple[float, float]]:
    """Yield numerator and denominator of the fractions: ``3/5``, ``three-fifths``, ``a third``, ``1/6th``."""
    for at, token in enumerate(tokens):
        after = tokens[at + 1 : at + 3]
        if token.kind is Kind.NUMBER and token.value is not None and len(after) == 2:
            below = after[1].value if after[1].kind is Kind.NUMBER else PARTS.get(after[1].text.lower())
            if below and (after[0].text == "/" or (after[0].text == "-" and after[1].kind is Kind.WORD)):
                yield token.value, below
        if token.kind is Kind.WORD and (below := PARTS.get(token.text.lower())):
            before = tokens[at - 1] if at else None
            above = before.value if before is not None and before.kind is Kind.NUMBER else None
            yield above or 1.0, below
        if token.kind is Kind.NUMBER and token.spelled and token.value == 0.5:
            yield 1.0, 2.0
