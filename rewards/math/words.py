"""Meanings of words beside a value, in closed lists: numbers, multiples, fractions, hedges, negations.

A word of these lists is read or makes an answer unreadable; it is never dropped. Nouns that are in no list describe
what was counted ("12 apples") and may be left out.
"""

from __future__ import annotations

import re
from fractions import Fraction


def words(text: str) -> frozenset[str]:
    """Return the words of a text."""
    return frozenset(text.split())


def listed(text: str) -> tuple[str, ...]:
    """Return the words of a text, in their order."""
    return tuple(text.split())


_UNITS = listed(
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen"
    " eighteen nineteen"
)
_TENS = listed("twenty thirty forty fifty sixty seventy eighty ninety")
CARDINALS = {name: value for value, name in enumerate(_UNITS)} | {
    name: 10 * value for value, name in enumerate(_TENS, 2)
}
"""Number words up to ninety."""

_MULTIPLES = {
    2: "pair pairs couple couples twice double doubled",
    3: "triple tripled thrice",
    4: "quadruple quadrupled",
    10: "ten tens zehn diez dix dez dieci 十",
    12: "dozen dozens docena docenas douzaine douzaines dutzend dúzia dúzias dozzina",
    20: "score",
    100: "hundred hundreds cien ciento cientos centaine centaines hundert cento cem 百",
    144: "gross",
    1000: "thousand thousands mil mille mila tausend milhar тысяча тысячи тысяч k 千",
    10_000: "myriad 万 萬",
    100_000: "lakh lakhs lac lacs लाख",
    10**6: "million millions mn mio mln millón millones millionen milhão milhões milione milioni миллион миллиона"
    " миллионов",
    10**7: "crore crores करोड़",
    10**8: "亿 億",
    10**9: "billion billions bn milliard milliards milliarde milliarden miliardo miliardi миллиард миллиарда"
    " миллиардов",
    10**12: "trillion trillions tn billionen 兆",
    10**15: "quadrillion quadrillions",
    10**18: "quintillion quintillions",
}
_SMALL = {
    2: "half halves mitad medio demi demie moitié halb halbe hälfte meio metade mezzo 半",
    3: "third thirds tercio tercios tercero drittel terço terços terzi",
    4: "fourth fourths quarter quarters cuarto cuartos viertel quarto quartos",
    5: "fifth fifths quinto quintos fünftel cinquième cinquièmes",
    6: "sixth sixths sechstel", 7: "seventh sevenths siebtel", 8: "eighth eighths achtel", 9: "ninth ninths neuntel",
    10: "tenth tenths décimo décimos dixième dixièmes zehntel",
    11: "eleventh elevenths", 12: "twelfth twelfths", 13: "thirteenth thirteenths", 14: "fourteenth fourteenths",
    15: "fifteenth fifteenths", 16: "sixteenth sixteenths", 17: "seventeenth seventeenths",
    18: "eighteenth eighteenths", 19: "nineteenth nineteenths", 20: "twentieth twentieths",
    30: "thirtieth thirtieths", 40: "fortieth fortieths", 50: "fiftieth fiftieths", 60: "sixtieth sixtieths",
    70: "seventieth seventieths", 80: "eightieth eightieths", 90: "ninetieth ninetieths",
    100: "hundredth hundredths centième centièmes hundertstel centésimo centésimos",
    1000: "thousandth thousandths permille permil millième tausendstel milésimo milésimos ‰",
    10_000: "bp bps ‱ 基点",
    10**6: "millionth millionths ppm", 10**9: "billionth billionths ppb", 10**12: "trillionth trillionths ppt",
}  # fmt: skip
FACTORS: dict[str, Fraction] = {
    name: Fraction(value) for value, names in _MULTIPLES.items() for name in names.split()
} | {name: Fraction(1, value) for value, names in _SMALL.items() for name in names.split()}
"""What a value is multiplied with when one of these words follows it: ``3 millions``, ``2 dozen``, ``3 thirds``."""
SCALES = frozenset(name for name, factor in FACTORS.items() if factor >= 100 and factor != 144) | frozenset(
    name for name, factor in FACTORS.items() if factor < Fraction(1, 4) and name.endswith("s")
)
"""Of these, the words that make a number another one in running text, where "8 dozen" and "7 pairs" may be counts."""
LETTER_FACTORS = {"M": Fraction(10**6), "B": Fraction(10**9), "G": Fraction(10**9)}
"""The same for capital letters, in which case counts."""
FACTOR_PHRASES = {
    "per mille": "permille", "per mil": "permille", "basis points": "bps", "basis point": "bps",
    "parts per million": "ppm", "parts per billion": "ppb", "per thousand": "permille", "por ciento": "percent",
    "pour cent": "percent", "per cent": "percent", "por mil": "permille",
}  # fmt: skip
"""Phrases that mean one such word."""

VALUE_WORDS = (
    words(
        "or and but nor xor not no never none neither is are am be was were isn't minus plus times over squared"
        " cubed square-root factorial modulo mod choose divided multiplied negative positive root roots power"
        " powers exponent negated inverted halved fold few several googol kilo mega giga milli micro nano centi"
        " factorials logs inverse inverses reciprocal reciprocals conjugate opposite complement squares cubes"
        " equals equal answer answers than greater most least at exactly only except without either about"
        " approximately approx roughly nearly almost around if when where unless otherwise any infinity infinite"
        " infinitely pi percent percents percentage pct remainder rest to through till until between from vs"
        " versus resp respectively ish tbd idk think believe suppose assume hope say guessing perhaps maybe"
        " possibly probably likely presumably supposedly wrong incorrect false true correct guess unsure unknown"
        " undefined uncertain random logarithm log ln sin cos tan sqrt exp radix base binary octal hex hexadecimal"
        " 分之 倍 折 负 百分之 或 和 不 非 y o ni ou et oder und nicht pas más menos moins plus weniger mehr или и не"
    )
    | CARDINALS.keys()
    | FACTORS.keys()
)
"""Words that change a value, offer another one or take it back: text that holds one of them is no noun."""
SHORT_NOUNS = words("a an of in by on for per the de la le el du des los las un una une km")
"""Words of one or two letters that may stand in a noun phrase; others of that length are letters, and are read."""

REMARKS = words(
    "no not isn't wrong incorrect false none neither nor or but so because however although unless maybe perhaps"
    " possibly probably unsure guess either both also instead rather isn cannot can't never n't reject rejected"
    " impossible invalid"
)
"""Words that take a choice back, or offer another."""

SHORT_WORDS = words(
    "yes no odd even one two six ten all any both none nil nan dne up down left right in on out top red blue green"
    " true false sum zero four five nine cone cube prism yo si oui non ja nein"
    " mon tue wed thu fri sat sun jan feb mar apr jun jul aug sep oct nov dec may amy ben bob tom sam joe ann"
    " cat dog day man men old new win tie lose lost won hot cold big acute"
)
"""Words of two or three letters that are no products of variables."""

ALPHABETIC = re.compile(r"[^\W\d_]+(?:['’-][^\W\d_]+)*")
"""A word in any script."""


def number_of(text: str) -> int | None:
    """Return the whole number that words name, up to 999 millions: ``twenty-one thousand``; ``None`` for other
    words.
    """
    parts = text.lower().replace("-", " ").split()
    if not parts:
        return None
    total, current = 0, None
    for part in parts:
        if part == "and" and current is not None:
            continue
        if part in CARDINALS:
            value = CARDINALS[part]
            if current is not None and not (
                current % 100 == 0 or (20 <= current % 100 < 100 and current % 10 == 0 and value < 10)
            ):
                return None
            current = (current or 0) + value
        elif part == "hundred":
            current = (1 if current is None else current) * 100
        elif part in ("thousand", "million"):
            total += (1 if current is None else current) * (1000 if part == "thousand" else 10**6)
            current = 0
        else:
            return None
    return total + (current or 0)


def is_scale(word: str) -> bool:
    """Return whether a word after a number makes it a larger or smaller one: ``million``, ``hundredths``."""
    return word.lower() in SCALES or word.lower() in ("third", "thirds", "permille", "ppm")


def is_number_word(word: str) -> bool:
    """Return whether a word names a number, a multiple or a fraction."""
    lower = word.lower()
    return lower in CARDINALS or lower in FACTORS
