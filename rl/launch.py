"""All Ray placement: the cluster, the learner's actors, the engine actors.

On one machine without GPUs the learner and the engines share the CPU cores and take turns. With GPUs, ``ipc`` puts
learner and engine on the same GPU (fractions of it), ``nccl`` gives each its own.
"""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rl.config import RunConfig
from rl.stop import Interrupted
from rollout.engine import Engine
from rollout.engines.guard import Guard

if TYPE_CHECKING:
    from ray.util.placement_group import PlacementGroup

    from rl.actors import RayPolicy
    from rl.learner.ranks import Seat

STARTS = 3
"""Attempts at a local cluster. Ray gives its processes 30 s to come up and has no setting for it; beside other work on
a slow machine that is too short now and then, and the next attempt finds in memory what this one had to read."""


class LaunchError(RuntimeError):
    """The cluster cannot host the run; the message says what is missing."""


def check_run_dir(root: Path) -> None:
    """Refuse to keep a run in Ray's copy of ``ray job submit --working-dir``, which Ray deletes. ``LaunchError``."""
    if "working_dir_files" in root.parts:
        raise LaunchError(
            f"{root} lies in Ray's temporary copy of --working-dir, which is deleted after the job; "
            "give an absolute --run-dir on a disk that stays"
        )


def quiet_environment() -> dict[str, str]:
    """Return the environment of every process of a run: no usage reports, few logs; the driver's own settings win."""
    defaults = {
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_worker_niceness": "0",  # Ray's default of 15 starves the run beside any other process
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_LOGGING_LEVEL": "WARNING",
        "TOKENIZERS_PARALLELISM": "false",
        "TRANSFORMERS_VERBOSITY": "error",
        "SPT_NOENV": "1",  # Ray's process titles must not overwrite the mark by which the guard knows its processes
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",  # on a cluster each actor's bars would end up in the driver's output
    }
    return {name: os.environ.get(name, value) for name, value in defaults.items()}


def check_interpreter(path: str) -> None:
    """Refuse a Python that Ray cannot start workers with: it hands the path to a shell without quoting it."""
    if any(character.isspace() for character in path):
        raise LaunchError(f"Ray cannot start workers from {path!r}: its path has a space; move the checkout")


@contextmanager
def connected(config: RunConfig) -> Iterator[None]:
    """Connect to Ray for the length of a block: to the cluster of ``ray.address`` or $RAY_ADDRESS (as in ``ray job
    submit``), or a
    local one that ends with the block and with this process, however that ends.

    Raises ``LaunchError``, and ``Interrupted`` on SIGTERM while connecting.
    """
    os.environ.update(quiet_environment())
    # A submitted job brings an environment of its own. It is part of this process's, hence of ours: ours may win.
    os.environ["RAY_OVERRIDE_JOB_RUNTIME_ENV"] = "1"
    check_interpreter(sys.executable)
    import ray

    address = config.ray.address or os.environ.get("RAY_ADDRESS")
    with ExitStack() as stack:
        try:
            if address:
                stack.callback(ray.shutdown)
                _join(address)
            else:
                stack.enter_context(_start_local(config))
        except SystemExit as stop:  # how Ray's own handler of SIGTERM, in place by now, ends a process
            raise Interrupted("SIGTERM") from stop
        yield


def _shared() -> dict[str, Any]:
    return {"namespace": "k15", "logging_level": "ERROR", "runtime_env": {"env_vars": quiet_environment()}}


def _join(address: str) -> None:
    import ray
    from ray.exceptions import AuthenticationError

    try:
        _knock(address)
        ray.init(address=address, **_shared())
    except OSError as error:
        reason = str(error).partition("\n")[0]
        raise LaunchError(
            f"no Ray cluster answers at {address!r} ({reason}); start one with `ray start --head`, or, if one "
            "runs there, give this process its token (see docs/ray.md)"
        ) from error
    except AuthenticationError as error:
        raise LaunchError(
            f"the Ray cluster at {address!r} wants its token and there is none here; copy it to ~/.ray/auth_token or "
            "point $RAY_AUTH_TOKEN_PATH to it (see docs/ray.md)"
        ) from error


def _knock(address: str) -> None:
    """Raise ``OSError`` when nothing listens at ``host:port``: Ray itself would try for minutes."""
    host, separator, port = address.rpartition(":")
    if separator and port.isdecimal() and "/" not in host:
        socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()


def _start_local(config: RunConfig) -> ExitStack:
    """Start a cluster, and return a stack whose closing ends it with all that its attempts started. Raises
    ``LaunchError``.
    """
    import ray

    Path("~/.ray").expanduser().mkdir(mode=0o700, exist_ok=True)  # Ray keeps its token there, readable by everybody
    cores = max(len(os.sched_getaffinity(0)), config.learner.ranks.size + config.engine.count)
    reason = ""
    for _ in range(STARTS):
        with ExitStack() as cluster:
            cluster.callback(Guard().close)
            cluster.callback(ray.shutdown)
            try:
                ray.init(num_cpus=cores, include_dashboard=False, log_to_driver=False, **_shared())
            except Exception as error:  # noqa: BLE001 - what Ray raises when its processes do not come up in time
                reason = str(error).partition("\n")[0]
            else:
                return cluster.pop_all()
    raise LaunchError(
        f"Ray did not start on this machine: {reason} The same command tries again; other load may have to go first"
    )


def place(config: RunConfig, timeout_s: float = 60.0) -> PlacementGroup:
    """Reserve room for the learner's ranks (the first bundles) and the engines (those behind them).

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
    bundles = [learner_bundle] * config.learner.ranks.size + [engine_bundle] * engine.count
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
    """Return the transfer that ``engine.weight_transfer = auto`` means."""
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


def threads(wanted: int, processes: int = 1) -> int:
    """Return the CPU threads of each of some processes that work at the same time: as configured, or what there is of
    cores.
    """
    return wanted or max(1, len(os.sched_getaffinity(0)) // processes)


def waiting() -> dict[str, str]:
    """Return the variables that make the learner's threads wait briefly awake, then asleep.

    Awake for long (libgomp's default), they keep the cores from whoever they wait for once another job runs beside
    them: a step of two threads then took 2 s instead of 0.18 s. Asleep at once, the second thread gains nothing.
    """
    return {"GOMP_SPINCOUNT": os.environ.get("GOMP_SPINCOUNT", "10000")}


def launch_learner(config: RunConfig, model_path: Path | str, group: PlacementGroup) -> RayPolicy:
    """Start the learner's actors, one for each of its ranks, on ``model_path`` (a Hugging Face directory)."""
    from rl.actors import RayPolicy
    from rl.learner.spec import LearnerSpec, Receivers

    receivers = Receivers.of(config, weight_backend(config))

    def spawn(spec: LearnerSpec, path: Path | str) -> list[Any]:
        import ray

        from rl.learner.host import LearnerHost

        options = [_rank_options(config, group, rank) for rank in range(config.learner.ranks.size)]
        hosts = [ray.remote(LearnerHost).options(**own) for own in options]
        return [
            host.remote(spec, path, receivers, seat)
            for host, seat in zip(hosts, _seats(config, options[0]), strict=True)
        ]

    return RayPolicy(spawn, LearnerSpec.of(config), model_path, config.learner.timeout_s, config.engine.start_timeout_s)


def _seats(config: RunConfig, first: dict[str, Any]) -> list[Seat | None]:
    """Return where each rank meets the others, which is where rank 0 runs; ``first``: its options. One alone meets
    nobody.
    """
    import ray

    from rl.learner.ranks import Seat
    from rollout.address import free_address

    size = config.learner.ranks.size
    if size == 1:
        return [None]
    there = {"num_cpus": 0, "scheduling_strategy": first["scheduling_strategy"]}
    host, port = ray.get(ray.remote(free_address).options(**there).remote(), timeout=config.engine.start_timeout_s)
    return [Seat(rank, f"{host}:{port}", config.learner.timeout_s) for rank in range(size)]


def _rank_options(config: RunConfig, group: PlacementGroup, rank: int) -> dict[str, Any]:
    gpus = config.ray.learner_gpus if config.model.device == "cuda" else 0
    cores = threads(config.model.threads, config.learner.ranks.size)
    variables = {**quiet_environment(), "OMP_NUM_THREADS": str(cores), **waiting()}
    return _options(config, group, rank, gpus) | {"runtime_env": {"env_vars": variables}}


def launch_engine(config: RunConfig, model_path: Path | str, group: PlacementGroup, index: int) -> Engine:
    """Start an engine in an actor of its own; the pool calls this, again after each death."""
    from rollout.engines.actor import RayEngine

    engine = config.engine
    gpus = config.ray.engine_gpus * engine.tensor_parallel if engine.device == "cuda" else 0
    options = _options(config, group, config.learner.ranks.size + index, gpus)
    return RayEngine(str(model_path), engine, config.seed, options, config.model.attention)
