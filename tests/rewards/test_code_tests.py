"""A problem's tests: what they may do, which of them cannot be used, and that no answer makes them go away."""

from __future__ import annotations

import pytest

from rewards.code.compare import Leeway, Order
from rewards.code.judge import Program, judge, result_of
from rewards.code.problem import ProblemInvalid, problem_of_row
from rewards.code.replies import Reply, read_replies
from rewards.code.sandbox import shared_sandbox
from rewards.code.verdict import Verdict
from tests.code_kit import FAST, stdin_problem


@pytest.mark.parametrize(
    ("tests", "reason"),
    [
        (["raise ValueError('broken')", "assert f(1) == 2"], "the test code raised ValueError: broken"),
        (["assert f(lambda: 1) == 2"], "cannot be passed on"),
        (["f", "k = 1", "assert k"], "never call the program"),
        (["import no_such_module", "assert f(1)"], "ModuleNotFoundError"),
    ],
)
def test_broken_tests_are_ungradable(tests: list[str], reason: str) -> None:
    result = judge(problem_of_row({"test_list": tests}), Program("def f(x): return 2"), shared_sandbox(), FAST)
    assert result.verdict is Verdict.SE, result.reason
    assert reason in result.reason


def test_calls_that_depend_on_results() -> None:
    """Test code that feeds results back, keeps objects of the program, and draws random numbers."""
    tests = [
        "import random\nx = f(f(2))\nassert x == 26",
        "for _ in range(5):\n    k = random.randint(1, 9)\n    assert f(k) == k * k + 1",
        "root = Node(1)\nroot.left = Node(2)\nroot.left.left = Node(3)\nassert depth(root) == 3",
        "assert sorted([f(1), f(0)]) == [1, 2]",
        "assert f(2, int) == 5",
    ]
    code = (
        "def f(n, kind=int): return kind(n * n + 1)\n"
        "class Node:\n    def __init__(self, v): self.left = None\n"
        "def depth(node): return 0 if node is None else 1 + depth(node.left)\n"
    )
    problem = problem_of_row({"test_list": tests})
    result = judge(problem, Program(code), shared_sandbox(), FAST)
    assert (result.verdict, result.passed) == (Verdict.AC, 9), result.reason
    wrong = judge(problem, Program(code.replace("1 + depth", "2 + depth")), shared_sandbox(), FAST)
    assert (wrong.verdict, wrong.passed) == (Verdict.WA, 8)


def test_answers_that_change_lead_the_tests_nowhere() -> None:
    """Results that depend on results, from a program that never says the same twice: wrong, not ungradable."""
    problem = problem_of_row(
        {"test_list": ["assert f(f(f(1))) == 26", "x = f(1)\nwhile x < 100: x = f(x)\nassert x == 677"]}
    )
    right = judge(problem, Program("def f(n): return n * n + 1"), shared_sandbox(), FAST)
    assert right.verdict is Verdict.AC, right.reason
    for code in ("import os\ndef f(n): return os.urandom(1)[0] % 90", "def f(n): return 1", "def f(n): return n + 1"):
        assert judge(problem, Program(code), shared_sandbox(), FAST).verdict is Verdict.WA


def test_truth_of_an_object_is_all_that_counts_of_it() -> None:
    """Some tests only ask for a true value, which a match object is."""
    code = "import re\ndef f(s): return re.search('a', s)"
    problem = problem_of_row({"test_list": ["assert f('cat')", "assert not f('dog')"]})
    assert judge(problem, Program(code), shared_sandbox(), FAST).verdict is Verdict.AC
    problem = problem_of_row({"test_list": ["assert f('cat') == True"]})
    assert judge(problem, Program(code), shared_sandbox(), FAST).verdict is Verdict.WA


CHECKER = "import sys\ngiven, found, answer = (open(p).read().split() for p in sys.argv[1:])\n{}"


ANY_ORDER = "sys.exit(sorted(found) != sorted(answer))"


def test_checkers() -> None:
    problem = stdin_problem(("3", "1 2 3"), checker=CHECKER.format(ANY_ORDER))
    assert judge(problem, Program("print(3, 1, 2)"), shared_sandbox(), FAST).verdict is Verdict.AC
    assert judge(problem, Program("print(3, 1, 1)"), shared_sandbox(), FAST).verdict is Verdict.WA
    breaks = "found == ['x'] and "
    for body, verdict in (
        ("sys.exit(3)", Verdict.SE),
        ("int(found[0])", Verdict.WA),
        (f"{breaks}sys.exit(3)", Verdict.WA),
        (f"{breaks}__import__('os').abort()", Verdict.WA),
        ("while found == ['x']: pass", Verdict.WA),
        ("__import__('os').abort()", Verdict.SE),
    ):
        problem = stdin_problem(("3", "1"), checker={"code": CHECKER.format(body), "language": "python"})
        assert judge(problem, Program("print('x')"), shared_sandbox(), FAST).verdict is verdict
    problem = stdin_problem(("3", "1"), checker={"code": "int main(", "language": "cpp"})
    assert judge(problem, Program("print(1)"), shared_sandbox(), FAST).verdict is Verdict.SE


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({}, "no tests"),
        ({"tests": []}, "no tests"),
        ({"tests": [{"input": "1"}]}, "test 1 of the problem has no text 'output'"),
        ({"tests": [{"input": 1, "output": "1"}]}, "test 1 of the problem has no text 'input'"),
        ({"tests": [{"input": "1", "output": "1"}], "testtype": "stdio"}, "unknown testtype 'stdio'"),
        ({"tests": [{"input": "1", "output": "1"}], "testtype": "functional"}, "needs 'fn_name'"),
        ({"tests": [{"input": "x", "output": "1"}], "fn_name": "f"}, "input of test 1 is no JSON"),
        ({"tests": [{"input": "1", "output": "NaN"}], "fn_name": "f"}, "output of test 1 is no JSON"),
        ({"tests": [{"input": "1", "output": "[" * 100000}], "fn_name": "f"}, "output of test 1 is no JSON"),
        ({"tests": [{"input": "1", "output": "1"}], "tolerance": -1}, "'tolerance' is -1"),
        ({"tests": [{"input": "1", "output": "1"}], "checker": 3}, "'checker' is neither"),
        ({"tests": [{"input": "1", "output": "1"}], "time_limit_ms": "2"}, "'time_limit_ms' is '2'"),
        ({"entry_point": "f"}, "needs 'test'"),
        ({"entry_point": "f", "test": "def check(:"}, "'test' is no Python"),
        ({"test_list": []}, "'test_list' is empty"),
        ({"test_list": ["assert 1"]}, "asserts nothing"),
        ({"test_list": ["f(1)"]}, "asserts nothing"),
        ({"test_list": ["k = 1", "assert k"]}, "call nothing"),
        ({"entry_point": "f", "test": "def check(f): f(1)"}, "asserts nothing"),
        ({"test_list": "assert f(1)"}, "must be lists"),
    ],
)
def test_unusable_problems(row: dict[str, object], message: str) -> None:
    with pytest.raises(ProblemInvalid, match=message):
        problem_of_row(row)


def test_tests_that_swallow_what_happens_accept_nothing() -> None:
    """Test code with a bare ``except`` or a loop over a result: a program cannot make its asserts go away."""
    tests = ["try:\n    f(1)\nexcept: pass", "for x in f(2): assert x == 2", "assert f(3) == [3]"]
    problem = problem_of_row({"test_list": tests})
    assert judge(problem, Program("def f(n): return [n]"), shared_sandbox(), FAST).verdict is Verdict.AC
    for code in ("import os\ndef f(n): os._exit(0)", "def f(n): return []", "def f(n): return type('', (), {})()"):
        result = judge(problem, Program(code), shared_sandbox(), FAST)
        assert result.verdict in (Verdict.WA, Verdict.RE), (code, result)
    problem = problem_of_row({"test_list": ["for x in f(2): assert x == 2"]})
    assert judge(problem, Program("def f(n): return []"), shared_sandbox(), FAST).verdict is Verdict.WA


def test_replies_are_read_up_to_the_first_that_is_none() -> None:
    def read(channel: bytes, expected: int) -> tuple[list[bytes], bool]:
        replies, intact = read_replies(channel, expected)
        return [reply.claim for reply in replies], intact

    good, bad = b'["value", 1]', b'["object", "M"]'
    assert read(good + b"\n" + good + b"\n", 2) == ([good, good], True)
    assert read(b"\n".join([good, bad, good, b""]), 3) == ([good], False)
    assert read(good + b"\n" + good + b"\n", 1) == ([good], False)
    assert read(good + b"\n" + good, 2) == ([good], True)
    assert read(b'["object", "M", true]\n', 1)[1]
    assert read(b'["raised", "E", "ValueError", "x"]\n', 1)[1]
    for line in (
        b"",
        b"[",
        b"{}",
        b'["object", "M", 1]',
        b'["raised", "E", "E", "' + b"x" * 10_000 + b'"]',
        b"[]",
        b"[[]]",
        b'["failed", "AC", ""]',
        b'["failed", "SE", ""]',
        b'["raised", 1, 2, 3]',
        b'["value",1]',
        b'["value", 1',
    ):
        assert read(line + b"\n", 1) == ([], False), line


@pytest.mark.parametrize(
    "said", ["NaN", "1, 2", "", "[1", "[" * 100_000 + "]" * 100_000, '{"int": 5}', '{"ref": 0}', "9" * 5000, "\xff"]
)
def test_a_value_that_is_none_is_wrong(said: str) -> None:
    reply = Reply("value", b'["value", ' + said.encode("latin1") + b"]")
    for expected in (1, [1], 10**5000, "x", 1.0, {"a": 1}):
        assert result_of(reply, expected, Leeway(1e-6, Order.ITEMS)).verdict is Verdict.WA
