"""The choice of responses to learn from, and of the checkpoint from which RL starts [2501.12599 §2.4]. Pure functions.

A response counts as correct only when it is complete: one that was cut, aborted or repeats itself is never chosen.
Ungradable and aborted ones are neither chosen nor rejected: they say nothing about the policy.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from evals.evaluate import Answer, by_problem
from recipes.shorten.efficiency import more, ratio
from rewards.stats import Estimate
from rollout.types import StopReason


@dataclass(frozen=True)
class Preference:
    """A pair for DPO: two responses to one problem."""

    chosen: Answer
    """The shortest correct response."""
    rejected: Answer
    """A longer response: wrong, or correct and much longer."""


@dataclass(frozen=True)
class Candidate:
    """A checkpoint from which the second RL phase could start."""

    name: str
    iteration: int
    accuracy: Estimate
    """Accuracy on training problems set apart for this choice."""
    tokens: Estimate
    """Mean response tokens on them."""

    @property
    def efficiency(self) -> Estimate:
        """Accuracy per token; 0 for a model that says nothing."""
        return ratio(self.accuracy, self.tokens)


def length(answer: Answer) -> int:
    """Return the response tokens, the end token included."""
    return len(answer.response.token_ids)


def is_correct(answer: Answer) -> bool:
    """Return whether a response is correct and complete."""
    return answer.response.stop is StopReason.EOS and answer.score.correct


def is_evidence(answer: Answer) -> bool:
    """Return whether the response says something about the policy: graded, and not given up by the engines."""
    return answer.score.gradable and answer.response.stop is not StopReason.ABORTED


def shortest_correct(group: Sequence[Answer]) -> Answer | None:
    """Return the shortest correct response of one problem, the earliest of equally short ones; ``None`` without any."""
    return min((a for a in group if is_correct(a)), key=lambda a: (length(a), a.sample), default=None)


def shortest(answers: Sequence[Answer]) -> list[Answer]:
    """Return the shortest correct response of each problem that has one, in order of the problems."""
    found = (shortest_correct(group) for group in by_problem(answers))
    return [answer for answer in found if answer is not None]


def preferences_of(group: Sequence[Answer], longer: float, limit: int) -> list[Preference]:
    """Return the pairs of one problem: against its shortest correct response, longer wrong ones and correct ones of at
    least
    ``longer`` times its length; the longest first, at most ``limit``, no response twice.

    The factor does not apply to wrong ones: the paper's sentence is ambiguous, this is its natural reading
    [2501.12599 §2.4].
    """
    chosen = shortest_correct(group)
    if chosen is None:
        return []
    base = length(chosen)
    rejected: dict[tuple[int, ...], Answer] = {}
    for answer in sorted(group, key=lambda a: (-length(a), a.sample)):
        if not is_evidence(answer) or length(answer) <= base:
            continue
        if is_correct(answer) and length(answer) < longer * base:
            continue
        rejected.setdefault(answer.response.token_ids, answer)
    return [Preference(chosen, answer) for answer in [*rejected.values()][:limit]]


def preferences(answers: Sequence[Answer], longer: float, limit: int) -> list[Preference]:
    """Return ``preferences_of`` each problem, in order of the problems."""
    return [pair for group in by_problem(answers) for pair in preferences_of(group, longer, limit)]


def best_base(candidates: Sequence[Candidate]) -> Candidate:
    """Return the checkpoint to start from, by its balance of accuracy and tokens. Raises ``ValueError`` without any
    candidate.

    The checkpoint with the most accuracy per token, or, of those that its 95 % interval does not tell from it, the one
    with the fewest tokens (the later one of equals): RL makes a policy surer of one way to answer, and once that is the
    long one, the short ones that a length reward could prefer are no longer sampled.
    """
    if not candidates:
        raise ValueError("no checkpoint to choose from")
    most = max(candidates, key=lambda c: c.efficiency.mean)
    level = [c for c in candidates if c is most or (c.accuracy.mean > 0 and not more(most.efficiency, c.efficiency))]
    return min(level, key=lambda c: (c.tokens.mean, -c.iteration))
