"""Units: which words are one, which are the same, and how those of one dimension convert."""

from __future__ import annotations

import re
from fractions import Fraction

from rewards.math.words import words

_TABLE: dict[str, tuple[str, str]] = {
    # name: (dimension, size in the dimension's first unit)
    "mm": ("length", "0.001"), "cm": ("length", "0.01"), "dm": ("length", "0.1"), "m": ("length", "1"),
    "km": ("length", "1000"), "in": ("length", "0.0254"), "ft": ("length", "0.3048"), "yd": ("length", "0.9144"),
    "mi": ("length", "1609.344"),
    "mg": ("mass", "0.001"), "g": ("mass", "1"), "kg": ("mass", "1000"), "lb": ("mass", "453.59237"),
    "oz": ("mass", "28.349523125"),
    "s": ("time", "1"), "min": ("time", "60"), "h": ("time", "3600"), "day": ("time", "86400"),
    "week": ("time", "604800"), "ms": ("time", "0.001"),
    "ml": ("capacity", "0.001"), "l": ("capacity", "1"), "gal": ("capacity", "3.785411784"),
    "cent": ("money", "0.01"), "$": ("money", "1"), "euro": ("euro", "1"), "yen": ("yen", "1"),
    "km/h": ("speed", "1000"), "m/s": ("speed", "3600"), "mph": ("speed", "1609.344"),
    "deg": ("angle", "1"), "rad": ("radian", "1"), "%": ("percent", "1"),
    "acre": ("acre", "1"), "N": ("force", "1"), "J": ("energy", "1"), "W": ("power", "1"), "V": ("voltage", "1"),
    "Hz": ("frequency", "1"),
}  # fmt: skip
_ALIASES = {
    "millimeter": "mm", "centimeter": "cm", "decimeter": "dm", "meter": "m", "kilometer": "km", "millimetre": "mm",
    "centimetre": "cm", "metre": "m", "kilometre": "km", "inch": "in", "foot": "ft", "feet": "ft", "yard": "yd",
    "mile": "mi", "milligram": "mg", "gram": "g", "gm": "g", "kilogram": "kg", "pound": "lb", "ounce": "oz",
    "sec": "s", "second": "s", "minute": "min", "hour": "h", "hr": "h", "milliliter": "ml", "mL": "ml", "liter": "l",
    "litre": "l", "L": "l", "gallon": "gal", "¢": "cent", "dollar": "$", "usd": "$", "buck": "$", "kmh": "km/h",
    "kph": "km/h", "mi/h": "mph", "degree": "deg", "°": "deg", "radian": "rad", "percent": "%", "percentage": "%",
    "pct": "%", "newton": "N", "joule": "J", "watt": "W", "volt": "V", "hertz": "Hz", "sq": "square", "cu": "cubic",
}  # fmt: skip
_VALUE_WORDS = words(
    "or and but not no nor to is are am be was times plus minus over squared cubed factorial half halves third"
    " quarter quarters hundred thousand million billion trillion dozen score pair mod modulo choose divided by"
    " multiplied of negative positive root power equals equal answer than less more greater either about approximately"
    " if when where for any all infinity infinite infinitely pi zero one two three four five six seven eight nine ten"
) - {"of", "by", "all", "for", "more", "less", "about"}
"""Words that change a value or offer another one: text that holds one of them is no unit."""
_SHORT = words("per a an the each day week way egg cup box pen of in for hour year cm mm km kg mph ft oz")
_WORD = re.compile(r"[A-Za-z$°¢%]+")
_SHAPE = re.compile(r"[A-Za-z$°¢%][A-Za-z$°¢% ./^{}()1-9'-]{0,38}")
_POWER = re.compile(r"^(?P<word>[A-Za-z/]+) ?\^? ?(?P<power>[23])$")
BARE = frozenset(name for name, _ in _TABLE.items() if len(name) > 1 and name.isalpha()) - {"in", "day", "min", "gal"}
"""Units that may stand without ``\\text``: too short for a word, too usual for a product."""


def is_unit(words: str) -> bool:
    """Whether text after a value is a unit or a noun, and neither another value nor a remark on it."""
    if _SHAPE.fullmatch(words) is None or re.search(r"(?<![a-zA-Z^{-])[1-9]", words):
        return False
    found = _WORD.findall(words)
    return 0 < len(found) <= 5 and not any(word.lower() in _VALUE_WORDS for word in found)


def is_plain_word_unit(words: str) -> bool:
    r"""The same for words outside of ``\text``, where short ones would be products of variables."""
    return is_unit(words) and all(len(word) > 3 or word.lower() in _SHORT for word in _WORD.findall(words))


def canonical(words: str) -> str:
    """One spelling for one unit: ``square inches``, ``inches^2`` and ``in^2`` are ``in^2``."""
    text = words.strip().replace("{", "").replace("}", "").rstrip(". ")
    if text.lower().startswith(("degrees ", "degree ")):
        text = "deg"
    power = ""
    matched = _POWER.match(text)
    if matched:
        text, power = matched["word"], matched["power"]
    parts = [part for part in re.split(r"[ ]+|(/)", text) if part]
    names = [_singular(part.rstrip(".")) for part in parts]
    if names[:1] == ["square"] and len(names) > 1:
        names, power = names[1:], "2"
    elif names[:1] == ["cubic"] and len(names) > 1:
        names, power = names[1:], "3"
    name = "/".join(" ".join(names).replace(" / ", "/").replace(" per ", "/").split("/"))
    name = _ALIASES.get(name, name)
    return f"{name}^{power}" if power else name


def _singular(word: str) -> str:
    for candidate in (word, word.lower()):
        for stem in (candidate, candidate.removesuffix("s"), candidate.removesuffix("es")):
            if stem in _ALIASES:
                return _ALIASES[stem]
            if stem in _TABLE:
                return stem
    lower = word.lower()
    return lower.removesuffix("s") if len(lower) > 3 else lower


def measure(name: str) -> tuple[str, Fraction] | None:
    """Dimension and size of a unit; ``None`` for a noun such as ``apple``."""
    base, _, power = name.partition("^")
    if base not in _TABLE:
        return None
    dimension, size = _TABLE[base]
    exponent = int(power) if power else 1
    return dimension + (power and f"^{power}"), Fraction(size) ** exponent


def conversion(gold: str, found: str) -> Fraction | None:
    """What a value in unit ``found`` is multiplied with to be in unit ``gold``; ``None`` when they do not compare.

    Either may be empty: a missing unit is taken to be the other's. Nouns (``apples``, ``ways``) are descriptions.
    """
    if not gold or not found or gold == found:
        return Fraction(1)
    one, other = measure(gold), measure(found)
    if one is None and other is None:
        return Fraction(1) if gold.partition("^")[2] == found.partition("^")[2] else None
    if one is None or other is None or one[0] != other[0]:
        return None
    return other[1] / one[1]
