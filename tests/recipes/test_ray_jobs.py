"""``ray job submit -- k15 train ...`` on a real cluster of its own, with token authentication on."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.processes import PATIENCE_S, until

pytestmark = pytest.mark.slow

BIN = Path(sys.executable).parent
POLL_S = 0.5
"""Between two questions to the head: each costs it processor time that the job could use."""
SMALL = """
model: {base: {kind: scratch, layers: 1, width: 32, heads: 2, kv_heads: 2, mlp_width: 64, context: 128}}
problems: {heldout_size: 4}
warmup: {examples: 24, batch_tokens: 256, then: []}
engine: {kind: hf, threads: 1, max_model_len: 128}
rollout: {groups: 3, k: 2, segment_tokens: 12, max_tokens: 30}
learner: {updates: 2}
eval: {every: 0, samples: 1, greedy: false}
checkpoint: {every: 1}
log: {live: false}
"""
STOP_PATIENCE = json.dumps({"env_vars": {"RAY_JOB_STOP_WAIT_TIME_S": "600", "VLLM_LOGGING_LEVEL": "ERROR"}})
"""Ray kills a stopped job after 3 s otherwise. The second variable is one that k15 sets, too: no conflict."""


@dataclass(frozen=True)
class Head:
    """A cluster of one node."""

    url: str
    token_path: Path
    environment: dict[str, str]
    process: subprocess.Popen[bytes]

    def get(self, path: str, method: str = "GET", token: str | None = None) -> Any:
        bearer = self.token_path.read_text() if token is None else token
        request = urllib.request.Request(self.url + path, method=method, headers={"Authorization": f"Bearer {bearer}"})
        with urllib.request.urlopen(request, timeout=PATIENCE_S) as answer:
            return json.load(answer)

    def submit(self, name: str, *command: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """``ray job submit``, which follows the job's output to its end unless ``--no-wait`` says otherwise."""
        ray = [str(BIN / "ray"), "job", "submit", "--address", self.url, "--submission-id", name]
        variables = {**self.environment, **environment}
        return subprocess.run([*ray, *command], env=variables, capture_output=True, text=True, timeout=PATIENCE_S)

    def members(self) -> list[psutil.Process]:
        """Every process of this cluster and of its jobs: all inherit the path of the token."""
        mine = {"RAY_AUTH_TOKEN_PATH": str(self.token_path)}
        found = []
        for process in psutil.process_iter():
            try:
                if mine.items() <= process.environ().items() and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
            except psutil.Error:
                continue
        return found


def free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("", 0)) for _ in range(count)]
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


@pytest.fixture(scope="module")
def head() -> Iterator[Head]:
    pytest.importorskip("ray")
    folder = Path(tempfile.mkdtemp(prefix="k15-"))  # Ray's sockets lie in it: its path must be short
    token_path = folder / "token"
    token_path.touch(mode=0o600)
    token_path.write_text(secrets.token_hex(32))
    gcs, dashboard, client, agent = free_ports(4)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")} | {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(token_path),
        "RAY_USAGE_STATS_ENABLED": "0",
    }
    command = [
        *(str(BIN / "ray"), "start", "--head", "--block", "--temp-dir", str(folder / "ray")),
        *("--port", str(gcs), "--dashboard-port", str(dashboard), "--ray-client-server-port", str(client)),
        *("--dashboard-agent-listen-port", str(agent), "--min-worker-port", "0", "--max-worker-port", "0"),
        *("--num-cpus", "3", "--num-gpus", "0", "--object-store-memory", "100000000"),
    ]
    log = folder / "head.log"
    with log.open("wb") as file:
        process = subprocess.Popen(command, env=environment, stdout=file, stderr=file, start_new_session=True)
    cluster = Head(f"http://127.0.0.1:{dashboard}", token_path, environment, process)

    def serves() -> bool:
        assert process.poll() is None, log.read_text()
        try:
            return isinstance(cluster.get("/api/jobs/"), list)
        except OSError:
            return False

    try:
        until(serves, "the head", POLL_S)
        yield cluster
    finally:
        process.terminate()  # not `ray stop`: it would end every Ray process of this machine
        try:
            process.wait(PATIENCE_S)
        finally:
            for left in cluster.members():
                left.kill()
            process.wait(PATIENCE_S)
            shutil.rmtree(folder)


def test_nobody_submits_without_the_token(head: Head, tmp_path: Path) -> None:
    for token in ("", "0" * 64):
        with pytest.raises(urllib.error.HTTPError) as refused:
            head.get("/api/jobs/", token=token)
        assert refused.value.code in (401, 403)
    train = (str(BIN / "k15"), "train", "quickstart", "--run-dir", str(tmp_path / "run"))
    done = head.submit("intruder", "--", *train, RAY_AUTH_MODE="disabled", RAY_AUTH_TOKEN_PATH="", HOME=str(tmp_path))
    assert done.returncode != 0
    assert "Missing authentication token" in done.stderr
    assert head.get("/api/jobs/") == []
    assert not (tmp_path / "run").exists()


def test_a_job_trains_on_the_cluster_and_stopped_it_resumes(head: Head, tmp_path: Path) -> None:
    run = tmp_path / "run"
    checkpoints = run / "checkpoints"
    config = tmp_path / "small.yaml"
    config.write_text(SMALL)
    train = (str(BIN / "k15"), "train", "quickstart", "--config", str(config), "--run-dir", str(run))

    done = head.submit("first", "--no-wait", "--runtime-env-json", STOP_PATIENCE, "--", *train, "--iterations", "999")
    assert done.returncode == 0, done.stderr

    def saved() -> bool:
        job = head.get("/api/jobs/first")
        assert job["status"] in ("PENDING", "RUNNING"), job
        return bool(list(checkpoints.glob("[0-9]*")))

    until(saved, "a checkpoint", POLL_S)
    assert {"LearnerRank", "RolloutWorker"} <= living_actors(head), "the run is not on the cluster it was submitted to"
    assert len([one for one in head.members() if one.name() == "gcs_server"]) == 1, "the job began its own cluster"
    head.get("/api/jobs/first/stop", method="POST")
    until(lambda: head.get("/api/jobs/first")["status"] == "STOPPED", "the stop", POLL_S)
    assert "the same command resumes" in head.get("/api/jobs/first/logs")["logs"]
    until(lambda: not {"LearnerRank", "RolloutWorker"} & living_actors(head), "the end of the actors", POLL_S)

    last = int(sorted(checkpoints.glob("[0-9]*"))[-1].name) + 1
    done = head.submit("second", "--", *train, "--iterations", str(last))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "'second' succeeded" in done.stdout + done.stderr
    assert f"it {last}/{last}" in done.stdout, "it began anew, or its output did not come through"
    assert head.get("/api/jobs/second")["status"] == "SUCCEEDED"
    assert json.loads((run / "summary.json").read_text())["iterations"] == last
    assert (run / "report.html").exists()


def living_actors(head: Head) -> set[str]:
    answer = head.get("/api/v0/actors?limit=100")["data"]["result"]["result"]
    return {actor["class_name"].rpartition(".")[2] for actor in answer if actor["state"] == "ALIVE"}
