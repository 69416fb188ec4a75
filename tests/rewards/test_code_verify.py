"""The verifier ``code``: from a file of problems, through the loop's grading, to scores."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from rewards.code.problem import ProblemInvalid
from rewards.code.verify import verify_code
from rewards.reference import Reference
from rewards.score import Score
from rewards.verify import get_verifier, question
from rl.config import RewardConfig
from rl.rewarding import Rewarder
from rollout.grading import Grading
from rollout.problems.config import JsonlSource
from rollout.problems.jsonl import load_jsonl
from rollout.problems.source import ProblemError
from rollout.types import Group, Problem
from tests.code_kit import ROWS, wrapped
from tests.factories import rollout


def answered(code: str, tag: str = "python") -> str:
    return f"<think>\nhm\n</think>\nSo:\n```{tag}\n{code}\n```\n"


def reference(kind: str) -> Reference:
    row = ROWS[kind]
    return Reference(str(row.get("answer", "-")), str(row.get("problem", "")), row)


def write(path: Path, *rows: dict[str, object]) -> JsonlSource:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return JsonlSource(path=str(path), verifier="code")


@pytest.mark.parametrize("kind", ROWS)
def test_scores(kind: str) -> None:
    right, wrong = wrapped("return n * n + 1", kind), wrapped("return 10", kind)
    score = verify_code(answered(right), reference(kind))
    assert (score.reward, score.parts, score.reason) == (1.0, {"format": 1.0, "tests": 1.0}, "")
    assert score.extracted.strip() == right.strip()
    score = verify_code(answered(wrong), reference(kind))
    assert (score.reward, score.parts["format"]) == (0.0, 1.0)
    assert 0 < score.parts["tests"] < 1
    assert score.reason.startswith("WA: test 2 of 3: ")
    assert score.extracted.strip() == wrong.strip()


@pytest.mark.parametrize(
    ("response", "reason"),
    [
        ("return n * n + 1", "no block of code in python"),
        ("<think>\n```python\ndef f(n): return n * n + 1\n```\n", "no answer after the thinking"),
        (answered("def f(n): return n * n + 1", "text"), "no block of code in python, only text"),
    ],
)
def test_no_program(response: str, reason: str) -> None:
    assert verify_code(response, reference("mbpp")) == Score.wrong(reason, format=0.0, tests=0.0)


def test_a_problem_without_tests_is_the_graders_failure() -> None:
    with pytest.raises(ProblemInvalid, match="no tests"):
        verify_code(answered("print(1)"), Reference("-"))


def test_registry() -> None:
    assert get_verifier("code") is verify_code
    assert question("math", Reference("4", "What is 2 + 2?")) == "What is 2 + 2?"


def test_problems_of_a_file_in_the_loop(tmp_path: Path) -> None:
    """Load a file with every kind of problem, ask a policy that answers each, grade its groups as the loop does."""
    rows = [{"id": kind, "problem": "n times n, plus one.", "answer": "-", **row} for kind, row in ROWS.items()]
    problems = load_jsonl(write(tmp_path / "p.jsonl", *rows))
    texts = {
        7: {problem.id: answered(wrapped("return n * n + 1", problem.id)) for problem in problems},
        8: {problem.id: answered(wrapped("return n * n", problem.id)) for problem in problems},
    }
    asked: list[str] = []

    def verify(problem: Problem, text: str) -> Score:
        asked.append(problem.prompt)
        given = Reference(problem.answer, problem.prompt, problem.extra)
        return get_verifier(problem.verifier)(texts[int(text)][problem.id], given)

    def rollouts(problem: Problem) -> tuple[object, ...]:
        whole = [rollout(f"{problem.id}/{j}", [(0, 1)]) for j in range(2)]
        return tuple(
            replace(one, segments=(replace(one.segments[0], token_ids=(7 + j,)),)) for j, one in enumerate(whole)
        )

    grading = Grading.by(verify)
    rewarder = Rewarder(RewardConfig(length=None), lambda _, tokens: str(tokens[0]), grading)
    groups = [Group(problem.id, problem, rollouts(problem), 0) for problem in problems]  # type: ignore[arg-type]
    for group in groups:
        rewarder.submit(group)
    scored = sorted(rewarder.collect(0), key=lambda item: [*ROWS].index(item.group.id))
    grading.close()
    assert [group.rewards for group in scored] == [(1.0, 0.0)] * len(ROWS)
    assert len(asked) == 2 * len(ROWS)
    assert all("```python" in prompt for prompt in asked)


def test_what_a_model_is_asked(tmp_path: Path) -> None:
    rows = [{"id": kind, "problem": "n times n, plus one.", "answer": "-", **row} for kind, row in ROWS.items()]
    prompts = {problem.id: problem.prompt for problem in load_jsonl(write(tmp_path / "p.jsonl", *rows))}
    assert "standard input" in prompts["stdin"]
    assert "class Solution:\n    def f(self, n: int) -> int:" in prompts["functional"]
    assert "def f(n: int) -> int:" in prompts["humaneval"]
    assert "Define `def f(n)`." in prompts["mbpp"]
    assert not any("49000014000002" in prompt or "assert" in prompt for prompt in prompts.values())


def test_another_test_is_another_problem(tmp_path: Path) -> None:
    row = {"id": "a", "problem": "x", "answer": "-", "tests": [{"input": "1", "output": "2"}]}
    changed = {**row, "tests": [{"input": "1", "output": "3"}]}
    first, second = (load_jsonl(write(tmp_path / f"{i}.jsonl", row)) for i, row in enumerate((row, changed)))
    assert first.fingerprint != second.fingerprint


def test_a_problem_without_tests_is_refused_when_it_is_loaded(tmp_path: Path) -> None:
    good = {"id": "a", "problem": "x", "answer": "-", "tests": [{"input": "1", "output": "2"}]}
    with pytest.raises(ProblemError, match=r"p.jsonl:2: the problem has no tests"):
        load_jsonl(write(tmp_path / "p.jsonl", good, {"id": "b", "problem": "y", "answer": "-"}))
