"""Forms of a problem's text in which it can be compared with another's. Pure functions, no library.

``canonical`` is the same for two texts that differ in spelling only; ``template`` also for two that differ in their
numbers; ``words`` are what n-grams are made of.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Sequence

NUMBER = "#"
"""What stands for any number in a ``template``."""
_SPACING = re.compile(r"\\(?:[,;:!> ]|quad\b|qquad\b|left\b|right\b|displaystyle\b|limits\b)|[$~]")
"""LaTeX that changes how a text looks and not what it says."""
_SPELLINGS = (
    (re.compile(r"[\^_]\s*\{\s*\}"), ""),  # scripts with nothing in them, as in "x^{}_{}"
    (re.compile(r"\\(?:begin|end)\s*\{(?:align|aligned|equation|gather|gathered|split)\*?\}"), " "),
    (re.compile(r"\\(?:rm|bf|it)\b"), " "),
    (re.compile(r"\\[dt]frac\b"), r"\\frac"),
    (re.compile(r"\\(?:text|mathrm|textbf|mbox|operatorname)\s*\{([^{}]*)\}"), r" \1 "),
    (re.compile(r"\\(?:times|cdot)\b|[×·]"), "*"),
    (re.compile(r"\\(?:leq?)\b|≤"), "<="),
    (re.compile(r"\\(?:geq?)\b|≥"), ">="),
    (re.compile(r"[−–—]"), "-"),
    (re.compile(r"[‘’`]"), "'"),
    (re.compile(r"\s'(?=s\b)"), "'"),  # "the boy 's hat"
    (re.compile(r"[“”]|''"), '"'),
    (re.compile(r"(?<=\d)(?:,|\{,\})(?=\d{3}(?!\d))"), ""),
)
_CJK = "\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af"
"""Scripts without spaces between words: each character is a token."""
_LETTERS = rf"(?:(?![{_CJK}])[^\W\d_])+"
_TOKEN = re.compile(rf"\\[a-z]+|\d+(?:\.\d+)?|[{_CJK}]|{_LETTERS}(?:'{_LETTERS})?|<=|>=|[-+*/=<>^|%!]")
_NUMBER = re.compile(r"\d+(?:\.\d+)?")
_NUMERALS = frozenset(
    """zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen
    eighteen nineteen twenty thirty forty fifty sixty seventy eighty ninety hundred thousand million dozen half twice
    thrice""".split()  # noqa: SIM905  a list of words reads worse
)
"""Numbers in words: a template that keeps them would not be one."""


def canonical(text: str) -> str:
    """Return the text without what does not change its meaning: case, white space, typography, LaTeX's spacing and
    second spellings, punctuation. Numbers and signs stay.
    """
    return " ".join(words(text))


def words(text: str) -> list[str]:
    """Return words, LaTeX commands, numbers and arithmetic signs of a text, in order, in one spelling each."""
    plain = _SPACING.sub(" ", unicodedata.normalize("NFKC", text).casefold())
    for found, spelling in _SPELLINGS:
        plain = found.sub(spelling, plain)
    return _TOKEN.findall(plain)


def template(tokens: Sequence[str]) -> list[str]:
    """Return ``words`` with every number, written in digits or in words, replaced by ``NUMBER``; runs of them are
    one.
    """
    found: list[str] = []
    for token in tokens:
        is_number = _NUMBER.fullmatch(token) is not None or token in _NUMERALS
        if not is_number or found[-1:] != [NUMBER]:
            found.append(NUMBER if is_number else token)
    return found


def ngrams(tokens: Sequence[str], n: int) -> set[str]:
    """Return the different runs of ``n`` tokens; of a shorter text the whole of it, of an empty one nothing."""
    if not tokens:
        return set()
    return {" ".join(tokens[i : i + n]) for i in range(max(1, len(tokens) - n + 1))}


def digest(text: str) -> int:
    """Return 64 bits that stand for a text: the same in every process."""
    return int.from_bytes(
        hashlib.blake2b(text.encode(errors="surrogatepass"), digest_size=8).digest(), "little", signed=True
    )


def overlap(one: set[str], other: set[str]) -> float:
    """Return the share of ``one`` that ``other`` has too (containment); 0 when it is empty."""
    return len(one & other) / len(one) if one else 0.0


def jaccard(one: set[str], other: set[str]) -> float:
    """Return what two sets share as a part of what they have together; 0 for two empty ones."""
    return len(one & other) / len(one | other) if one or other else 0.0
