"""The reward model on responses whose verdicts are known, in each iteration: for problems that no rule decides.

The file is read again when it has changed, so that responses of the run itself, labelled while it goes on, count from
then on; only they can show that the policy has learnt to please the model.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from pathlib import Path
from random import Random

from rl.record.metrics import Row
from rollout.grading import Answered, Grading
from rollout.reward_models.config import RewardModelConfig
from rollout.reward_models.grader import RuleThenModel
from rollout.reward_models.labelled import RIGHT, WRONG, Labelled, LabelledError, read_labelled
from rollout.seeds import seed_of
from rollout.types import Message, Problem
from rollout.user_code import named

VERDICTS = frozenset((RIGHT, WRONG))


def read_verdicts(path: Path) -> list[Labelled]:
    """Return the responses of ``path`` that are right or wrong. Raises ``LabelledError`` unless there are some of both:
    a model that always says the same would agree with one kind alone.
    """
    rows = [row for row in read_labelled(path) if row.label in VERDICTS]
    if missing := VERDICTS - {row.label for row in rows}:
        raise LabelledError(
            f"reward.model.labelled: {path} has no response that is {min(missing)}: agreement with it would say "
            "nothing; add some"
        )
    return rows


def answered_of(row: Labelled) -> Answered:
    """Return a labelled response as a grader sees it; no rule judges it."""
    return Answered(Problem(row.id, (Message("user", row.question),), row.reference), row.response)


class Audit:
    """Judges ``labelled_size`` of the labelled responses in each iteration, beside its sampling."""

    def __init__(self, grading: Grading, grader: RuleThenModel, path: str, warn: Callable[[str], None]) -> None:
        """``grading`` is where ``grader`` is at work; ``path``: the labelled responses."""
        self._grading, self._grader, self._warn = grading, grader, warn
        self._path = Path(path)
        self._stamp: object = None
        self._rows: list[Labelled] = []
        self._pending: Future[Row] | None = None

    def begin(self, iteration: int) -> None:
        """Begin the audit of an iteration."""
        self._pending = self._grading.start(self._judged(iteration))

    def finish(self) -> Row:
        """Return the metrics of the audit that was begun; a file that cannot be read now is told, and there are
        none.
        """
        pending, self._pending = self._pending, None
        if pending is None:
            return {}
        try:
            return pending.result()
        except (LabelledError, OSError) as error:
            self._warn(f"no labelled responses were judged in this iteration: {named(error)}")
            return {}

    async def _judged(self, iteration: int) -> Row:
        rows = chosen(await asyncio.to_thread(self._read), self._grader.config, iteration)
        opinions = await self._grader.opinions([answered_of(row) for row in rows])
        least = self._grader.config.threshold
        pairs = [
            (one.right >= least, row.label == RIGHT)
            for one, row in zip(opinions, rows, strict=True)
            if one.right is not None
        ]
        found: Row = {"reward/labelled_compared": len(pairs), "reward/labelled_silent": len(rows) - len(pairs)}
        if pairs:
            found["reward/labelled_agreement"] = sum(said == right for said, right in pairs) / len(pairs)
            found["reward/labelled_false_right"] = sum(said and not right for said, right in pairs) / len(pairs)
        return found

    def _read(self) -> Sequence[Labelled]:
        files = sorted(self._path.rglob("*.parquet")) if self._path.is_dir() else [self._path]
        stamp = [(file, file.stat().st_size, file.stat().st_mtime_ns) for file in files]
        if stamp != self._stamp:
            self._rows, self._stamp = read_verdicts(self._path), stamp
        return self._rows


def audit_of(grading: Grading, warn: Callable[[str], None]) -> Audit | None:
    """Return the audit of the reward model that is at work in ``grading``, if labelled responses are configured."""
    grader = grading.grader
    if not isinstance(grader, RuleThenModel) or grader.config.labelled is None:
        return None
    return Audit(grading, grader, grader.config.labelled, warn)


def chosen(rows: Sequence[Labelled], config: RewardModelConfig, iteration: int) -> list[Labelled]:
    """Return the labelled responses of an iteration, always the same ones."""
    random = Random(seed_of(config.seed, "labelled", iteration))
    return random.sample(list(rows), min(config.labelled_size, len(rows)))
