"""From finished groups to rewards: correctness, then length [2501.12599 §2.3.3]."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from functools import partial

from rewards.length import length_rewards, length_weight
from rewards.score import Score
from rl.audit import Audit
from rl.config import RewardConfig
from rl.record.metrics import Row
from rl.reward_models import HERE, OnDemand, Site, open_model
from rollout.grading import Answered, Grader, Grading, VerifierGrader, by_name
from rollout.quoting import MISQUOTES, Quoting
from rollout.reward_models.grader import RuleThenModel
from rollout.types import Group, Problem, Rollout, StopReason, TokenIds
from rollout.user_code import named

Graded = Callable[[TokenIds, TokenIds], str]
"""``(tokens before a turn, tokens of the turn)`` -> graded text (``rollout.models.prompts.Transcript.graded``)."""


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


def answered(problem: Problem, rollouts: Sequence[Rollout], graded: Graded) -> list[Answered | Score]:
    """Return finished rollouts as a grader sees them, in order: each by its last turn, or with the score that it has.

    One whose tokens cannot be decoded is ungradable.
    """

    def one(rollout: Rollout) -> Answered | Score:
        if rollout.score is not None:  # its environment's
            return rollout.score
        try:
            return Answered(problem, graded(rollout.before_last_turn(), rollout.last_turn()), rollout.stop)
        except Exception as error:  # noqa: BLE001  the named boundary to tokenizers: counted as ungradable
            return Score.ungradable(named(error))

    return [one(rollout) for rollout in rollouts]


def build_grader(config: RewardConfig, site: Site = HERE) -> Grader:
    """Build the one grader of a run, for training and evaluation alike: the user's function, or the problems'
    verifiers; with a reward model behind them where one is configured.

    ``site``: where a judge's engines run; where Ray is connected, ``judges`` can judge programs there, too, without it
    this process does. Raises ``UserCodeError``, what ``open_model`` raises, and ``SandboxFailure`` when judges do not
    start.
    """
    rule = build_rule(config, not site.ray.in_process)
    if config.model is None:
        return rule
    try:
        return RuleThenModel(rule, open_model(config.model, site), config.model)
    except BaseException:
        rule.close()
        raise


def build_judge(config: RewardConfig, site: Site = HERE) -> Grader:
    """Build the grader of evaluations outside of a run (see ``evaluating``), judging programs in this process; its
    reward model is opened when it is first asked. Raises ``UserCodeError``.
    """
    rule = build_rule(config)
    if config.model is None:
        return rule
    return RuleThenModel(rule, OnDemand(config.model, site), config.model).rule_decides()


def evaluating(grader: Grader) -> Grader:
    """Return a run's grader as evaluations ask it: where the rule decides, its verdict stands, so that accuracy is not
    what a reward model believes.

    It works on what ``grader`` holds; see ``RuleThenModel.rule_decides``.
    """
    return grader.rule_decides() if isinstance(grader, RuleThenModel) else grader


def build_rule(config: RewardConfig, on_ray: bool = False) -> Grader:
    """Build a run's grader without its reward model; it looks at quotes where that is configured.

    Raises ``UserCodeError`` and ``SandboxFailure``.
    """
    rule = _rule(config, on_ray)
    return rule if config.quotes is None else Quoting(rule)


def _rule(config: RewardConfig, on_ray: bool) -> Grader:
    """Build the user's function, or the problems' verifiers."""
    if config.function is not None:
        from rollout.user_reward import Limits, load_reward

        return load_reward(config.function, Limits(config.timeout_s, config.concurrency, config.truncated))
    verifiers = VerifierGrader(partial(by_name, timeout_s=config.grader_timeout_s))
    if not (config.judges and on_ray):
        return verifiers
    from rewards.code.service import JudgeService, ServiceConfig
    from rollout.judging import JudgeGrader

    return JudgeGrader(JudgeService(ServiceConfig(workers=config.judges)), verifiers)


def reward_group(
    group: Group, scores: Sequence[Score], weight: float, repetition_penalty: float, quotes_weight: float = 0.0
) -> ScoredGroup:
    """Compute the total rewards r + w * length reward [2501.12599 §2.3.3], computed over the group's gradable rollouts,
    less the penalties for repetition and for misquotes.

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
        return score.reward + weight * by_index[j] - penalty - quotes_weight * score.parts.get(MISQUOTES, 0.0)

    return ScoredGroup(
        group=group.with_rollouts(rollouts),
        length_rewards=tuple(by_index.get(j, 0.0) for j in range(len(rollouts))),
        rewards=tuple(total(j, score) for j, score in enumerate(scores)),
    )


class Rewarder:
    """Scores finished groups, each as soon as it is handed in: grading goes on while others are still sampled."""

    def __init__(self, config: RewardConfig, graded: Graded, grading: Grading, audit: Audit | None = None) -> None:
        self.config = config
        self.graded = graded
        self.grading = grading
        self._audit = audit
        self._pending: dict[str, tuple[Group, Future[list[Score]]]] = {}
        self._seen: dict[str, float] = {}

    def length_weight(self, iteration: int) -> float:
        """w of this iteration: 0 during the reward's warm-up, then constant [2501.12599 §2.3.3]."""
        length = self.config.length
        return 0.0 if length is None else length_weight(iteration, length.weight, length.start_iteration)

    def submit(self, group: Group, then: Callable[[], None] = lambda: None) -> None:
        """Begin to grade a finished group; rollouts that have a score already keep it.

        ``then`` is called, on whichever thread, once that is done.
        """
        scores = self.grading.submit(partial(answered, group.problem, group.rollouts, self.graded))
        self._pending[group.id] = group, scores
        scores.add_done_callback(lambda _: then())

    @property
    def waiting(self) -> frozenset[str]:
        """Ids of the groups that were handed in and that the grader is not done with."""
        return frozenset(name for name, (_, scores) in self._pending.items() if not scores.done())

    def collect(self, iteration: int, chosen: Collection[str] | None = None) -> list[ScoredGroup]:
        """Return groups that were handed in, rewarded for training in ``iteration``, oldest first whichever finished
        first; waits for the grader.

        ``chosen``: ids of those that are wanted, the others stay; ``None``: all of them.
        """
        taken = sorted(self._pending.keys() if chosen is None else chosen)
        pending = [self._pending.pop(name) for name in taken]
        weight, penalty = self.length_weight(iteration), self.config.repetition_penalty
        quotes = self.config.quotes.weight if self.config.quotes else 0.0
        return [reward_group(group, scores.result(), weight, penalty, quotes) for group, scores in pending]

    def begin(self, iteration: int) -> None:
        """Begin what goes on beside an iteration's sampling: the audit, if there is one."""
        if self._audit is not None:
            self._audit.begin(iteration)

    def audited(self) -> Row:
        """Return the metrics of the iteration's audit; waits for it."""
        return self._audit.finish() if self._audit is not None else {}

    def forget(self) -> None:
        """Leave out of the next ``collect`` and ``counts`` what was handed in and graded so far."""
        self.collect(0)
        self.counts()

    def counts(self) -> dict[str, float]:
        """Return what the grader counted since the last call, as rows ``grader/<name>`` of the metrics."""
        now = self.grading.grader.counts()
        added = {f"grader/{name}": value - self._seen.get(name, 0.0) for name, value in now.items()}
        self._seen = now
        return added


def failures(scored: Sequence[ScoredGroup]) -> Counter[str]:
    """Count the reasons for which responses could not be graded; aborted ones were never answered and do not count."""
    rollouts = [rollout for item in scored for rollout in item.group.rollouts]
    return Counter(
        rollout.score.reason
        for rollout in rollouts
        if rollout.score and not rollout.score.gradable and rollout.stop is not StopReason.ABORTED
    )
