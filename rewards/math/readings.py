"""All readings of an answer: what its text can mean, the likelier first."""

from __future__ import annotations

import re
from functools import lru_cache

from rewards.math.clean import flat, french_intervals, has_thousands, is_list_of_numbers, join_commas
from rewards.math.families import declared
from rewards.math.forms import variables
from rewards.math.parse import Parser
from rewards.math.resolve import has_letter_unit, resolve
from rewards.math.statements import grouped
from rewards.math.tokens import Token, tokenize
from rewards.math.tree import Clock, Family, Node, Relation, Sym, Unreadable

_CLOCK = re.compile(r"([0-9]{1,2}) ?: ?([0-5][0-9])(?: ?([AaPp])\.? ?[Mm]\.?)?")
_SECONDS = re.compile(r"([0-9]{1,2} ?: ?[0-5][0-9]) ?: ?([0-5][0-9])(?=.*[AaPp]\.? ?[Mm]|$)")
"""A time with its seconds: without the half of the day it may also be a ratio."""
_BRACE = re.compile(r"\\.|[{}]")
_HOUR = re.compile(r"([0-9]{1,2})() ?([AaPp])\.? ?[Mm]\.?")
_CALL = re.compile(
    r"(?P<name>\\?[A-Za-z]+(?:_(?:[A-Za-z0-9]|\{[^{}]*\}))?'?\s*[(\[](?=[^()\[\]]*[A-Za-z])[^()\[\]]{1,60}[)\]])\s*=(?P<value>.+)",
    re.DOTALL,
)
_FUNCTION = re.compile(r"\\?(?:sin|cos|tan|log|ln|exp|gcd|lcm|max|min|sqrt|binom|frac|floor)")


def _read_one(tokens: list[Token], independent: bool) -> Node:
    if not tokens:
        raise Unreadable("nothing")
    parser = Parser(tokens, independent)
    items, labels = parser.separated()
    if parser.at != len(parser.tokens):
        rest = parser.tokens[parser.at].value.removesuffix("set")
        raise Unreadable(f"{rest[:20]!a} after the answer")
    return items[0] if len(items) == 1 else grouped(items, labels)


def _variants(text: str) -> list[Node]:
    """Return what a text can mean; raises ``Unreadable`` when nothing."""
    flattened = flat(text)
    seconds = _SECONDS.match(flattened)
    time = _SECONDS.sub(r"\1", flattened, count=1) if seconds else flattened
    clock = _CLOCK.fullmatch(time) or _HOUR.fullmatch(time)
    if clock and (clock[3] or not seconds):
        half = (clock[3] or "").lower()
        return [Clock(int(clock[1]), int(clock[2] or 0), half and f"{half}m", int(seconds[2]) if seconds else 0)]
    tokens = tokenize(text)
    ways = [(True, False)]
    if has_letter_unit(tokens):
        ways.append((False, False))
    signs = [token.value for token in tokens if token.value in ("pm", "mp")]
    if len(signs) > 1:  # each sign by itself; together only where "mp" says so, or in a pair of numbers
        both = (True, True) if "mp" not in signs else (True, False)
        ways = [both, *ways[1:], *(ways[:1] if "(" in text else [])]
    readings: list[Node] = []
    reason = ""
    for units, independent in ways:
        try:
            readings.append(_read_one(resolve(tokens, units), independent))
        except (Unreadable, RecursionError) as error:
            reason = reason or (str(error) if isinstance(error, Unreadable) else "nested too deeply")
    if readings:
        return readings
    call = _CALL.fullmatch(text)
    if call and not _FUNCTION.match(call["name"]):
        name = Sym(re.sub(r"\s", "", flat(call["name"])))
        return [Relation((name, value), ("=",)) for value in _variants(call["value"].strip())]
    raise Unreadable(reason)


def read(text: str, trusted: bool = False) -> tuple[Node, ...]:
    """Return all readings of a cleaned answer, the likelier first: ``1,234`` is a number, or else two answers.

    A ``trusted`` text says what it means: groups of digits that could be two answers are two. Raises ``Unreadable``
    with the reason when there is no reading.
    """
    text = french_intervals(_without_braces(text))
    if trusted and is_list_of_numbers(text):
        texts = [text]
    elif has_thousands(text):
        texts = [join_commas(text)]
    else:
        texts = list(dict.fromkeys((join_commas(text), text)))
    readings: dict[Node, None] = {}
    reason = ""
    family = declared(text)
    if family is not None:
        body, name = family
        try:
            readings |= {Family(node, name): None for node in _variants(body) if name in variables(node)}
        except (Unreadable, RecursionError) as error:
            reason = str(error) if isinstance(error, Unreadable) else "nested too deeply"
    for one in texts:
        try:
            readings |= dict.fromkeys(_variants(one))
        except (Unreadable, RecursionError) as error:
            reason = str(error) if isinstance(error, Unreadable) else "nested too deeply"
    if not readings:
        raise Unreadable(reason or "nothing")
    return tuple(readings)


def _without_braces(text: str) -> str:
    """Return the text without braces around all of it: they do not show."""
    while text.startswith("{") and text.endswith("}") and not text.endswith("\\}"):
        depth = 0
        for match in _BRACE.finditer(text):
            depth += {"{": 1, "}": -1}.get(match.group(), 0)
            if depth == 0:
                break
        if depth or match.end() != len(text):
            return text
        text = text[1:-1].strip()
    return text


@lru_cache(maxsize=4096)
def read_gold(text: str) -> tuple[Node, ...]:
    """Return the readings of a cleaned reference, kept: each is compared with many responses."""
    return read(text, trusted=True)
