"""Every benchmark of the folder, and how to add one."""

from __future__ import annotations

import base64
import json
import os
import pickle
import shutil
import zlib
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

import evals.benchmarks
from evals.benchmark import Benchmark, Needs
from evals.benchmarks import UnknownBenchmark, get, names
from evals.benchmarks.livecodebench import convert, private_tests
from evals.data import Choice, load, load_shots
from rewards.math.verdict import Verdict
from rewards.reference import Reference
from rewards.verify import TIMED, get_verifier
from rl.config import RewardConfig
from rollout.problems.source import ProblemError
from rollout.types import Problem

DATA = Path(os.environ.get("K15_DATA", "data"))
WANTED = {
    *("aime2024", "aime2025", "aime1983_2023", "amc2023", "math500", "gsm8k", "olympiadbench", "minerva"),
    *("livecodebench", "humaneval", "mbpp", "needle", "agnews"),
}
SIZES = {"aime2024": 30, "aime2025": 30, "amc2023": 40, "math500": 500, "gsm8k": 1319, "minerva": 272}
SIZES |= {"olympiadbench": 675, "humaneval": 164, "mbpp": 500, "aime1983_2023": 975, "agnews": 7600}


def write_rows(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_the_benchmarks_that_k15_promises_are_there() -> None:
    assert set(names()) >= WANTED


@pytest.mark.parametrize("name", names())
def test_a_benchmark_is_complete(name: str) -> None:
    benchmark = get(name)
    assert benchmark.name == name
    assert benchmark.title
    assert len(benchmark.published) > 60, "say what settings published numbers use"
    assert benchmark.samples >= 1
    assert 0 <= benchmark.temperature <= 1
    assert (benchmark.temperature == 0) <= (benchmark.samples == 1), "greedy samples are all the same"
    assert (benchmark.make is None) == (benchmark.file.endswith(".jsonl") and benchmark.hub is not None)


def test_training_and_evaluation_give_an_answer_the_same_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """An answer that spends its time is wrong: with another limit the verdict on one response could be another."""
    limits: list[float] = []

    class Pool:
        def ask(self, gold: str, answer: str, limit_s: float, tolerance: Fraction | None) -> Verdict:
            limits.append(limit_s)
            return Verdict(True)

    monkeypatch.setattr("rewards.math.judge.shared_pool", lambda: Pool())
    gold, response = r"\sqrt{2} + \sqrt{3}", r"\boxed{\sqrt{5 + 2\sqrt{6}}}"
    wanted = RewardConfig().grader_timeout_s
    assert get_verifier("math", wanted)(response, Reference(gold)).correct
    timed = [name for name in names() if get(name).verifier in TIMED]
    for name in timed:
        benchmark = get(name)
        assert benchmark.verify(Problem.ask("x", "p", gold, verifier=benchmark.verifier), response).correct, name
    assert limits == [wanted] * (1 + len(timed))
    assert len(timed) >= 7


@pytest.mark.parametrize("name", [name for name in names() if get(name).file])
def test_the_local_file_loads_and_its_own_answers_are_asked_for(name: str) -> None:
    benchmark = get(name)
    if not (DATA / benchmark.file).is_file():
        pytest.skip(f"no {benchmark.file} in {DATA} (set K15_DATA)")
    loaded = load(benchmark, DATA, Choice())
    assert len(loaded.problems) == SIZES.get(name, len(loaded.problems))
    for problem in loaded.problems[:3]:
        asked = benchmark.ask(problem)
        assert str(problem.extra.get("statement", problem.prompt)).strip() in asked
        assert problem.answer not in ("", None)
    for field in benchmark.breakdown:
        assert any(problem.extra.get(field) for problem in loaded.problems), f"no problem has the field {field}"


@pytest.mark.parametrize("name", ["aime2024", "math500", "gsm8k", "olympiadbench", "minerva"])
def test_references_are_right_by_the_benchmarks_own_verifier(name: str) -> None:
    benchmark = get(name)
    if not (DATA / benchmark.file).is_file():
        pytest.skip(f"no {benchmark.file} in {DATA} (set K15_DATA)")
    for problem in load(benchmark, DATA, Choice(limit=25)).problems:
        score = benchmark.verify(problem, f"Thus the answer is $\\boxed{{{problem.answer}}}$.")
        assert score.correct, (problem.id, problem.answer, score)


def test_an_unknown_name_is_answered_with_the_nearest() -> None:
    with pytest.raises(UnknownBenchmark, match="did you mean 'math500'"):
        get("math50")
    assert get("AIME-2024").name == "aime2024"
    with pytest.raises(UnknownBenchmark, match="there are: agnews, aime1983_2023"):
        get("zzz")


def test_one_file_adds_a_benchmark(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The template, copied and renamed, is found, loads its file, asks and grades."""
    folder = Path(evals.benchmarks.__file__).parent
    text = (folder / "_template.py").read_text().replace('name="template"', 'name="mine"')
    (tmp_path / "mine.py").write_text(text.replace("template.jsonl", "mine.jsonl"))
    monkeypatch.setattr(evals.benchmarks, "__path__", [*evals.benchmarks.__path__, str(tmp_path)])
    benchmark = get("mine")
    assert "mine" in names()
    write_rows(tmp_path / "mine.jsonl", [{"problem": "1 + 1?", "answer": "2", "level": 1}])
    (problem,) = load(benchmark, tmp_path, Choice()).problems
    assert problem.id == "mine-1"
    assert benchmark.ask(problem).startswith("1 + 1?\n\nPlease reason")
    assert benchmark.verify(problem, "It is \\boxed{2}.").correct
    assert not benchmark.verify(problem, "It is \\boxed{3}.").correct
    row = {"number": 4, "question": "q", "gold": "a", "level": 2}
    assert benchmark.convert(row) == {"id": "template-4", "problem": "q", "answer": "a", "level": 2}
    shutil.rmtree(tmp_path / "__pycache__", ignore_errors=True)


def test_missing_data_says_where_was_looked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("K15_DATA", str(tmp_path / "own"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "math_train.jsonl").touch()
    with pytest.raises(ProblemError, match=r"no math500\.jsonl in this directory; .*math_train\.jsonl"):
        load(get("math500"), tmp_path, Choice())
    with pytest.raises(ProblemError, match="no such file or directory"):
        load(get("math500"), tmp_path / "no", Choice())
    with pytest.raises(ProblemError) as caught:
        load(Benchmark("x", "X", "", file="x.jsonl"), None, Choice())
    assert str(tmp_path / "own" / "x.jsonl") in str(caught.value)
    assert str(tmp_path / "data" / "x.jsonl") in str(caught.value)


def test_bad_rows_are_named_by_line(tmp_path: Path) -> None:
    path = tmp_path / "math500.jsonl"
    path.write_text('{"problem": "a", "answer": "1"}\n{"problem": "b"}\n')
    with pytest.raises(ProblemError, match=r"math500\.jsonl:2: no answer"):
        load(get("math500"), tmp_path, Choice())
    path.write_text('{"problem": "a", "answer": "1"}\n{"problem"\n')
    with pytest.raises(ProblemError, match=r"math500\.jsonl:2: not valid JSON"):
        load(get("math500"), tmp_path, Choice())
    write_rows(path, [{"id": "a", "problem": "a", "answer": "1"}] * 2)
    with pytest.raises(ProblemError, match="'a' occurs twice"):
        load(get("math500"), tmp_path, Choice())


def test_choices_of_problems(tmp_path: Path) -> None:
    rows = [
        {
            "id": f"q{i}",
            "problem": f"p{i}",
            "answer": "x",
            "tests": [{"input": "1", "output": "2"}],
            "date": f"2025-{i:02d}-15T00:00:00",
            "level": i % 2,
        }
        for i in range(1, 13)
    ]
    rows[0]["defect"] = "wrong"
    write_rows(tmp_path / "livecodebench_v5_v6.jsonl", rows)

    def ids(**choice: Any) -> list[str]:
        return [problem.id for problem in load(get("livecodebench"), tmp_path, Choice(**choice)).problems]

    assert ids(since="2025-03", until="2025-05") == ["q3", "q4", "q5"]
    assert ids(where=(("level", "1"),)) == ["q1", "q3", "q5", "q7", "q9", "q11"]
    assert len(ids(skip_defects=True)) == 11
    few, more = ids(limit=3), ids(limit=6)
    assert len(few) == 3
    assert set(few) < set(more)
    loaded = load(get("livecodebench"), tmp_path, Choice(limit=3))
    assert loaded.fingerprint == load(get("livecodebench"), tmp_path, Choice()).fingerprint
    write_rows(tmp_path / "math500.jsonl", [{"problem": "a", "answer": "1"}])
    with pytest.raises(ProblemError, match="no dates"):
        load(get("math500"), tmp_path, Choice(since="2025"))


def test_gsm8k_reads_the_box_first_and_falls_back_to_the_last_number() -> None:
    problem = Problem.ask("a", "q", "1200", "gsm8k")
    for text in ("so \\boxed{1,200} after 3 days", "#### 1200", "Answer: 1200", "that makes 1,200."):
        assert get("gsm8k").verify(problem, text).correct, text
    assert not get("gsm8k").verify(problem, "\\boxed{3} and not 1200").correct


def test_solved_examples_are_the_same_for_all_and_nested(tmp_path: Path) -> None:
    rows = [{"problem": f"{i}+1?", "answer": str(i + 1), "rationale": f"<<{i}+1={i + 1}>>{i + 1}"} for i in range(9)]
    write_rows(tmp_path / "gsm8k_train.jsonl", rows)
    benchmark = get("gsm8k")
    assert benchmark.shots is not None
    shots = load_shots(benchmark.shots, 4, tmp_path, benchmark.ask)
    assert load_shots(benchmark.shots, 2, tmp_path, benchmark.ask) == shots[:2]
    assert all("<<" not in solution and "\\boxed{" in solution for _, solution in shots)
    with pytest.raises(ProblemError, match="fewer than --shots 10"):
        load_shots(benchmark.shots, 10, tmp_path, benchmark.ask)


def lcb_row(private: str, **changes: Any) -> dict[str, Any]:
    public = [{"input": "1", "output": "2", "testtype": "stdin"}]
    return {
        "question_id": "abc1_a",
        "question_content": "Add one.",
        "platform": "atcoder",
        "difficulty": "easy",
        "contest_date": "2025-01-20T00:00:00",
        "starter_code": "",
        "metadata": "{}",
        "public_test_cases": json.dumps(public),
        "private_test_cases": private,
        **changes,
    }


def test_livecodebench_rows_of_the_hub_bring_public_and_private_tests() -> None:
    hidden = json.dumps([{"input": "5", "output": "6", "testtype": "stdin"}])
    packed = base64.b64encode(zlib.compress(pickle.dumps(hidden))).decode()
    row = convert(lcb_row(packed))
    assert row["tests"] == [
        {"input": "1", "output": "2", "public": True},
        {"input": "5", "output": "6", "public": False},
    ]
    assert (row["id"], row["release"], row["testtype"]) == ("lcb-abc1_a", "v5", "stdin")
    assert convert(lcb_row(hidden, metadata='{"func_name": "f"}'))["testtype"] == "functional"


def test_a_pickle_in_private_tests_cannot_run_code() -> None:
    class Evil:
        def __reduce__(self) -> tuple[Any, ...]:
            return os.system, ("touch /tmp/never",)

    packed = base64.b64encode(zlib.compress(pickle.dumps(Evil()))).decode()
    with pytest.raises(pickle.UnpicklingError, match="should be text"):
        private_tests(packed)


def test_needles_lie_where_they_should_and_can_be_found() -> None:
    benchmark = get("needle")
    assert benchmark.make is not None
    needs = Needs(lambda text: len(text) // 4, (500, 2000), (0, 50, 100), 2, seed=0)
    problems = benchmark.make(needs)
    assert len({problem.id for problem in problems}) == 2 * 3 * 2
    for problem in problems:
        text, _, question = problem.prompt.rpartition("\n\n")
        ship = question.split(" of the ")[1].split("?")[0]
        lines = text.split("\n")
        (at,) = [i for i, line in enumerate(lines) if f"the {ship} is {problem.answer}." in line]
        assert at / (len(lines) - 1) == pytest.approx(problem.extra["depth"] / 100, abs=0.03)
        assert len(text) / 4 == pytest.approx(problem.extra["length"], rel=0.1)
        decoys = [line for line in lines if "registration number" in line]
        assert len(decoys) == 5
        other = next(line for line in decoys if ship not in line)[-8:-1]
        assert benchmark.verify(problem, f"<think>{other}?</think>It is {problem.answer}.").correct
        assert not benchmark.verify(problem, f"{other} or {problem.answer}").correct
        assert not benchmark.verify(problem, "unknown").correct
    assert [p.prompt for p in benchmark.make(needs)] == [p.prompt for p in problems]
