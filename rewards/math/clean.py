r"""Layout taken off an answer: what a reader of the typeset text does not see, and nothing that he does."""

from __future__ import annotations

import re

from rewards.math.signs import RANGE, ascii_signs
from rewards.math.tree import Unreadable

_HIDDEN = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\u200b-\u200f\u202a-\u202e\u2060-\u206f\ufeff\ufff9-\uffff]")

_SIZES = re.compile(
    r"\\(?:left|right|middle|bigl|bigr|Bigl|Bigr|biggl|biggr|big|Big|bigg|Bigg)(?![A-Za-z])\.?"
    r"|\\(?:displaystyle|textstyle|scriptstyle|limits|nolimits|phantom\s*-|hfill|nobreak|nonumber|tiny|scriptsize|small"
    r"|normalsize|large|Large|LARGE|huge|Huge|bfseries|itshape|mathstrut|strut)(?![A-Za-z])"
    r"|\\[hv]?phantom\s*\{[^{}]*\}|\\color\s*\{[^{}]*\}|\\textcolor\s*\{[^{}]*\}|\\[hv]space\*?\s*\{[^{}]*\}"
    r"|\\(?:underline|uline)(?![A-Za-z])"
)
_MATH_MARKS = re.compile(r"(?<!\\)\$|\\[()](?![A-Za-z])|\\\[|\\\](?![A-Za-z])")
_BARS = re.compile(r"\\(?:mid|[lr]?vert)(?![A-Za-z])")
_FRACTIONS = re.compile(r"\\(?:[dtc]frac|nicefrac|sfrac|flatfrac)(?![A-Za-z])")
_FRENCH = re.compile(r"([\[\]])([^\[\]]*[,;][^\[\]]*)([\[\]])")
"""An interval whose open ends have their brackets turned outwards: ``]2,3]``."""
_DOTS = re.compile(r"\\[lcd]?dots[cbmio]?(?![A-Za-z])|\.\.\.")
_SEPARATORS = (r"\s*,\s*\\!\s*", r"\{,\}\s?", r"\\[,;: ]\s?", r"~", r" ", r"\\text\{ \}")
"""What may stand between groups of three digits; a comma alone may also separate two answers."""
_GROUPED = [
    re.compile(rf"(?<![0-9.,}}])(?<![0-9] )[0-9]{{1,3}}(?:{separator}[0-9]{{3}})+(?!{separator}[0-9]|[0-9])")
    for separator in _SEPARATORS
]
_MODULES = re.compile(r"\b(?:np|numpy|math)\.(?=[a-z])")
"""Python's way to write a function, as some references have it."""
_COUNTRY = re.compile(r"\b(?:US|AU|CA|NZ|HK) ?\\?\$(?=\s?[0-9])")
_SEPARATOR = re.compile(r"[^0-9]")
_SPACES = re.compile(r"(?<!\\)\\[,;:!> ]|\\(?:quad|qquad|thinspace|enspace|enskip)(?![A-Za-z])|~|\s+")
_RUNS = re.compile(r" {2,}")
_COMMAS = re.compile(r"(?<![0-9.,])[0-9]{1,3}(?:,[0-9]{3})+(?![0-9,])")
_THOUSANDS = re.compile(r"(?<![0-9.,])[0-9]{1,3}(?:,[0-9]{3})*,0[0-9]{2}(?![0-9])")
"""Numbers one of whose groups begins with a nought, as no answer does that stands by itself."""
_PER_CENT = re.compile(r"\bper\s+cent\b", re.IGNORECASE)
_SPACED_SIGN = re.compile(r"\{([-+=<>/*])\}")
"""Braces that only keep TeX from spacing a sign."""
_PERIOD = re.compile(r"(?<![0-9.)])([0-9]+\.[0-9]*)\(([0-9]{1,20})\)(?![0-9(])")
"""Repeating digits in brackets: ``0.1(6)``."""
_TWO_WAYS = re.compile(r"[1-9][0-9]{2}(?:,[1-9][0-9]{2})+")
_WRAPPER = re.compile(
    r"\\(?:text|mbox|textbf|textit|textrm|texttt|textnormal|textsf|mathrm|mathbf|mathit|mathsf|operatorname)\*?"
    r"\s*\{([^{}]*)\}"
)
_GLUE = re.compile(r"(?<![0-9]) | (?![0-9])")
_ONE = re.compile(r"(?:(?<![\^_])|(?=...[^0-9A-Za-z]|...$))\{([0-9A-Za-z])\}")
"""Braces around a single sign, unless they end an exponent before another sign: ``x^{1}2``."""


def clean(text: str) -> str:
    r"""The text without marks of layout: ``\left``, ``\!``, ``$``, outer white space, the full stop at its end.

    Thousands written with a mark that is no comma alone (``29,\!322``, ``10{,}000``, ``10\,000``) become one number.
    Raises ``Unreadable`` for characters that a reader cannot see (controls, direction marks, zero-width signs).
    """
    if _HIDDEN.search(text):
        raise Unreadable("invisible or control characters")
    text = _COUNTRY.sub(r"\\$", _MODULES.sub("", ascii_signs(text)))
    text = _SIZES.sub(" ", text)
    text = _MATH_MARKS.sub(" ", text)
    text = _BARS.sub("|", text)
    text = _FRACTIONS.sub(r"\\frac", text)
    text = _DOTS.sub(r"\\dots ", text)
    text = _PERIOD.sub(r"\1\\overline{\2}", _SPACED_SIGN.sub(r"\1", _PER_CENT.sub("percent", text)))
    for grouped in _GROUPED:
        text = grouped.sub(lambda match: _SEPARATOR.sub("", match.group()), text)
    text = _RUNS.sub(" ", _SPACES.sub(" ", text).replace("{,}", ",").replace("{.}", "."))
    text = text.strip()
    return text.rstrip(" .,;\\")


def french_intervals(text: str) -> str:
    """Intervals with brackets turned outwards as those with round ones: ``[2,3[`` is ``[2,3)``."""
    found = _FRENCH.findall(text)
    turned = any(opening == "]" or closing == "[" for opening, _, closing in found)
    # A round bracket left open inside of one: it ends an interval, and another one begins in it, as in (1,2] or (3,4].
    apart = any(inside.count("(") != inside.count(")") for _, inside, _ in found)
    if not turned or apart or 2 * len(found) != text.count("[") + text.count("]"):
        return text
    return _FRENCH.sub(
        lambda match: ("(" if match[1] == "]" else "[") + match[2] + (")" if match[3] == "[" else "]"), text
    )


def join_commas(text: str) -> str:
    """With ``1,234,567`` read as one number; the other reading, three answers, is the text itself."""
    return _COMMAS.sub(lambda match: match.group().replace(",", ""), text)


def has_thousands(text: str) -> bool:
    """Return whether commas in a text surely group the digits of one number: ``10,000``."""
    return _THOUSANDS.search(text) is not None


def is_list_of_numbers(text: str) -> bool:
    """Return whether groups of three digits, none of which begins with a nought, are answers of their own:
    ``100,200``.
    """
    return _TWO_WAYS.fullmatch(text) is not None


def flat(text: str) -> str:
    r"""The text with the content of ``\text{...}`` and its like in place of the command."""
    return _RUNS.sub(" ", _WRAPPER.sub(lambda match: match.group(1), text)).strip()


def look(text: str) -> str:
    """Return what two texts must share to look the same: spaces count between digits only (``2 1/2`` is not
    ``21/2``).
    """
    return _GLUE.sub("", _RUNS.sub(" ", _ONE.sub(r"\1", flat(text)))).replace(RANGE, "-")
