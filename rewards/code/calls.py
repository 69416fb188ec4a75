"""Calls to functions of a program, made in its sandbox: the common part of functional and assert problems."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, NoReturn, Protocol

from rewards.code.languages import interpreter
from rewards.code.packages import wanted_files
from rewards.code.types import Ending, Job, Limits, Outcome
from rewards.code.verdict import Verdict, failure_of

BUSY = 1.5
"""Runnable tasks per core from which on a machine is busy."""
MAX_PATIENCE = 8.0
"""Longest wall limit of a repeated run, over that of the first."""
Reply = list[Any]
"""As ``rewards.code.candidate`` writes it, or ``["failed", verdict, reason]`` from the judge."""
_FORMS: dict[str, tuple[type, ...]] = {
    "value": (object,),
    "object": (str, bool),
    "raised": (str, str),
    "refused": (str,),
}
"""Kind of a reply -> types of what follows."""
_MAX_TEXT = 400


class Runner(Protocol):
    """What judging needs of a sandbox."""

    def run(self, job: Job) -> Outcome:
        """One program to its end. Raises ``SandboxFailure``. Safe to call from several threads."""


@dataclass(frozen=True)
class Patient:
    """A runner that does not take a busy machine for a slow program.

    A run that met its wall limit before its CPU limit has either slept or starved. Where more work than cores was
    waiting it is repeated, with a limit that many times as long; on an idle machine it has slept.
    """

    runner: Runner

    def run(self, job: Job) -> Outcome:
        """As the runner's own."""
        outcome = self.runner.run(job)
        crowd = os.getloadavg()[0] / len(os.sched_getaffinity(0))
        if outcome.ending is Ending.WALL and crowd > BUSY:
            longer = replace(job.limits, wall_s=job.limits.wall_s * min(2 * crowd, MAX_PATIENCE))
            outcome = self.runner.run(replace(job, limits=longer))
        return outcome


@dataclass(frozen=True)
class CallRun:
    """What came of a list of calls."""

    replies: tuple[Reply, ...]
    """One per call, in order."""
    refused: str = ""
    """Why the program does not compile; there are no replies then."""
    cpu_s: float = 0.0
    memory_bytes: int | None = None
    """Largest peak of its processes."""


@cache
def script(name: str) -> dict[str, bytes]:
    """The files of a script of this folder that runs inside of a sandbox, with what it imports."""
    here = Path(__file__).parent
    own = {f"rewards/code/{part}.py": (here / f"{part}.py").read_bytes() for part in {name, "candidate", "plain"}}
    return {"rewards/__init__.py": b"", "rewards/code/__init__.py": b"", **own}


def script_job(name: str, files: dict[str, bytes], limits: Limits) -> Job:
    """A job that runs ``main()`` of a script of this folder among the given files."""
    command = (*interpreter("-c"), f"from rewards.code.{name} import main; main()")
    return Job(command, {**script(name), **files}, limits=limits, channel=True)


def make_calls(
    runner: Runner,
    program: str,
    prelude: str,
    calls: list[Any],
    limits: Limits,
    wrong: Callable[[int, Reply], bool] | None = None,
) -> CallRun:
    """Make calls to a program. ``limits`` are those of a single call.

    Calls share a process, which is fast; when it ends early, the first call without a reply is made again in a fresh
    process, with the whole limits to itself. So no call fails for what others used up, none gets more than its
    limits, and no clock inside of the sandbox is trusted. With ``wrong``, the first reply that it calls wrong, or a
    call that gets no reply, ends it: the rest is ``SKIPPED``. Calls that refer to earlier results stay together.
    Raises ``SandboxFailure``.
    """
    replies: list[Reply] = []
    cpu_s, peak = 0.0, None
    together = any('{"ref": ' in json.dumps(call) or call[0] in ("apply", "get", "set") for call in calls)
    while len(replies) < len(calls):
        start = len(replies)
        plan = json.dumps({"prelude": prelude, "calls": calls[start:]}).encode()
        files = {**wanted_files(program), "solution.py": program.encode(errors="replace"), "calls.json": plan}
        outcome = runner.run(script_job("candidate", files, limits))
        cpu_s += outcome.cpu_s
        peak = max(peak or 0, outcome.memory_bytes) if outcome.memory_bytes is not None else peak
        got, intact = read_replies(outcome.channel, len(calls) - start)
        if got and got[0][0] == "refused" and start == 0:
            return CallRun((), got[0][1], cpu_s, peak)
        replies += got
        complete = len(replies) == len(calls)
        if complete or (got and intact and not together and not _any_wrong(wrong, start, got)):
            continue
        if not _any_wrong(wrong, start, got):
            verdict, reason = failure_of(outcome)
            if outcome.ok:
                reason = "ended without answering" if intact else "wrote to the result channel"
            replies.append(["failed", verdict.value, reason])
        if wrong is not None or together:
            replies += [["failed", Verdict.SKIPPED.value, "an earlier call failed"]] * (len(calls) - len(replies))
    return CallRun(tuple(replies), "", cpu_s, peak)


def _any_wrong(wrong: Callable[[int, Reply], bool] | None, start: int, got: list[Reply]) -> bool:
    return wrong is not None and any(wrong(start + i, reply) for i, reply in enumerate(got))


def read_replies(channel: bytes, expected: int) -> tuple[list[Reply], bool]:
    """Replies up to the first line that is none, and whether all lines were. A program may have written anything."""
    found: list[Reply] = []
    for line in channel.split(b"\n")[:-1]:  # what follows the last line end was cut short
        reply = _reply(line)
        if reply is None or len(found) == expected:
            return found, False
        found.append(reply)
    return found, True


def _reply(line: bytes) -> Reply | None:
    def refuse(_: str) -> NoReturn:
        raise ValueError

    try:
        reply = json.loads(line, parse_constant=refuse)
    except (ValueError, RecursionError):
        return None
    if type(reply) is not list or not reply or type(reply[0]) is not str:
        return None
    form, rest = _FORMS.get(reply[0]), reply[1:]
    if form is None or len(form) != len(rest):
        return None
    if any(kind is not object and type(part) is not kind for kind, part in zip(form, rest, strict=True)):
        return None
    if reply[0] != "value" and len(rest[0]) + len(str(rest[-1])) > _MAX_TEXT:
        return None
    return reply
