"""The judge's verdict on a program. No I/O."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from rewards.code.types import Ending, Outcome
from rewards.score import Score


class Verdict(StrEnum):
    """The usual words of programming contests."""

    AC = "AC"
    """Accepted."""
    WA = "WA"
    """Wrong answer."""
    TLE = "TLE"
    """Over the time limit: ran or slept for too long."""
    MLE = "MLE"
    """Over the memory limit."""
    OLE = "OLE"
    """Wrote too much."""
    RE = "RE"
    """Failed at run time, or ended without an answer."""
    CE = "CE"
    """Could not be compiled, or its language is not installed."""
    SE = "SE"
    """The sandbox or the problem failed, not the program: ungradable."""
    SKIPPED = "SKIPPED"
    """Not run, because an earlier test had failed. Only of single tests."""


@dataclass(frozen=True)
class TestResult:
    """One test of one program."""

    __test__ = False  # no test class of pytest's

    verdict: Verdict
    reason: str = ""
    """One line; empty when accepted."""
    cpu_s: float | None = None
    """CPU seconds; ``None`` where several tests shared a process."""
    memory_bytes: int | None = None
    """Peak; ``None`` where several tests shared a process, or the machine cannot tell."""


@dataclass(frozen=True)
class Judgement:
    """All tests of one program."""

    verdict: Verdict
    """AC when every test is; SE when any is; else that of the first failing test."""
    reason: str
    """One line, with the number of the first failing test; empty when accepted."""
    passed: int
    total: int
    """Number of tests, skipped ones too."""
    tests: tuple[TestResult, ...]
    """In the problem's order; empty when the program was not run at all (CE)."""
    cpu_s: float = 0.0
    """CPU seconds of all its processes."""
    memory_bytes: int | None = None
    """Largest peak."""

    @property
    def first_failure(self) -> int | None:
        """Index of the first test that was not passed."""
        failed = (i for i, test in enumerate(self.tests) if test.verdict is not Verdict.AC)
        return next(failed, None)

    def score(self, extracted: str = "") -> Score:
        """Full reward for AC and none for anything else; part ``tests`` is the share passed. SE is ungradable."""
        if self.verdict is Verdict.SE:
            return Score.ungradable(self.reason)
        share = self.passed / self.total if self.total else 0.0
        if self.verdict is Verdict.AC:
            return Score.right(extracted, tests=1.0)
        return Score.wrong(f"{self.verdict}: {self.reason}", extracted, tests=share)


def judgement(tests: Sequence[TestResult], cpu_s: float = 0.0, memory_bytes: int | None = None) -> Judgement:
    """Return the whole of its tests. Raises ``ValueError`` without any: nothing tested is nothing shown."""
    if not tests:
        raise ValueError("a program was judged without any test")
    failures = [i for i, test in enumerate(tests) if test.verdict not in (Verdict.AC, Verdict.SKIPPED)]
    errors = [i for i in failures if tests[i].verdict is Verdict.SE]
    passed = sum(test.verdict is Verdict.AC for test in tests)
    verdict, reason = Verdict.AC, ""
    if passed < len(tests):
        # What was skipped has not passed, whatever it was skipped for.
        worst = (errors or failures or [i for i, test in enumerate(tests) if test.verdict is not Verdict.AC])[0]
        verdict, reason = tests[worst].verdict, f"test {worst + 1} of {len(tests)}: {tests[worst].reason}"
        verdict = Verdict.RE if verdict is Verdict.SKIPPED else verdict
    return Judgement(verdict, reason, passed, len(tests), tuple(tests), cpu_s, memory_bytes)


def refused(verdict: Verdict, reason: str, total: int, cpu_s: float = 0.0) -> Judgement:
    """Return a program that was not run, or a run that says nothing."""
    return Judgement(verdict, reason, 0, total, (), cpu_s)


_ENDINGS = {
    Ending.CPU: (Verdict.TLE, "CPU time limit"),
    Ending.WALL: (Verdict.TLE, "wall time limit"),
    Ending.SLEEP: (Verdict.TLE, "time limit: asleep"),
    Ending.MEMORY: (Verdict.MLE, "memory limit"),
    Ending.OUTPUT: (Verdict.OLE, "output limit"),
}


def failure_of(outcome: Outcome) -> tuple[Verdict, str]:
    """Verdict and reason of a program that did not end well. An ``ok`` outcome is no failure: it gives RE as well."""
    if outcome.ending in _ENDINGS:
        return _ENDINGS[outcome.ending]
    said = last_line(outcome.stderr)
    if outcome.ending is Ending.SIGNAL:
        return Verdict.RE, f"signal {outcome.exit_code - 128}" + (f": {said}" if said else "")
    return Verdict.RE, f"exit {outcome.exit_code}" + (f": {said}" if said else "")


def last_line(text: bytes) -> str:
    """Return the last line of an error output, printable and short: a program wrote it."""
    lines = text[-2000:].decode(errors="replace").strip().splitlines()
    return one_line(lines[-1]) if lines else ""


def one_line(text: str) -> str:
    """Return a text that a program wrote, printable and short."""
    return "".join(c if c.isprintable() else "?" for c in text[:200])
