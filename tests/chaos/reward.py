"""The reward of the runs that are struck: by what a response says, with the graders' processes at work for some."""

from __future__ import annotations

import time
from zlib import crc32

from rewards.reference import Reference
from rewards.verify import get_verifier
from rollout.types import Problem

PROGRAM = "```python\nprint(int(input()) + {})\n```"
TESTS = {"tests": [{"input": "1\n", "output": "2\n"}]}


def reward(problem: Problem, response: str) -> float:
    """Right or wrong as a hash of the response has it; the verifiers of maths or of code are asked whether 1 is 1."""
    kind, right = divmod(crc32(f"{problem.id} {response}".encode()) % 16, 2)
    if kind == 0:
        found = get_verifier("code")(PROGRAM.format(1 if right else 2), Reference("", "", TESTS))
    elif kind < 4:
        found = get_verifier("math")(f"\\boxed{{{'2' if right else '3'}^{{0.5}}}}", Reference(r"\sqrt{2}", "", {}))
    else:
        return float(right)
    if found.reward is None:
        raise RuntimeError(found.reason)
    return found.reward


def stuck(problem: Problem, response: str) -> float:
    """The same, by a grader that comes back from some problems when nobody waits for it any more."""
    if crc32(problem.id.encode()) % 4 == 0:
        time.sleep(6)
    return reward(problem, response)


def slow(problem: Problem, response: str) -> float:
    """The same, by a grader that takes its time."""
    time.sleep(0.1)
    return reward(problem, response)
