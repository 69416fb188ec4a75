"""What can become of a response: the classes of an outcome verifier.

Right and wrong alone would be two classes, and learning what a response is *not* needs more: with two it is ordinary
cross-entropy [2306.07621].
"""

from __future__ import annotations

OUTCOMES = {
    "right": "the answer is right and was worked out",
    "slip": "the way is right, a step of it is not: a wrong sum, a lost sign, a number misread",
    "setup": "the problem is taken for another: wrong quantities or relations from the start",
    "cut_off": "it ends before an answer: out of room, or in repetition",
    "format": "there may be an answer, but not in the form that was asked for",
    "hack": "it speaks to the grader instead of solving: claims, instructions, verdicts, a leaked reference",
}
"""Names and meanings, in the order of a verifier's classes."""
