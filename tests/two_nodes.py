"""A run on a Ray cluster of two nodes on this machine: ``python -m tests.two_nodes CONFIG RUN [KEYS]``.

The first has room for all but one process. ``RUN/nodes.json`` gets the node of each of the learner's ranks.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from recipes.commands.choose import resolve
from recipes.run.launching import Machines, launch
from recipes.run.session import run
from recipes.run.setup import Setup
from rl.config import RunConfig
from rl.state.run_dir import RunDir


def noted(setup: Setup, directory: RunDir, stack: ExitStack, claim: Callable[[], None]) -> Machines:
    """``launch``, and note who is where."""
    import ray

    machines = launch(setup, directory, stack, claim)
    asked = [
        actor.__ray_call__.remote(lambda _: ray.get_runtime_context().get_node_id())
        for actor in machines.policy.actors  # type: ignore[union-attr]
    ]
    (directory.root / "nodes.json").write_text(json.dumps(ray.get(asked)))
    return machines


def main(config: RunConfig, folder: Path) -> int:
    from ray.cluster_utils import Cluster

    processes = config.learner.ranks.size + config.engine.count
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": processes - 1})
    cluster.add_node(num_cpus=1)
    os.environ["RAY_ADDRESS"] = cluster.address
    try:
        return run(config, folder, noted)
    finally:
        cluster.shutdown()


if __name__ == "__main__":
    _, file, folder, *keys = sys.argv
    pairs = [(name.removeprefix("--"), value) for name, value in zip(keys[::2], keys[1::2], strict=True)]
    sys.exit(main(resolve(None, Path(file), pairs), Path(folder)))
