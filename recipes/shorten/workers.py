"""Learner and engines that stay up from one stage of ``k15 shorten`` to the next.

Starting an engine costs more than most stages of a small model. So both are started once, and each stage gives them its
own model: the learner loads it, and the engines take its weights by the same publish, with the same parity probe, as in
training.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from recipes.run.launching import Machines, Site, starting_model
from recipes.run.probe import first_probe
from recipes.run.setup import Setup
from recipes.shorten.merge_checks import HARMLESS
from rl.config import RunConfig
from rl.iteration import publish
from rl.learner.spec import LearnerSpec
from rl.state.run_dir import RunDir
from rl.stop import Stopper
from rollout.models.pretrained import resolve_model
from rollout.pool.pool import Pool

if TYPE_CHECKING:
    from rl.actors import RayPolicy
    from rl.learner.host import LearnerHost


class Workers:
    """One learner and one pool for all stages; use as a context manager.

    They are replaced only by a stage whose model has another architecture, or whose engines, attention or devices are
    configured differently.
    """

    def __init__(self, stopper: Stopper) -> None:
        self._stopper = stopper
        self._stack = ExitStack()
        self._kind: dict[str, Any] = {}
        self._site: Site | None = None
        self._policy: RayPolicy | LearnerHost | None = None
        self._pool: Pool | None = None
        self._versions = itertools.count()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop learner and engines; the next stage starts them again. Idempotent."""
        self._site = self._policy = self._pool = None
        self._stack.close()

    def learner(self, config: RunConfig, model: Path | str) -> RayPolicy | LearnerHost:
        """Return the learner of ``config`` on ``model``, a Hugging Face directory or hub name. Raises
        ``LaunchError``.
        """
        return self._learner(self._site_for(config, model), config, model)

    def machines(self, config: RunConfig, model: Path | str, end: tuple[int, ...]) -> Machines:
        """Return learner and engines of ``config`` on ``model``; the engines serve it once it is published.

        ``end``: tokens that end a response. Raises ``LaunchError``.
        """
        site = self._site_for(config, model)
        if self._pool is None and self._policy is not None and site.engines_first:
            self.close()
            site = self._site_for(config, model)
        if self._pool is None:
            self._pool = site.engines(model, end)  # loads while the learner does
        self._pool.reconfigure(config.rollout, config.seed)
        return Machines(self._learner(site, config, model), self._pool)

    def launch(self, setup: Setup, directory: RunDir, _: ExitStack, __: Callable[[], None]) -> Machines:
        """Act as ``recipes.run.launching.Launcher`` of a training run."""
        return self.machines(setup.config, starting_model(setup, directory), setup.end)

    def serve(self, setup: Setup, model: Path | str) -> Pool:
        """Return engines that serve the weights of ``model`` and agree with the learner on them.

        Raises ``ParityError``, ``AllEnginesDead``, ``LearnerDead`` and ``LaunchError``.
        """
        config = setup.config
        # Weights travel between like devices; a stage that trains nothing may have a learner configured elsewhere.
        placed = config.model.model_copy(update={"device": config.engine.device})
        machines = self.machines(config.model_copy(update={"model": placed}), model, setup.end)
        publish(machines.policy, machines.pool, next(self._versions), first_probe(setup))
        return machines.pool

    def _site_for(self, config: RunConfig, model: Path | str) -> Site:
        kind = {
            "engine": config.engine,
            "ray": config.ray,
            "attention": config.model.attention,
            "device": config.model.device,
            "threads": config.model.threads,
            "ranks": config.learner.ranks,
            "architecture": architecture(model),
        }
        if self._site is None or kind != self._kind:
            self.close()
            self._kind, self._site = kind, Site(config, self._stack, self._stopper.claim)
        return self._site

    def _learner(self, site: Site, config: RunConfig, model: Path | str) -> RayPolicy | LearnerHost:
        if self._policy is None:
            self._policy = site.learner(config, model)
        else:
            self._policy.replace(LearnerSpec.of(config), model)
        return self._policy


def architecture(model: Path | str) -> dict[str, Any]:
    """Return the part of a model's configuration that must be equal for an engine to take another model's weights."""
    from transformers import AutoConfig

    config: dict[str, Any] = AutoConfig.from_pretrained(resolve_model(str(model))).to_dict()
    return {key: value for key, value in config.items() if key not in HARMLESS}
