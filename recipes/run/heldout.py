"""Held-out evaluations of a run: all problems before and after RL, some of them in between."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from evals.evaluate import Result, Watch, asks_of, evaluate, result_of
from evals.pooled import PoolResponder
from evals.store import write_samples
from recipes.run.setup import Setup
from rl.iteration import MOST_REASONS
from rl.parts import Watcher
from rl.record.log import Evaluation
from rollout.engine import Sampling
from rollout.environments.episodes import Episodes
from rollout.evidence.config import MergingConfig
from rollout.grading import Grading
from rollout.pool.pool import Pool
from rollout.types import Problem


@dataclass(frozen=True)
class Heldout:
    """Evaluates the weights that the engines of ``pool`` serve; answers go to ``folder``."""

    setup: Setup
    pool: Pool
    grading: Grading
    episodes: Episodes | None
    folder: Path
    watch: Watcher

    def evaluate(self, name: str, iteration: int, full: bool) -> Evaluation:
        """Return the evaluation of the weights of ``iteration``; ``full``: on all problems, greedy as well."""
        config = self.setup.config
        problems = self.setup.heldout if full else self.setup.heldout[: config.eval.interim_problems]
        result = self._answer(name, problems, config.eval.temperature, config.eval.samples)
        greedy = None
        if full and config.eval.greedy:
            greedy = self._answer(f"{name}-greedy", problems, 0.0, 1).accuracy
        return Evaluation(
            name=name,
            iteration=iteration,
            accuracy=result.accuracy,
            tokens=result.tokens,
            samples=result.samples,
            truncated=result.truncated,
            ungradable=result.ungradable,
            greedy=greedy,
            reward=result.reward,
        )

    def _answer(self, name: str, problems: Sequence[Problem], temperature: float, samples: int) -> Result:
        """Evaluate, and write the answers to ``<name>.parquet``."""
        config = self.setup.config
        self.watch.stage("evaluate", len(problems) * samples)
        responder = PoolResponder(
            self.pool,
            self.setup.render,
            self.setup.transcript.graded,
            Sampling(temperature=temperature, stop_token_ids=self.setup.end),
            config.rollout.max_tokens,
            config.engine.max_model_len,
            self.episodes,
            merging=config.rollout.evidence or MergingConfig(),
        )
        asks = asks_of(problems, samples, config.seed)
        watch = Watch(on_response=lambda response: self.watch.advance(1, response.tokens or 0))
        answers = evaluate(responder, asks, self.grading, watch=watch)
        self.folder.mkdir(exist_ok=True)
        write_samples(self.folder / f"{name}.parquet", [("heldout", answers)])
        lost = Counter(answer.score.reason for answer in answers if not answer.score.gradable)
        for reason, count in lost.most_common(MOST_REASONS):
            self.watch.warn(f"{count} responses ungradable and left out of the evaluation: {reason}")
        return result_of(answers, samples)
