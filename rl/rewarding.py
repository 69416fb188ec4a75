"""From finished groups to rewards: correctness, then length [2501.12599 §2.3.3]."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

from rewards.length import length_rewards, length_weight
from rewards.score import Score
from rl.config import RewardConfig
from rollout.grading import verdict
from rollout.types import Group, Problem, Rollout, StopReason

Graded = Callable[[Sequence[int], Sequence[int]], str]
"""``(prompt tokens, response tokens)`` -> the text that is graded (``rollout.models.prompts.Transcript.graded``)."""
Verify = Callable[[Problem, str], Score]


@dataclass(frozen=True)
class ScoredGroup:
    """A finished group with the reward of each of its k rollouts."""

    group: Group
    """Its rollouts carry their ``Score``."""
    length_rewards: tuple[float, ...]
    """[k] unweighted length rewards in [-0.5, 0.5]; 0 for masked rollouts."""
    rewards: tuple[float | None, ...]
    """[k] total reward; ``None`` where the rollout is masked (ungradable or aborted)."""

    @property
    def success_rate(self) -> float | None:
        """Share of correct rollouts among the gradable ones; ``None`` if there are none."""
        graded = [
            rollout for rollout, reward in zip(self.group.rollouts, self.rewards, strict=True) if reward is not None
        ]
        return sum(rollout.correct for rollout in graded) / len(graded) if graded else None


def grade(problem: Problem, rollout: Rollout, graded: Graded, verify: Verify) -> Score:
    """The verdict on one finished rollout; ``rollout.grading.verdict`` has the rules."""
    return verdict(rollout.stop, lambda: verify(problem, graded(rollout.prompt_ids, rollout.token_ids)))


def reward_group(group: Group, scores: Sequence[Score], weight: float, repetition_penalty: float) -> ScoredGroup:
    """Total rewards r + w * length reward [2501.12599 §2.3.3], computed over the group's gradable rollouts.

    ``weight`` is w of this iteration. Lengths are full stitched lengths.
    """
    rollouts = tuple(replace(rollout, score=score) for rollout, score in zip(group.rollouts, scores, strict=True))
    graded = [j for j, score in enumerate(scores) if score.gradable]
    lengths = length_rewards([rollouts[j].length for j in graded], [rollouts[j].correct for j in graded])
    by_index = dict(zip(graded, lengths, strict=True))

    def total(j: int, score: Score) -> float | None:
        if score.reward is None:
            return None
        penalty = repetition_penalty if rollouts[j].stop is StopReason.REPETITION else 0.0
        return score.reward + weight * by_index[j] - penalty

    return ScoredGroup(
        group=group.with_rollouts(rollouts),
        length_rewards=tuple(by_index.get(j, 0.0) for j in range(len(rollouts))),
        rewards=tuple(total(j, score) for j, score in enumerate(scores)),
    )


class Rewarder:
    """Grades finished groups; graders run on a few threads, since math and code graders wait on worker processes."""

    def __init__(self, config: RewardConfig, graded: Graded, verify: Verify, threads: int = 4) -> None:
        self.config = config
        self.graded = graded
        self.verify = verify
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="grade")

    def length_weight(self, iteration: int) -> float:
        """w of this iteration: 0 during the reward's warm-up, then constant [2501.12599 §2.3.3]."""
        length = self.config.length
        return 0.0 if length is None else length_weight(iteration, length.weight, length.start_iteration)

    def __call__(self, groups: Sequence[Group], iteration: int) -> list[ScoredGroup]:
        """Scores of all rollouts of all groups, in order."""
        weight = self.length_weight(iteration)
        jobs = [(group.problem, rollout) for group in groups for rollout in group.rollouts]
        scores = list(self._threads.map(lambda job: grade(job[0], job[1], self.graded, self.verify), jobs))
        result = []
        for group in groups:
            own, scores = scores[: len(group.rollouts)], scores[len(group.rollouts) :]
            result.append(reward_group(group, own, weight, self.config.repetition_penalty))
        return result

    def close(self) -> None:
        """Stop the grading threads."""
        self._threads.shutdown(wait=False, cancel_futures=True)
