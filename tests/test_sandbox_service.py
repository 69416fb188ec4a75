"""The judge service on real Ray actors: scores, back-pressure, health, the death of a worker."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator

import pytest

from rewards.code.service import JudgeService, QueueFull, ServiceConfig
from rewards.code.types import SandboxFailure
from rewards.reference import Reference
from tests.sandbox_kit import marked

pytestmark = pytest.mark.slow
TESTS = [{"input": "3\n", "output": "6\n"}, {"input": "9\n", "output": "18\n"}]
DOUBLE = Reference("", "Print twice the number.", {"tests": TESTS})
RIGHT = "```python\nprint(2 * int(input()))\n```"
WRONG = "```python\nprint(6)\n```"


@pytest.fixture(scope="module")
def service() -> Iterator[JudgeService]:
    import ray

    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    opened = JudgeService(ServiceConfig(workers=2, slots=1, queue=2))
    yield opened
    opened.close()
    ray.shutdown()


def sleeper(mark: str, seconds: float) -> str:
    """A response whose program sleeps, with ``mark`` on its command line."""
    command = f"subprocess.run(['sh', '-c', ': {mark}; sleep {seconds}'])"
    return f"```python\nimport subprocess\n{command}\nprint(2 * int(input()))\n```"


def test_scores_and_counts(service: JudgeService) -> None:
    assert [service.judge(text, DOUBLE).total for text in (RIGHT, WRONG, "no program")] == [1.0, 0.0, 0.0]
    unusable = service.judge(RIGHT, Reference("", "", {}))
    assert not unusable.gradable
    assert "no tests" in unusable.reason
    counts = service.statistics()
    assert (counts.accepted, counts.finished, counts.ungradable, counts.refused) == (4, 4, 1, 0)
    assert (counts.waiting, counts.running) == (0, 0)
    assert 0 < counts.waited_s < counts.judging_s


def test_health(service: JudgeService) -> None:
    found = service.health()
    assert [worker.alive for worker in found] == [True, True]
    assert len({worker.pid for worker in found} - {os.getpid()}) == 2
    assert all(worker.facts and worker.facts.backend == "bubblewrap" for worker in found)


def test_full_queue_pushes_back(service: JudgeService) -> None:
    before = service.statistics()
    running = [service.submit(sleeper("push", 1.5), DOUBLE) for _ in range(2)]
    while service.statistics().running < 2:
        time.sleep(0.01)
    queued = [service.submit(RIGHT, DOUBLE) for _ in range(2)]
    with pytest.raises(QueueFull, match="2 responses wait"):
        service.submit(RIGHT, DOUBLE, wait_s=0)
    with pytest.raises(QueueFull):
        service.submit(RIGHT, DOUBLE, wait_s=0.1)
    assert service.health()[0].alive, "health must answer while all slots are busy"
    patient = service.submit(RIGHT, DOUBLE)  # blocks until there is room
    assert all(future.result().correct for future in (*running, *queued, patient))
    assert service.statistics().refused == before.refused + 2


def test_worker_killed_while_judging(service: JudgeService) -> None:
    mark = f"k15-service-{os.getpid()}"
    pids = {worker.pid for worker in service.health()}
    before = service.statistics()
    future = service.submit(sleeper(mark, 3), DOUBLE)
    while not (inside := marked(f": {mark};")):
        time.sleep(0.02)
    os.kill(_forebear(inside[0], pids), signal.SIGKILL)
    assert future.result(60).correct
    after = service.statistics()
    assert (after.retried - before.retried, after.restarts - before.restarts) == (1, 1)
    assert after.ungradable == before.ungradable
    assert [worker.alive for worker in service.health()] == [True, True]


def _forebear(pid: int, among: set[int]) -> int:
    """Which of these processes a sandboxed one descends from: above it are monitor, supervisor and worker."""
    while pid not in among:
        with open(f"/proc/{pid}/stat") as stat:
            pid = int(stat.read().rpartition(")")[2].split()[1])
    return pid


def test_supervisor_killed_is_ungradable_and_mended(service: JudgeService) -> None:
    mark = f"k15-inner-{os.getpid()}"
    future = service.submit(sleeper(mark, 3), DOUBLE)
    while not (inside := marked(f": {mark};")):
        time.sleep(0.02)
    workers = {worker.pid for worker in service.health()}
    os.kill(_forebear(inside[0], _children(workers)), signal.SIGKILL)
    score = future.result(60)
    assert not score.gradable
    assert "supervisor ended" in score.reason
    assert service.judge(RIGHT, DOUBLE).correct
    assert service.judge(RIGHT, DOUBLE).correct


def _children(workers: set[int]) -> set[int]:
    found: set[int] = set()
    for worker in workers:
        for task in os.listdir(f"/proc/{worker}/task"):
            with open(f"/proc/{worker}/task/{task}/children") as children:
                found |= set(map(int, children.read().split()))
    return found


def test_worker_that_takes_too_long_is_replaced() -> None:
    with_little = JudgeService(ServiceConfig(workers=1, slots=1, patience_s=1.0))
    try:
        score = with_little.judge(sleeper("long", 30), DOUBLE)
        assert not score.gradable
        assert "no verdict within 1 s" in score.reason
        assert with_little.statistics().restarts == 1
    finally:
        with_little.close()


def test_closed_service() -> None:
    closing = JudgeService(ServiceConfig(workers=1, slots=1))
    futures = [closing.submit(sleeper("closing", 30), DOUBLE) for _ in range(3)]
    closing.close()
    assert not any(future.result(10).gradable for future in futures)
    with pytest.raises(SandboxFailure, match="closed"):
        closing.submit(RIGHT, DOUBLE)


def test_sandbox_that_does_not_open() -> None:
    with pytest.raises(SandboxFailure, match="no sandbox 'none'"):
        JudgeService(ServiceConfig(sandbox="none"))
