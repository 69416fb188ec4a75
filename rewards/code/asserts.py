"""Problems whose tests are code with asserts (HumanEval, MBPP): the program in one sandbox, the test code in another.

The two never meet. Test code runs against a transcript of calls (``rewards.code.checks``); calls that it lacks are made
in the program's sandbox (``rewards.code.candidate``), and the tests run again. The first list of calls does not depend
on the program, so it is worked out once per problem; one program then costs two runs.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

from rewards.code.calls import Runner, make_calls, script_job
from rewards.code.languages import LANGUAGES
from rewards.code.problem import AssertProblem
from rewards.code.replies import Reply
from rewards.code.rules import Rules, limits_of
from rewards.code.types import MIB, Limits
from rewards.code.verdict import Judgement, TestResult, Verdict, failure_of, judgement, refused

MAX_ROUNDS = 16
"""Rounds of calls; each adds at least one call that depends on earlier results."""
MAX_KNOWN = 32 * MIB
"""Bytes of all results that the tests see."""
MAX_KEPT = 10_000
"""Problems whose first calls are kept."""
CHECKING = Limits(cpu_s=10, wall_s=600)
"""What test code may use."""


@dataclass(frozen=True)
class Report:
    """The result of one run of the tests; see ``rewards.code.checks.Session.report``."""

    complete: bool
    together: bool
    checks: list[tuple[int, str, str]]
    ended: list[str]
    calls: list[bytes]
    """As JSON, not read here: what a program returned may be among the arguments."""


_first_reports: dict[AssertProblem, Report] = {}


class TestsBroken(Exception):
    """The test code did not run to its end; one line."""

    __test__ = False


def judge_asserts(problem: AssertProblem, code: str, runner: Runner, rules: Rules) -> Judgement:
    """Return the verdict on a program. Raises ``SandboxFailure``."""
    try:
        report = _first_report(problem, runner)
    except TestsBroken as error:
        return refused(Verdict.SE, f"the problem's tests do not run: {error}", 0)
    faults = [reason for _, verdict, reason in report.checks if verdict == Verdict.SE]
    if faults or report.complete:
        faults += [*report.ended[1:], "the problem's tests never call the program"]
        return refused(Verdict.SE, faults[0], 0)
    limits = limits_of(problem.allowance, LANGUAGES["python"], rules)
    cpu_s, peak = 0.0, None
    known: dict[bytes, Reply] = {}
    program = whole(problem, code)
    for _ in range(MAX_ROUNDS):
        run = make_calls(runner, program, problem.prelude, report.calls, limits, _never, report.together)
        cpu_s, peak = cpu_s + run.cpu_s, max(peak or 0, run.memory_bytes or 0) or None
        if run.refused:
            return refused(Verdict.CE, run.refused, 0, cpu_s)
        # The first reply to a call stands: a program that answers differently each time cannot lead the tests astray.
        known = dict(zip(report.calls, run.replies, strict=True)) | known
        if sum(len(reply.claim) for reply in known.values()) > MAX_KNOWN:
            return refused(Verdict.WA, f"its results are longer than {MAX_KNOWN} bytes", 0, cpu_s)
        try:
            report = _report(problem, known, runner)
        except TestsBroken as error:
            return refused(Verdict.WA, f"the tests do not run to their end on its results: {error}", 0, cpu_s)
        if report.complete:
            return _judged(report, cpu_s, peak)
    # Not ungradable: with results that lead the tests on and on, a program could get itself masked.
    return refused(Verdict.WA, f"the tests need more than {MAX_ROUNDS} rounds of calls on its results", 0, cpu_s)


def whole(problem: AssertProblem, code: str) -> str:
    """Return the program: ``code`` itself when it defines the wanted function, else what it completes."""
    if not problem.entry or re.search(rf"^(?:async\s+)?(?:def\s+)?{re.escape(problem.entry)}\b", code, re.M):
        return code
    return problem.prelude + code


def _never(_: int, __: Reply) -> bool:
    """No reply is wrong by itself: the tests decide. But a call without a reply ends the run."""
    return False


def _first_report(problem: AssertProblem, runner: Runner) -> Report:
    """Return the first calls of a problem's tests: the same for every program, so they are kept."""
    if problem not in _first_reports:
        if len(_first_reports) >= MAX_KEPT:
            _first_reports.clear()
        _first_reports[problem] = _report(problem, {}, runner)
    return _first_reports[problem]


def _report(problem: AssertProblem, known: dict[bytes, Reply], runner: Runner) -> Report:
    plan = {
        "prelude": problem.test_prelude,
        "remote": problem.remote,
        "tests": problem.tests,
        "replies": {call.decode(): _put(reply) for call, reply in known.items()},
    }
    outcome = runner.run(script_job("checks", {"plan.json": json.dumps(plan).encode()}, CHECKING))
    if not outcome.ok or not outcome.channel:
        raise TestsBroken(failure_of(outcome)[1])
    header, *calls = outcome.channel.splitlines()
    return Report(**json.loads(header), calls=calls)


def _put(reply: Reply) -> dict[str, Any]:
    """Return a reply as test code is given it, still unread."""
    if reply.kind == "failed":
        return {"failed": [reply.verdict, reply.reason]}
    return {"claim": reply.claim.decode(errors="replace")}


def _judged(report: Report, cpu_s: float, peak: int | None) -> Judgement:
    """Return the verdict of a complete run of the tests."""
    lines = [*report.checks]
    if report.ended:
        lines.append((0, report.ended[0], report.ended[1]))
    if not lines:
        return refused(Verdict.WA, "with its results the tests come to no assert", 0, cpu_s)
    results = [
        TestResult(Verdict(verdict), f"line {line} of the tests: {reason}" if reason else "")
        for line, verdict, reason in lines
    ]
    return judgement(results, cpu_s, peak)
