r"""Layout taken off an answer: what a reader of the typeset text does not see, and nothing that he does."""

from __future__ import annotations

import re

from rewards.math.tree import Unreadable

_SIGNS = {
    "\u2212": "-", "\u00d7": r"\times ", "\u00b7": r"\cdot ", "\u22c5": r"\cdot ", "\u00f7": "/", "\u03c0": r"\pi ",
    "\u221a": r"\sqrt", "\u221e": r"\infty ", "\u2264": r"\le ", "\u2265": r"\ge ", "\u2260": r"\ne ",
    "\u00b1": r"\pm ", "\u2213": r"\mp ", "\u00b0": r"^\circ ", "\u222a": r"\cup ", "\u2208": r"\in ",
    "\u2248": r"\approx ",
    "\u00b2": "^2 ", "\u00b3": "^3 ", "\u00bd": r"\frac12 ", "\u00bc": r"\frac14 ", "\u00be": r"\frac34 ",
    "\u00a0": " ", "\u2009": " ", "\u202f": " ", "\u2005": " ", "\u20ac": r"\text{euros}", "\u03b8": r"\theta ",
    "\u03b1": r"\alpha ", "\u03b2": r"\beta ", "\u03bb": r"\lambda ", "\u2220": r"\angle ",
}  # fmt: skip
"""The few signs outside of ASCII that have one meaning. Look-alikes (other digits, Cyrillic letters) are not folded."""
_NAMES = str.maketrans(_SIGNS)
_HIDDEN = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\u200b-\u200f\u202a-\u202e\u2060-\u206f\ufeff\ufff9-\uffff]")

_SIZES = re.compile(
    r"\\(?:left|right|middle|bigl|bigr|Bigl|Bigr|biggl|biggr|big|Big|bigg|Bigg)(?![A-Za-z])\.?"
    r"|\\(?:displaystyle|textstyle|limits|nolimits|phantom\s*-|hfill|nobreak)(?![A-Za-z])|\\phantom\s*\{[^{}]*\}"
)
_MATH_MARKS = re.compile(r"(?<!\\)\$|\\[()](?![A-Za-z])|\\\[|\\\](?![A-Za-z])")
_BARS = re.compile(r"\\(?:mid|[lr]?vert)(?![A-Za-z])")
_FRACTIONS = re.compile(r"\\[dtc]frac(?![A-Za-z])")
_GROUPED = re.compile(r"(?<![0-9.])[0-9]{1,3}(?:(?:\s*,\s*\\!\s*|\{,\}\s?|\\,\s?)[0-9]{3})+(?![0-9])")
_MODULES = re.compile(r"\b(?:np|numpy|math)\.(?=[a-z])")
"""Python's way to write a function, as some references have it."""
_SEPARATOR = re.compile(r"[^0-9]")
_SPACES = re.compile(r"(?<!\\)\\[,;:!> ]|\\(?:quad|qquad|thinspace|enspace)(?![A-Za-z])|~|\s+")
_COMMAS = re.compile(r"(?<![0-9.,])[0-9]{1,3}(?:,[0-9]{3})+(?![0-9,])")
_WRAPPER = re.compile(
    r"\\(?:text|mbox|textbf|textit|textrm|texttt|textnormal|mathrm|mathbf|mathit|mathsf|operatorname)\s*\{([^{}]*)\}"
)
_GLUE = re.compile(r"(?<![0-9])\s+|\s+(?![0-9])")
_ONE = re.compile(r"\{([0-9A-Za-z])\}")


def clean(text: str) -> str:
    r"""The text without marks of layout: ``\left``, ``\!``, ``$``, outer white space, the full stop at its end.

    Thousands written with a mark that is no comma alone (``29,\!322``, ``10{,}000``, ``10\,000``) become one number.
    Raises ``Unreadable`` for characters that a reader cannot see (controls, direction marks, zero-width signs).
    """
    if _HIDDEN.search(text):
        raise Unreadable("invisible or control characters")
    text = _MODULES.sub("", text.translate(_NAMES))
    text = _SIZES.sub(" ", text)
    text = _MATH_MARKS.sub(" ", text)
    text = _BARS.sub("|", text)
    text = _FRACTIONS.sub(r"\\frac", text)
    text = _GROUPED.sub(lambda match: _SEPARATOR.sub("", match.group()), text)
    text = _SPACES.sub(" ", text).replace("{,}", ",")
    text = text.strip()
    return text.rstrip(" .,;")


def join_commas(text: str) -> str:
    """With ``1,234,567`` read as one number; the other reading, three answers, is the text itself."""
    return _COMMAS.sub(lambda match: match.group().replace(",", ""), text)


def flat(text: str) -> str:
    r"""The text with the content of ``\text{...}`` and its like in place of the command."""
    return _WRAPPER.sub(lambda match: match.group(1), text).strip()


def look(text: str) -> str:
    """What two texts must share to look the same: spaces count between digits only (``2 1/2`` is not ``21/2``)."""
    return _GLUE.sub("", _ONE.sub(r"\1", flat(text)))
