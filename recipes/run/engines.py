"""Engines without a learner: for evaluating a model that is not being trained."""

from __future__ import annotations

from contextlib import ExitStack

from rl.config import RayConfig, RunConfig
from rl.learner.config import ModelConfig, PretrainedModel
from rl.placement import engine_gpus, resolve_alone
from rollout.config import EngineConfig, RolloutConfig
from rollout.engine import Engine
from rollout.pool.pool import Pool

PLACE_TIMEOUT_S = 60.0


def open_pool(
    path: str,
    engine: EngineConfig,
    ray: RayConfig,
    end: tuple[int, ...],
    seed: int,
    count: int | None,
    stack: ExitStack,
) -> Pool:
    """Open a pool on ``path`` (a Hugging Face directory or hub name): in this process, or on all of the Ray cluster.

    ``count`` engines; ``None``: as many as the cluster can host. ``stack`` closes all of it. Raises ``LaunchError``.
    """
    one = RolloutConfig(segment_tokens=1, max_tokens=1)
    engine = engine.model_copy(update={"count": count or 0, "weight_transfer": "auto"})
    ray = ray.model_copy(update={"deployment": "auto"})  # there is nobody to take turns with
    if ray.in_process:
        from rollout.engines.actor import build_engine

        engine = engine.model_copy(update={"count": 1})
        return stack.enter_context(Pool(lambda _: build_engine(path, engine, seed), engine, one, end, seed))
    from rl.launch import connected, gpus_by_node

    config = RunConfig(model=ModelConfig(base=PretrainedModel(path=path)), engine=engine, rollout=one, ray=ray)
    stack.enter_context(connected(config))
    engine, ray = resolve_alone(engine, ray, gpus_by_node())
    spawn = _Placed(path, engine, seed, engine_gpus(engine, ray))
    pool = stack.enter_context(Pool(spawn, engine, one, end, seed))
    pool.start()
    return pool


class _Placed:
    """Starts engine i in the i-th of ``engine.count`` reserved places, each whole on one node.

    Raises ``LaunchError`` when there is no room.
    """

    def __init__(self, path: str, engine: EngineConfig, seed: int, gpus: float) -> None:
        from ray import cluster_resources
        from ray.util.placement_group import placement_group, remove_placement_group

        from rl.launch import LaunchError

        bundle = {"CPU": 1.0, **({"GPU": gpus} if gpus else {})}
        self._group = placement_group([bundle] * engine.count, strategy="SPREAD")
        if not self._group.wait(PLACE_TIMEOUT_S):
            remove_placement_group(self._group)
            raise LaunchError(
                f"the Ray cluster cannot place {engine.count} engines with {bundle} each in {PLACE_TIMEOUT_S:.0f} s; "
                f"it has {cluster_resources()}; lower --engines"
            )
        self._path, self._engine, self._seed, self._gpus = path, engine, seed, gpus

    def __call__(self, index: int) -> Engine:
        from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

        from rollout.engines.actor import RayEngine

        strategy = PlacementGroupSchedulingStrategy(self._group, placement_group_bundle_index=index)
        options = {"num_cpus": 1, "num_gpus": self._gpus, "scheduling_strategy": strategy, "max_restarts": 0}
        return RayEngine(self._path, self._engine, self._seed, options)
