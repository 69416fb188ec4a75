"""Verifier of programs: the code in a response, judged on the tests of its problem [2501.12599 §2.3.5]."""

from __future__ import annotations

from dataclasses import replace

from rewards.code.extract import extract
from rewards.code.judge import Program, judge
from rewards.code.problem import problem_of
from rewards.code.sandbox import shared_sandbox
from rewards.reference import Reference
from rewards.score import Score


def verify_code(response: str, reference: Reference) -> Score:
    """Full reward when the program in the response passes every test of the problem, else none.

    ``reference.extra`` holds the tests (``rewards.code.problem.problem_of`` lists the forms). The program is the last
    fenced block after the thinking (``rewards.code.extract``); it runs in the sandbox that this process shares. Parts:
    ``format``, 1 when a program was found, and ``tests``, the share of tests passed (a lower bound: the first failure
    ends it). A failure of the sandbox is ungradable. Raises ``ProblemInvalid`` when the problem has no usable tests.
    """
    problem = problem_of(reference)
    found = extract(response, problem.languages, "python")
    if isinstance(found, str):
        return Score.wrong(found, format=0.0, tests=0.0)
    score = judge(problem, Program(found.code, found.language), shared_sandbox()).score(found.code)
    return replace(score, parts={"format": 1.0, **score.parts}, extracted=found.code) if score.gradable else score
