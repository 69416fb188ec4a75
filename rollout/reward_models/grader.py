"""A rule and a reward model as one grader: the rule first, the model for what the rule is not trusted with.

Of every response that both judged, both verdicts are parts of its score, in rollouts, evaluations and reports:
``rule`` (1 right, 0 wrong), ``model`` (probability of being right), ``agrees`` (1 when they say the same), and the
model's own numbers as ``model/<name>``.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

from rewards.score import Score
from rollout.engine import AllEnginesDead
from rollout.grading import Answered, Grader, unanswered
from rollout.plain import one_line
from rollout.reward_models.config import RewardModelConfig, When
from rollout.reward_models.opinion import Opinion, RewardModel
from rollout.seeds import seed_of
from rollout.user_code import named

REASON = 300
"""Characters of a reason that are kept."""
OPINION = 20_000
"""Characters that are kept of what a judge wrote; of longer texts the end, where the verdict is."""


def decides(when: When, rule: Score) -> bool:
    """Return whether the verdict on a response is the model's, given the rule's."""
    return when == "always" or not rule.gradable or (when == "not_right" and not rule.correct)


def combined(rule: Score, opinion: Opinion | None, config: RewardModelConfig) -> Score:
    """Return the score of a response from both verdicts; ``opinion`` is ``None`` where the model was not asked.

    Where the model decides and has no opinion, the response is ungradable: masked and counted. Only under
    ``not_right`` the rule's *wrong* stands then: the model could but have overruled it. Why it has none stands in the
    place of what it wrote, if it wrote nothing.
    """
    parts = {**rule.parts, **({"rule": float(rule.correct)} if rule.gradable else {})}
    if opinion is None:
        return replace(rule, parts=parts)
    parts |= {f"model/{name}": value for name, value in opinion.parts.items()}
    kept = opinion.text[-OPINION:]
    if opinion.right is None:
        kept = kept or one_line(f"(no opinion: {opinion.reason})", REASON)
        if not decides(config.when, rule) or (config.when == "not_right" and rule.gradable):
            return replace(rule, parts=parts, opinion=kept)
        reason = one_line(f"the reward model has no opinion: {opinion.reason}", REASON)
        return Score(None, False, parts, reason, rule.extracted, kept)
    right = opinion.right >= config.threshold
    parts["model"] = opinion.right
    if rule.gradable:
        parts["agrees"] = float(right == rule.correct)
    if not decides(config.when, rule):
        return replace(rule, parts=parts, opinion=kept)
    reward = float(right) if config.reward == "verdict" else opinion.right
    reason = "" if right else f"wrong, says the reward model (right with {100 * opinion.right:.0f} %)"
    return Score(reward, right, parts, reason, rule.extracted, kept)


class RuleThenModel:
    """See the module docstring. ``rule`` says what a response's end decides alone (``rollout.grading.unanswered``): of
    what was cut off or aborted the model is never asked. It owns both, and closes them.
    """

    def __init__(self, rule: Grader, model: RewardModel, config: RewardModelConfig) -> None:
        self.rule, self.model, self.config = rule, model, config
        self._counts = dict.fromkeys(
            ("asked", "no_opinion", "failed", "compared", "agreed", "false_right", "false_wrong"), 0.0
        )

    def rule_decides(self) -> RuleThenModel:
        """Return the grader of evaluations on the same rule and model: what the rule can decide, it decides.

        To be used on the same event loop (``Grading.beside``), and not to be closed.
        """
        return RuleThenModel(self.rule, self.model, self.config.model_copy(update={"when": "undecided"}))

    async def grade(self, answers: Sequence[Answered]) -> Sequence[Score]:
        """See ``Grader``. Whom the model is asked of anyhow, it judges beside the rule; others after it."""
        open_ = {index for index, one in enumerate(answers) if unanswered(one.stop) is None}
        anyhow = {index for index in open_ if self.config.when == "always" or self._audited(answers[index])}
        rules, early = await asyncio.gather(self.rule.grade(answers), self._asked(answers, anyhow))
        if len(rules) != len(answers):
            raise ValueError(f"the rule gave {len(rules)} scores for {len(answers)} responses")
        late = {index for index in open_ - anyhow if decides(self.config.when, rules[index])}
        opinions = {**early, **await self._asked(answers, late)}
        scores = [combined(rule, opinions.get(index), self.config) for index, rule in enumerate(rules)]
        for score in scores:
            self._count(score)
        return scores

    async def opinions(self, answers: Sequence[Answered]) -> Sequence[Opinion]:
        """Return the model's opinions, whatever the rule says; a model that fails has none."""
        if not answers:
            return ()
        self._counts["asked"] += len(answers)
        try:
            found = list(await self.model.judge(answers))
            if len(found) != len(answers):
                raise ValueError(f"the reward model gave {len(found)} opinions on {len(answers)} responses")
        except AllEnginesDead:  # nobody will judge any more: whoever goes on spends all for nothing
            raise
        except Exception as error:  # noqa: BLE001  the named boundary to reward models: counted, and no opinion
            self._counts["failed"] += len(answers)
            found = [Opinion.none(named(error))] * len(answers)
        self._counts["no_opinion"] += sum(one.right is None for one in found)
        return found

    async def _asked(self, answers: Sequence[Answered], indices: Collection[int]) -> Mapping[int, Opinion]:
        order = sorted(indices)
        return dict(zip(order, await self.opinions([answers[index] for index in order]), strict=True))

    def _audited(self, answer: Answered) -> bool:
        """Return whether the model judges a response even if the rule decides it: always the same ones."""
        share = self.config.audit
        drawn = seed_of(self.config.seed, "audit", answer.problem.id, answer.text) % 1_000_000
        return drawn < share * 1_000_000

    def _count(self, score: Score) -> None:
        if (agrees := score.parts.get("agrees")) is None:
            return
        self._counts["compared"] += 1
        if agrees:
            self._counts["agreed"] += 1
        else:
            self._counts["false_wrong" if score.parts["rule"] else "false_right"] += 1

    def counts(self) -> dict[str, float]:
        """Return what the rule counted, and as ``model/<name>`` what the model counted of all that it was asked, and
        this grader of what it asked itself: how many responses the model was ``asked`` of, had ``no_opinion`` on and
        ``failed`` on, how many both judged (``compared``), and how: ``agreed``, ``false_right`` (wrong by the rule),
        ``false_wrong``.
        """
        model = self.model.counts()
        failed = model.get("failed", 0.0) + self._counts["failed"]  # on some, says the model; or altogether
        own = {**model, **self._counts, "failed": failed}
        return {**self.rule.counts(), **{f"model/{name}": value for name, value in own.items()}}

    def close(self) -> None:
        """Close rule and model."""
        try:
            self.rule.close()
        finally:
            self.model.close()
