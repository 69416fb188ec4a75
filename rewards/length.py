"""The k1.5 length reward [2501.12599 §2.3.3]: among the responses to one problem, shorter is better, if it is right."""

from __future__ import annotations

from collections.abc import Sequence


def length_rewards(lengths: Sequence[int], correct: Sequence[bool]) -> list[float]:
    """Length reward of each of the k responses to one problem, in [-0.5, 0.5].

    ``lengths``: response tokens, stitched over all segments (a truncated response counts with its capped length).
    ``correct``: whether each answer is right; right and wrong responses share one minimum and maximum.
    The shortest gets +0.5, the longest -0.5, linear between; a wrong one never gains. All zero when there is nothing to
    compare: one response, or all of one length. Raises ``ValueError`` on unequal counts or a negative length.
    """
    if len(lengths) != len(correct):
        raise ValueError(f"length reward: {len(lengths)} lengths but {len(correct)} verdicts")
    if any(length < 0 for length in lengths):
        raise ValueError(f"length reward: negative length in {list(lengths)}")
    if not lengths:
        return []
    shortest, longest = min(lengths), max(lengths)
    if shortest == longest:
        return [0.0] * len(lengths)
    spans = [0.5 - (length - shortest) / (longest - shortest) for length in lengths]
    return [span if right else min(0.0, span) for span, right in zip(spans, correct, strict=True)]


def length_weight(iteration: int, weight: float, start_iteration: int) -> float:
    """Weight w of the length reward: 0 before ``start_iteration``, then constant [2501.12599 §2.3.3].

    A step, not a ramp: ordinary RL first, because a penalty from the start slows learning.
    """
    return weight if iteration >= start_iteration else 0.0
