"""The maths grader: one response against one reference."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction

from rewards.exact import verify_exact
from rewards.math.clean import join_commas
from rewards.math.extract import Found, bare_answer, final_box
from rewards.math.judge import judge
from rewards.math.last_number import MARK, final_number
from rewards.response import after_thinking
from rewards.score import GRADER_TIMEOUT_S, Score

RULES = ("boxed", "gsm8k", "exact")
"""How the answer stands in a response: see ``grade``."""
MAX_OFFERED = 4
"""Spellings of one answer that may be offered side by side."""


def grade(
    gold: str,
    prediction: str,
    *,
    rule: str = "boxed",
    bare: bool = False,
    tolerance: Fraction | None = None,
    timeout_s: float = GRADER_TIMEOUT_S,
) -> Score:
    r"""The verdict on one response: ``correct``, ``wrong`` or ``ungradable``, a reason and the extracted answer.

    ``gold`` is the reference in LaTeX or plain text, and trusted; ``prediction`` is a response of any length, and
    hostile. Works from threads, Ray actors, ``asyncio.to_thread`` and forked processes. Raises ``ValueError`` for an
    unknown rule or a negative tolerance, and nothing else.

    **What is read.** Only text after the last closing tag of the thinking (``</think>`` in any case, with attributes,
    or Kimi's ``◁/think▷``); thinking that never ends leaves no answer. Then, by ``rule``:

    - ``boxed``: what stands in the last ``\boxed{}`` or ``\fbox{}`` whose braces balance, with a sign of its own before
      it and a per cent sign after it. Earlier boxes are intermediate results, unless only words such as "or" stand
      between, or nothing: then the answer is all of them, and right as one when each alone is. The same holds for
      another value that the text offers after the box ("or 6", ", 6", "although 6 is possible", "otherwise 6"). A box
      that the text denies is none. No box, an empty one and one in which the text breaks off are wrong; an empty one
      that is only spoken of ("I put it into ``\boxed{}``") is none.
    - ``gsm8k``: the number after the last ``####`` that is no heading, else in the last box, else after ``A:`` or
      ``Answer:`` at the start of a line, else the last number of the text; with all its digits, in whatever grouping,
      its sign, power and words such as "million". A number that is part of another (``3/4``, ``4:30``, "3 to 5") is
      no answer, nor is that of a step ("see step 2"). The reference may be a rationale that ends in ``#### number``.
    - ``exact``: the whole text, to the letter.

    With ``bare`` the whole text is the answer.

    **What is an answer.** One value, or what ``gold`` is: several answers (``1, 2``, in any order), a set, a tuple or
    interval (brackets count), a union, a matrix, an equation or inequality, a congruence, a ratio, values for names,
    words, a choice, a time, digits in a base. Wrong, whatever the value:

    - several answers for one, and a chain of equations (``2 + 3 = 5``);
    - a problem restated or left half done: sums, products, integrals, limits, ``mod``, rounding; and of numbers,
      binomials, factorials, logarithms and trigonometry, where ``gold`` has nothing of the kind; sums and products of
      plain numbers, where ``gold`` has none;
    - where ``gold`` is a plain number, anything but a number: fraction, decimal, mixed number, ``2^{10}``,
      ``3 \times 10^8``;
    - variables that ``gold`` lacks, and words beside a value other than a unit or a plain noun.

    One name is allowed: ``x = 5`` and ``5 = x`` are 5, and 5 is ``x = 5``. But ``2x = 10`` is not 5, and ``y = 5`` is
    not ``x = 5``. A ``gold`` that itself has such a form is compared like any other.

    **What is the same.** Values are compared exactly: 0.33 is not 1/3; ``0.\overline{3}`` is. Only ``tolerance``
    (absolute, as OlympiadBench's ``error``) loosens that. Numbers in words are read: 3 million is 3,000,000, 3 thirds
    are 1. Units may be left out on either side; two units must agree after conversion: 50 mm is 5 cm, 5 m is not.
    A per cent sign is a unit: ``50\%`` is 50 and never 0.5 or 1/2; where ``gold`` may be a share or ratio (1, a
    fraction, a decimal below 10) it is another value. Degrees may be left out beside plain numbers, and are converted
    beside pi. A base may be left out (``204_5`` is 204) but not worked out (54). ``p.m.`` must be there when ``gold``
    has it. Order counts in ratios, words, and values for names; ``x=1, y=2`` and the pair (1, 2) are the same, and
    groups of values stay together. Equations are the same up to a factor, the order of sides and what they are solved
    for, inequalities as the set that they describe, expressions as functions wherever ``gold`` is defined. Characters
    that look like others (Cyrillic, full-width digits) are others; invisible ones make an answer unreadable.

    **Bounds.** An answer of more than 1,000 characters (and four times the reference), 1,500 signs, 40 levels or 400
    digits in a row is wrong unread. What exact arithmetic does not settle is evaluated in a process of its own, in a
    bounded number of steps, digits and points; the points are chosen by the reference alone. An answer that cannot be
    worked out within them is *wrong*, and so is any answer but its own spelling to a reference that has no value: were
    it ungradable, a policy could hide its wrong answers behind monsters. *Ungradable* is an empty or unreadable
    reference, and what the grader is to blame for (it does not start, gets no processor, has a defect).
    """
    if rule not in RULES:
        raise ValueError(f"unknown rule '{rule}'; there are: {', '.join(RULES)}")
    if tolerance is not None and tolerance < 0:
        raise ValueError(f"tolerance {tolerance} is negative")
    if rule == "exact":
        return verify_exact(prediction, gold)
    tail = after_thinking(prediction)
    if rule == "gsm8k":
        gold = join_commas(gold.rpartition(MARK)[2])
    found = bare_answer(tail) if bare else _EXTRACT[rule](tail)
    parts = {"format": float(found.marked)}
    if not found.answer:
        return Score.wrong(found.reason, "", **parts)
    score = judge(gold, found.answer, tolerance, timeout_s)
    if (  # "1/2 or 0.5" are one answer; the first that is another ends the comparison
        score.verdict == "wrong"
        and 1 < len(found.offered) <= MAX_OFFERED
        and all(judge(gold, offered, tolerance, timeout_s).correct for offered in found.offered)
    ):
        score = Score.right(found.answer)
    return replace(score, parts=parts) if score.gradable else score


_EXTRACT: dict[str, Callable[[str], Found]] = {"boxed": final_box, "gsm8k": final_number}
