"""One answer against one reference: cheap exact checks here, everything else in a process that can be killed."""

from __future__ import annotations

import re
from fractions import Fraction

from rewards.math.clean import clean, flat, look
from rewards.math.compare import Comparer, Verdict, differs
from rewards.math.exact import Beyond, TooLarge, identical, rational
from rewards.math.parse import read, read_gold
from rewards.math.pool import GraderFailure, shared_pool
from rewards.math.tree import Expr, Unreadable
from rewards.score import GRADER_TIMEOUT_S, Score

MAX_ANSWER = 1000
"""An answer longer than this many characters, and four times the reference, is refused unread."""
_CHOICE = re.compile(r"\(?([A-J])\)?")
_CHOICE_AND_TEXT = re.compile(r"\(?([A-J])[).:]\)?\s*(.+)", re.DOTALL)
_LETTER = re.compile(r"(?<![A-Za-z\\])[A-J](?![A-Za-z])")
_RESTATED = re.compile(r"\\(?:sum|prod|int|lim|binom|choose|bmod|pmod|mod|frac\s*\{d)(?![A-Za-z])")


class Undecided(Exception):
    """Exact arithmetic cannot tell; a grading process has to."""


def decide_exactly(gold: Expr, found: Expr, tolerance: Fraction | None) -> bool:
    """A ``Decide`` without any risk in time or memory. Raises ``Undecided``."""
    try:
        if tolerance is not None:
            return abs(rational(gold) - rational(found)) <= tolerance
        return identical(gold, found)
    except (Beyond, TooLarge) as error:
        raise Undecided from error


def judge(gold: str, answer: str, tolerance: Fraction | None = None, timeout_s: float = GRADER_TIMEOUT_S) -> Score:
    """Whether ``answer``, already extracted, is the reference ``gold``; the rules are those of ``grade``."""
    shown = answer[:MAX_ANSWER]
    try:
        expected = clean(gold)
    except Unreadable as error:
        return Score.ungradable(f"the reference has {error}", shown)
    if not expected:
        return Score.ungradable("the reference is empty", shown)
    if len(answer) > max(MAX_ANSWER, 4 * len(gold)):
        return Score.wrong(f"answer longer than {MAX_ANSWER} characters", shown)
    try:
        verdict = _compare(expected, clean(answer), tolerance, timeout_s)
    except Unreadable as error:
        return Score.wrong(f"not readable as an answer: {error}", shown)
    except GraderFailure as failure:
        return Score.ungradable(str(failure), shown)
    return Score.right(shown) if verdict.same else Score.wrong(verdict.reason, shown)


def _compare(gold: str, answer: str, tolerance: Fraction | None, timeout_s: float) -> Verdict:
    """Both cleaned. Raises ``Unreadable`` for the answer, ``GraderFailure``."""
    if not answer:
        return differs("empty answer")
    if look(gold) == look(answer):
        return Verdict(True)
    choice = _CHOICE.fullmatch(flat(gold))
    with_text = _CHOICE_AND_TEXT.fullmatch(flat(answer))
    if choice and with_text:
        same = with_text[1] == choice[1] and not _LETTER.search(with_text[2])
        return Verdict(same, "" if same else "another choice, or several")
    try:
        golds = read_gold(gold)
    except Unreadable:
        return _by_math_verify(gold, answer, timeout_s)
    founds = read(answer)
    try:
        return Comparer(decide_exactly, tolerance).any_reading(golds, founds)
    except Undecided:
        return shared_pool("values").ask(gold, answer, timeout_s, tolerance)


def _by_math_verify(gold: str, answer: str, timeout_s: float) -> Verdict:
    """For references that the grammar does not know: the same number of parts, then math-verify."""
    for sign in ("=", ",", " and ", " or "):
        if flat(gold).count(sign) != flat(answer).count(sign):
            return differs("another form than the reference")
    if set(_RESTATED.findall(answer)) - set(_RESTATED.findall(gold)):
        return differs("not worked out")
    return shared_pool("math_verify").ask(gold, answer, timeout_s, None)
