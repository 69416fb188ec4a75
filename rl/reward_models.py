"""Reward models at work: classifiers in this process, judges on engines of their own."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from dataclasses import dataclass

from rl.config import RayConfig, RunConfig
from rollout.config import EngineConfig
from rollout.grading import Answered
from rollout.reward_models.card import CardError
from rollout.reward_models.config import RewardModelConfig
from rollout.reward_models.load import Found, find
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


def check_model(config: RewardModelConfig, site: Site) -> None:
    """Raises ``ValueError`` for a reward model that ``open_model`` would refuse for what its small files say: before
    anything is started.
    """
    found = _found(config)
    if found.card.kind == "judge":
        from rollout.reward_models.evidence_judge import files_of

        files = files_of(found.path, found.card, config)
        files.prompts(config, files.engine(config, site.engine))
    elif found.card.kind == "head":
        from rollout.reward_models.head import check_head

        check_head(found.path)
    else:
        from rollout.reward_models.verifier import check_verifier

        check_verifier(found.path)


def open_model(config: RewardModelConfig, site: Site) -> RewardModel:
    """Open the reward model that ``config`` names, ready to judge; to be closed.

    Raises ``ValueError`` (``ModelPathError``, ``CardError``, ``HeadError`` ...) for one that cannot be used,
    ``LaunchError`` and ``EngineError`` for a judge's engines that do not start.
    """
    found = _found(config)
    if found.card.kind == "judge":
        from rl.alone import open_judge

        return open_judge(found.path, found.card, config, site.engine, site.ray)
    if found.card.kind == "head":
        from rollout.reward_models.head import load_head

        return load_head(found.path, config)
    from rollout.reward_models.verifier import load_verifier

    return load_verifier(found.path, config)


def _found(config: RewardModelConfig) -> Found:
    found = find(config.path)
    if config.evidence is not None and found.card.kind != "judge":
        raise CardError(
            f"{config.path}: a {found.card.kind} reads no evidence in windows, as a causal LM does; leave that out"
        )
    return found


class OnDemand:
    """A reward model that is opened when it is first asked: for work that may be on record already."""

    def __init__(self, config: RewardModelConfig, site: Site) -> None:
        self._config, self._site = config, site
        self._opening: asyncio.Task[RewardModel] | None = None
        self._model: RewardModel | None = None
        self._closed = False
        self._lock = threading.Lock()

    async def judge(self, answers: Sequence[Answered]) -> Sequence[Opinion]:
        """See ``RewardModel``."""
        if self._opening is None:
            self._opening = asyncio.create_task(asyncio.to_thread(self._open))
        return await (await asyncio.shield(self._opening)).judge(answers)

    def _open(self) -> RewardModel:
        """Open the model, on a thread that goes on when nobody waits for it any more: then it is closed at once."""
        model = open_model(self._config, self._site)
        with self._lock:
            if not self._closed:
                self._model = model
                return model
        model.close()
        raise RuntimeError("the reward model was closed")

    def counts(self) -> dict[str, float]:
        """See ``RewardModel``."""
        return self._model.counts() if self._model is not None else {}

    def close(self) -> None:
        """See ``RewardModel``."""
        with self._lock:
            self._closed = True
        if self._model is not None:
            self._model.close()
