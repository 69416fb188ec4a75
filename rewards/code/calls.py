"""Calls to functions of a program, made in its sandbox: the common part of functional and assert problems."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Protocol

from rewards.code.languages import interpreter
from rewards.code.packages import wanted_files
from rewards.code.replies import Reply, parse, read_replies
from rewards.code.types import Ending, Job, Limits, Outcome, SandboxFailure
from rewards.code.verdict import Verdict, failure_of


class Runner(Protocol):
    """The part of a sandbox that judging uses."""

    def run(self, job: Job) -> Outcome:
        """Run one program to its end. Raises ``SandboxFailure``. Safe to call from several threads."""


@dataclass(frozen=True)
class Fair:
    """A runner that gives no verdict on a program that others kept from running.

    Limits on processor time and on sleep mean the same on a busy machine and on an idle one. Who meets the wall limit
    before either has waited for a core, which is no doing of a program: ungradable.
    """

    runner: Runner

    def run(self, job: Job) -> Outcome:
        """As the runner's own. Raises ``SandboxFailure``."""
        outcome = self.runner.run(job)
        if outcome.ending is Ending.WALL:
            raise SandboxFailure(f"the machine is too busy: a program had no verdict within {job.limits.wall_s:.0f} s")
        return outcome


@dataclass(frozen=True)
class CallRun:
    """The results of a list of calls."""

    replies: tuple[Reply, ...]
    """One per call, in order."""
    refused: str = ""
    """Why the program does not compile; there are no replies then."""
    cpu_s: float = 0.0
    memory_bytes: int | None = None
    """Largest peak of its processes."""


_SHARED = ("candidate", "plain", "replies")
"""What every script inside of a sandbox may import."""


@cache
def script(name: str) -> dict[str, bytes]:
    """Return the files of a script of this folder that runs inside of a sandbox, with what it imports."""
    here = Path(__file__).parent
    own = {f"rewards/code/{part}.py": (here / f"{part}.py").read_bytes() for part in {name, *_SHARED}}
    return {"rewards/__init__.py": b"", "rewards/code/__init__.py": b"", **own}


def script_job(name: str, files: dict[str, bytes], limits: Limits) -> Job:
    """Return a job that runs ``main()`` of a script of this folder among the given files."""
    command = (*interpreter("-c"), f"from rewards.code.{name} import main; main()")
    return Job(command, {**script(name), **files}, limits=limits, channel=True)


def make_calls(
    runner: Runner,
    program: str,
    prelude: str,
    calls: Sequence[bytes],
    limits: Limits,
    wrong: Callable[[int, Reply], bool] | None = None,
    together: bool = False,
) -> CallRun:
    """Make calls to a program, each given as JSON with its name (``rewards.code.candidate``), ``limits`` for each.

    Calls share a process, which is fast; when it ends early, the first call without a reply is made again in a fresh
    process, with the whole limits to itself. So no call fails for what others used up, none gets more than its
    limits, and no clock inside of the sandbox is trusted. With ``wrong``, the first reply that it calls wrong, or a
    call that gets no reply, ends it: the rest is ``SKIPPED``. Calls that refer to earlier results stay ``together``.
    Raises ``SandboxFailure``.
    """
    replies: list[Reply] = []
    cpu_s, peak = 0.0, None
    while len(replies) < len(calls):
        start = len(replies)
        files = {**wanted_files(program), "solution.py": program.encode(errors="replace")}
        outcome = runner.run(script_job("candidate", {**files, "calls.json": _plan(prelude, calls[start:])}, limits))
        cpu_s += outcome.cpu_s
        peak = max(peak or 0, outcome.memory_bytes) if outcome.memory_bytes is not None else peak
        got, intact = read_replies(outcome.channel, len(calls) - start)
        if got and got[0].kind == "refused" and start == 0:
            return CallRun((), str((parse(got[0].claim) or ["", ""])[1]), cpu_s, peak)
        replies += got
        complete = len(replies) == len(calls)
        decided = wrong is not None and any(wrong(start + i, reply) for i, reply in enumerate(got))
        if complete or (got and intact and not together and not decided):
            continue
        if not decided:
            verdict, reason = failure_of(outcome)
            if outcome.ok:
                reason = "ended without answering" if intact else "wrote to the result channel"
            replies.append(Reply("failed", verdict=verdict.value, reason=reason))
        if wrong is not None or together:
            skipped = Reply("failed", verdict=Verdict.SKIPPED.value, reason="an earlier call failed")
            replies += [skipped] * (len(calls) - len(replies))
    return CallRun(tuple(replies), "", cpu_s, peak)


def _plan(prelude: str, calls: Sequence[bytes]) -> bytes:
    """``calls.json``. The calls are put in as they are: they may hold what a program returned."""
    return b'{"prelude": %s, "calls": [%s]}' % (json.dumps(prelude).encode(), b", ".join(calls))
