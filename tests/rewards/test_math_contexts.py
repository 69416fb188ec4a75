"""The grading processes: limits, crashes, replacement; from threads, coroutines, forks and Ray actors."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from paths import ROOT

from rewards.math.grade import grade
from rewards.math.pool import GraderFailure, GraderPool
from tests.processes import running, until_gone

BOMB = "9^{9^{9^{9}}}"


@pytest.fixture
def pool() -> Iterator[GraderPool]:
    pool = GraderPool(1)
    yield pool
    pool.close()


def right(pool: GraderPool) -> bool:
    return pool.ask(r"\sqrt{8}", r"2\sqrt{2}", 20).same


def boxed(answer: str) -> str:
    return rf"\boxed{{{answer}}}"


SLOW_ANSWER = "+".join(rf"\arctan({n}^{{{n}/7}})" for n in range(20, 90))
SLOW_REFERENCE = "+".join(rf"\sum_{{k=1}}^{{{n}}}\sin(k\sqrt k)" for n in range(200, 230))
LIMIT_S = 0.01
"""A tenth and a hundredth of what these take, and ten times what the other side of the comparison takes."""


def test_an_answer_that_spends_its_processor_time_is_wrong_and_the_next_item_still_grades(pool: GraderPool) -> None:
    assert right(pool)
    verdict = pool.ask(r"\sin 2+\sqrt{8}", SLOW_ANSWER, LIMIT_S)
    assert (verdict.same, verdict.reason) == (False, "cannot be worked out within 0.01 s")
    assert right(pool)


def test_a_reference_that_spends_the_limit_is_a_failure(pool: GraderPool) -> None:
    assert right(pool)
    with pytest.raises(GraderFailure, match=r"took longer than 0\.01 s"):
        pool.ask(SLOW_REFERENCE, r"\sqrt{8}", LIMIT_S)
    assert right(pool)


def test_a_worker_without_processor_time_is_a_failure_not_a_verdict(pool: GraderPool) -> None:
    assert right(pool)
    (worker,) = pool._living
    os.kill(worker.pid, signal.SIGSTOP)  # what a starved machine looks like
    with pytest.raises(GraderFailure, match="took longer"):
        pool.ask(r"\sqrt{8}", "3", 0.01)
    assert right(pool)


def test_a_worker_that_waits_for_a_processor_is_waited_for(pool: GraderPool) -> None:
    """The limit is one of processor time: a verdict does not depend on what else the machine does."""
    assert right(pool)
    (worker,) = pool._living
    os.kill(worker.pid, signal.SIGSTOP)
    threading.Timer(1.5, os.kill, (worker.pid, signal.SIGCONT)).start()
    assert pool.ask(r"\sqrt{8}", r"2\sqrt{2}", 1.0).same


def test_dead_workers_and_a_dead_nursery_are_replaced(pool: GraderPool) -> None:
    assert right(pool)
    os.kill(pool._living[0].pid, signal.SIGKILL)
    assert right(pool)
    assert pool._nursery is not None
    pool._nursery.process.kill()
    pool._nursery.process.wait()
    assert right(pool)


def test_a_crash_without_cause_is_repaired_within_the_item(pool: GraderPool) -> None:
    assert right(pool)
    (worker,) = pool._living
    os.kill(worker.pid, signal.SIGSTOP)  # so that it is surely at work when it is killed
    threading.Timer(0.3, os.kill, (worker.pid, signal.SIGKILL)).start()
    assert pool.ask(r"\sqrt{8}", r"2\sqrt{2}", 20).same


def test_memory_is_limited(pool: GraderPool) -> None:
    assert right(pool)
    limits = Path(f"/proc/{pool._living[0].pid}/limits").read_text()
    line = next(line for line in limits.splitlines() if line.startswith("Max address space"))
    assert int(line.split()[3]) == 2**30
    cpu = next(line for line in limits.splitlines() if line.startswith("Max cpu time"))
    assert int(cpu.split()[3]) < 60


def test_an_item_costs_a_bounded_number_of_steps(pool: GraderPool) -> None:
    assert right(pool)
    (worker,) = pool._living
    for _ in range(20):
        verdict = pool.ask(r"\sin 2", r"\sin(" + r"\sqrt{2+\sqrt{3+" * 15 + "1" + "}}" * 15 + ")", 20)
        assert not verdict.same
    assert pool._living == [worker]  # none was given up
    assert worker.cpu_s() < 20


def test_threads_share_the_pool() -> None:
    answers = [BOMB if i % 5 == 0 else r"2\sqrt{2}" for i in range(60)]
    with ThreadPoolExecutor(8) as threads:
        scores = list(threads.map(lambda answer: grade(r"\sqrt{8}", boxed(answer)), answers))
    assert [score.correct for score in scores] == [answer != BOMB for answer in answers]


def test_coroutines() -> None:
    async def many() -> list[str]:
        jobs = [asyncio.to_thread(grade, r"\sqrt{8}", boxed(rf"{n}\sqrt{{2}}")) for n in range(6)]
        return [score.verdict for score in await asyncio.gather(*jobs)]

    assert asyncio.run(many()) == ["wrong", "wrong", "correct", "wrong", "wrong", "wrong"]


def test_a_coroutine_may_call_it_directly() -> None:
    async def one() -> bool:
        return grade(r"\sqrt{8}", boxed(r"2\sqrt{2}")).correct

    assert asyncio.run(one())


def _grade_in_child(answer: str) -> str:
    return grade(r"\sqrt{8}", boxed(answer)).verdict


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_forked_and_spawned_processes_have_pools_of_their_own(method: str) -> None:
    assert grade(r"\sqrt{8}", boxed(r"2\sqrt{2}")).correct  # the parent's pool exists before the fork
    with multiprocessing.get_context(method).Pool(2) as processes:
        found = processes.map(_grade_in_child, [r"2\sqrt{2}", r"3\sqrt{2}"] * 4)
    assert found == ["correct", "wrong"] * 4
    assert grade(r"\sqrt{8}", boxed(r"2\sqrt{2}")).correct


def test_a_fork_while_other_threads_grade() -> None:
    stop = threading.Event()

    def busy() -> None:
        while not stop.is_set():
            assert grade(r"\sqrt{8}", boxed(r"2\sqrt{2}")).correct

    threads = [threading.Thread(target=busy) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(3):
            pid = os.fork()
            if pid == 0:
                os._exit(0 if _grade_in_child(r"2\sqrt{2}") == "correct" else 1)
            assert os.waitpid(pid, 0)[1] == 0
    finally:
        stop.set()
        for thread in threads:
            thread.join()


@pytest.mark.parametrize("end", ["kill", "exit"])
def test_no_process_outlives_its_owner(end: str) -> None:
    code = (
        "import os, sys\nfrom rewards.math.pool import GraderPool, shared_pool\n"
        "from rewards.math.grade import grade\ngrade('\\\\sqrt{8}', '\\\\boxed{3}')\npool = shared_pool()\n"
        "print(pool._nursery.process.pid, pool._living[0].pid, flush=True)\nsys.stdin.read()"
    )
    owner = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT
    )
    assert owner.stdout is not None
    pids = [int(pid) for pid in owner.stdout.readline().split()]
    assert all(map(running, pids))
    if end == "kill":
        owner.kill()
    owner.communicate()
    until_gone(pids)


def test_a_grader_that_cannot_start_is_ungradable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONHOME", "/nowhere")
    pool = GraderPool(1)
    with pytest.raises(GraderFailure, match="math grader does not start"):
        pool.ask("1", "1", 1)
    pool.close()


@pytest.mark.slow
def test_ray_actors(ray_cluster: str) -> None:
    import ray

    @ray.remote(max_concurrency=2)
    class Grader:
        def verdicts(self, answers: list[str]) -> list[str]:
            from rewards.math.grade import grade

            return [grade(r"\sqrt{8}", rf"\boxed{{{answer}}}").verdict for answer in answers]

    actors = [Grader.remote() for _ in range(2)]
    answers = [r"2\sqrt{2}", BOMB, r"\sqrt{8}", "3"]
    found = ray.get([actor.verdicts.remote(answers) for actor in actors for _ in range(2)])
    assert found == [["correct", "wrong", "correct", "wrong"]] * 4
    for actor in actors:
        ray.kill(actor)
