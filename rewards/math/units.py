"""Units: which words are one, which are the same, and how those of one dimension convert."""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache

from rewards.math.words import (
    ALPHABETIC,
    FACTOR_PHRASES,
    FACTORS,
    LETTER_FACTORS,
    SHORT_NOUNS,
    VALUE_WORDS,
    words,
)

Dimension = tuple[tuple[str, int], ...]
"""Base dimensions with their exponents, sorted; none of them 0."""

_BASE = {
    # name: (dimensions, size in SI units, or in the dimension's only unit)
    "m": ("length", "1"), "g": ("mass", "0.001"), "s": ("time", "1"), "A": ("current", "1"), "K": ("kelvin", "1"),
    "mol": ("amount", "1"), "cd": ("light", "1"), "in": ("length", "0.0254"), "ft": ("length", "0.3048"),
    "yd": ("length", "0.9144"), "mi": ("length", "1609.344"), "lb": ("mass", "0.45359237"),
    "oz": ("mass", "0.028349523125"), "t": ("mass", "1000"), "min": ("time", "60"), "h": ("time", "3600"),
    "day": ("time", "86400"), "week": ("time", "604800"), "month": ("month", "1"), "year": ("month", "12"),
    "$": ("money", "1"), "cent": ("money", "0.01"), "dime": ("money", "0.1"), "£": ("pound sterling", "1"),
    "€": ("euro", "1"), "¥": ("yen", "1"), "₹": ("rupee", "1"), "yuan": ("yuan", "1"), "%": ("percent", "1"),
    "deg": ("degree", "1"), "rad": ("radian", "1"), "degC": ("celsius", "1"), "degF": ("fahrenheit", "1"),
    "arcmin": ("degree", "1/60"), "bit": ("bit", "1"), "byte": ("bit", "8"), "unit": ("unit", "1"),
    "dB": ("decibel", "1"),
}  # fmt: skip
_DERIVED = {
    "N": ("kg*m/s^2", "1"), "J": ("kg*m^2/s^2", "1"), "W": ("kg*m^2/s^3", "1"), "Pa": ("kg/m/s^2", "1"),
    "Hz": ("1/s", "1"), "C": ("A*s", "1"), "V": ("kg*m^2/s^3/A", "1"), "Ω": ("kg*m^2/s^3/A^2", "1"),
    "F": ("A^2*s^4/kg/m^2", "1"), "T": ("kg/s^2/A", "1"), "H": ("kg*m^2/s^2/A^2", "1"), "Wb": ("kg*m^2/s^2/A", "1"),
    "eV": ("kg*m^2/s^2", "1.602176634e-19"), "cal": ("kg*m^2/s^2", "4.184"), "bar": ("kg/m/s^2", "100000"),
    "atm": ("kg/m/s^2", "101325"), "l": ("m^3", "0.001"), "gal": ("m^3", "0.003785411784"),
    "quart": ("m^3", "0.000946352946"), "pint": ("m^3", "0.000473176473"), "ha": ("m^2", "10000"),
    "acre": ("m^2", "4046.8564224"), "mph": ("m/s", "0.44704"), "kWh": ("kg*m^2/s^2", "3600000"),
    "kmh": ("km/h", "1"), "M": ("mol/l", "1"),
}  # fmt: skip
_PREFIXES = {
    "k": 3, "M": 6, "G": 9, "T": 12, "d": -1, "c": -2, "m": -3, "μ": -6, "n": -9, "p": -12,
}  # fmt: skip
_PREFIXED = frozenset({"m", "g", "s", "A", "N", "J", "W", "Pa", "Hz", "V", "Ω", "F", "l", "mol", "eV", "cal", "T", "H",
                       "bit", "byte", "K", "C"})  # fmt: skip
_ALIASES = {
    "m": "meter metre metro mètre 米", "km": "kilometer kilometre kilómetro kilomètre 千米 公里",
    "cm": "centimeter centimetre centímetro centimètre 厘米", "mm": "millimeter millimetre milímetro 毫米",
    "dm": "decimeter decimetre 分米", "μm": "micrometer micrometre micron", "nm": "nanometer nanometre",
    "in": "inch", "ft": "foot feet", "yd": "yard", "mi": "mile", "g": "gram gramme gm gramo 克",
    "kg": "kilogram kilogramme kilogramo 千克 公斤", "mg": "milligram", "lb": "pound", "oz": "ounce",
    "t": "ton tonne",
    "s": "sec second segundo seconde sekunde 秒", "ms": "millisecond", "min": "minute minuto 分钟",
    "h": "hour hr hora heure stunde 小时", "day": "día jour tag 天", "week": "wk semana", "month": "mes mois monat",
    "year": "yr año", "$": "dollar usd buck dólar", "cent": "¢", "£": "gbp sterling quid",
    "€": "euro eur", "¥": "yen jpy", "₹": "rupee inr", "yuan": "rmb cny 元", "%": "percent percentage pct",
    "deg": "degree ° grado grad", "rad": "radian", "degC": "celsius centigrade °C", "degF": "fahrenheit °F",
    "K": "kelvin", "A": "ampere amp", "N": "newton", "J": "joule", "W": "watt", "Pa": "pascal", "Hz": "hertz",
    "C": "coulomb", "V": "volt", "Ω": "ohm", "F": "farad", "T": "tesla", "H": "henry", "Wb": "weber",
    "eV": "electronvolt", "cal": "calorie", "kcal": "kilocalorie", "l": "L liter litre litro",
    "ml": "mL milliliter millilitre",
    "cl": "cL centiliter", "dl": "dL deciliter", "gal": "gallon", "ha": "hectare", "mol": "mole",
    "kmh": "kph", "arcmin": "arcminute",
}  # fmt: skip
_NAMES = {alias: name for name, aliases in _ALIASES.items() for alias in aliases.split()}
_AMBIGUOUS = frozenset({"A", "C", "F", "K", "T", "H", "t", "M"})
"""Letters that are a unit only beside a reference that has one of their kind: 3 K may be three thousand."""
_SAME_WORD = ({"£", "lb"}, {"deg", "degC"}, {"deg", "degF"})
"""Units of one name: pounds, degrees."""
LETTER_UNITS = words("m s g h L l N J W V")
"""Single letters that are a unit after a value, upright or after a space."""
BARE = (
    frozenset(name for name in [*_BASE, *_DERIVED, *_NAMES] if len(name) > 1 and name.isascii() and name.isalpha())
    | words("km cm mm dm nm kg mg ms ml mL kHz MHz kPa kJ kW mA kN")
) - words("in day min gal bar bit unit euro sec cal rad dB ha foot hora tag grad mes")
"""Units that may stand right after a number without ``\\text``: too short for a word, too usual for a product."""

_TERM = re.compile(
    r" ?(?P<word>[^\W\d_]+|[$£€¥₹%°¢]+[^\W\d_]?)|\^? ?\(?(?P<power>-?[1-9])\)?|(?P<op>[*/()])|(?P<one>1)(?=/)"
)
_SHAPE = re.compile(r"[^\d!?=<>,;:{}\\|]*")
_SAYS_HOW = re.compile(
    r"(?<=[^\W\d_]) (?:long|tall|wide|deep|high|old|away|apart|left|remaining|(?:in )?total|altogether|each|more"
    r"|of them)$"
)
"""Words after a unit that say of what it is one, and do not change it."""
_OF = re.compile(r"^(?:of|de|d'|von) (?:(?:the|a|an|la|el|le) )?")


@dataclass(frozen=True, slots=True)
class Measure:
    """A unit's dimensions and its size in their first units."""

    dimension: Dimension
    size: Fraction


def meaning(text: str) -> tuple[Fraction, str] | None:
    """Return what words after a value do to it: the factor in them, and the unit or noun that is left.

    ``None`` when they change it otherwise or offer another value. ``million dollars`` is ``(10**6, "$")``, ``thirds``
    is ``(1/3, "")``.
    """
    text = _SAYS_HOW.sub("", _plain(text))
    for phrase, word in FACTOR_PHRASES.items():
        text = re.sub(rf"\b{phrase}\b", word, text, flags=re.IGNORECASE)
    factor = Fraction(1)
    while text:
        first, _, rest = text.partition(" ")
        if first in LETTER_FACTORS and not rest:
            return factor * LETTER_FACTORS[first], ""
        if first.lower() not in FACTORS or first == "K":  # a kelvin, and three thousand only to some
            break
        factor *= FACTORS[first.lower()]
        text = _OF.sub("", rest.strip())
    if not text:
        return factor, ""
    if measure(text) is None and not _is_noun(text):
        return None
    return factor, canonical(text)


def _plain(text: str) -> str:
    r"""The words without braces, LaTeX degrees and signs of multiplication."""
    text = text.replace("^\\circ", "°").replace("\\circ", "°").replace("\\cdot", "*").replace("\\times", "*")
    text = text.replace("{", "").replace("}", "").replace("\\", "").replace("⋅", "*")
    text = re.sub(r"° +(?=[CF])", "°", text)
    if re.fullmatch(r" *[\[(][^\[\]()]*[\])] *", text):
        text = text.strip()[1:-1]
    return re.sub(r" +", " ", text).strip(" .~")


def _is_noun(text: str) -> bool:
    """Words of any language that describe what was counted, up to six of them, and nothing that has a value."""
    text = re.sub(r"(?<=[^\W\d_])\^-?[1-9]", "", text)
    if len(text) > 60 or _SHAPE.fullmatch(text) is None:
        return False
    found = ALPHABETIC.findall(text)
    if not 0 < len(found) <= 6:
        return False
    if any(word.lower() in VALUE_WORDS for word in found) or any(sign in text for sign in ("分之", "百", "万", "亿")):
        return False
    return all(len(word) > 2 or not _alphabetic(word) or word.lower() in SHORT_NOUNS or _simple(word) for word in found)


def _alphabetic(word: str) -> bool:
    """Of a script with letters, in which one or two of them are no word; signs of Chinese and Japanese are words."""
    return not all(
        "\u3040" <= sign <= "\u30ff" or "\u4e00" <= sign <= "\u9fff" or "\uac00" <= sign <= "\ud7a3" for sign in word
    )


def canonical(text: str) -> str:
    """Return one spelling for one unit or noun: ``square inches``, ``inches^2`` and ``in^2`` are ``in^2``."""
    terms = _terms(_plain(text))
    if terms is not None:
        return "*".join(name + (f"^{power}" if power != 1 else "") for name, power in terms)
    lower = _OF.sub("", _plain(text).lower())
    return " ".join(word.removesuffix("s") if len(word) > 3 else word for word in lower.split())


@lru_cache(maxsize=4096)
def _terms(text: str) -> tuple[tuple[str, int], ...] | None:
    """Units and exponents of a product of known units; ``None`` for nouns."""
    text = re.sub(r"\b(?:per|por|pro)\b", "/", text.removeprefix("degrees ").removeprefix("degree ")
                  if re.match(r"degrees? (?:C|F|K|[Cc]els|[Ff]ahr)", text) and not text.endswith(("C", "F", "K"))
                  else re.sub(r"^degrees? ([CF])$", r"°\1", text))  # fmt: skip
    if re.match(r"degrees? [A-Za-z]", text):
        return (("deg", 1),)
    text = re.sub(r"\b(square|sq|cubic|cu)\b\.? ?([^\W\d_]+)", _worded_power, text, flags=re.IGNORECASE)
    text = re.sub(r"\b([^\W\d_]+) (squared|cubed)\b", lambda m: f"{m[1]}^{2 if m[2] == 'squared' else 3}", text)
    found: dict[str, int] = {}
    at, last, sign, depth = 0, "", 1, 0
    text = text.strip()
    while at < len(text):
        match = _TERM.match(text, at)
        if match is None or match.end() == at:
            if text[at] in " .-":
                at += 1
                continue
            return None
        at = match.end()
        if match["word"]:
            last = _simple(match["word"])
            if not last:
                return None
            found[last] = found.get(last, 0) + sign
        elif match["power"] and not match["one"]:
            if not last:
                if text[at : at + 1] == "/":
                    continue
                return None
            found[last] += sign * (int(match["power"]) - 1)
            last = ""
        elif match["op"] in ("/", "*"):
            sign = -1 if match["op"] == "/" else (sign if depth else 1)
        elif match["op"]:
            depth += 1 if match["op"] == "(" else -1
            sign = sign if depth else 1
    return tuple((name, power) for name, power in found.items() if power) or None


def _worded_power(match: re.Match[str]) -> str:
    return f"{match[2]}^{2 if match[1].lower().startswith('sq') else 3}"


def _simple(word: str) -> str:
    """Return the name in the tables of one unit, in whatever number; empty for other words."""
    for candidate in (word, word.lower()):
        for stem in (candidate, candidate.removesuffix("s"), candidate.removesuffix("es")):
            name = _NAMES.get(stem, stem)
            if len(stem) < len(candidate) and len(stem) < 2:
                continue
            if _single(name) is not None:
                return name
    return ""


@lru_cache(maxsize=4096)
def _single(name: str) -> Measure | None:
    """Return the measure of one unit, with an SI prefix or without."""
    if name in _BASE:
        dimension, size = _BASE[name]
        return Measure(((dimension, 1),), Fraction(size))
    if name in _DERIVED:
        definition, size = _DERIVED[name]
        inner = _product(_terms(definition) or ())
        return None if inner is None else Measure(inner.dimension, inner.size * Fraction(size))
    if len(name) > 1 and name[0] in _PREFIXES and name[1:] in _PREFIXED:
        inner = _single(name[1:])
        return None if inner is None else Measure(inner.dimension, inner.size * Fraction(10) ** _PREFIXES[name[0]])
    return None


def _product(terms: tuple[tuple[str, int], ...]) -> Measure | None:
    dimension: dict[str, int] = {}
    size = Fraction(1)
    for name, power in terms:
        single = _single(name)
        if single is None:
            return None
        for base, exponent in single.dimension:
            dimension[base] = dimension.get(base, 0) + exponent * power
        size *= single.size**power
    return Measure(tuple(sorted((base, power) for base, power in dimension.items() if power)), size)


@lru_cache(maxsize=4096)
def measure(text: str) -> Measure | None:
    """Dimensions and size of a unit; ``None`` for a noun such as ``apple``."""
    terms = _terms(text)
    return _product(terms) if terms else None


def conversion(gold: str, found: str) -> Fraction | None:
    """Return what a value in unit ``found`` is multiplied with to be in unit ``gold``; ``None`` when they do not
    compare.

    Either may be empty: a missing unit is taken to be the other's, unless the word might be no unit at all. Nouns
    (``apples``, ``ways``) are descriptions.
    """
    if not gold:
        return None if found in _AMBIGUOUS else Fraction(1)
    if not found or gold == found:
        return Fraction(1)
    if {gold, found} in _SAME_WORD:
        return Fraction(1)
    one, other = measure(gold), measure(found)
    if one is None and other is None:
        return Fraction(1) if gold.partition("^")[2] == found.partition("^")[2] else None
    if one is None or other is None or one.dimension != other.dimension:
        return None
    return other.size / one.size
