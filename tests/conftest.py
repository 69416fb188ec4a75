"""What tests of several files share, started once: a Ray cluster."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from paths import ROOT
from xdist.scheduler import LoadScopeScheduling

settings.register_profile("k15", deadline=None)  # how long an example takes on a busy machine says nothing of it
settings.load_profile("k15")

START_ATTEMPTS = 3
"""Ray gives its own processes 30 s to come up, and no setting changes that: too little beside enough other work."""


# Before any test imports torch: tiny tensors on several threads only wait for each other, for long on a busy machine.
# Programs that tests start inherit it; k15 itself sets what a run asks for.
os.environ.setdefault("OMP_NUM_THREADS", "1")

SLOW_TOGETHER = {
    **dict.fromkeys(
        (
            "test_actors",
            "test_alone",
            "test_curate_cluster",
            "test_math_contexts",
            "test_sandbox_service",
            "test_shorten",
            "test_worker",
        ),
        "ray_cluster",
    ),
    **dict.fromkeys(("test_head_vllm", "test_moba_vllm", "test_vllm_engine", "test_vllm_flight"), "vllm"),
    # Two at the same time, each with a Ray of its own, take longer than one after the other: all of it waits awake.
    **dict.fromkeys(
        (
            "test_cluster",
            "test_cluster_elastic",
            "test_cluster_ranks",
            "test_launch",
            "test_placement",
            "test_ray_jobs",
        ),
        "clusters",
    ),
}
"""Files whose slow tests share more than their own fixtures: the cluster below, vLLM's import of ten CPU seconds."""
RANKS = (
    *(
        "test_accumulation",
        "test_broadcast",
        "test_classifier",
        "test_movement",
        "test_offload_learner",
        "test_rank_kit",
        "test_ranks",
        "test_saving",
        "test_sequence_ranks",
    ),
    *("test_sharded_muon", "test_sharded_optimizer", "test_sharding", "test_shards", "test_ulysses"),
)
QUICK_TOGETHER = {
    name: name
    for name in (
        "test_code_hostile",
        "test_faults",
        "test_run",
        "test_setup",
        "test_shorten",
        "test_weights_gpu",
    )
} | dict.fromkeys(RANKS, "ranks")
"""Files whose quick tests share what takes long to make: a trained run, verdicts, a venv, vLLM's import, the server of
ranks."""


class Together(LoadScopeScheduling):
    """Of xdist's ways to spread tests, one that keeps in one process what shares an engine, a cluster or a run.

    By file, not by marks: those of xdist's own `loadgroup` get lost with pytest 9.2.
    """

    def _split_scope(self, nodeid: str) -> str:
        name = Path(nodeid.partition("::")[0]).stem
        if self.config.option.markexpr.startswith("slow"):
            return SLOW_TOGETHER.get(name, name)
        return QUICK_TOGETHER.get(name, nodeid)

    def _assign_work_unit(self, node: Any) -> None:
        """The longest first: to xdist that is what has most tests, and these are nine."""
        if "clusters" in self.workqueue:
            self.workqueue.move_to_end("clusters", last=False)
        super()._assign_work_unit(node)


def pytest_collection_finish() -> None:
    """From here on nothing that a test imports is compiled to a file: what it writes anew within a second, and as
    long, Python would take for what was there before.
    """
    sys.dont_write_bytecode = True


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> LoadScopeScheduling | None:
    """``--dist loadgroup`` means the above."""
    return Together(config, log) if config.getoption("dist") == "loadgroup" else None


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[str]:
    """A cluster of one node to which this process is connected; its address, for programs that join it.

    For tests that need *a* cluster. Those about how a run starts and ends its own have one of their own. Logical CPUs
    are plenty, so that nothing waits for what an earlier test left to be reclaimed; workers start when they are needed.
    """
    ray = pytest.importorskip("ray")
    path = os.pathsep.join([str(ROOT / "tests"), str(ROOT), os.environ.get("PYTHONPATH", "")])
    for attempt in range(1, START_ATTEMPTS + 1):
        try:
            ray.init(
                "local",
                num_cpus=16,
                include_dashboard=False,
                log_to_driver=False,
                logging_level="ERROR",
                namespace="k15-tests",
                runtime_env={"env_vars": {"PYTHONPATH": path}},
                _system_config={"prestart_worker_first_driver": False},
            )
            break
        except Exception:  # a bare one is what Ray raises
            ray.shutdown()
            if attempt == START_ATTEMPTS:
                raise
    yield ray.get_runtime_context().gcs_address
    ray.shutdown()
