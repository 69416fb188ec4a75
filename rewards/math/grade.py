"""The maths grader: one response against one reference."""

from __future__ import annotations

from collections.abc import Callable
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

    - ``boxed``: the last ``\boxed{}`` or ``\fbox{}`` whose braces balance. Earlier boxes are intermediate results,
      unless only words such as "or" stand between, or nothing: then the answer is all of them, and right as one when
      each alone is. The same holds for "or" and a value after the box. No box and an empty one are wrong. A box inside
      a box is read as its content.
    - ``gsm8k``: the number after the last ``####``, else after ``A:`` or ``Answer:`` at the start of a line, else the
      last number of the text; one number, with or without ``$``, unit and thousands commas. The reference may be a
      rationale that ends in ``#### number``.
    - ``exact``: the whole text, to the letter.

    With ``bare`` the whole text is the answer.

    **What is an answer.** One value, or what ``gold`` is: several answers (``1, 2``, in any order), a set, a tuple or
    interval (brackets count), a union, a matrix, an equation or inequality, words, a choice, a time, digits in a base.
    Wrong, whatever the value:

    - several answers for one, and a chain of equations (``2 + 3 = 5``);
    - a problem restated or left half done: sums, products, integrals, limits, ``mod``, rounding; and of numbers,
      binomials, factorials, logarithms and trigonometry, where ``gold`` has nothing of the kind; sums and products of
      plain numbers, where ``gold`` has none;
    - where ``gold`` is a plain number, anything but a number: fraction, decimal, mixed number, ``2^{10}``,
      ``3 \times 10^8``;
    - variables that ``gold`` lacks, and words beside a value other than a unit.

    One name is allowed: ``x = 5`` and ``5 = x`` are 5, and 5 is ``x = 5``. But ``2x = 10`` is not 5, and ``y = 5`` is
    not ``x = 5``. A ``gold`` that itself has such a form is compared like any other.

    **What is the same.** Values are compared exactly: 0.33 is not 1/3; ``0.\overline{3}`` is. Only ``tolerance``
    (absolute, as OlympiadBench's ``error``) loosens that. Units may be left out on either side; two units must agree
    after conversion: 50 mm is 5 cm, 5 m is not. A per cent sign is a unit: ``50\%`` is 50 and never 0.5 or 1/2, and a
    reference between 0 and 1 takes no per cent sign. So are degrees and ``$``. A base may be left out (``204_5`` is
    204) but not worked out (54). ``p.m.`` must be there when ``gold`` has it. Equations are the same up to a factor
    and the order of sides, inequalities as the interval that they describe, expressions as functions wherever ``gold``
    is defined. Characters that look like others (Cyrillic, full-width digits) are others; invisible ones make an
    answer unreadable.

    **Bounds.** An answer of more than 1,000 characters (and four times the reference), 1,500 signs, 40 levels or 400
    digits in a row is wrong unread. What exact arithmetic does not settle is evaluated in a process with 1 GiB of
    memory and ``timeout_s`` seconds, which is killed and replaced when it fails. When the reference alone was worked
    out and the answer then spent the time or the memory, the answer is *wrong*: were it ungradable, a policy could
    hide its wrong answers behind monsters. *Ungradable* is what the grader is to blame for (it does not start, is
    starved of processor time, has a defect) and a reference that cannot be read or worked out.
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
        return Score(0.0, parts, found.reason)
    score = judge(gold, found.answer, tolerance, timeout_s)
    if (  # "1/2 or 0.5" are one answer; the first that is another ends the comparison
        score.verdict == "wrong"
        and 1 < len(found.offered) <= MAX_OFFERED
        and all(judge(gold, offered, tolerance, timeout_s).correct for offered in found.offered)
    ):
        score = Score.right(found.answer)
    return Score(score.total, {} if score.total is None else parts, score.reason, score.extracted)


_EXTRACT: dict[str, Callable[[str], Found]] = {"boxed": final_box, "gsm8k": final_number}
