"""A grader that also looks at what a response states as given (``rewards.quotes``): parts of its score, no verdict."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace

from rewards.quotes import quote_report
from rewards.score import Score
from rollout.grading import Answered, Grader

MISQUOTES = "misquotes"
"""Part of a score: 1 where something is stated as given that the prompt does not have, else 0."""
SHARE = "misquoted"
"""Part of a score: the share of the quotes that nothing supports."""


def with_quotes(answer: Answered, score: Score) -> Score:
    """Return a score with its parts on quotes; an ungradable one as it is: nothing is known of it."""
    if not score.gradable:
        return score
    report = quote_report(answer.problem.prompt, answer.text)
    found = {MISQUOTES: float(bool(report.unsupported)), SHARE: report.share}
    return replace(score, parts={**score.parts, **found})


class Quoting:
    """Another grader's scores, with the parts ``MISQUOTES`` and ``SHARE``. Reward, verdict and reason stay its own."""

    def __init__(self, grader: Grader) -> None:
        self.grader = grader

    async def grade(self, answers: Sequence[Answered]) -> Sequence[Score]:
        """See ``Grader``."""
        scores = await self.grader.grade(answers)
        if len(scores) != len(answers):
            raise ValueError(f"the grader gave {len(scores)} scores for {len(answers)} responses")
        pairs = zip(answers, scores, strict=True)
        return await asyncio.to_thread(lambda: [with_quotes(answer, score) for answer, score in pairs])

    def counts(self) -> dict[str, float]:
        """Return what the other grader counts."""
        return self.grader.counts()

    def close(self) -> None:
        """Close the other grader."""
        self.grader.close()
