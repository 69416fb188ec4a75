"""A reward model without weights: it answers by a function of the response, right or wrong as a test wants it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from rollout.grading import Answered
from rollout.reward_models.opinion import Opinion


class Says:
    """``right``: text -> probability of being right, ``None`` for no opinion; what it raises the model raises."""

    def __init__(self, right: Callable[[str], float | None]) -> None:
        self.right = right
        self.asked: list[str] = []
        """Texts, in the order in which they came."""
        self.closed = 0

    async def judge(self, answers: Sequence[Answered]) -> Sequence[Opinion]:
        """See ``RewardModel``."""
        await asyncio.sleep(0)
        self.asked += [one.text for one in answers]
        return [self._opinion(one.text) for one in answers]

    def _opinion(self, text: str) -> Opinion:
        right = self.right(text)
        if right is None:
            return Opinion.none("it would not say", f"hm, {text}", read=0.0)
        return Opinion(right, "", {"read": 1.0}, f"I have read {text}")

    def counts(self) -> dict[str, float]:
        """See ``RewardModel``."""
        return {"calls": 1.0}

    def close(self) -> None:
        """See ``RewardModel``."""
        self.closed += 1
