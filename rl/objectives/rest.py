"""ReST [2308.08998, 2312.06585]: fit the correct responses and ignore the others.

The comparison of [2501.12599 §3.5]: no negative gradient.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rl.objectives.cross_entropy import CrossEntropy
from rl.objectives.protocol import Needs


@dataclass(frozen=True)
class Rest(CrossEntropy):
    """Cross-entropy of the correct responses, at the temperature that they were sampled at."""

    needs = Needs(reference=False)
    opens_on_reference = True

    def advantages(self, rewards: Sequence[float | None], correct: Sequence[bool]) -> list[float | None]:
        """Return 1 for correct rollouts and ``None`` for the others."""
        return [1.0 if right and reward is not None else None for reward, right in zip(rewards, correct, strict=True)]
