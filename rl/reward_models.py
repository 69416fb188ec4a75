"""Reward models at work: classifiers in this process, judges on engines of their own."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from rl.config import RayConfig, RunConfig
from rollout.config import EngineConfig
from rollout.grading import Answered
from rollout.reward_models.config import RewardModelConfig
from rollout.reward_models.load import find
from rollout.reward_models.opinion import Opinion, RewardModel


@dataclass(frozen=True)
class Site:
    """Where a grader opens what it needs."""

    engine: EngineConfig
    """The policy's engines, which a judge's are like unless told otherwise."""
    ray: RayConfig

    @classmethod
    def of(cls, config: RunConfig) -> Site:
        """Return the site of a run."""
        return cls(config.engine, config.ray)


HERE = Site(EngineConfig(kind="hf"), RayConfig(in_process=True))
"""This process, without Ray."""


def open_model(config: RewardModelConfig, site: Site) -> RewardModel:
    """Open the reward model that ``config`` names, ready to judge; to be closed.

    Raises ``ValueError`` (``ModelPathError``, ``CardError``, ``HeadError`` ...) for one that cannot be used,
    ``LaunchError`` and ``EngineError`` for a judge's engines that do not start.
    """
    found = find(config.path)
    if found.card.kind == "judge":
        from rl.alone import open_judge

        return open_judge(found.path, found.card, config, site.engine, site.ray)
    if found.card.kind == "head":
        from rollout.reward_models.head import load_head

        return load_head(found.path, config)
    from rollout.reward_models.verifier import load_verifier

    return load_verifier(found.path, config)


class OnDemand:
    """A reward model that is opened when it is first asked: for work that may be on record already."""

    def __init__(self, config: RewardModelConfig, site: Site) -> None:
        self._config, self._site = config, site
        self._opening: asyncio.Task[RewardModel] | None = None
        self._model: RewardModel | None = None

    async def judge(self, answers: Sequence[Answered]) -> Sequence[Opinion]:
        """See ``RewardModel``."""
        if self._opening is None:
            self._opening = asyncio.create_task(asyncio.to_thread(open_model, self._config, self._site))
        self._model = await asyncio.shield(self._opening)
        return await self._model.judge(answers)

    def counts(self) -> dict[str, float]:
        """See ``RewardModel``."""
        return self._model.counts() if self._model is not None else {}

    def close(self) -> None:
        """See ``RewardModel``."""
        if self._model is not None:
            self._model.close()
