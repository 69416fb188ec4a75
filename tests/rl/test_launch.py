"""What can be refused before Ray starts."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest
from paths import ROOT

from rl.actors import memory_use
from rl.config import RewardConfig, RunConfig
from rl.launch import (
    LaunchError,
    check_interpreter,
    check_memory,
    check_run_dir,
    connected,
    local_cores,
    quiet_environment,
    side_by_side,
)
from rollout.engines.guard import MARK
from rollout.reward_models.config import RewardModelConfig


def test_a_path_with_a_space_is_refused_at_once() -> None:
    with pytest.raises(LaunchError, match="has a space"):
        check_interpreter("/home/me/my projects/k15/.venv/bin/python")
    check_interpreter("/home/me/k15/.venv/bin/python")


def test_a_run_directory_that_ray_would_delete_is_refused(tmp_path: Path) -> None:
    with pytest.raises(LaunchError, match="absolute --run-dir"):
        check_run_dir(Path("/tmp/ray/session_1/runtime_resources/working_dir_files/_ray_pkg_0/runs/quickstart"))
    check_run_dir(tmp_path)


def test_a_cluster_that_is_not_there_is_said_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """By who refused it: Ray alone tries for more than three minutes, and says something else then."""
    for name in ("RAY_ADDRESS", "RAY_OVERRIDE_JOB_RUNTIME_ENV", *quiet_environment()):
        monkeypatch.setenv(name, "")  # so that what is set below goes again
        monkeypatch.delenv(name)
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    config = RunConfig.model_validate({"ray": {"address": f"127.0.0.1:{port}"}})
    with pytest.raises(LaunchError, match=f"no Ray cluster answers at '127.0.0.1:{port}'.*refused"), connected(config):
        pytest.fail("there is nothing to connect to")


@pytest.mark.parametrize(("failures", "starts"), [(2, True), (3, False)])
def test_a_local_cluster_that_comes_up_too_late_is_started_again(
    failures: int, starts: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ray's own patience of 30 s does not depend on how busy the machine is."""
    import ray

    attempts = []

    def init(*_: object, **__: object) -> None:
        attempts.append(ray.is_initialized())
        if len(attempts) <= failures:
            raise Exception("The current node timed out during startup.\nMore about it.")

    for name in ("RAY_ADDRESS", "RAY_OVERRIDE_JOB_RUNTIME_ENV", MARK, *quiet_environment()):
        monkeypatch.setenv(name, "")  # so that what is set below goes again
        monkeypatch.delenv(name)
    monkeypatch.setattr(ray, "init", init)
    if starts:
        with connected(RunConfig()):
            pass
    else:
        with (
            pytest.raises(LaunchError, match=r"Ray did not start .* timed out during startup\. The same"),
            connected(RunConfig()),
        ):
            pytest.fail("there is no cluster")
    assert attempts == [False] * 3


def test_more_processes_than_this_machine_can_hold_are_refused() -> None:
    """A local cluster has as many cores as were asked for; before, it began to start them all."""
    many = RunConfig.model_validate({"learner": {"ranks": {"shard": 1000}}})
    with pytest.raises(LaunchError, match=r"1000 ranks and 1 engine take 300 GiB .* this machine has 24.0; lower"):
        check_memory(many, 24 * 2**30)
    check_memory(RunConfig.model_validate({"learner": {"ranks": {"shard": 3}}, "engine": {"count": 2}}), 4 * 2**30)
    judged = many.model_copy(update={"reward": RewardConfig(model=RewardModelConfig(path="judge"))})
    with pytest.raises(LaunchError, match=r"1000 ranks and 1 engine beside 1 engine of a reward model take 301 GiB"):
        check_memory(judged, 24 * 2**30)


def test_a_local_cluster_has_a_core_for_every_process_and_a_judges_engines_among_them() -> None:
    """A judge is placed after learner and engines: on two cores there was none left for it."""
    plain = RunConfig()
    assert [local_cores(plain, here) for here in (1, 2, 8)] == [2, 2, 8]
    judged = {"reward": {"model": {"path": "judge"}}}
    assert local_cores(RunConfig.model_validate(judged), 2) == 3
    judged["reward"]["model"]["engine"] = {"count": 4}
    assert local_cores(RunConfig.model_validate(judged), 2) == 6


@pytest.mark.slow
def test_a_cluster_that_somebody_has_on_this_machine_is_not_joined() -> None:
    """``ray start`` leaves its address in Ray's directory, for every program that names none."""
    program = """
import ray
from rl.config import RunConfig
from rl.launch import connected
with connected(RunConfig()):
    print(ray.get_runtime_context().gcs_address)
"""
    with tempfile.TemporaryDirectory() as folder:  # a socket's path in it must be short
        (Path(folder) / "ray").mkdir()
        (Path(folder) / "ray" / "ray_current_cluster").write_text("127.0.0.1:9")
        environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
        environment |= {"RAY_TMPDIR": folder, "PYTHONPATH": str(ROOT)}
        done = subprocess.run(
            [sys.executable, "-c", program], env=environment, check=False, capture_output=True, text=True
        )
    assert done.returncode == 0, done.stderr
    assert not done.stdout.strip().endswith(":9")


def test_what_the_user_has_set_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLLM_LOGGING_LEVEL", "INFO")
    monkeypatch.delenv("VLLM_NO_USAGE_STATS", raising=False)
    assert quiet_environment()["VLLM_LOGGING_LEVEL"] == "INFO"
    assert quiet_environment()["VLLM_NO_USAGE_STATS"] == "1"


def test_a_memory_kill_is_told_in_one_line() -> None:
    """Ray's own text is a page; before, it came with a traceback."""
    page = (
        "1 worker(s) were killed due to the node running low on memory. Memory on the node (IP: 192.0.2.2, ID: 8) was "
        "22.54GB used / 23.54GB limit (0.957469)\nOOM kill reason: memory use above the threshold\nTop 10 memory users:"
    )
    assert memory_use(page) == "22.54GB used / 23.54GB limit"
    assert memory_use("something else\nand more") == "something else"


def test_who_works_at_the_same_time_shares_the_cores() -> None:
    def threads(cores: int, **changes: Any) -> tuple[int, int]:
        found = side_by_side(RunConfig.model_validate(changes), cores)
        return found.model.threads, found.engine.threads

    assert threads(8) == (0, 0), "in turn each has all of them"
    assert threads(8, overlap={"max_staleness": 1}) == (4, 4)
    assert threads(8, overlap={"max_staleness": 1}, engine={"count": 3}) == (2, 2)
    assert threads(2, overlap={"max_staleness": 1}, engine={"count": 3}) == (1, 1)
    assert threads(8, overlap={"max_staleness": 1}, model={"threads": 1}) == (1, 4)
    assert threads(8, overlap={"max_staleness": 1}, engine={"device": "cuda", "dtype": "bfloat16"}) == (8, 8), (
        "the engine has its GPU"
    )
