"""Questions that ask for several things at once."""

from __future__ import annotations

import re
from itertools import pairwise

from recipes.curate.wording import ASKS, Wording

_NUMERALS = ("i", "ii", "iii", "iv", "v", "vi", "vii")
_STYLES = (
    (re.compile(r"(?<![\w\\}^)'])[(（]([a-h]|[1-8]|i{1,3}|iv|v|vi)[)）](?![\w^=])")),
    (re.compile(r"(?:^|(?<=\n)|(?<=[.:;?!] ))([a-h]|[1-8]|i{1,3}|iv|v|vi)[).](?=\s)")),
    (re.compile(r"\b(?:part|question|problem|task|subproblem) \(?([a-h]|[1-8]|i{1,3})\)?(?=[.:,]| )")),
)
_SECOND_MARKS = ("b)", "2)", "ii)", "b.", "2.", "ii.", "b）", "2）", "part", "question", "problem", "task")
_FIRST_MARKS = ("a)", "1)", "i)", "a.", "1.", "i.", "a）", "1）", *_SECOND_MARKS[-4:])
_THOUSANDS = re.compile(r"(?<=\d)(?:,|\{,\}|, ?!|\\,!?|\\!,|,\\!|\{,\}\\!)\s?(?=\d{3}(?!\d))")
_AND = re.compile(r",?\s*\band\b")
_ANSWERED = re.compile(r"\b(?:solution|answer)s? ?:|\banswer is\b")
"""Earlier parts with their solutions are no questions."""
_LABELLED = re.compile(r"[ai1]\)")
_SET = re.compile(
    r"\b(?:either|any|some) order\b|\b(?:increasing|decreasing|ascending|descending|alphabetical) order\b"
    r"|\b(?:all|both|the|two|three|any|real|complex|possible|what|which|for) (?:[\w-]+ ){0,4}?"
    r"(?:solutions?|roots|zeros|zeroes|values?|integers|primes|numbers|divisors|factors|pairs|triples|points|x|n|k)\b"
    r"|\bsolve\b(?![^.]*system)"
)
_IN_ANY_ORDER = re.compile(
    r"\b(?:either|any|some|increasing|decreasing|ascending|descending) order\b|\b(?:the )?two (?:\w+ )?numbers\b"
    r"|\ball (?:possible )?(?:values|solutions|roots|pairs)\b"
)
_SYMBOL = r"(?:[a-z]|\\[a-z]+)(?:_\{?\w\}?)?(?:\([a-z]\))?"
_NAMED = re.compile(
    r"\b(?:find|determine|compute|evaluate|(?<!for all )values of|lengths of|angles|what are) "
    r"(?:(?:the|positive|real|rational|integers?|constants?|numbers?|values? of|coefficients?|lengths of|angles|all) )*"
    rf"{_SYMBOL}(?: ?, {_SYMBOL}){{0,3}},? and {_SYMBOL}(?![\w(^])"
)
"""Several unknowns by name: "find the values of $a$ and $b$"."""
_QUANTITY = (
    r"(?:perimeters?|areas?|volumes?|maxim(?:um|al)|minim(?:um|al)|greatest|least|largest|smallest|mean|medians?|mode|"
    r"range|quotient|remainder|cent(?:er|re)|radius|radii|diameter|slope|domain|codomain|lengths?|widths?|"
    r"heights?|speeds?|distances?|prices?|costs?|ages?|amplitude|period|phase|vertex|foc(?:us|i)|directrix|"
    r"asymptotes?|base|greatest common divisor|least common multiple|gcd|lcm|hcf|eigenvalues?|eigenvectors?|variance|"
    r"standard deviation|expectation|magnitude|direction|numerator|denominator|average|sums?|product|difference|"
    r"current|voltage|mass|angles?|profit|loss|time|rate|[xy]? ?-intercepts?)"
)
_TWO_QUANTITIES = re.compile(
    "|".join(
        (
            rf"\b{_QUANTITY}\b[^.?,]{{0,60}},? and "
            rf"(?:(?:the|its|their|also|what|is|corresponding|a|an) ){{0,3}}(?:\S{{1,20}} ){{0,2}}{_QUANTITY}\b",
            r"\bhow many (?:of each|[\w ]{1,40} (?:does|did|do|are|were) [^?]{0,40}\beach)\b",
            r"\b(?:their|the) (?:respective )?(?:ages|speeds|prices|costs|masses|weights)\b",
            r"\b(?:cost )?of each\b|\bdid each\b|\brespectively\b",
            r"\band how (?:many|much|far|long|old)\b|\band what\b|\band when\b",
        )
    )
)


def asks_for_several(read: Wording) -> bool:
    """Whether parts each ask something, or the answer lists different quantities."""
    if _asking_parts(read) > 1 or (_LABELLED.match(read.said) and "(b)" in read.said):
        return True
    said = items(read.answer)
    if len(said) < 2 or all(item.startswith("(") for item in said) or all("=" in item for item in said):
        return False
    if _NAMED.search(read.text) or _TWO_QUANTITIES.search(read.text):
        return _IN_ANY_ORDER.search(read.text) is None
    return read.text.count("?") > 1 and _SET.search(read.text) is None


def items(answer: str) -> list[str]:
    """Return what an answer lists, split outside of brackets; commas between thousands split nothing."""
    plain = _AND.sub(",", _THOUSANDS.sub("", answer))
    depth, start, found = 0, 0, []
    for at, sign in enumerate(plain):
        if sign in "([{":
            depth += 1
        elif sign in ")]}":
            depth = max(0, depth - 1)
        elif sign in ",;，；" and depth == 0:
            found.append(plain[start:at].strip())
            start = at + 1
    return [item for item in [*found, plain[start:].strip()] if item]


def _asking_parts(read: Wording) -> int:
    """Return the most parts, marked in one style and in order, that each ask something."""
    if not (read.has(*_SECOND_MARKS) and read.has(*_FIRST_MARKS)):
        return 0
    return max(_asking(read.text, marks) for marks in _STYLES)


def _asking(text: str, marks: re.Pattern[str]) -> int:
    found = list(marks.finditer(text))
    if len(found) < 2:
        return 0
    best = 0
    for names in ("abcdefgh", "12345678", _NUMERALS):
        starts: list[tuple[int, int]] = []
        for match in found:
            if len(starts) < len(names) and match[1] == names[len(starts)]:
                starts.append(match.span())
        if len(starts) > 1:
            spans = pairwise([*starts, (len(text), 0)])
            parts = (text[end:begin].strip() for (_, end), (begin, _) in spans)
            best = max(best, sum(ASKS.search(part) is not None and not _ANSWERED.search(part) for part in parts))
    return best
