"""One small task in all problem types, and programs around it, for the tests of the code reward."""

from __future__ import annotations

import textwrap

from rewards.code.judge import Program, judge
from rewards.code.problem import CodeProblem, problem_of_row
from rewards.code.rules import Rules
from rewards.code.sandbox import shared_sandbox
from rewards.code.verdict import Judgement

INPUTS = (3, 4, 7_000_001)
MARK = 49_000_014_000_002
"""The last expected result; nothing but ``n * n + 1`` gives it."""
FAST = Rules(time_s=0.25, wall_factor=400)
"""Short for a program that runs or sleeps, patient with one that waits for a core on a busy machine."""


def answer(n: int) -> int:
    return n * n + 1


PROMPT = 'def f(n: int) -> int:\n    """n times n, plus one."""\n'
ASSERTS = [f"assert candidate({n}) == {answer(n)}" for n in INPUTS]
ROWS: dict[str, dict[str, object]] = {
    "stdin": {
        "testtype": "stdin",
        "tests": [{"input": f"{n}\n", "output": f"{answer(n)}\n"} for n in INPUTS],
    },
    "functional": {
        "testtype": "functional",
        "fn_name": "f",
        "starter_code": "class Solution:\n    def f(self, n: int) -> int:",
        "tests": [{"input": f"{n}", "output": f"{answer(n)}"} for n in INPUTS],
    },
    "humaneval": {
        "problem": PROMPT,
        "entry_point": "f",
        "test": "def check(candidate):\n" + "".join(f"    {line}\n" for line in ASSERTS),
    },
    "mbpp": {
        "test_list": [line.replace("candidate", "f") for line in ASSERTS],
        "answer": "def f(n):\n    return n * n + 1\n",
    },
}
PROBLEMS: dict[str, CodeProblem] = {name: problem_of_row(row) for name, row in ROWS.items()}


def stdin_problem(*tests: tuple[str, str], **fields: object) -> CodeProblem:
    return problem_of_row({"tests": [{"input": given, "output": expected} for given, expected in tests], **fields})


def wrapped(body: str, kind: str, top: str = "") -> str:
    """A program for a problem type: ``top`` at its top, ``body`` as the body of ``f`` (``n`` is the argument)."""
    body, top = textwrap.dedent(body).strip("\n"), textwrap.dedent(top)
    if kind == "functional":
        return f"{top}\nclass Solution:\n    def f(self, n):\n{textwrap.indent(body, ' ' * 8)}\n"
    function = f"{top}\ndef f(n):\n{textwrap.indent(body, ' ' * 4)}\n"
    if kind == "stdin":
        return f"{function}\nprint(f(int(input())))\n"
    return function


def judged(kind: str, code: str, language: str = "python", rules: Rules = FAST) -> Judgement:
    return judge(PROBLEMS[kind], Program(code, language), shared_sandbox(), rules)
