"""Judges as a grader: what goes to them, in what order it comes back, and what is counted."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace

import pytest
from factories import problem

from rewards.code.service import ServiceStatistics
from rewards.code.types import SandboxFailure
from rewards.code.verify import verify_code
from rewards.reference import Reference
from rewards.score import Score
from rollout.grading import Answered, Grading, VerifierGrader
from rollout.judging import COUNTED, JudgeGrader
from rollout.types import Problem, StopReason

PROGRAM = Problem.ask(
    "double", "Print twice the number.", "-", "code", extra={"tests": [{"input": "3\n", "output": "6\n"}]}
)
RIGHT = "```python\nprint(2 * int(input()))\n```"
WRONG = "```python\nprint(7)\n```"


class Threads:
    """Judges in this process, by the verifier itself."""

    def __init__(self) -> None:
        self.pool = ThreadPoolExecutor(2)
        self.counted = ServiceStatistics()
        self.closed = False

    def submit(self, response: str, reference: Reference, wait_s: float | None = None) -> Future[Score]:
        if self.closed:
            raise SandboxFailure("judge service: closed")
        self.counted = replace(self.counted, accepted=self.counted.accepted + 1)
        return self.pool.submit(verify_code, response, reference)

    def statistics(self) -> ServiceStatistics:
        return self.counted

    def close(self) -> None:
        self.closed = True
        self.pool.shutdown()


@pytest.fixture
def judges() -> Iterator[Threads]:
    opened = Threads()
    yield opened
    opened.close()


def test_programs_go_to_the_judges_and_the_rest_to_the_verifiers(judges: Threads) -> None:
    answers = [
        Answered(problem(), "7", StopReason.EOS),
        Answered(PROGRAM, RIGHT, StopReason.EOS),
        Answered(problem(), "8", StopReason.EOS),
        Answered(PROGRAM, WRONG, StopReason.EOS),
        Answered(PROGRAM, RIGHT, StopReason.LENGTH),
        Answered(PROGRAM, RIGHT, StopReason.ABORTED),
    ]
    with Grading(JudgeGrader(judges, VerifierGrader())) as grading:
        scores = grading.submit(lambda: answers).result()
        assert [score.verdict for score in scores] == [
            "correct", "correct", "wrong", "wrong", "wrong", "ungradable"
        ]  # fmt: skip
        assert scores[4].reason == "truncated at the length cap"
        counted = grading.grader.counts()
        assert counted["judges_accepted"] == 2.0, "a truncated program is not run"
        assert set(counted) == {f"judges_{name}" for name in COUNTED}
    assert judges.closed


def test_the_same_verdict_as_in_the_runs_own_process(judges: Threads) -> None:
    answers = [Answered(PROGRAM, text, StopReason.EOS) for text in (RIGHT, WRONG, "none")]
    with Grading(JudgeGrader(judges, VerifierGrader())) as there, Grading(VerifierGrader()) as here:
        assert there.submit(lambda: answers).result() == here.submit(lambda: answers).result()


def test_judges_that_are_gone_make_responses_ungradable(judges: Threads) -> None:
    with Grading(JudgeGrader(judges, VerifierGrader())) as grading:
        judges.close()
        scores = grading.submit(lambda: [Answered(PROGRAM, RIGHT), Answered(problem(), "7")]).result()
    assert [(score.verdict, score.reason) for score in scores] == [
        ("ungradable", "SandboxFailure: judge service: closed"),
        ("correct", ""),
    ]


def test_a_problem_without_tests_is_the_problems_fault(judges: Threads) -> None:
    with Grading(JudgeGrader(judges, VerifierGrader())) as grading:
        (score,) = grading.submit(lambda: [Answered(replace(PROGRAM, extra={}), RIGHT)]).result()
    assert "no tests" in score.reason
    assert not score.gradable
