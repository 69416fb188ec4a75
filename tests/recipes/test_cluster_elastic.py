"""A run whose second engine joins with a node of the cluster, works, and leaves with it."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cluster_kit import Run

from rl.record.timeline import read_timeline
from rollout.timeline import engine_lane
from tests.processes import until

pytestmark = pytest.mark.slow


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """One node, with room for the learner and one engine."""
    from ray.cluster_utils import Cluster

    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 2})
    monkeypatch.setenv("RAY_ADDRESS", made.address)
    yield made
    made.shutdown()


def test_an_engine_joins_with_its_node_and_leaves_with_it(cluster: Any, tmp_path: Path) -> None:
    run = Run(tmp_path, "hf", every=1)
    process = run.start("--iterations", "100000", "--engine.most", "2", "--overlap", "1")

    def said(words: str) -> None:
        def there() -> bool:
            output = (tmp_path / "output.txt").read_text()
            assert process.poll() is None, output
            return words in output

        until(there, words)

    run.wait_for_checkpoint(process)
    node = cluster.add_node(num_cpus=1)
    said("engine 1 joins")
    until(lambda: sampled(run.directory.root), "tokens of engine 1")
    cluster.remove_node(node, allow_graceful=False)
    said("engine 1 leaves: its node is gone")
    run.wait_for_checkpoint(process, beyond=run.newest() + 1)
    process.send_signal(signal.SIGTERM)
    assert run.end(process) == 128 + signal.SIGTERM, run.output
    rows = run.stored()
    assert len({row["rollout"] for row in rows}) == len(rows) > 0
    assert all(row["stop"] for row in rows), "each went to its end"


def sampled(folder: Path) -> bool:
    lane = engine_lane(1)
    return any(span.lane == lane and span.what == "sample" for part in read_timeline(folder) for span in part.spans)
