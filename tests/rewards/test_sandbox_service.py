"""The judge service on real Ray actors: scores, back-pressure, health, the death of a worker."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from evals.evaluate import asks_of, evaluate
from rewards.code.service import JudgeService, QueueFull, ServiceConfig
from rewards.code.types import SandboxFailure
from rewards.reference import Reference
from rl.config import RewardConfig
from rl.rewarding import Rewarder, build_rule
from rollout.grading import Grading
from rollout.types import Group, Problem, StopReason
from tests.eval_kit import Scripted
from tests.factories import rollout
from tests.processes import PATIENCE_S, until, until_gone
from tests.sandbox_kit import asleep, sleepers, wake

pytestmark = pytest.mark.slow
TESTS = [{"input": "3\n", "output": "6\n"}, {"input": "9\n", "output": "18\n"}]
DOUBLE = Reference("", "Print twice the number.", {"tests": TESTS})
UNHURRIED = Reference("", "Print twice the number.", {"tests": TESTS[:1], "time_limit_ms": 1000 * PATIENCE_S})
"""The same with one test and no hurry, for programs that sleep until they are woken."""
RIGHT = "```python\nprint(2 * int(input()))\n```"
WRONG = "```python\nprint(6)\n```"


@pytest.fixture(scope="module")
def service(ray_cluster: str) -> Iterator[JudgeService]:
    opened = JudgeService(ServiceConfig(workers=2, slots=1, queue=2))
    yield opened
    opened.close()


def sleeper(mark: str) -> str:
    """A right response whose program sleeps until ``wake(mark)``."""
    return f"```python\n{asleep(mark)}\nprint(2 * int(input()))\n```"


def test_scores_and_counts(service: JudgeService) -> None:
    assert [service.judge(text, DOUBLE).reward for text in (RIGHT, WRONG, "no program")] == [1.0, 0.0, 0.0]
    unusable = service.judge(RIGHT, Reference("", "", {}))
    assert not unusable.gradable
    assert "no tests" in unusable.reason
    counts = service.statistics()
    assert (counts.accepted, counts.finished, counts.ungradable, counts.refused) == (4, 4, 1, 0)
    assert (counts.waiting, counts.running) == (0, 0)
    assert 0 < counts.waited_s < counts.judging_s


def test_a_run_judges_programs_on_ray_in_training_and_evaluation_alike(ray_cluster: str) -> None:
    """``reward.judges``: one grader for both, and what it counted since the last iteration."""
    config = RewardConfig.model_validate({"judges": 2, "length": None})
    program = Problem.ask("double", "Print twice the number.", "-", "code", extra={"tests": TESTS})
    answers = [RIGHT, WRONG, "no program", RIGHT]
    with Grading(build_rule(config, on_ray=True)) as grading:
        rewarder = Rewarder(config, lambda _, tokens: answers[tokens[0]], grading)
        rollouts = [
            replace(one, segments=(replace(one.segments[0], token_ids=(j,)),))
            for j, one in enumerate(rollout(f"g/{j}", [(0, 1)]) for j in range(4))
        ]
        rollouts[3] = replace(rollouts[3], stop=StopReason.LENGTH)
        rewarder.submit(Group("g", program, tuple(rollouts), 0))
        (scored,) = rewarder.collect(0)
        assert scored.rewards == (1.0, 0.0, 0.0, 0.0)
        counted = rewarder.counts()
        assert (counted["grader/judges_finished"], counted["grader/judges_ungradable"]) == (3.0, 0.0)
        assert counted["grader/judges_judging_s"] > 0

        given = Scripted(lambda ask: answers[ask.sample])
        found = evaluate(given, asks_of([program], 3, 0), grading)
        assert [answer.score for answer in found] == [one.score for one in scored.group.rollouts[:3]]
        assert rewarder.counts()["grader/judges_finished"] == 3.0


def test_health(service: JudgeService) -> None:
    found = service.health()
    assert [worker.alive for worker in found] == [True, True]
    assert len({worker.pid for worker in found} - {os.getpid()}) == 2
    assert all(worker.facts and worker.facts.backend == "bubblewrap" for worker in found)


def test_full_queue_pushes_back(service: JudgeService) -> None:
    mark = f"k15-push-{os.getpid()}"
    before = service.statistics()
    running = [service.submit(sleeper(mark), UNHURRIED) for _ in range(2)]
    until(lambda: len(sleepers(mark)) == 2, "both programs")
    queued = [service.submit(RIGHT, DOUBLE) for _ in range(2)]
    with pytest.raises(QueueFull, match="2 responses wait"):
        service.submit(RIGHT, DOUBLE, wait_s=0)
    with pytest.raises(QueueFull):
        service.submit(RIGHT, DOUBLE, wait_s=0.1)
    assert service.health()[0].alive, "health must answer while all slots are busy"
    with ThreadPoolExecutor(1) as thread:
        patient = thread.submit(service.submit, RIGHT, DOUBLE)  # blocks until there is room
        wake(mark, 2)
        assert all(future.result().correct for future in (*running, *queued, patient.result()))
    assert service.statistics().refused == before.refused + 2


def test_worker_killed_while_judging(service: JudgeService) -> None:
    mark = f"k15-service-{os.getpid()}"
    pids = {worker.pid for worker in service.health()}
    before = service.statistics()
    future = service.submit(sleeper(mark), UNHURRIED)
    until(lambda: sleepers(mark), "the program")
    first = sleepers(mark)
    os.kill(_forebear(first[0], pids), signal.SIGKILL)
    until_gone(first)
    wake(mark)
    assert future.result(PATIENCE_S).correct
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


def test_a_program_whose_supervisor_is_killed_is_judged_again_and_twice_is_ungradable(service: JudgeService) -> None:
    mark = f"k15-inner-{os.getpid()}"
    workers = {worker.pid for worker in service.health()}

    def kill_supervisor() -> None:
        until(lambda: sleepers(mark), "the program")
        first = sleepers(mark)
        os.kill(_forebear(first[0], _children(workers)), signal.SIGKILL)
        until_gone(first)

    future = service.submit(sleeper(mark), UNHURRIED)
    kill_supervisor()
    wake(mark)
    assert future.result(PATIENCE_S).correct
    future = service.submit(sleeper(mark), UNHURRIED)
    kill_supervisor()
    kill_supervisor()
    score = future.result(PATIENCE_S)
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


def test_worker_that_takes_too_long_is_replaced(ray_cluster: str) -> None:
    with_little = JudgeService(ServiceConfig(workers=1, slots=1, patience_s=1.0))
    try:
        score = with_little.judge(sleeper("long"), UNHURRIED)
        assert not score.gradable
        assert "no verdict within 1 s" in score.reason
        assert with_little.statistics().restarts == 1
    finally:
        with_little.close()


def test_closed_service(ray_cluster: str) -> None:
    closing = JudgeService(ServiceConfig(workers=1, slots=1))
    futures = [closing.submit(sleeper("closing"), UNHURRIED) for _ in range(3)]
    closing.close()
    assert not any(future.result(PATIENCE_S).gradable for future in futures)
    with pytest.raises(SandboxFailure, match="closed"):
        closing.submit(RIGHT, DOUBLE)


def test_sandbox_that_does_not_open(ray_cluster: str) -> None:
    with pytest.raises(SandboxFailure, match="no sandbox 'none'"):
        JudgeService(ServiceConfig(sandbox="none"))
