"""All Ray placement: the cluster, the learner's actors, the engine actors.

On one machine without GPUs the learner and the engines share the CPU cores. With GPUs, each has its own, all have parts
of one, or all have the same in turn (``rl.placement``).
"""

from __future__ import annotations

import os
import socket
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rl.bundles import Places, places, refusal, shown, total
from rl.config import RunConfig
from rl.placement import engine_gpus, judge_engines, learner_gpus, resolve
from rl.stop import Interrupted
from rollout.engine import Engine
from rollout.engines.guard import Guard
from rollout.spinning import waiting

if TYPE_CHECKING:
    from ray.util.placement_group import PlacementGroup

    from rl.actors import RayPolicy
    from rl.elastic import Place
    from rl.learner.ranks import Seat

STARTS = 3
"""Attempts at a local cluster. Ray gives its processes 30 s to come up and has no setting for it; beside other work on
a slow machine that is too short now and then, and the next attempt finds in memory what this one had to read."""

MOST_ENGINES = 16
"""Engines that a cluster of this process has room for where their number depends on its GPUs."""


PROCESS_GIB = 0.3
"""What a process of a learner or an engine takes with its libraries alone."""


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


def check_memory(config: RunConfig, memory: int) -> None:
    """Refuse a local cluster of more processes than ``memory`` bytes hold: it has a core for each, however many."""
    ranks, engines, judges = config.learner.ranks.size, config.engine.count or 1, judge_engines(config)
    gib, least = memory / 2**30, (ranks + engines + judges) * PROCESS_GIB
    if least > gib:
        beside = f" beside {counted(judges, 'engine')} of a reward model" if judges else ""
        raise LaunchError(
            f"a learner of {counted(ranks, 'rank')} and {counted(engines, 'engine')}{beside} take {least:,.0f} GiB of "
            f"memory before any model is loaded, and this machine has {gib:,.1f}; lower learner.ranks or engine.count, "
            "or give ray.address of a larger cluster"
        )


def local_cores(config: RunConfig, here: int) -> int:
    """Return the cores that a local cluster says it has, of ``here`` real ones: one for each process of the run."""
    engines = config.engine.count or (MOST_ENGINES if config.engine.device == "cuda" else 1)
    return max(here, config.learner.ranks.size + engines + judge_engines(config))


def _start_local(config: RunConfig) -> ExitStack:
    """Start a cluster, and return a stack whose closing ends it with all that its attempts started. Raises
    ``LaunchError``.
    """
    import ray

    check_memory(config, os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    Path("~/.ray").expanduser().mkdir(mode=0o700, exist_ok=True)  # Ray keeps its token there, readable by everybody
    cores = local_cores(config, len(os.sched_getaffinity(0)))
    reason = ""
    for _ in range(STARTS):
        with ExitStack() as cluster:
            cluster.callback(Guard().close)
            cluster.callback(ray.shutdown)
            try:
                # "local": by itself Ray joins what `ray start` left an address of on this machine, alive or not.
                ray.init("local", num_cpus=cores, include_dashboard=False, log_to_driver=False, **_shared())
            except Exception as error:  # noqa: BLE001 - what Ray raises when its processes do not come up in time
                reason = str(error).partition("\n")[0]
            else:
                return cluster.pop_all()
    raise LaunchError(
        f"Ray did not start on this machine: {reason} The same command tries again; other load may have to go first"
    )


def gpus_by_node() -> list[int]:
    """Return the GPUs of each living node of the cluster."""
    from ray import nodes

    return [int(node["Resources"].get("GPU", 0)) for node in nodes() if node["Alive"]]


def resolved(config: RunConfig) -> RunConfig:
    """Return ``config`` with nothing left open for this cluster (``rl.placement.resolve``). Raises ``LaunchError``."""
    try:
        return side_by_side(resolve(config, gpus_by_node()), len(os.sched_getaffinity(0)))
    except ValueError as error:
        raise LaunchError(str(error)) from error


def side_by_side(config: RunConfig, cores: int) -> RunConfig:
    """Return a resolved ``config`` in which a learner and engines that work at the same time share the cores of a
    machine: threads that are more than these wait for each other at every layer.
    """
    if config.overlap is None:
        return config
    model, engine = config.model, config.engine
    processes = (model.device == "cpu") * config.learner.ranks.size + (engine.device == "cpu") * engine.count
    each = max(1, cores // max(1, processes))
    return config.model_copy(
        update={
            "model": model.model_copy(update={"threads": model.threads or each}),
            "engine": engine.model_copy(update={"threads": engine.threads or each}),
        }
    )


@dataclass(frozen=True)
class Reserved:
    """What a run has of a cluster."""

    group: PlacementGroup
    places: Places
    gpus: tuple[tuple[str, ...], ...] = ()
    """Of each bundle, what CUDA calls its GPUs; empty where Ray tells each process its own."""


def place(config: RunConfig, timeout_s: float = 60.0) -> Reserved:
    """Reserve room for learner and engines of a resolved configuration.

    Raises ``LaunchError`` when the cluster cannot hold them, naming what is asked for and what there is: at once when
    it is too small, after ``timeout_s`` when others use it.
    """
    from ray import nodes
    from ray.util.placement_group import placement_group, remove_placement_group

    alive = [node["Resources"] for node in nodes() if node["Alive"]]
    wanted = places(config, alive)
    what = f"a learner of {counted(config.learner.ranks.size, 'rank')} and {counted(config.engine.count, 'engine')}"
    if reason := refusal(wanted, alive):
        raise LaunchError(
            f"the Ray cluster is too small for {what}: {reason}; lower learner.ranks or engine.count, or add nodes"
        )
    group = placement_group([dict(bundle) for bundle in wanted.bundles], strategy="PACK")
    if not _came(group, timeout_s):
        remove_placement_group(group)
        raise LaunchError(
            f"the Ray cluster has had no room for {what} for {timeout_s:.0f} s ({shown(total(wanted.bundles))}, in "
            f"parts of {', '.join(dict.fromkeys(map(shown, wanted.bundles)))} on a node): others use it, `ray status` "
            "shows what is free"
        )
    return Reserved(group, wanted, _names_of_gpus(group, wanted, config.engine.start_timeout_s))


def _names_of_gpus(group: PlacementGroup, wanted: Places, timeout_s: float) -> tuple[tuple[str, ...], ...]:
    """Return what the GPUs of each bundle are called, where ``wanted`` says who has which: a task asks for all of them
    and ends; whoever runs there asks Ray for none.
    """
    import ray

    if not wanted.engine_gpus:
        return ()
    tasks = [
        ray.remote(_visible).options(num_cpus=0, num_gpus=bundle["GPU"], scheduling_strategy=_in_bundle(group, index))
        for index, bundle in enumerate(wanted.bundles)
    ]
    calls = [task.remote() for task in tasks]
    return tuple(tuple(call.future().result(timeout_s)) for call in calls)


def _visible() -> list[str]:
    """Return what CUDA calls the GPUs that Ray has given to this task."""
    import ray

    return [str(name) for name in ray.get_runtime_context().get_accelerator_ids()["GPU"]]


def _came(group: PlacementGroup, timeout_s: float) -> bool:
    """Return whether there was room for it in time. Asked every second: a signal is heeded in between only."""
    end = time.monotonic() + timeout_s
    while not (came := group.wait(max(0.0, min(1.0, end - time.monotonic())))) and time.monotonic() < end:
        pass
    return bool(came)


def counted(number: int, name: str) -> str:
    """Return ``1 engine`` or ``2 engines``."""
    return f"{number} {name}" + "s" * (number != 1)


def _in_bundle(group: PlacementGroup, bundle: int) -> Any:
    from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

    return PlacementGroupSchedulingStrategy(group, placement_group_bundle_index=bundle)


def _options(reserved: Reserved, bundle: int, gpus: float, own: Sequence[int] = ()) -> dict[str, Any]:
    """Return Ray's options for a process in ``bundle`` that has so many of its GPUs, or, in turn with others, those
    with the numbers ``own``.
    """
    variables = {}
    if own:
        variables["CUDA_VISIBLE_DEVICES"] = ",".join(reserved.gpus[bundle][number] for number in own)
        variables["RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO"] = "0"  # else Ray hides GPUs from who asks for none
    return {
        "num_cpus": 1,
        "num_gpus": 0 if own else gpus,
        "scheduling_strategy": _in_bundle(reserved.group, bundle),
        "max_restarts": 0,
        "runtime_env": {"env_vars": variables},
    }


def rank_options(config: RunConfig, reserved: Reserved, rank: int) -> dict[str, Any]:
    """Return Ray's options for a rank of the learner."""
    places = reserved.places
    own = places.rank_gpus[rank] if places.rank_gpus else ()
    options = _options(reserved, places.ranks[rank], learner_gpus(config), own)
    cores = threads(config.model.threads, config.learner.ranks.size)
    variables = {**quiet_environment(), "OMP_NUM_THREADS": str(cores), **waiting()}
    return options | {"runtime_env": {"env_vars": variables | options["runtime_env"]["env_vars"]}}


def engine_options(config: RunConfig, reserved: Reserved, index: int) -> dict[str, Any]:
    """Return Ray's options for an engine."""
    places = reserved.places
    own = places.engine_gpus[index] if places.engine_gpus else ()
    return _options(reserved, places.engines[index], engine_gpus(config.engine, config.ray), own)


def threads(wanted: int, processes: int = 1) -> int:
    """Return the CPU threads of each of some processes that work at the same time: as configured, or what there is of
    cores.
    """
    return wanted or max(1, len(os.sched_getaffinity(0)) // processes)


def launch_learner(config: RunConfig, model_path: Path | str, reserved: Reserved) -> RayPolicy:
    """Start the learner's actors, one for each of its ranks, on ``model_path`` (a Hugging Face directory)."""
    from rl.actors import RayPolicy
    from rl.learner.spec import LearnerSpec, Receivers

    receivers = Receivers.of(config, config.engine.weight_transfer)

    def spawn(spec: LearnerSpec, path: Path | str) -> list[Any]:
        import ray

        from rl.learner.host import LearnerRank

        options = [rank_options(config, reserved, rank) for rank in range(config.learner.ranks.size)]
        hosts = [ray.remote(LearnerRank).options(**own) for own in options]
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
    found = ray.remote(free_address).options(**there).remote()
    host, port = found.future().result(config.engine.start_timeout_s)
    return [Seat(rank, f"{host}:{port}", config.learner.timeout_s) for rank in range(size)]


def launch_engine(config: RunConfig, model_path: Path | str, reserved: Reserved, index: int) -> Engine:
    """Start an engine in an actor of its own; the pool calls this, again after each death."""
    from rollout.engines.actor import RayEngine

    engine = config.engine
    options = engine_options(config, reserved, index)
    return RayEngine(str(model_path), engine, config.seed, options, config.model.attention)


def ask_for_engine(config: RunConfig, model_path: Path | str) -> Place:
    """Ask the cluster for room for one more engine, which may then join; see ``rl.elastic``."""
    from rl.elastic import RayPlace

    gpus = engine_gpus(config.engine, config.ray)

    def spawn(group: PlacementGroup) -> Engine:
        from rollout.engines.actor import RayEngine

        options = {"num_cpus": 1, "num_gpus": gpus, "scheduling_strategy": _in_bundle(group, 0), "max_restarts": 0}
        return RayEngine(str(model_path), config.engine, config.seed, options, config.model.attention)

    return RayPlace({"CPU": 1.0} | ({"GPU": gpus} if gpus else {}), spawn)
