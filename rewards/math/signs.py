"""Signs outside of ASCII that have one meaning, as LaTeX. Look-alikes (other digits, Cyrillic letters) stay."""

from __future__ import annotations

import re

from rewards.math.words import listed

_COMMANDS = {
    "\u00d7": "times", "\u00b7": "cdot", "\u22c5": "cdot", "\u2219": "cdot", "\u03c0": "pi", "\u221e": "infty",
    "\u2264": "le", "\u2265": "ge", "\u2a7d": "le", "\u2a7e": "ge", "\u2260": "ne", "\u00b1": "pm", "\u2213": "mp",
    "\u222a": "cup", "\u2229": "cap", "\u2208": "in", "\u2209": "notin", "\u2248": "approx", "\u2243": "approx",
    "\u2261": "equiv", "\u2205": "emptyset", "\u2216": "setminus", "\u2227": "land", "\u2228": "lor", "\u00ac": "neg",
    "\u2192": "to", "\u21d2": "Rightarrow", "\u21d4": "Leftrightarrow", "\u2225": "parallel", "\u27c2": "perp",
    "\u22a5": "perp", "\u223c": "sim", "\u2245": "cong", "\u2220": "angle", "\u25b3": "triangle", "\u25a1": "square",
    "\u2211": "sum", "\u220f": "prod", "\u222b": "int", "\u2207": "nabla", "\u2202": "partial", "\u2282": "subset",
    "\u2286": "subseteq", "\u230a": "lfloor", "\u230b": "rfloor", "\u2308": "lceil", "\u2309": "rceil",
    "\u27e8": "langle", "\u27e9": "rangle", "\u2026": "ldots", "\u22ef": "cdots", "\u2016": "Vert", "\u2126": "Omega",
    "\u00b5": "mu", "\u2032": "prime", "\u2200": "forall", "\u2203": "exists", "\u2223": "mid",
}  # fmt: skip
_GREEK = listed(
    "alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu nu xi omicron pi rho varsigma sigma tau upsilon"
    " phi chi psi omega"
)
_LETTERS = {chr(0x03B1 + place): name for place, name in enumerate(_GREEK) if name not in ("omicron", "chi", "nu")}
_LETTERS |= {
    chr(0x0391 + place): name.capitalize()
    for place, name in enumerate(_GREEK)
    if name in ("gamma", "delta", "theta", "lambda", "xi", "pi", "sigma", "phi", "psi", "omega")
}
"""Greek letters but those that look like Latin ones."""
_BOLD = {"\u211d": "R", "\u2124": "Z", "\u2115": "N", "\u211a": "Q", "\u2102": "C"}
_FRACTIONS = {
    "\u00bd": (1, 2), "\u00bc": (1, 4), "\u00be": (3, 4), "\u2153": (1, 3), "\u2154": (2, 3), "\u2155": (1, 5),
    "\u2156": (2, 5), "\u2157": (3, 5), "\u2158": (4, 5), "\u2159": (1, 6), "\u215a": (5, 6), "\u2150": (1, 7),
    "\u215b": (1, 8), "\u215c": (3, 8), "\u215d": (5, 8), "\u215e": (7, 8), "\u2151": (1, 9), "\u2152": (1, 10),
}  # fmt: skip
_PLAIN = {
    "\u2212": "-", "\u00f7": "/", "\u2044": "/", "\u2215": "/", "\u2217": "*", "\u00a0": " ", "\u2009": " ",
    "\u202f": " ", "\u2005": " ", "\u2002": " ", "\u2003": " ", "\u3000": " ", "\u2236": ":", "\u2033": "''",
    "\u2018": "'", "\u2019": "'", "\u00b0": r"^\circ ", "\u2103": r"^\circ\text{C}", "\u2109": r"^\circ\text{F}",
    "\u20ac": r"\euro ", "\u00a3": r"\pounds ", "\u00a5": r"\yen ", "\u20b9": r"\rupee ", "\u00a2": r"\text{cents}",
    "\u201c": "", "\u201d": "", "\u300c": "", "\u300d": "", "\u3001": ",", "\u3002": ".", "\u2010": "-", "\u2011": "-",
}  # fmt: skip
_FULL_WIDTH = {chr(0xFEE0 + ord(sign)): sign for sign in "!%()*+,-./:;<=>[]^_{|}"}
"""Full-width punctuation, as East Asian keyboards set it; digits and letters of that width are other characters."""

_TABLE = str.maketrans(
    {sign: f"\\{name} " for sign, name in _COMMANDS.items()}
    | {sign: f"\\{name} " for sign, name in _LETTERS.items()}
    | {sign: rf"\mathbb{{{letter}}}" for sign, letter in _BOLD.items()}
    | {sign: rf"\frac{{{upper}}}{{{lower}}}" for sign, (upper, lower) in _FRACTIONS.items()}
    | _PLAIN
    | _FULL_WIDTH
)
_SUPER = str.maketrans("\u2070\u00b9\u00b2\u00b3\u2074\u2075\u2076\u2077\u2078\u2079\u207a\u207b\u207f\u2071\u02e3",
                       "0123456789+-nix")  # fmt: skip
_SUB = str.maketrans("\u2080\u2081\u2082\u2083\u2084\u2085\u2086\u2087\u2088\u2089\u208a\u208b\u2099",
                     "0123456789+-n")  # fmt: skip
_SUPERS = re.compile("[\u2070\u00b9\u00b2\u00b3\u2074-\u2079\u207a\u207b\u207f\u2071\u02e3]+")
_SUBS = re.compile("[\u2080-\u208b\u2099]+")
_ROOTS = {"\u221a": r"\sqrt", "\u221b": r"\sqrt[3]", "\u221c": r"\sqrt[4]"}
_ROOT = re.compile("([\u221a-\u221c]) ?([0-9]+(?:\\.[0-9]+)?)?")
_WIDE = re.compile("[\uff01-\uff5e]")

RANGE = "\u2013"
"""A dash between numbers: "5 to 7", which is no difference."""


def ascii_signs(text: str) -> str:
    """Return the text with the signs of this module as LaTeX; a root sign covers all digits of the number after it."""
    if text.isascii():
        return text
    text = _SUPERS.sub(lambda found: f"^{{{found.group().translate(_SUPER)}}}", text)
    text = _SUBS.sub(lambda found: f"_{{{found.group().translate(_SUB)}}}", text)
    text = _ROOT.sub(lambda found: _ROOTS[found[1]] + (f"{{{found[2]}}}" if found[2] else " "), text)
    text = re.sub(r"(?<![0-9])\s*[\u2013\u2014]\s*|\s*[\u2013\u2014]\s*(?![0-9])", "-", text).replace("\u2014", RANGE)
    return text.translate(_TABLE)


def narrow(text: str) -> str:
    """Return a trusted text with full-width letters and digits as plain ones."""
    return _WIDE.sub(lambda found: chr(ord(found.group()) - 0xFEE0), text)
