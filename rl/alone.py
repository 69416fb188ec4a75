"""Engines without a learner: for evaluating a model that is not being trained, and for a judge beside one that is."""

from __future__ import annotations

from contextlib import ExitStack

from rl.bundles import shown
from rl.config import RayConfig, RunConfig
from rl.learner.config import ModelConfig, PretrainedModel
from rl.placement import engine_gpus, judge_share, resolve_alone
from rollout.config import EngineConfig, RolloutConfig
from rollout.engine import Engine
from rollout.pool.pool import Pool
from rollout.reward_models.card import Card
from rollout.reward_models.config import RewardModelConfig
from rollout.reward_models.evidence_judge import files_of, judge_model
from rollout.reward_models.judge import JudgeModel
from rollout.timeline import ENGINE, JUDGE

PLACE_TIMEOUT_S = 60.0


def open_pool(
    path: str,
    engine: EngineConfig,
    ray: RayConfig,
    end: tuple[int, ...],
    seed: int,
    count: int | None,
    stack: ExitStack,
    name: str = ENGINE,
) -> Pool:
    """Open a pool on ``path`` (a Hugging Face directory or hub name): in this process, or on all of the Ray cluster,
    on the one that this process is connected to where it is.

    ``count`` engines; ``None``: as many as the cluster can host. ``name``: what they are called in the timeline.
    ``stack`` closes all of it. Raises ``LaunchError``.
    """
    one = RolloutConfig(segment_tokens=1, max_tokens=1)
    engine = engine.model_copy(update={"count": count or 0, "weight_transfer": "auto"})
    ray = ray.model_copy(update={"deployment": "auto"})  # there is nobody to take turns with
    if ray.in_process:
        from rollout.engines.actor import build_engine

        engine = engine.model_copy(update={"count": 1})
        return stack.enter_context(Pool(lambda _: build_engine(path, engine, seed), engine, one, end, seed, name=name))
    from ray import is_initialized

    from rl.launch import connected, gpus_by_node

    if not is_initialized():
        config = RunConfig(model=ModelConfig(base=PretrainedModel(path=path)), engine=engine, rollout=one, ray=ray)
        stack.enter_context(connected(config))
    engine, ray = resolve_alone(engine, ray, gpus_by_node())
    spawn = _Placed(path, engine, seed, engine_gpus(engine, ray))
    stack.callback(spawn.leave)
    pool = stack.enter_context(Pool(spawn, engine, one, end, seed, name=name))
    pool.start()
    return pool


def open_judge(path: str, card: Card, config: RewardModelConfig, like: EngineConfig, ray: RayConfig) -> JudgeModel:
    """Open a chain-of-thought judge on engines of its own, and wait until they are up; to be closed.

    ``path``: a Hugging Face directory or hub name; ``like``: the policy's engines. Raises ``ModelPathError``,
    ``PromptError``, ``LaunchError``, and ``AllEnginesDead`` when none starts.
    """
    files = files_of(path, card, config)
    engine = files.engine(config, like)
    files.prompts(config, engine)  # before anything is started
    ray = ray.model_copy(update={"engine_gpus": judge_share(config.place, engine, ray)})
    with ExitStack() as stack:
        pool = open_pool(path, engine, ray, files.end, config.seed, engine.count, stack, JUDGE)
        pool.wait()
        held = ExitStack()
        model = judge_model(pool, files, config, held.close)
        held.push(stack.pop_all())  # only now: what keeps the judge from working must not leave its engines behind
        return model


class _Placed:
    """Starts engine i in the i-th of ``engine.count`` reserved places, each whole on one node.

    Raises ``LaunchError`` when there is no room.
    """

    def __init__(self, path: str, engine: EngineConfig, seed: int, gpus: float) -> None:
        from ray import available_resources as unused
        from ray import cluster_resources
        from ray.util.placement_group import placement_group, remove_placement_group

        from rl.launch import LaunchError, counted

        bundle = {"CPU": 1.0, **({"GPU": gpus} if gpus else {})}
        self._group = placement_group([bundle] * engine.count, strategy="SPREAD")
        try:
            there = self._group.wait(PLACE_TIMEOUT_S)
        except BaseException:  # an interrupt: nobody has this object yet, to give the places back
            remove_placement_group(self._group)
            raise
        if not there:
            remove_placement_group(self._group)
            has, free = (shown({name: of.get(name, 0.0) for name in bundle}) for of in (cluster_resources(), unused()))
            raise LaunchError(
                f"the Ray cluster has had no room for {counted(engine.count, 'engine')} of {path} for "
                f"{PLACE_TIMEOUT_S:.0f} s, each with {shown(bundle)}: it has {has}, of which {free} are free; have "
                "fewer engines, or a larger cluster"
            )
        self._path, self._engine, self._seed, self._gpus = path, engine, seed, gpus

    def __call__(self, index: int) -> Engine:
        from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

        from rollout.engines.actor import RayEngine

        strategy = PlacementGroupSchedulingStrategy(self._group, placement_group_bundle_index=index)
        options = {"num_cpus": 1, "num_gpus": self._gpus, "scheduling_strategy": strategy, "max_restarts": 0}
        return RayEngine(self._path, self._engine, self._seed, options)

    def leave(self) -> None:
        """Give the places back, while Ray is connected."""
        from ray import is_initialized
        from ray.util.placement_group import remove_placement_group

        if is_initialized():
            remove_placement_group(self._group)
