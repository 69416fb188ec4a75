"""``k15 train`` on Ray with the strikes of a plan: ``python -m tests.chaos.cluster STRIKES NODES CONFIG RUN NOTES``.

Victims here are the actors' processes, struck when a call to them has been sent: ``engine``, ``core`` (vLLM's own,
below an engine), ``learner`` (rank 0), ``rank1``; and ``node``, the second of a cluster of two, with all that is there.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import psutil
import yaml

from recipes.run.session import run
from rl.actors import RayPolicy
from rl.config import RunConfig
from rollout.engines.actor import RayEngine
from tests.chaos.doom import Doom, install
from tests.chaos.strikes import RAY_FREEZE_S, Fault, Strike


class ClusterDoom(Doom):
    """Strikes actors' processes and nodes."""

    freeze_s = RAY_FREEZE_S
    nodes: Any = None
    """The cluster, where it has two nodes."""

    def victims(self, name: str) -> list[int]:
        """See ``Doom``."""
        match name:
            case "engine":
                return named("ray::RolloutWor")[-1:]
            case "core":
                return named("VLLM::EngineCor")[-1:]
            case _:
                return super().victims(name)

    def suffer(self, strike: Strike) -> None:
        """See ``Doom``."""
        if strike.victim == "node":
            self._node(strike.fault)
        else:
            super().suffer(strike)

    def _node(self, fault: Fault) -> None:
        """A node is lost with everything on it, and another one comes; or it stands still."""
        worker = next(iter(self.nodes.worker_nodes))
        if fault == "kill":
            self.nodes.remove_node(worker, allow_graceful=False)
            self.nodes.add_node(num_cpus=1)
        else:
            raylet = worker.all_processes["raylet"][0].process.pid
            below = psutil.Process(raylet).children(recursive=True)
            self.stand_still([raylet, *(one.pid for one in below)], fault)


def named(name: str) -> list[int]:
    """Return the descendants of this process whose name begins so, the newest last."""
    below = [one for one in psutil.Process().children(recursive=True) if one.name().startswith(name)]
    return [one.pid for one in sorted(below, key=lambda one: one.create_time())]


def watch(doom: Doom) -> None:
    """Make moments of the calls to engines and learner: each comes when the call has been sent."""
    call, begin, start = RayEngine._call, RayPolicy._begin, RayPolicy._start

    async def called(self: RayEngine, method: str, *args: Any, timeout_s: float | None = None) -> Any:
        sent = asyncio.ensure_future(call(self, method, *args, timeout_s=timeout_s))
        await asyncio.sleep(0)
        doom.come(f"engine.{method}", False)
        value = await sent
        doom.come(f"engine.{method}", True)
        return value

    def begun(self: RayPolicy, method: str, args: Sequence[Any]) -> list[Any]:
        calls = begin(self, method, args)
        doom.come(f"learner.{method}", False)
        return calls

    def started(self: RayPolicy, *args: Any) -> None:
        import ray

        start(self, *args)
        pids = ray.get([actor.__ray_call__.remote(lambda _: os.getpid()) for actor in self.actors])
        for rank, pid in enumerate(pids):
            doom.pids[f"rank{rank}"] = [pid]
        doom.pids["learner"] = pids[:1]

    RayEngine._call = called  # type: ignore[method-assign]
    RayPolicy._begin = begun  # type: ignore[method-assign]
    RayPolicy._start = started  # type: ignore[method-assign]


def main(strikes: str, nodes: int, config: RunConfig, run_dir: Path, notes: Path) -> int:
    """Return the run's exit code, or 98 when a strike has not come."""
    doom = ClusterDoom([*map(Strike.read, strikes.split())], run_dir, notes)
    install(doom)
    watch(doom)
    with ExitStack() as stack:
        if nodes > 1:
            from ray.cluster_utils import Cluster

            processes = config.learner.ranks.size + config.engine.count
            doom.nodes = Cluster(initialize_head=True, head_node_args={"num_cpus": processes - 1})
            stack.callback(doom.nodes.shutdown)
            doom.nodes.add_node(num_cpus=1)
            os.environ["RAY_ADDRESS"] = doom.nodes.address
        code = run(config, run_dir)
    if doom.left:
        print("never struck:", *doom.left, file=sys.stderr)
        return 98
    return code


if __name__ == "__main__":
    strikes, nodes, config, run_dir, notes = sys.argv[1:]
    settings = RunConfig.model_validate(yaml.safe_load(Path(config).read_text()))
    sys.exit(main(strikes, int(nodes), settings, Path(run_dir), Path(notes)))
