"""Which ranks and engines must be on one node, and whether a cluster can ever hold them. Pure functions."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rl.config import RunConfig
from rl.learner.config import RanksConfig
from rl.placement import engine_gpus, learner_gpus, takes_turns

Resources = Mapping[str, float]
"""Amounts by Ray's names of resources."""


@dataclass(frozen=True)
class Places:
    """What a run reserves on a cluster."""

    bundles: tuple[Resources, ...]
    """Each is whole on one node."""
    ranks: tuple[int, ...]
    """The bundle of each of the learner's ranks."""
    engines: tuple[int, ...]
    """The bundle of each engine."""
    rank_gpus: tuple[tuple[int, ...], ...] = ()
    """Where learner and engines have GPUs in turn: which ones of its bundle each rank has, by number from 0. Empty:
    Ray gives each what it needs.
    """
    engine_gpus: tuple[tuple[int, ...], ...] = ()
    """The same of each engine."""


def places(config: RunConfig, nodes: Sequence[Resources]) -> Places:
    """Return what a resolved configuration reserves on ``nodes``: a core for each process, and GPUs."""
    rank = {"CPU": 1.0} | ({"GPU": gpus} if (gpus := learner_gpus(config)) else {})
    engine = {"CPU": 1.0} | ({"GPU": gpus} if (gpus := engine_gpus(config.engine, config.ray)) else {})
    if takes_turns(config) and gpus:
        return in_turn(config.learner.ranks, config.engine.count, round(gpus), nodes)
    return lay_out(rank, engine, config.learner.ranks, config.engine.count, config.engine.weight_transfer, nodes)


def lay_out(
    rank: Resources, engine: Resources, ranks: RanksConfig, engines: int, transfer: str, nodes: Sequence[Resources]
) -> Places:
    """Return the places of a learner's ``ranks`` and of some ``engines``, which need so much each, on ``nodes``.

    Ranks that exchange a sequence's heads are on one node where one can hold them. Engines read ``shm`` where rank 0
    wrote it, and ``ipc`` on its device; for ``nccl`` they can be anywhere.
    """
    beside = [] if transfer == "nccl" else [engine] * engines
    if transfer == "ipc":
        together = total([*[rank] * ranks.size, *beside])
        return Places((together,), (0,) * ranks.size, (0,) * engines)
    group = ranks.sequence if _fit(ranks.sequence, rank, beside, nodes) else 1
    bundles = [total([rank] * group) for _ in range(ranks.size // group)]
    bundles[0] = total([bundles[0], *beside])
    own = [] if beside else [engine] * engines
    where = range(len(bundles), len(bundles) + len(own)) if own else [0] * engines
    return Places((*bundles, *own), tuple(index // group for index in range(ranks.size)), tuple(where))


def in_turn(ranks: RanksConfig, engines: int, each: int, nodes: Sequence[Resources]) -> Places:
    """Return the places of a learner's ``ranks`` and of ``engines`` of ``each`` GPUs on the same GPUs of ``nodes``.

    Ray knows no turns: it would give a GPU to one of them, or pack two ranks on one. So what runs on a node is one
    bundle, and who has which of its GPUs is said here. Nodes with most GPUs come first; ranks that exchange a
    sequence's heads are on one node where one can hold them. What no node has room for is a bundle more, which
    ``refusal`` tells of.
    """
    room = sorted((int(node.get("GPU", 0.0)) for node in nodes), reverse=True)
    group = ranks.sequence if room and ranks.sequence <= room[0] else 1
    here = _filled(ranks.size, room, group)
    there = _filled(engines, [gpus // each for gpus in room], 1)
    used = [(r, e) for r, e in zip(here, there, strict=True) if r or e]
    return Places(
        tuple({"CPU": float(r + e), "GPU": float(max(r, e * each))} for r, e in used),
        tuple(index for index, (r, _) in enumerate(used) for _ in range(r)),
        tuple(index for index, (_, e) in enumerate(used) for _ in range(e)),
        tuple((number,) for r, _ in used for number in range(r)),
        tuple(tuple(range(number * each, (number + 1) * each)) for _, e in used for number in range(e)),
    )


def _filled(count: int, room: Sequence[int], together: int) -> list[int]:
    """Return how many of ``count`` go where, filling ``room`` from its first place on; the last of them is without
    bound.
    """
    found = []
    for most in room:
        found.append(min(count, most // together * together))
        count -= found[-1]
    return [*found, count]


def _fit(group: int, rank: Resources, beside: Sequence[Resources], nodes: Sequence[Resources]) -> bool:
    return fits(total([*[rank] * group, *beside]), nodes)


def refusal(places: Places, nodes: Sequence[Resources]) -> str:
    """Return why ``nodes`` cannot hold ``places`` even when nothing else runs there; empty where that may be."""
    wanted, there = total(places.bundles), total(nodes)
    short = [name for name, amount in wanted.items() if amount > there.get(name, 0.0) + 1e-9]
    if short:
        return f"they need {shown(wanted)} in all, and the cluster has {shown({n: there.get(n, 0.0) for n in wanted})}"
    for bundle in places.bundles:
        if not fits(bundle, nodes):
            largest = {name: max(node.get(name, 0.0) for node in nodes) for name in bundle}
            return f"{shown(bundle)} have to be on one node, and no node has more than {shown(largest)}"
    return ""


def fits(bundle: Resources, nodes: Sequence[Resources]) -> bool:
    """Return whether one of ``nodes`` can hold ``bundle``."""
    return any(all(node.get(name, 0.0) + 1e-9 >= amount for name, amount in bundle.items()) for node in nodes)


def total(parts: Sequence[Resources]) -> dict[str, float]:
    """Return the sum of some resources."""
    names = dict.fromkeys(name for part in parts for name in part)
    return {name: round(math.fsum(part.get(name, 0.0) for part in parts), 4) for name in names}


def shown(resources: Resources) -> str:
    """Return amounts in words: ``4 CPU and 2 GPU``."""
    return " and ".join(f"{amount:g} {name}" for name, amount in resources.items())
