"""All Ray placement: the cluster, the learner actor, the engine actors.

On one machine without GPUs the learner and the engines share the CPU cores and take turns. With GPUs, ``ipc`` puts
learner and engine on the same GPU (fractions of it), ``nccl`` gives each its own.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rl.config import RunConfig
from rollout.engine import Engine, WeightUpdate
from rollout.types import Group, WeightVersion

if TYPE_CHECKING:
    from ray.util.placement_group import PlacementGroup

    from rl.learner import IterationStats
    from rl.warmup import Pair


class LaunchError(RuntimeError):
    """The cluster cannot host the run; the message says what is missing."""


class LearnerDead(RuntimeError):
    """The learner's process is gone or answers no more; the run resumes from its last checkpoint."""


def quiet_environment() -> dict[str, str]:
    """Environment of every process of a run: no usage reports, no hub probing of local paths, modest logs."""
    return {
        "RAY_USAGE_STATS_ENABLED": "0",
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_LOGGING_LEVEL": os.environ.get("VLLM_LOGGING_LEVEL", "WARNING"),
        "TOKENIZERS_PARALLELISM": "false",
        "TRANSFORMERS_VERBOSITY": os.environ.get("TRANSFORMERS_VERBOSITY", "error"),
    }


def check_interpreter(path: str) -> None:
    """Refuse a Python that Ray cannot start workers with: it hands the path to a shell without quoting it."""
    if any(character.isspace() for character in path):
        raise LaunchError(f"Ray cannot start workers from {path!r}: its path has a space; move the checkout")


def start_ray(config: RunConfig) -> None:
    """Connect to the cluster of ``ray.address`` or $RAY_ADDRESS (as in ``ray job submit``), or start a local one."""
    for name, value in quiet_environment().items():
        os.environ.setdefault(name, value)
    check_interpreter(sys.executable)
    import ray

    address = config.ray.address or os.environ.get("RAY_ADDRESS")
    shared: dict[str, Any] = {"namespace": "k15", "logging_level": "ERROR", "configure_logging": True}
    if address:
        try:
            ray.init(address=address, runtime_env={"env_vars": quiet_environment()}, **shared)
        except ConnectionError as error:
            raise LaunchError(
                f"no Ray cluster answers at {address!r}: {error}; start one with `ray start --head`"
            ) from error
        return
    cores = len(os.sched_getaffinity(0))
    os.environ.setdefault("RAY_worker_niceness", "0")  # Ray's default of 15 starves the run beside any other process
    ray.init(
        num_cpus=max(cores, 1 + config.engine.count),
        include_dashboard=False,
        log_to_driver=False,
        runtime_env={"env_vars": quiet_environment()},
        **shared,
    )


def place(config: RunConfig, timeout_s: float = 60.0) -> PlacementGroup:
    """Reserve room for the learner (bundle 0) and the engines (bundles 1..).

    Raises ``LaunchError`` when the cluster cannot hold them, naming what is asked for and what there is.
    """
    import ray
    from ray.util.placement_group import placement_group, remove_placement_group

    engine, gpu = config.engine, {}
    if config.model.device == "cuda":
        gpu = {"GPU": config.ray.learner_gpus}
    learner_bundle = {"CPU": 1.0, **gpu}
    engine_bundle: dict[str, float] = {"CPU": 1.0}
    if engine.device == "cuda":
        engine_bundle["GPU"] = config.ray.engine_gpus * engine.tensor_parallel
    transfer = weight_backend(config)
    bundles = [learner_bundle] + [engine_bundle] * engine.count
    if transfer == "ipc":
        bundles = [{key: sum(bundle.get(key, 0) for bundle in bundles) for key in ("CPU", "GPU")}]
    group = placement_group(bundles, strategy="STRICT_PACK" if transfer in ("shm", "ipc") else "PACK")
    if not group.wait(timeout_s):
        remove_placement_group(group)
        raise LaunchError(
            f"the Ray cluster cannot place learner and engines within {timeout_s:.0f} s: asked for {bundles} "
            f"({'on one node' if transfer in ('shm', 'ipc') else 'on any nodes'}), "
            f"cluster has {ray.cluster_resources()}"
        )
    return group


def weight_backend(config: RunConfig) -> str:
    """The transfer behind ``engine.weight_transfer = auto``."""
    chosen = config.engine.weight_transfer
    if chosen != "auto":
        return chosen
    if config.engine.device == "cpu":
        return "shm"
    return "ipc" if config.ray.learner_gpus + config.ray.engine_gpus <= 1 and config.engine.count == 1 else "nccl"


def _options(config: RunConfig, group: PlacementGroup, bundle: int, gpus: float) -> dict[str, Any]:
    from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

    index = 0 if weight_backend(config) == "ipc" else bundle
    return {
        "num_cpus": 1,
        "num_gpus": gpus,
        "scheduling_strategy": PlacementGroupSchedulingStrategy(group, placement_group_bundle_index=index),
        "max_restarts": 0,
    }


class RayPolicy:
    """The learner in its actor, as ``rl.loop.Policy``. Every call has a limit and a named error."""

    def __init__(self, actor: Any, timeout_s: float) -> None:
        self.actor = actor
        self.timeout_s = timeout_s

    def call(self, method: str, *args: Any, timeout_s: float | None = None) -> Any:
        """Run ``method`` in the actor and wait for its result.

        Raises ``LearnerDead`` when the actor is gone or silent; exceptions of the method itself arrive as they are.
        """
        import ray
        from ray.exceptions import GetTimeoutError, RayActorError, RayTaskError

        limit = timeout_s or self.timeout_s
        try:
            return ray.get(getattr(self.actor, method).remote(*args), timeout=limit)
        except RayActorError as error:
            raise LearnerDead(
                f"the learner process died during {method}: {error}; the same command resumes the run"
            ) from error
        except GetTimeoutError as error:
            raise LearnerDead(f"the learner did not finish {method} within {limit:.0f} s") from error
        except RayTaskError as error:
            raise error.cause from error

    def publish(self, version: WeightVersion) -> WeightUpdate:
        """See ``rl.loop.Policy``."""
        return self.call("publish", version)

    def score(self, sequences: Sequence[Sequence[int]]) -> list[list[float]]:
        """See ``rl.loop.Policy``."""
        return self.call("score", sequences)

    def train(
        self, groups: Sequence[Group], advantages: Sequence[Sequence[float | None]], version: WeightVersion
    ) -> IterationStats:
        """See ``rl.loop.Policy``."""
        return self.call("train", groups, advantages, version)

    def sft(self, pairs: Sequence[Pair], lr: float) -> float:
        """See ``rl.warmup.Trainee``."""
        return self.call("sft", pairs, lr)

    def load(self, folder: Path) -> None:
        """See ``rl.warmup.Trainee``."""
        self.call("load", folder)

    def export(self, folder: Path) -> None:
        """See ``rl.host.LearnerHost``."""
        self.call("export", folder)

    def save(self, folder: Path) -> None:
        """See ``rl.loop.Policy``."""
        self.call("save", folder)


def threads(wanted: int) -> int:
    """CPU threads of a process: as configured, or every core that it may use."""
    return wanted or len(os.sched_getaffinity(0))


def launch_learner(config: RunConfig, model_path: Path | str, group: PlacementGroup) -> RayPolicy:
    """Start the learner actor on ``model_path`` (a Hugging Face directory)."""
    import ray

    from rl.host import LearnerHost

    gpus = config.ray.learner_gpus if config.model.device == "cuda" else 0
    options = _options(config, group, 0, gpus)
    options["runtime_env"] = {
        "env_vars": {**quiet_environment(), "OMP_NUM_THREADS": str(threads(config.model.threads))}
    }
    actor = ray.remote(LearnerHost).options(**options).remote(config, model_path, weight_backend(config))
    policy = RayPolicy(actor, config.learner.timeout_s)
    policy.call("ready", timeout_s=config.engine.start_timeout_s)
    return policy


def launch_engine(config: RunConfig, model_path: Path | str, group: PlacementGroup, index: int) -> Engine:
    """An engine in an actor of its own; started by the pool, again after each death."""
    from rollout.worker import RayEngine

    engine = config.engine
    gpus = config.ray.engine_gpus * engine.tensor_parallel if engine.device == "cuda" else 0
    return RayEngine(str(model_path), engine, config.seed, _options(config, group, 1 + index, gpus))


def stop_ray() -> None:
    """Leave the cluster; a local one ends with all its processes."""
    import ray

    ray.shutdown()
