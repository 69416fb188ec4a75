"""Warm-up on what the model itself says: draw responses to training problems, and learn those that are right.

Rejection sampling through the run's own engines and grader. Drawn responses are kept in the run, a line each, as those
of an evaluation are, so that a process that goes on draws none of them again; their token ids are learnt as drawn.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from evals.evaluate import Answer, Ask, Watch, by_problem, evaluate
from evals.journal import opened
from evals.pooled import PoolResponder
from recipes.run.setup import Setup
from rewards.quotes import quote_report
from rl.config import WarmupStage
from rl.parts import Watcher
from rl.warmup import Pair
from rollout.grading import Grading
from rollout.partial import training_sampling
from rollout.pool.pool import Pool
from rollout.problems.source import ProblemError
from rollout.seeds import seed_of
from rollout.types import StopReason


@dataclass(frozen=True)
class Harvest:
    """What came of the responses to one stage's problems."""

    problems: int
    responses: int
    right: int
    """Right responses."""
    ungradable: int
    """Responses that could not be graded."""
    unsolved: int
    """Problems without a right response."""
    learnt: int
    """Responses that are learnt."""
    misquoting: int = 0
    """Right responses that are not learnt since they misquote their problem (``warmup.faithful``)."""

    @property
    def told(self) -> str:
        """One line."""
        failed = f", {self.ungradable} could not be graded" if self.ungradable else ""
        failed += f", {self.misquoting} of these misquote their problem" if self.misquoting else ""
        return (
            f"{self.responses} responses to {self.problems} problems: {self.right} are right{failed}, {self.learnt} of "
            f"them are learnt; {self.unsolved} problems have no right one"
        )


@dataclass(frozen=True)
class OwnResponses:
    """Draws the demonstrations of warm-up stages from the weights that the engines of ``pool`` serve."""

    setup: Setup
    pool: Pool
    grading: Grading
    folder: Path
    """Of the drawn responses."""
    watch: Watcher

    def draw(self, number: int, stage: WarmupStage) -> tuple[list[Pair], Harvest]:
        """Return what stage ``number``, counted from 1, learns. Raises ``ProblemError`` when nothing drawn is right."""
        assert stage.sampled is not None
        config = self.setup.config
        known = config.problems.train_size or stage.examples
        problems = [self.setup.train[index] for index in self.setup.usable(min(stage.examples, known))]
        asks = [
            Ask(problem, j, seed_of(config.seed, "warmup", number, problem.id, j))
            for problem in problems
            for j in range(stage.sampled)
        ]
        settings = {"samples": stage.sampled, "seed": config.seed}
        self.watch.stage("draw demonstrations", len(asks))
        watch = Watch(on_answer=lambda answer: self.watch.advance(1, answer.response.tokens or 0))
        with opened(self.folder / f"stage{number}", settings) as record:
            answers = evaluate(self._responder(), asks, self.grading, record, watch)
        pairs, harvest = self._harvest(answers, stage)
        if not pairs and harvest.misquoting:
            raise ProblemError(
                f"warm-up stage {number}: all {harvest.misquoting} right responses misquote their problems, so there "
                "is nothing to learn from; draw more (warmup.sampled), or leave warmup.faithful out"
            )
        if not pairs:
            raise ProblemError(
                f"warm-up stage {number}: none of {len(answers)} responses is right, so there is nothing to learn "
                f"from; {_commonest(answers)}; draw more (warmup.sampled), or begin with demonstrations"
            )
        return pairs, harvest

    def _responder(self) -> PoolResponder:
        config = self.setup.config
        return PoolResponder(
            self.pool,
            self.setup.render,
            self.setup.transcript.graded,
            training_sampling(config.rollout, self.setup.end),
            config.rollout.max_tokens,
            config.engine.max_model_len,
        )

    def _harvest(self, answers: Sequence[Answer], stage: WarmupStage) -> tuple[list[Pair], Harvest]:
        """Return the first ``stage.kept`` different right responses to each problem, and what came of all."""
        pairs: list[Pair] = []
        groups = by_problem(answers)
        unsolved = misquoting = 0
        for group in groups:
            prompt = self.setup.render(group[0].problem).token_ids
            right = [answer for answer in group if is_right(answer)]
            learnt = [answer for answer in right if is_faithful(answer)] if stage.faithful else right
            different = dict.fromkeys(answer.response.token_ids for answer in learnt)
            pairs += [(prompt, np.array(tokens, np.int32)) for tokens in list(different)[: stage.kept]]
            unsolved += not right
            misquoting += len(right) - len(learnt)
        return pairs, Harvest(
            problems=len(groups),
            responses=len(answers),
            right=sum(map(is_right, answers)),
            ungradable=sum(not answer.score.gradable for answer in answers),
            unsolved=unsolved,
            learnt=len(pairs),
            misquoting=misquoting,
        )


def is_right(answer: Answer) -> bool:
    """Whether a response is right and whole, so that it can be learnt."""
    return answer.score.correct and answer.response.stop is StopReason.EOS


def is_faithful(answer: Answer) -> bool:
    """Whether a response states nothing as given that its problem does not have."""
    return not quote_report(answer.problem.prompt, answer.response.text).unsupported


def _commonest(answers: Sequence[Answer]) -> str:
    """Return why most of them are not right."""
    reasons = [answer.score.reason or "wrong" for answer in answers]
    most = max(dict.fromkeys(reasons), key=reasons.count)
    return f"{reasons.count(most)} of them: {most}"
