"""Learner and engines of a run, in Ray actors or in this process."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from recipes.run.probe import first_probe
from recipes.run.setup import Setup
from rl.config import RunConfig
from rl.learner.config import ScratchModel
from rl.placement import resolve, shares_gpu, takes_turns
from rl.state.disk import writing
from rl.state.run_dir import RunDir
from rl.turns import Trains, Turns
from rollout.files import replacing_folder
from rollout.models.export import save_model, save_tokenizer
from rollout.models.pretrained import resolve_model
from rollout.pool.pool import Pool

if TYPE_CHECKING:
    from rl.actors import RayPolicy
    from rl.elastic import Place
    from rl.launch import Reserved
    from rl.learner.host import LearnerHost

Policy = TypeVar("Policy", bound=Trains)


@dataclass(frozen=True)
class Machines:
    """The learner and the engines of a run."""

    policy: RayPolicy | LearnerHost
    pool: Pool
    ask: Callable[[], Place] | None = None
    """Asks for room for one more engine; ``None``: there is no cluster that could have it."""


Launcher = Callable[[Setup, RunDir, ExitStack, Callable[[], None]], Machines]
"""``launch``, or a function that hands out machines that are already up."""


def starting_model(setup: Setup, directory: RunDir) -> Path | str:
    """Return the Hugging Face directory that learner and engines start from; weights from scratch are written once.

    After a warm-up it is that of the warm-up: a run that was killed before its first checkpoint starts RL there.
    """
    if (directory.warmup / "warmup.json").exists():
        return directory.warmup
    base = setup.config.model.base
    if not isinstance(base, ScratchModel):
        return resolve_model(base.path)
    if not directory.initial.exists():
        from rl.learner.policy import create_model

        model = create_model(base, setup.tokenizer, setup.config.seed)
        with writing(directory.root), replacing_folder(directory.initial) as aside:
            save_tokenizer(setup.tokenizer, aside)
            save_model(model, aside)
    return directory.initial


class Site:
    """Where a configuration's learner and engines run: in this process, or on reserved places of a Ray cluster.

    ``stack`` closes all of it. ``connected_to_ray`` is called before the long waits. Raises ``LaunchError``.
    """

    def __init__(self, config: RunConfig, stack: ExitStack, connected_to_ray: Callable[[], None]) -> None:
        self._stack = stack
        self._reserved: Reserved | None = None
        if config.ray.in_process:
            self.config = resolve(config, ())
        else:
            from rl.launch import connected, place, resolved

            stack.enter_context(connected(config))
            connected_to_ray()
            self.config = resolved(config)
            self._reserved = place(self.config)
        self._turns = Turns() if takes_turns(self.config) else None

    @property
    def engines_first(self) -> bool:
        """Whether the engines must be up before a learner is made: on a GPU that they share, at the same time or in
        turn, vLLM takes for its own what another process allocates while it measures its memory.
        """
        return shares_gpu(self.config) or takes_turns(self.config)

    def engines(self, path: Path | str, end: tuple[int, ...]) -> Pool:
        """Begin to start engines on ``path``, and wait for them where the learner has to; responses end with one of
        ``end``.

        Raises ``AllEnginesDead``.
        """
        config, reserved = self.config, self._reserved
        if reserved is None:
            from rollout.engines.actor import build_engine

            pool = Pool(
                lambda _: build_engine(str(path), config.engine, config.seed, config.model.attention),
                config.engine,
                config.rollout,
                end,
                config.seed,
                config.model.compute_dtype,
            )
            return self._joined(self._stack.enter_context(pool))
        from rl.launch import launch_engine

        pool = Pool(
            lambda index: launch_engine(config, path, reserved, index),
            config.engine,
            config.rollout,
            end,
            config.seed,
            config.model.compute_dtype,
        )
        self._stack.enter_context(pool)
        pool.start()
        if self.engines_first:
            pool.wait()
        return self._joined(pool)

    def _joined(self, pool: Pool) -> Pool:
        if self._turns is not None:
            self._turns.join_engines(pool)
        return pool

    def asking(self, path: Path | str) -> Callable[[], Place] | None:
        """Return what asks the cluster for room for one more engine on ``path``; ``None`` without a cluster."""
        if self._reserved is None:
            return None
        from rl.launch import ask_for_engine

        return lambda: ask_for_engine(self.config, path)

    def learner(self, config: RunConfig, path: Path | str) -> RayPolicy | LearnerHost:
        """Start the learner of ``config``, which is placed as the site's, on ``path``; engines that take turns with it
        sleep then.
        """
        return self.in_turn(lambda: self._learner(config, path))

    def in_turn(self, make: Callable[[], Policy]) -> Policy:
        """Return the learner that ``make`` starts, which from then on takes turns with the engines where the site says
        so.
        """
        if self._turns is None:
            return make()
        self._turns.to_learner()
        policy = make()
        self._turns.join_learner(policy)
        return policy

    def _learner(self, config: RunConfig, path: Path | str) -> RayPolicy | LearnerHost:
        model = config.model.model_copy(update={"threads": self.config.model.threads})
        config = config.model_copy(update={"model": model, "engine": self.config.engine, "ray": self.config.ray})
        if self._reserved is None:
            from rl.learner.host import LearnerHost
            from rl.learner.spec import LearnerSpec, Receivers

            return LearnerHost(LearnerSpec.of(config), path, Receivers.of(config, config.engine.weight_transfer))
        from rl.launch import launch_learner

        return launch_learner(config, path, self._reserved)


def calibrate(machines: Machines, setup: Setup) -> Machines:
    """Let the pool measure the effect of rounding; learner and engines were just started on the same files."""
    probe = first_probe(setup)
    machines.pool.calibrate(probe, machines.policy.score(probe))
    return machines


def launch(setup: Setup, directory: RunDir, stack: ExitStack, connected_to_ray: Callable[[], None]) -> Machines:
    """Start everything; ``stack`` closes it, the pool first. ``connected_to_ray`` is called before the long waits."""
    path = starting_model(setup, directory)
    site = Site(setup.config, stack, connected_to_ray)
    pool = site.engines(path, setup.end)
    return calibrate(Machines(site.learner(setup.config, path), pool, site.asking(path)), setup)
