"""Judging one program: compile it, run it on the tests of its problem, say what came of it.

Expected outputs and results stay here, outside of the sandbox that the program runs in; see ``docs/code_rewards.md``.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

from rewards.code.asserts import judge_asserts
from rewards.code.calls import Fair, Runner, make_calls
from rewards.code.compare import Leeway, same_output, same_value
from rewards.code.languages import COMPILING, LANGUAGES, Language
from rewards.code.packages import PackageMissing, wanted_files
from rewards.code.plain import encode
from rewards.code.problem import (
    FUNCTIONAL_PRELUDE,
    Allowance,
    AssertProblem,
    Checker,
    CodeProblem,
    FunctionalProblem,
    StdinProblem,
)
from rewards.code.replies import Reply, parse
from rewards.code.rules import DEFAULT, Rules, limits_of
from rewards.code.types import Job, Limits, Outcome, ProgramMissing, SandboxFailure
from rewards.code.verdict import Judgement, TestResult, Verdict, failure_of, judgement, last_line, one_line, refused

CHECKER_WRONG = (1, 2)
"""Exit codes of a checker that found the output wrong (testlib: wrong answer, presentation error)."""
_CHECKED = ("input.txt", "output.txt", "answer.txt")
LONGER, SPARE = 16, 2048
"""How many times as long a right reply may be written as the expected value is, and how many bytes more."""
_SYNTAX = ("SyntaxError:", "IndentationError:", "TabError:")


@dataclass(frozen=True)
class Program:
    """The program that is judged."""

    code: str
    language: str = "python"


@dataclass(frozen=True)
class Built:
    """A program that is ready to run."""

    language: Language
    files: dict[str, bytes]
    cpu_s: float = 0.0
    """CPU seconds of compiling."""


def judge(problem: CodeProblem, program: Program, runner: Runner, rules: Rules = DEFAULT) -> Judgement:
    """Return the verdict on a program. Never raises for anything that a program does or a sandbox fails at.

    A failure of the sandbox is SE. A language that the problem does not take, or that is not installed, is CE.
    """
    runner, program = Fair(runner), replace(program, code=program.code.removeprefix("\ufeff"))
    total = 0 if isinstance(problem, AssertProblem) else len(problem.tests)
    if program.language not in problem.languages:
        known = ", ".join(problem.languages)
        return refused(Verdict.CE, f"language {program.language!r} is not taken here, only: {known}", total)
    try:
        if isinstance(problem, StdinProblem):
            return _judge_stdin(problem, program, runner, rules)
        if isinstance(problem, FunctionalProblem):
            return _judge_functional(problem, program, runner, rules)
        return judge_asserts(problem, program.code, runner, rules)
    except ProgramMissing:
        return refused(Verdict.CE, f"{LANGUAGES[program.language].needs} is not installed", total)
    except (SandboxFailure, PackageMissing) as failure:
        return refused(Verdict.SE, str(failure), total)


def build(code: str, language: Language, runner: Runner) -> Built | tuple[Verdict, str]:
    """Return the program compiled, or as it is; or verdict and reason. Raises ``SandboxFailure``."""
    source = code.encode(errors="replace")
    if not language.compiler:
        packages = wanted_files(code) if language is LANGUAGES["python"] else {}
        return Built(language, {**packages, language.source: source})
    outcome = runner.run(Job(language.compiler, {language.source: source}, limits=COMPILING, collect=(language.built,)))
    if not outcome.ok or language.built not in outcome.files:
        return Verdict.CE, _compiler_said(outcome)
    return Built(language, {language.built: outcome.files[language.built]}, outcome.cpu_s)


def run_program(built: Built, stdin: bytes, limits: Limits, runner: Runner) -> Outcome:
    """Run a built program once. Raises ``SandboxFailure``."""
    return runner.run(Job(built.language.run, built.files, stdin, limits))


def _compiler_said(outcome: Outcome) -> str:
    errors = [line for line in outcome.stderr[:100_000].splitlines() if b"error" in line]
    if errors:
        return last_line(errors[0])
    return "the compiler failed: " + failure_of(outcome)[1]


def _judge_stdin(problem: StdinProblem, program: Program, runner: Runner, rules: Rules) -> Judgement:
    language = LANGUAGES[program.language]
    limits = limits_of(problem.allowance, language, rules)
    built = build(program.code, language, runner)
    if isinstance(built, tuple):
        return refused(*built, len(problem.tests))
    check = _checking(problem, runner, rules)
    if isinstance(check, str):
        return refused(Verdict.SE, check, len(problem.tests))

    def one(test: tuple[bytes, bytes]) -> TestResult:
        given, expected = test
        own = replace(limits, output_bytes=max(limits.output_bytes, 2 * len(expected)))
        outcome = run_program(built, given, own, runner)
        verdict, reason = check(outcome, given, expected) if outcome.ok else _run_failure(outcome)
        return TestResult(verdict, reason, outcome.cpu_s, outcome.memory_bytes)

    results = run_tests(one, problem.tests, rules)
    if results[0].verdict is Verdict.CE:
        return refused(Verdict.CE, results[0].reason, len(problem.tests), results[0].cpu_s or 0.0)
    peaks = [result.memory_bytes for result in results if result.memory_bytes is not None]
    cpu_s = built.cpu_s + sum(result.cpu_s or 0.0 for result in results)
    return judgement(results, cpu_s, max(peaks, default=None))


def run_tests(
    one: Callable[[tuple[bytes, bytes]], TestResult], tests: Sequence[tuple[bytes, bytes]], rules: Rules
) -> list[TestResult]:
    """Results in order, ``rules.workers`` tests at a time; after the first failure the rest is skipped if the rules
    say so. What runs beside the first failure is reported as skipped too, so that results do not depend on timing.
    """
    results: list[TestResult] = []
    with ThreadPoolExecutor(rules.workers, thread_name_prefix="test") as threads:
        while len(results) < len(tests):
            step = rules.workers if rules.stop_at_failure else len(tests)
            wave = list(threads.map(one, tests[len(results) : len(results) + step]))
            failed = next((i for i, result in enumerate(wave) if result.verdict is not Verdict.AC), None)
            if rules.stop_at_failure and failed is not None:
                results += wave[: failed + 1]
                break
            results += wave
    return results + [TestResult(Verdict.SKIPPED, "an earlier test failed")] * (len(tests) - len(results))


def _run_failure(outcome: Outcome) -> tuple[Verdict, str]:
    verdict, reason = failure_of(outcome)
    said = last_line(outcome.stderr)
    return (Verdict.CE, said) if verdict is Verdict.RE and said.startswith(_SYNTAX) else (verdict, reason)


Check = Callable[[Outcome, bytes, bytes], tuple[Verdict, str]]
"""Verdict on an outcome that ended well, given input and expected output."""


def _checking(problem: StdinProblem, runner: Runner, rules: Rules) -> Check | str:
    """Return how outputs are judged, or why the problem's checker cannot be used."""
    if problem.checker is None:
        return lambda outcome, _, expected: _compared(outcome.stdout, expected, problem.leeway)
    checker: Checker = problem.checker
    language = LANGUAGES[checker.language]
    try:
        built = build(checker.code, language, runner)
    except ProgramMissing:
        return _checker_needs(language)
    if isinstance(built, tuple):
        return f"the checker does not compile: {built[1]}"
    limits = limits_of(Allowance(), language, rules)
    return lambda outcome, given, expected: _checked(built, given, outcome.stdout, expected, limits, runner)


def _checker_needs(language: Language) -> str:
    return f"the checker needs {language.needs}, which is not installed"


def _compared(found: bytes, expected: bytes, leeway: Leeway) -> tuple[Verdict, str]:
    same, reason = same_output(found, expected, leeway)
    return (Verdict.AC, "") if same else (Verdict.WA, reason)


def _checked(
    built: Built, given: bytes, found: bytes, expected: bytes, limits: Limits, runner: Runner
) -> tuple[Verdict, str]:
    """Return a checker's verdict. It is called with the names of input, output and expected output; exit 0 accepts, 1
    and 2
    reject.

    A checker that ends in any other way rejects too, if it accepts the expected output itself: it was the output that
    broke it, and no program may break a checker to get itself masked.
    """

    def said(output: bytes) -> Outcome:
        files = {**built.files, "input.txt": given, "output.txt": output, "answer.txt": expected}
        try:
            return runner.run(Job((*built.language.run, *_CHECKED), files, limits=limits))
        except ProgramMissing as missing:  # the program, which would be CE, has run
            raise SandboxFailure(_checker_needs(built.language)) from missing

    outcome = said(found)
    if outcome.ok:
        return Verdict.AC, ""
    reason = last_line(outcome.stdout + outcome.stderr) or failure_of(outcome)[1]
    if outcome.exit_code in CHECKER_WRONG or said(expected).ok:
        return Verdict.WA, f"checker: {reason}"
    return Verdict.SE, f"the checker failed: {reason}"


def _judge_functional(problem: FunctionalProblem, program: Program, runner: Runner, rules: Rules) -> Judgement:
    calls = [
        json.dumps(["", ["method", "Solution", problem.name, encode(list(args)), {"dict": []}]]).encode()
        for args, _ in problem.tests
    ]

    def one(index: int, reply: Reply) -> TestResult:
        return result_of(reply, problem.tests[index][1], problem.leeway)

    def wrong(index: int, reply: Reply) -> bool:
        return one(index, reply).verdict is not Verdict.AC

    limits = limits_of(problem.allowance, LANGUAGES["python"], rules)
    stop = wrong if rules.stop_at_failure else None
    run = make_calls(runner, program.code, FUNCTIONAL_PRELUDE, calls, limits, stop)
    if run.refused:
        return refused(Verdict.CE, run.refused, len(calls), run.cpu_s)
    return judgement([one(i, reply) for i, reply in enumerate(run.replies)], run.cpu_s, run.memory_bytes)


def result_of(reply: Reply, expected: object, leeway: Leeway) -> TestResult:
    """Judge a reply against the expected JSON value.

    One that is much longer than a right one could be is not read: nothing that a program returns takes this process
    longer than what it should have returned.
    """
    if reply.kind == "failed":
        return TestResult(Verdict(reply.verdict), reply.reason)
    said, wanted = reply.claim[len('["value", ') : -1], json.dumps(encode(expected)).encode()
    wrong = TestResult(Verdict.WA, f"returned {_short(said)}, not {_short(wanted)}")
    if len(said) > LONGER * len(wanted) + SPARE:
        return wrong
    kind, *rest = parse(reply.claim) or [""]
    if kind == "raised":
        return TestResult(Verdict.RE, one_line(f"{rest[0]}: {rest[2]}"))
    if kind == "object":
        return TestResult(Verdict.WA, one_line(f"returned a {rest[0]}, which is not plain data"))
    if kind != "value":
        return TestResult(Verdict.WA, "wrote to the result channel")
    try:
        same = same_value(rest[0], expected, leeway)
    except RecursionError:
        same = False
    return TestResult(Verdict.AC) if same else wrong


def _short(text: bytes) -> str:
    """Return the beginning of a JSON text."""
    return one_line(text[:57].decode(errors="replace")) + ("..." if len(text) > 57 else "")
