"""Test-case generation [2501.12599 §2.3.5]: real generators and submissions in the real sandbox."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from recipes.commands.cli import main
from rewards.code.generate import Made, Source, Stage, Yield, agreed, different, draw_inputs, make_tests, summary
from rewards.code.generator_prompt import generator_prompt
from rewards.code.judge import Program, judge
from rewards.code.problem import problem_of_row
from rewards.code.sandbox import shared_sandbox
from rewards.code.types import Job, Outcome, SandboxFailure
from rewards.code.verdict import Verdict

SMALL = Yield(inputs=6, submissions=4, agree=3, min_valid=5, min_passing=3, max_draws=12)
PRINTS = (
    "from cyaron import *\nimport sys\nn = int(sys.argv[1]) + 1\nprint(n)\nprint(*[randint(-99, 99) for _ in range(n)])"
)
WRITES = (
    "from cyaron import *\n"
    "io = IO(file_prefix='data', data_id=1)\nn = randint(1, 9)\nio.input_writeln(n)\n"
    "io.input_writeln([x for (x,) in Vector.random(n, [(-99, 99)])])\nio.output_gen('./std')\n"
)
MANY = (
    "from cyaron import *\n"
    "for i in range(1, 12):\n    io = IO(file_prefix='data', data_id=i)\n    io.input_writeln(i)\n"
    "    io.input_writeln([randint(0, 9) for _ in range(i)])\n"
)
RIGHT = [
    "input()\nprint(sum(map(int, input().split())))",
    "n = int(input())\ns = 0\nfor x in input().split():\n    s += int(x)\nprint(s)",
    "import sys\nprint(sum(map(int, sys.stdin.read().split()[1:])))",
    "from functools import reduce\ninput()\nprint(reduce(int.__add__, map(int, input().split())))",
]
WRONG = "input()\nprint(sum(map(abs, map(int, input().split()))))"
CRASHES = "raise ValueError"


def source(*codes: str, generator: str | None = PRINTS) -> Source:
    return Source("sum", generator, [Program(code) for code in codes])


@pytest.mark.parametrize("generator", [PRINTS, WRITES, MANY])
def test_a_problem_comes_through_and_its_tests_judge(generator: str) -> None:
    made = make_tests(source(*RIGHT, generator=generator), shared_sandbox(), SMALL, workers=2)
    assert (made.stage, made.inputs, made.valid, made.passing) == (Stage.KEPT, 6, 6, 4), made.reason
    assert len({given for given, _ in made.tests}) == 6
    for given, expected in made.tests:
        assert int(expected) == sum(map(int, given.split()[1:]))
    problem = problem_of_row({"tests": [{"input": a, "output": b} for a, b in made.tests]})
    assert judge(problem, Program(RIGHT[1]), shared_sandbox()).verdict is Verdict.AC


def test_the_same_seed_makes_the_same_tests() -> None:
    first = make_tests(source(*RIGHT), shared_sandbox(), SMALL, workers=2)
    again = make_tests(source(*RIGHT), shared_sandbox(), SMALL)
    other = make_tests(source(*RIGHT), shared_sandbox(), replace(SMALL, seed=1))
    assert first == again
    assert first.tests != other.tests


def test_one_wrong_submission_is_outvoted_two_are_not() -> None:
    made = make_tests(source(*RIGHT[:3], WRONG), shared_sandbox(), SMALL)
    assert (made.stage, made.valid, made.passing) == (Stage.KEPT, 6, 3)
    assert all(int(expected) == sum(map(int, given.split()[1:])) for given, expected in made.tests)
    made = make_tests(source(*RIGHT[:2], WRONG, CRASHES), shared_sandbox(), SMALL)
    assert (made.stage, made.tests) == (Stage.FEW_VALID, ())


def test_submissions_that_agree_but_not_on_all_cases() -> None:
    """Each of three submissions is wrong on another input: every case is valid, only one submission passes all."""
    codes = [f"n = int(input())\nprint(sum(map(int, input().split())) + (n == {k}))" for k in (1, 2, 3)]
    made = make_tests(source(RIGHT[0], *codes), shared_sandbox(), SMALL)
    assert (made.stage, made.valid, made.passing) == (Stage.FEW_PASSING, 6, 1)
    assert made.reason == "1 of 4 submissions pass all cases, fewer than 3"


@pytest.mark.parametrize(
    ("generator", "reason"),
    [
        (None, "no generator"),
        ("raise ValueError('bad')", "the generator failed on draw 0: RE, exit 1: ValueError: bad"),
        ("import time\nprint(time.time_ns())", "does not heed its seed"),
        ("import os\nprint(os.urandom(8).hex())", "does not heed its seed"),
        ("import os\nos.write(3, b'[1]')\nos._exit(0)", "the generator failed on draw 0"),
        ("import os\nos.write(3, b'[')\nos._exit(0)", "the generator failed on draw 0"),
    ],
)
def test_generators_that_are_no_good(generator: str | None, reason: str) -> None:
    made = make_tests(source(*RIGHT, generator=generator), shared_sandbox(), SMALL)
    assert made.stage is Stage.GENERATOR
    assert reason in made.reason


def test_a_generator_that_repeats_itself() -> None:
    made = make_tests(source(*RIGHT, generator="print('1\\n5')"), shared_sandbox(), SMALL)
    assert (made.stage, made.inputs) == (Stage.FEW_VALID, 1)
    assert made.reason == "1 different inputs, fewer than 5"


def test_inputs_that_are_too_long_are_left_out() -> None:
    rules = replace(SMALL, max_input_bytes=100)
    assert draw_inputs("print('1' * 101)", "x", shared_sandbox(), rules) == []


def test_copies_of_a_submission_count_once() -> None:
    copies = [RIGHT[0], RIGHT[0] + "\n# mine", RIGHT[0].replace("\n", "\n\n").replace("(", "( ")]
    assert len(different([Program(code) for code in (*copies, RIGHT[1])])) == 2
    assert (
        len(different([Program("int x; // a", "c"), Program("int x; /* b\n */", "c"), Program("int x;", "cpp")])) == 2
    )
    made = make_tests(source(*copies, RIGHT[1]), shared_sandbox(), SMALL)
    assert (made.stage, made.submissions) == (Stage.FEW_SUBMISSIONS, 2)


def test_special_judges_and_broken_sandboxes() -> None:
    class Failing:
        def run(self, job: Job) -> Outcome:
            raise SandboxFailure("sandbox: gone")

    assert make_tests(replace(source(*RIGHT), special_judge=True), Failing(), SMALL).stage is Stage.SPECIAL_JUDGE
    assert make_tests(source(*RIGHT), Failing(), SMALL) == Made("sum", Stage.SANDBOX, "sandbox: gone", 4)


def test_agreement() -> None:
    rules = replace(SMALL, agree=3)
    rows = [[b"1", b"1 ", b"1\n", b"2"], [b"1", b"1", b"2", b"2"], [b"1", None, None, b"1"], [None] * 4]
    assert agreed(rows, rules) == [(b"1", frozenset({0, 1, 2})), None, None, None]
    close = [[b"0.33333333", b"0.33333334", b"0.33333332", b"0.4"]]
    assert agreed(close, rules) == [None]
    assert agreed(close, rules, 1e-6) == [(b"0.33333333", frozenset({0, 1, 2}))]


def test_the_papers_numbers_are_the_defaults() -> None:
    rules = Yield()
    assert (rules.inputs, rules.submissions, rules.agree, rules.min_valid, rules.min_passing) == (50, 10, 7, 40, 9)
    for wrong in ({"agree": 5}, {"agree": 11}, {"min_valid": 51}, {"inputs": 101}, {"min_passing": 11}):
        with pytest.raises(ValueError, match=r"agree|min_valid"):
            Yield(**wrong)


def test_yield_of_a_set() -> None:
    stages = [
        Stage.KEPT,
        Stage.KEPT,
        Stage.FEW_PASSING,
        Stage.FEW_VALID,
        Stage.GENERATOR,
        Stage.SPECIAL_JUDGE,
        Stage.SANDBOX,
    ]
    assert summary([Made(str(i), stage) for i, stage in enumerate(stages)]) == {
        "problems": 7,
        "without special judge": 5,
        "enough submissions": 5,
        "generator kept": 3,
        "kept": 2,
        "sandbox failed": 1,
    }


def write(path: Path, *rows: object) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


OPTIONS = ["--inputs", "6", "--per-problem", "4", "--agree", "3", "--min-valid", "5", "--min-passing", "3"]


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    problems = write(
        tmp_path / "p", {"id": "a", "problem": "Sum."}, {"id": "b", "problem": "None.", "special_judge_suspect": True}
    )
    generators = write(tmp_path / "g", {"id": "a", "response": f"<think>x</think>\n```python\n{PRINTS}\n```"})
    submissions = write(tmp_path / "s", *({"id": "a", "code": code} for code in RIGHT))
    out, report = tmp_path / "out", tmp_path / "report"
    command = ["make-tests", problems, "--generators", generators, "--submissions", submissions, "--out", str(out)]
    assert main([*command, *OPTIONS, "--report", str(report)]) == 0
    assert "1 problems with tests in" in capsys.readouterr().out
    (row,) = map(json.loads, out.read_text().splitlines())
    assert (row["id"], row["testtype"], len(row["tests"])) == ("a", "stdin", 6)
    stages = [json.loads(line)["stage"] for line in report.read_text().splitlines()]
    assert stages == ["kept", "special_judge"]
    assert main(["make-tests", problems, "--prompts", str(tmp_path / "prompts")]) == 0
    assert generator_prompt("Sum.") in json.loads((tmp_path / "prompts").read_text().splitlines()[0])["prompt"]


@pytest.mark.parametrize(
    ("generator", "submission", "message"),
    [
        ({"id": "x", "code": "1"}, {"id": "a", "code": "1"}, "g:1: unknown problem id 'x'"),
        ({"id": "a"}, {"id": "a", "code": "1"}, "g:1: 'code' is missing"),
        ({"id": "a", "code": "1"}, {"id": "a", "code": "1", "language": "cobol"}, "s:1: unknown language 'cobol'"),
        ({"id": "a", "code": "1"}, {"code": "1"}, "s:1: 'id' is missing"),
    ],
)
def test_bad_files(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], generator: object, submission: object, message: str
) -> None:
    files = [write(tmp_path / "p", {"id": "a", "problem": "x"}), write(tmp_path / "g", generator)]
    command = ["make-tests", files[0], "--generators", files[1], "--submissions", write(tmp_path / "s", submission)]
    assert main([*command, "--out", str(tmp_path / "out")]) == 2
    assert message in capsys.readouterr().err
    assert main(command) == 2
    assert "needs --generators, --submissions and --out" in capsys.readouterr().err
