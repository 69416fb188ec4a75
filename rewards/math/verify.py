"""Verifier of maths answers in LaTeX, on math-verify."""

from __future__ import annotations

from rewards.math.extract import MAX_ANSWER, last_boxed, plain_number, same_text, tidy
from rewards.math.pool import GraderFailure, shared_pool
from rewards.response import after_thinking
from rewards.score import Score


def verify_math(response: str, answer: str, timeout_s: float = 5.0) -> Score:
    r"""Right when the last ``\boxed{}`` after the thinking equals ``answer`` (LaTeX, with or without ``$``).

    Only a boxed answer counts: free text would let a response offer several. Equal texts and plain numbers are decided
    here; everything else by math-verify in a process that is killed after ``timeout_s`` seconds. A time-out or a crash
    there is ungradable, never wrong. Part ``format``: 1 when a box was found.
    """
    boxed = last_boxed(after_thinking(response))
    if boxed is None:
        return Score.wrong("no \\boxed{} answer after the thinking", format=0.0)
    if len(boxed) > MAX_ANSWER:
        return Score.wrong(f"boxed answer longer than {MAX_ANSWER} characters", boxed[:MAX_ANSWER], format=1.0)
    found, gold = tidy(boxed), tidy(answer)
    if not found:
        return Score.wrong("empty \\boxed{}", format=1.0)
    numbers = plain_number(found), plain_number(gold)
    if same_text(found, gold):
        return Score.right(boxed, format=1.0)
    if None not in numbers:
        same, reason = numbers[0] == numbers[1], "another number"
        return Score.right(boxed, format=1.0) if same else Score.wrong(reason, boxed, format=1.0)
    try:
        verdict, reason = shared_pool().ask(gold, found, timeout_s)
    except GraderFailure as failure:
        return Score.ungradable(str(failure))
    return Score.right(boxed, format=1.0) if verdict == "right" else Score.wrong(reason, boxed, format=1.0)
