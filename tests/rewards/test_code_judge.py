"""Wrong programs get the right verdict, and nobody's failure is taken for the program's."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from rewards.code import packages
from rewards.code.judge import Program, judge
from rewards.code.languages import LANGUAGES
from rewards.code.rules import Rules
from rewards.code.sandbox import open_sandbox, shared_sandbox
from rewards.code.types import Ending, Job, Outcome, SandboxFailure
from rewards.code.verdict import Judgement, Verdict, judgement
from rewards.code.verdict import TestResult as Result
from tests.code_kit import FAST, INPUTS, PROBLEMS, ROWS, judged, stdin_problem, wrapped


@pytest.mark.parametrize("kind", ["stdin", "functional"])
def test_asleep_is_over_the_time_limit_however_busy_the_machine(kind: str) -> None:
    """More programs want to run than there are cores: who waits for one is not asleep, and who sleeps does not wait."""
    spin = "import time\nwhile time.process_time() < 0.6: pass\nreturn n * n + 1"
    sleeping = ("time.sleep(100)", "threading.Event().wait()", "os.kill(os.getpid(), 19)")
    bodies = [spin] * 2 * len(os.sched_getaffinity(0))
    bodies += [f"import os, threading, time\n{body}\nreturn n * n" for body in sleeping]
    with open_sandbox(slots=len(bodies)) as box, ThreadPoolExecutor(len(bodies)) as threads:

        def one(body: str) -> Judgement:
            return judge(PROBLEMS[kind], Program(wrapped(body, kind)), box, Rules(time_s=1.0))

        results = list(threads.map(one, bodies))
    assert [result.verdict for result in results[:-3]] == [Verdict.AC] * (len(bodies) - 3)
    for result in results[-3:]:
        assert (result.verdict, result.reason) == (Verdict.TLE, "test 1 of 3: time limit: asleep")


class Starving:
    """A sandbox on a machine that does not get round to anything."""

    def run(self, job: Job) -> Outcome:
        return Outcome(Ending.WALL, 137, b"", b"", 0.1, job.limits.wall_s, None)


@pytest.mark.parametrize("kind", ROWS)
def test_a_program_that_was_kept_from_running_has_no_verdict(kind: str) -> None:
    result = judge(PROBLEMS[kind], Program(wrapped("return n * n + 1", kind)), Starving())
    assert result.verdict is Verdict.SE
    assert "too busy" in result.reason


def test_verdict_names_the_first_failing_test_and_the_share_passed() -> None:
    code = f"n = int(input())\nprint(n * n + (n < {INPUTS[2]}))"
    result = judged("stdin", code)
    assert (result.verdict, result.first_failure, result.passed, result.total) == (Verdict.WA, 2, 2, 3)
    assert result.reason == "test 3 of 3: token 1: '49000014000001', not '49000014000002'"
    assert result.score().parts == {"tests": 2 / 3}
    assert result.score().reward == 0.0
    assert result.cpu_s > 0
    assert result.memory_bytes is None or result.memory_bytes > 1 << 20


@pytest.mark.parametrize("failure", ["return 0", "import os; os._exit(1)"])
@pytest.mark.parametrize("kind", ["stdin", "functional"])
def test_early_stop_skips_what_follows(kind: str, failure: str) -> None:
    code = wrapped(f"if n == {INPUTS[0]}:\n    {failure}\nreturn n * n + 1", kind)
    stopped, full = judged(kind, code), judged(kind, code, rules=replace(FAST, stop_at_failure=False))
    if kind == "functional" and failure == "return 0":  # all results were there already
        stopped = full
    first = Verdict.WA if failure == "return 0" else Verdict.RE
    assert (stopped.verdict, full.verdict) == (first, first)
    assert [test.verdict for test in full.tests] == [first, Verdict.AC, Verdict.AC]
    if stopped is not full:
        assert [test.verdict for test in stopped.tests] == [first, Verdict.SKIPPED, Verdict.SKIPPED]


def test_tests_side_by_side_give_the_same_result() -> None:
    code = f"n = int(input())\nprint(n * n + (n != {INPUTS[1]}))"
    alone, beside = judged("stdin", code), judged("stdin", code, rules=replace(FAST, workers=2))
    assert [test.verdict for test in alone.tests] == [test.verdict for test in beside.tests]
    assert [test.verdict for test in beside.tests] == [Verdict.AC, Verdict.WA, Verdict.SKIPPED]


def test_each_call_has_the_whole_time_limit() -> None:
    """Three calls of 0.6 s under a limit of 1 s: together too slow for one process, each fast enough."""
    spin = "import time\nend = time.process_time() + {}\nwhile time.process_time() < end: pass\nreturn n * n + 1"
    rules = replace(FAST, time_s=0.5)
    assert judged("functional", wrapped(spin.format(0.6), "functional"), rules=rules).verdict is Verdict.AC
    slow = judged("functional", wrapped(spin.format(f"(9 if n == {INPUTS[1]} else 0)"), "functional"), rules=rules)
    assert (slow.verdict, slow.first_failure, slow.passed) == (Verdict.TLE, 1, 1)


def test_a_crash_costs_only_its_own_call() -> None:
    code = wrapped(f"import os\nif n == {INPUTS[1]}: os.abort()\nreturn n * n + 1", "functional")
    result = judged("functional", code, rules=replace(FAST, stop_at_failure=False))
    assert [test.verdict for test in result.tests] == [Verdict.AC, Verdict.RE, Verdict.AC]
    assert "signal 6" in result.reason


def test_stated_limits_are_scaled_to_the_language() -> None:
    problem = stdin_problem(("", "1"), time_limit_ms=100, memory_limit_mb=16)
    spin = "import time\nwhile time.process_time() < {}: pass\nprint(1)"
    assert judge(problem, Program(spin.format(0.6)), shared_sandbox()).verdict is Verdict.AC  # 0.5 + 5 * 0.1 s
    assert judge(problem, Program(spin.format(5)), shared_sandbox()).verdict is Verdict.TLE


def test_a_missing_compiler_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(LANGUAGES, "cpp", replace(LANGUAGES["cpp"], compiler=("no-such-compiler", "main.cpp")))
    result = judged("stdin", "int main() {}", "cpp")
    assert (result.verdict, result.reason) == (Verdict.CE, "no-such-compiler is not installed")


def test_a_language_that_the_problem_does_not_take() -> None:
    result = judged("functional", "int f(int n) {}", "cpp")
    assert (result.verdict, result.reason) == (Verdict.CE, "language 'cpp' is not taken here, only: python")
    assert judged("stdin", "", "cobol").verdict is Verdict.CE


def test_the_compiler_is_quoted() -> None:
    result = judged("stdin", "int main(void) { return x; }", "c")
    assert result.verdict is Verdict.CE
    assert "undeclared" in result.reason


class Failing:
    """A sandbox that breaks."""

    def run(self, job: Job) -> Outcome:
        raise SandboxFailure("sandbox: its supervisor ended")


@pytest.mark.parametrize("kind", ["stdin", "functional"])
def test_a_broken_sandbox_is_ungradable(kind: str) -> None:
    result = judge(PROBLEMS[kind], Program("print(1)"), Failing())
    assert (result.verdict, result.reason) == (Verdict.SE, "sandbox: its supervisor ended")
    assert result.score().reward is None


def test_a_missing_package_is_ungradable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packages, "AVAILABLE", ("no_such_package",))
    result = judged("functional", "import no_such_package")
    assert result.verdict is Verdict.SE
    assert "no_such_package is not installed" in result.reason


def test_nothing_tested_is_nothing_shown() -> None:
    with pytest.raises(ValueError, match="without any test"):
        judgement([])
    passed, skipped = Result(Verdict.AC), Result(Verdict.SKIPPED, "an earlier call failed")
    assert judgement([passed, skipped]).verdict is Verdict.RE
    assert judgement([skipped, Result(Verdict.SE, "gone"), passed]).verdict is Verdict.SE
    assert judgement([passed, passed]).verdict is Verdict.AC


def test_expected_results_stay_out_of_the_programs_sandbox() -> None:
    """Every job of a judgement is looked at: only the test code's own sandbox, which runs no program, may hold them."""

    class Watching:
        def __init__(self) -> None:
            self.jobs: list[Job] = []

        def run(self, job: Job) -> Outcome:
            self.jobs.append(job)
            return shared_sandbox().run(job)

    secret = b"49000014000002"
    for kind in ROWS:
        watching = Watching()
        result: Judgement = judge(PROBLEMS[kind], Program(wrapped("return 1", kind)), watching, FAST)
        assert result.verdict is Verdict.WA
        programs = [job for job in watching.jobs if "main.py" in job.files or "solution.py" in job.files]
        assert programs
        for job in programs:
            assert "plan.json" not in job.files
            assert not any(secret in content for content in (job.stdin, *job.files.values()))
