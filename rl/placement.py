"""How a run's learner and engines share the GPUs, and how weights then travel: decided once, before either starts.

Pure functions of a configuration and of the cluster's GPUs. Learner, engines and the places that Ray reserves all read
the configuration that ``resolve`` returns, in which nothing is left to decide.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rl.config import RayConfig, RunConfig
    from rollout.config import EngineConfig

UTILIZATION = 0.9
"""Share that vLLM takes of the GPU, or of the part of one, that an engine has."""
SLEEP = frozenset({"enable_sleep_mode"})
"""Arguments of vLLM without which an engine on a GPU gives nothing back when it sleeps."""


def check(config: RunConfig) -> None:
    """Raise ``ValueError`` (one line) for what no number of GPUs makes possible."""
    _check_parts(config)
    _check_deployment(config)
    _check_most(config)
    if _sharing(config)[1]:
        _check_sum(config)
    possible = transfers(config)
    chosen, engine = config.engine.weight_transfer, config.engine
    if chosen != "auto" and chosen not in possible:
        where = "in one process" if config.ray.in_process else f"to {engine.kind} engines on {engine.device}"
        raise ValueError(
            f"engine.weight_transfer {chosen} does not work from a learner on {config.model.device} {where}: leave it "
            f"auto, or take {' or '.join(possible)}"
        )


def transfers(config: RunConfig) -> tuple[str, ...]:
    """Return the ways in which weights can travel between this learner and these engines, the best first."""
    if config.ray.in_process:
        return ("local",)
    if config.engine.kind != "vllm" or not _both_on_gpus(config) or takes_turns(config):
        return ("shm",)  # through the host's memory, from and to any device, while the other one is not on its own
    may_share, must_share = _sharing(config)
    return (*(("ipc",) if may_share else ()), *(() if must_share else ("nccl",)), "shm")


def resolve(config: RunConfig, nodes: Sequence[int]) -> RunConfig:
    """Return ``config`` with every open key of the placement filled in for nodes with so many GPUs each.

    Learner and engine share a cluster's only GPU; of more, the learner has its own and engines the rest. In turn, both
    have all of each. Raises ``ValueError`` (one line) where there is no GPU to decide by.
    """
    _check_nodes(config, nodes)
    learner, engine = _shares(config, sum(nodes))
    ray = config.ray.model_copy(update={"learner_gpus": learner, "engine_gpus": engine})
    placed = config.model_copy(update={"ray": ray})
    chosen = config.engine.weight_transfer
    transfer = transfers(placed)[0] if chosen == "auto" else chosen
    within = [max(nodes, default=0)] if transfer == "shm" and not takes_turns(config) else nodes
    changes = {
        "weight_transfer": transfer,
        "gpu_memory_utilization": _utilization(config.engine, engine),
        "count": config.engine.count or _engines_beside(placed, within),
        "extra": _sleeping(config) | config.engine.extra,
    }
    return placed.model_copy(update={"engine": config.engine.model_copy(update=changes)})


def resolve_alone(engine: EngineConfig, ray: RayConfig, nodes: Sequence[int]) -> tuple[EngineConfig, RayConfig]:
    """Return engine and Ray settings of engines without a learner, which nobody sends weights to.

    As many as the GPUs hold, or one for each node on CPUs, where ``engine.count`` is 0.
    """
    share = 1.0 if ray.engine_gpus is None else ray.engine_gpus
    each = share * engine.tensor_parallel
    most = sum(int(gpus / each) for gpus in nodes) if engine.device == "cuda" else len(nodes)
    changes = {
        "count": engine.count or max(1, most),
        "weight_transfer": "auto",
        "gpu_memory_utilization": _utilization(engine, share),
    }
    return engine.model_copy(update=changes), ray.model_copy(update={"engine_gpus": share})


def judge_engines(config: RunConfig) -> int:
    """Return the engines of a reward model that may be a judge; what it is, its files say later."""
    model = config.reward.model
    return 0 if model is None else (model.engine.count if model.engine else 1) or 1


def judge_share(place: str, engine: EngineConfig, ray: RayConfig) -> float:
    """Return the GPUs of each engine and tensor-parallel rank of a judge on ``engine``: a whole one, or the part that
    the policy's engines, and a learner beside them, leave of theirs; 0 on CPUs.

    ``place``: ``reward.model.place``. Raises ``ValueError`` (one line) where it asks for a part and there is none.
    """
    if engine.device != "cuda":
        return 0.0
    taken = [share for share in (ray.engine_gpus, ray.learner_gpus) if share is not None and share < 1]
    left = round(1 - sum(taken), 4) if ray.engine_gpus in taken else 0.0
    if place == "own" or (place == "auto" and left <= 0):
        return 1.0
    if left <= 0 or engine.tensor_parallel > 1:
        raise ValueError(
            "reward.model.place beside puts a judge's engine of one GPU on a part of one of the policy's, and "
            + (f"its engine.tensor_parallel is {engine.tensor_parallel}" if left > 0 else "none is left of those")
            + ": lower ray.engine_gpus (and ray.learner_gpus, where they share), or set place to own"
        )
    return left


def learner_gpus(config: RunConfig) -> float:
    """Return the GPUs of each rank of the learner of a resolved configuration; 0 on CPUs."""
    return (config.ray.learner_gpus or 0.0) if config.model.device == "cuda" else 0.0


def engine_gpus(engine: EngineConfig, ray: RayConfig) -> float:
    """Return the GPUs of each engine of a resolved configuration, all of one node; 0 on CPUs."""
    return (ray.engine_gpus or 0.0) * engine.tensor_parallel if engine.device == "cuda" else 0.0


def takes_turns(config: RunConfig) -> bool:
    """Return whether learner and engines have the same devices in turn."""
    return config.ray.deployment == "hybrid"


def shares_gpu(config: RunConfig) -> bool:
    """Return whether learner and engines of a resolved configuration sit on one GPU at the same time."""
    return _both_on_gpus(config) and not config.ray.in_process and 0 < learner_gpus(config) < 1


def _both_on_gpus(config: RunConfig) -> bool:
    return config.model.device == config.engine.device == "cuda"


def _given(config: RunConfig) -> dict[str, float]:
    """Return the parts of GPUs that the configuration names, by key."""
    keys = {"ray.learner_gpus": config.ray.learner_gpus, "ray.engine_gpus": config.ray.engine_gpus}
    return {key: value for key, value in keys.items() if value is not None}


def _check_parts(config: RunConfig) -> None:
    devices = {"ray.learner_gpus": config.model.device, "ray.engine_gpus": config.engine.device}
    for key, value in _given(config).items():
        if not value and devices[key] == "cuda":
            raise ValueError(f"{key} is 0, and what it is for runs on cuda: leave it null, or at most 1")
    share, ranks = config.ray.engine_gpus, config.engine.tensor_parallel
    if share is not None and share < 1 < ranks and config.engine.device == "cuda":
        raise ValueError(
            f"ray.engine_gpus {share:g} is a part of one GPU, and engine.tensor_parallel {ranks} wants several: change "
            "one of them"
        )


def _check_most(config: RunConfig) -> None:
    engine = config.engine
    if engine.most is not None and config.ray.in_process:
        raise ValueError("engine.most lets engines join on a Ray cluster, and ray.in_process is without Ray")
    if engine.most is not None and engine.most < engine.count:
        raise ValueError(f"engine.most ({engine.most}) is below engine.count ({engine.count})")


def _check_deployment(config: RunConfig) -> None:
    """Raise ``ValueError`` where ``ray.deployment`` asks for what other keys rule out."""
    deployment, engine = config.ray.deployment, config.engine
    if deployment == "auto":
        return
    if deployment != "hybrid" and config.ray.in_process:
        raise ValueError(f"ray.deployment {deployment} places Ray actors, and ray.in_process is without Ray")
    if deployment != "split" and config.model.device != engine.device:
        raise ValueError(
            f"ray.deployment {deployment} is for one kind of device, and model.device is {config.model.device}, "
            f"engine.device {engine.device}: change one of them"
        )
    if deployment == "shared" and engine.device == "cpu":
        raise ValueError("ray.deployment shared is for parts of a GPU; CPUs are shared anyhow: leave it auto")
    if deployment == "hybrid":
        _check_turns(config)


def _check_turns(config: RunConfig) -> None:
    if config.overlap is not None:
        raise ValueError(
            "overlap lets engines sample while the learner trains, and with ray.deployment hybrid they sleep "
            "meanwhile: leave one of them out"
        )
    if config.engine.most is not None:
        raise ValueError(
            "engine.most lets engines join on GPUs of their own, and with ray.deployment hybrid they have the "
            "learner's: leave one of them out"
        )
    for key, value in _given(config).items():
        if 0 < value < 1:
            raise ValueError(
                f"{key} {value:g} is a part of a GPU, and with ray.deployment hybrid each has all of it in its turn: "
                "leave it null"
            )
    for key in SLEEP & config.engine.extra.keys():
        if not config.engine.extra[key]:
            raise ValueError(f"engine.extra.{key} is off, and with ray.deployment hybrid engines sleep: leave it out")


def _check_nodes(config: RunConfig, nodes: Sequence[int]) -> None:
    """Raise ``ValueError`` where a key is open and there is no GPU to decide it by."""
    keys = {
        "model.device": (config.model.device, {"ray.learner_gpus": config.ray.learner_gpus}),
        "engine.device": (
            config.engine.device,
            {"ray.engine_gpus": config.ray.engine_gpus, "engine.count": config.engine.count or None},
        ),
    }
    for key, (device, decides) in keys.items():
        open_keys = [name for name, value in decides.items() if value is None]
        if device == "cuda" and open_keys and not any(nodes) and not config.ray.in_process:
            raise ValueError(
                f"{key} is cuda, and the Ray cluster has no GPU; where its GPUs are still to come, give "
                f"{' and '.join(open_keys)}"
            )


def _sharing(config: RunConfig) -> tuple[bool, bool]:
    """Return whether learner and engines may sit on one GPU, and whether they must.

    Raises ``ValueError`` naming the two keys of which one says that they must and the other that they cannot.
    """
    if not _both_on_gpus(config) or config.ray.in_process or takes_turns(config):
        return False, False
    engine, given = config.engine, _given(config)
    wishes = ["ray.deployment shared"] if config.ray.deployment == "shared" else []
    wishes += [f"{key} {value:g}" for key, value in given.items() if value < 1]
    wishes += ["engine.weight_transfer ipc"] if engine.weight_transfer == "ipc" else []
    obstacles = ["ray.deployment split"] if config.ray.deployment == "split" else []
    obstacles += [f"{key} {value:g}" for key, value in given.items() if value == 1]
    if engine.tensor_parallel > 1:
        obstacles.append(f"engine.tensor_parallel {engine.tensor_parallel}")
    if config.learner.ranks.size > 1:
        obstacles.append(f"a learner of {config.learner.ranks.size} ranks")
    if engine.weight_transfer == "nccl":
        obstacles.append("engine.weight_transfer nccl")
    if wishes and obstacles:
        raise ValueError(
            f"{wishes[0]} puts learner and engines on one GPU, and {obstacles[0]} on several: change one of them"
        )
    return not obstacles, bool(wishes)


def _check_sum(config: RunConfig) -> None:
    learner, engine = config.ray.learner_gpus, config.ray.engine_gpus
    count = max(1, config.engine.count)
    named = (learner or 0.0) + count * (engine or 0.0)
    if named > 1 + 1e-9 or (named >= 1 and None in (learner, engine)):
        raise ValueError(
            f"ray.learner_gpus and {count} x ray.engine_gpus are parts of one GPU and come to more than 1: lower them, "
            "or leave both null"
        )


def _shares(config: RunConfig, gpus: int) -> tuple[float, float]:
    """Return the GPUs of each rank of the learner, and of each of an engine's ranks."""
    learner, engine = config.ray.learner_gpus, config.ray.engine_gpus
    may_share, must_share = _sharing(config)
    if must_share or (may_share and gpus < 2 and config.engine.count < 2):
        count = max(1, config.engine.count)
        if learner is None:
            learner = 0.5 if engine is None else 1 - count * engine
        return learner, (1 - learner) / count if engine is None else engine
    return 1.0 if learner is None else learner, 1.0 if engine is None else engine


def _engines_beside(config: RunConfig, nodes: Sequence[int]) -> int:
    """Return how many engines fit beside the learner, or in its place, at least 1: each whole on one node."""
    each = engine_gpus(config.engine, config.ray)
    if not each or config.ray.in_process or shares_gpu(config):
        return 1
    free = list(nodes)
    beside = config.model.device == "cuda" and not takes_turns(config)
    for _ in range(config.learner.ranks.size if beside else 0):
        # From where it costs no engine, if there is such a node: as Ray packs, the larger pieces first.
        node = max(range(len(free)), key=lambda index: (free[index] > 0, free[index] % each > 0), default=None)
        if node is not None:
            free[node] -= 1
    return max(1, sum(int(max(0, gpus) / each) for gpus in free))


def _sleeping(config: RunConfig) -> dict[str, bool]:
    """Return the arguments of vLLM for engines that sleep; on CPUs it knows no sleep, and refuses to be told of it."""
    on_gpus = config.engine.kind == "vllm" and config.engine.device == "cuda"
    return dict.fromkeys(SLEEP, True) if takes_turns(config) and on_gpus else {}


def _utilization(engine: EngineConfig, share: float) -> float | None:
    if engine.gpu_memory_utilization is not None or engine.device != "cuda":
        return engine.gpu_memory_utilization
    return round(UTILIZATION * min(1.0, share), 3)
