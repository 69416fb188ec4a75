"""What tests of several files share, started once: a Ray cluster."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
START_ATTEMPTS = 3
"""Ray gives its own processes 30 s to come up, and no setting changes that: too little beside enough other work."""


# Before any test imports torch: tiny tensors on several threads only wait for each other, for long on a busy machine.
# Programs that tests start inherit it; k15 itself sets what a run asks for.
os.environ.setdefault("OMP_NUM_THREADS", "1")

ON_RAY = ("test_math_contexts", "test_sandbox_service", "test_shorten", "test_worker")
"""Files whose slow tests share the cluster below."""
IN_PROCESS = ("test_moba_vllm", "test_vllm_engine")
"""Files whose slow tests have vLLM in their own process, which takes ten CPU seconds to import."""
TOGETHER = ("test_code_hostile", "test_faults", "test_run", "test_setup", "test_shorten")
"""Files whose quick tests share what takes long to make: a trained run, verdicts, a venv."""


@pytest.hookimpl(tryfirst=True)  # before xdist looks for groups
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Keep what shares an engine, a cluster or a run in one process of ``pytest -n N --dist loadgroup``."""
    for item in items:
        name = item.path.stem
        if item.get_closest_marker("slow"):
            group = "ray" if name in ON_RAY else "vllm" if name in IN_PROCESS else name
            item.add_marker(pytest.mark.xdist_group(group))
        elif name in TOGETHER:
            item.add_marker(pytest.mark.xdist_group(name))


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
