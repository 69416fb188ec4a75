"""Reading a judge's verdict, strictly: its text ends in one JSON object, ``{"verdict": "correct"}`` or ``"wrong"``.

The object is the last thing behind the judge's thinking, white space aside, and begins on a line of its own; text may
stand above it. It has that one key, once, and one of those two values, spelled so. Text behind it, other keys, a value
in other case, an object inside another, or a second verdict that says the opposite: the text has no verdict. Nothing is
repaired, so whatever a response talks its judge into quoting is no verdict unless the judge ends in it.

Pure functions, linear in the text's length.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass

from rewards.response import after_thinking
from rewards.score import Score

KEY = "verdict"
CORRECT, WRONG = "correct", "wrong"
MOST = 200
"""Characters of the object: a longer one holds something else."""
_SPACE = " \t\r\n"
"""White space of JSON; another blank is text."""
_OBJECT = re.compile(rf"\{{[^{{}}]{{0,{MOST}}}\}}")
_INSIDE = re.compile(r'(?:[\[{]|"[ \t\r\n]{0,9}:)\Z')
"""The end of what stands in front of an object that is a part of something else."""


@dataclass(frozen=True)
class Verdict:
    """What a judge's text says."""

    right: bool | None
    """Whether it calls the response right; ``None``: it says nothing that can be read."""
    reason: str = ""
    """One short line: why nothing was read."""


def read_verdict(text: str) -> Verdict:
    """Return the verdict in which a judge's text ends, or why there is none."""
    answer = after_thinking(text).strip(_SPACE)
    if not answer:
        return Verdict(None, "nothing after the thinking")
    if not answer.endswith("}"):
        return Verdict(None, "no JSON object at the end")
    start = answer.rfind("{", -MOST)
    if start < 0:
        return Verdict(None, "no JSON object at the end")
    above = answer[:start]
    if above.rpartition("\n")[2].strip(" \t"):
        return Verdict(None, "text in front of the JSON object, on its line")
    if _INSIDE.search(above.rstrip(_SPACE)[-MOST:]):
        return Verdict(None, "the JSON object is a part of another")
    right = _said(answer[start:])
    if right is None:
        return Verdict(None, f'the JSON object is not {{"{KEY}": "{CORRECT}"}} or {{"{KEY}": "{WRONG}"}}')
    if any(_said(other[0]) is (not right) for other in _OBJECT.finditer(above)):
        return Verdict(None, "two verdicts that disagree")
    return Verdict(right)


def _said(text: str) -> bool | None:
    """Return what one JSON object without braces inside says: ``None`` unless it is a verdict and nothing else."""
    try:
        pairs = json.loads(text, object_pairs_hook=tuple)
    except ValueError:
        return None
    if pairs == ((KEY, CORRECT),):
        return True
    return False if pairs == ((KEY, WRONG),) else None


def verify_verdict(response: str, answer: str) -> Score:
    """Right when the response is a judge's text whose verdict is ``answer``, ``correct`` or ``wrong``.

    A text without a verdict is wrong, not ungradable: it is the judge that is graded here.
    """
    if answer not in (CORRECT, WRONG):
        return Score.ungradable(f"reference is neither {CORRECT!r} nor {WRONG!r}")
    verdict = read_verdict(response)
    if verdict.right is None:
        return Score.wrong(verdict.reason)
    said = CORRECT if verdict.right else WRONG
    return Score.right(said) if said == answer else Score.wrong("the other verdict", said)
