"""The prompt of a coding problem: its statement, and the form that a program must have to be judged."""

from __future__ import annotations

import re

from rewards.code.problem import AssertProblem, FunctionalProblem, problem_of, statement_of
from rewards.reference import Reference

_BLOCK = "Answer with the whole program in one ```python block."


def question(reference: Reference) -> str:
    """Return the text for the model. Tests are not shown. Raises ``ProblemInvalid`` for a problem that cannot be
    judged.
    """
    problem = problem_of(reference)
    statement = statement_of(reference).strip("\n")
    if isinstance(problem, FunctionalProblem):
        starter = str(reference.extra.get("starter_code") or f"class Solution:\n    def {problem.name}(self, ...):")
        return f"{statement}\n\nComplete this class:\n```python\n{starter.rstrip()}\n```\n{_BLOCK}"
    if isinstance(problem, AssertProblem):
        if problem.entry:
            return f"Complete this function:\n```python\n{statement}\n```\n{_BLOCK}"
        return f"{statement}\n\nDefine {_signatures(problem.remote, reference.answer)}.\n{_BLOCK}"
    return f"{statement}\n\nWrite a Python program that reads standard input and writes standard output.\n{_BLOCK}"


def _signatures(names: tuple[str, ...], answer: str) -> str:
    """Return what the tests call, with the arguments that the reference solution gives it."""
    found = []
    for name in names:
        match = re.search(rf"^(?:def|class)\s+{re.escape(name)}\b[^\n:]*", answer, re.M)
        found.append(f"`{match.group().strip() if match else name}`")
    return " and ".join(found)
