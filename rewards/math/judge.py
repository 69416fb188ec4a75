"""One answer against one reference: cheap exact checks here, everything else in a process that can be killed."""

from __future__ import annotations

from fractions import Fraction

from rewards.math.choices import choice
from rewards.math.clean import clean, look
from rewards.math.compare import Comparer
from rewards.math.engine import Exact, Undecided
from rewards.math.pool import GraderFailure, shared_pool
from rewards.math.readings import read, read_gold
from rewards.math.signs import narrow
from rewards.math.tree import Unreadable
from rewards.math.verdict import SAME, Verdict, differs
from rewards.score import GRADER_TIMEOUT_S, Score

MAX_ANSWER = 1000
"""An answer longer than this many characters, and four times the reference, is refused unread."""


def judge(gold: str, answer: str, tolerance: Fraction | None = None, timeout_s: float = GRADER_TIMEOUT_S) -> Score:
    """Return whether ``answer``, already extracted, is the reference ``gold``; the rules are those of ``grade``."""
    shown = answer[:MAX_ANSWER]
    try:
        expected = clean(narrow(gold))
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


def unreadable(gold: str) -> str:
    """Return why ``gold`` has no value for the grader, so that nothing but its own spelling is right; empty: it has
    one, or is a choice.
    """
    try:
        expected = clean(narrow(gold))
        if not expected:
            return "the reference is empty"
        if choice(expected, expected) is None:
            read_gold(expected)
    except Unreadable as error:
        return str(error)
    return ""


def _compare(gold: str, answer: str, tolerance: Fraction | None, timeout_s: float) -> Verdict:
    """Return both cleaned. Raises ``Unreadable`` for the answer, ``GraderFailure``."""
    if not answer:
        return differs("empty answer")
    if look(gold) == look(answer):
        return SAME
    chosen = choice(gold, answer)
    if chosen is not None:
        return chosen
    try:
        golds = read_gold(gold)
    except Unreadable:
        return differs("another text than a reference that is not in the grammar")
    founds = read(answer)
    try:
        return Comparer(Exact(), tolerance).any_reading(golds, founds)
    except Undecided:
        return shared_pool().ask(gold, answer, timeout_s, tolerance)
