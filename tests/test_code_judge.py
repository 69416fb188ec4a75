"""Honest programs are accepted, wrong ones get the right verdict, and nobody's failure is taken for the program's."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from rewards.code import packages
from rewards.code.compare import Leeway, Order
from rewards.code.judge import Program, judge, result_of
from rewards.code.languages import LANGUAGES
from rewards.code.problem import ProblemInvalid, problem_of_row
from rewards.code.replies import Reply, read_replies
from rewards.code.rules import Rules
from rewards.code.sandbox import open_sandbox, shared_sandbox
from rewards.code.types import Ending, Job, Outcome, SandboxFailure
from rewards.code.verdict import Judgement, Verdict, judgement
from rewards.code.verdict import TestResult as Result
from tests.code_kit import FAST, INPUTS, PROBLEMS, ROWS, judged, stdin_problem, wrapped

SUM = stdin_problem(("3\n1 2 3\n", "6\n"), ("1\n-5", "-5"))
IDIOMS = {
    "buffer-readline": "import sys\nr = sys.stdin.buffer.readline\nn = int(r())\nprint(sum(map(int, r().split())))",
    "iterate-stdin": "import sys\nlines = [line.split() for line in sys.stdin]\nprint(sum(map(int, lines[1])))",
    "top-level-global": "global total\ntotal = 0\ndef add(x):\n    global total\n    total += x\ninput()\n"
    "for x in input().split(): add(int(x))\nprint(total)",
    "buffer-write": "import sys\nd = sys.stdin.buffer.read().split()\n"
    "sys.stdout.buffer.write(b'%d' % sum(map(int, d[1:])))",
    "os-read": "import os\nd = os.read(0, 1 << 20).split()\nos.write(1, str(sum(map(int, d[1:]))).encode())",
    "readlines": "import sys\nprint(sum(map(int, sys.stdin.readlines()[1].split())))",
    "open-0": "print(sum(map(int, open(0).read().split()[1:])))",
    "input-rebound": "import sys\ninput = lambda: sys.stdin.readline().rstrip()\n"
    "input()\nprint(sum(map(int, input().split())))",
    "main-guard": "def main():\n    input()\n    print(sum(map(int, input().split())))\n"
    "if __name__ == '__main__':\n    main()",
    "sys-exit-at-the-end": "import sys\ninput()\nprint(sum(map(int, input().split())))\nsys.exit()",
    "redirected-print": "import io, sys\nout = io.StringIO()\nsys.stdout, real = out, sys.stdout\ninput()\n"
    "print(sum(map(int, input().split())))\nreal.write(out.getvalue())",
}


@pytest.mark.parametrize("idiom", IDIOMS)
def test_stdin_idioms(idiom: str) -> None:
    result = judge(SUM, Program(IDIOMS[idiom]), shared_sandbox(), FAST)
    assert result.verdict is Verdict.AC, result.reason


STREAMS = {
    "python": "import sys\nd = open('/dev/stdin').read().split()\n"
    "print('debug', file=open('/dev/stderr', 'w'))\n"
    "with open('/dev/stdout', 'w') as out: print(sum(map(int, d[1:])), file=out)",
    "c": '#include <stdio.h>\nint main(void) { long n, x, s = 0; freopen("/dev/stdin", "r", stdin);\n'
    'freopen("/dev/stdout", "w", stdout); freopen("/dev/stderr", "w", stderr); scanf("%ld", &n);\n'
    'while (scanf("%ld", &x) == 1) s += x; fprintf(stderr, "debug"); printf("%ld", s); return 0; }',
    "javascript": "const fs = require('fs');\n"
    "const d = fs.readFileSync('/dev/stdin', 'utf8').split(/\\s+/).filter(x => x).map(Number);\n"
    "fs.writeFileSync('/dev/stderr', 'debug');\n"
    "fs.writeFileSync('/dev/stdout', String(d.slice(1).reduce((a, b) => a + b, 0)))",
    "bash": "{ read n; s=0; while read -a l; do for x in ${l[@]}; do s=$((s + x)); done; done; } < /dev/stdin\n"
    "echo debug > /dev/stderr; echo $s > /dev/stdout",
}


@pytest.mark.parametrize("language", STREAMS)
def test_streams_opened_by_name(language: str) -> None:
    problem = stdin_problem(("3\n1 2 3\n", "6\n"), ("1\n-5\n", "-5"))
    result = judge(problem, Program(STREAMS[language], language), shared_sandbox(), Rules(time_s=2))
    assert result.verdict in (Verdict.AC, Verdict.CE), result.reason
    assert result.verdict is Verdict.AC or result.reason.endswith("is not installed")


def test_huge_integers() -> None:
    """Longer than what Python reads and writes by itself: in outputs, results, arguments and a problem's own tests."""
    digits = f"1{'0' * 5999}7"
    printing = stdin_problem((digits, digits))
    assert judge(printing, Program("print(int(input()))"), shared_sandbox(), FAST).verdict is Verdict.AC
    assert judge(printing, Program("print(int(input()) + 1)"), shared_sandbox(), FAST).verdict is Verdict.WA
    row = {"fn_name": "f", "tests": [{"input": f"{digits}\n[1, {digits}]", "output": f"[{digits}, 2]"}]}
    problem = problem_of_row(row)
    for body, verdict in (("[a, b[0] + 1]", Verdict.AC), ("[a + 1, 2]", Verdict.WA), ("[a * 1.0, 2]", Verdict.RE)):
        code = f"class Solution:\n    def f(self, a, b): return {body}"
        result = judge(problem, Program(code), shared_sandbox(), FAST)
        assert result.verdict is verdict, result.reason
        assert len(result.reason) < 400


@pytest.mark.parametrize("kind", ROWS)
def test_a_byte_order_mark_is_no_part_of_a_program(kind: str) -> None:
    assert judged(kind, "\ufeff" + wrapped("return n * n + 1", kind)).verdict is Verdict.AC


@pytest.mark.parametrize("kind", ["stdin", "functional"])
def test_asleep_is_over_the_time_limit_however_busy_the_machine(kind: str) -> None:
    """More programs want to run than there are cores: who waits for one is not asleep, and who sleeps does not wait."""
    spin = "import time\nwhile time.process_time() < 0.6: pass\nreturn n * n + 1"
    sleeping = ("time.sleep(100)", "threading.Event().wait()", "os.kill(os.getpid(), 19)")
    bodies = [spin] * 2 * len(os.sched_getaffinity(0))
    bodies += [f"import os, threading, time\n{body}\nreturn n * n" for body in sleeping]
    with open_sandbox(slots=len(bodies)) as box, ThreadPoolExecutor(len(bodies)) as threads:

        def one(body: str) -> Judgement:
            return judge(PROBLEMS[kind], Program(wrapped(body, kind)), box, Rules(time_s=1.0))

        results = list(threads.map(one, bodies))
    assert [result.verdict for result in results[:-3]] == [Verdict.AC] * (len(bodies) - 3)
    for result in results[-3:]:
        assert (result.verdict, result.reason) == (Verdict.TLE, "test 1 of 3: time limit: asleep")


class Starving:
    """A sandbox on a machine that does not get round to anything."""

    def run(self, job: Job) -> Outcome:
        return Outcome(Ending.WALL, 137, b"", b"", 0.1, job.limits.wall_s, None)


@pytest.mark.parametrize("kind", ROWS)
def test_a_program_that_was_kept_from_running_has_no_verdict(kind: str) -> None:
    result = judge(PROBLEMS[kind], Program(wrapped("return n * n + 1", kind)), Starving())
    assert result.verdict is Verdict.SE
    assert "too busy" in result.reason


HONEST = {
    "threads": (
        "import threading",
        "box = []\nthreads = [threading.Thread(target=box.append, args=(n,)) for _ in range(8)]\n"
        "for t in threads: t.start()\nfor t in threads: t.join()\nreturn sum(box) // 8 * n + 1",
    ),
    "subprocess": (
        "import subprocess, sys",
        "return int(subprocess.run([sys.executable, '-c', f'print({n} * {n} + 1)'], capture_output=True).stdout)",
    ),
    "deep-recursion": (
        "import sys\nsys.setrecursionlimit(10**6)\ndef down(k): return 0 if k == 0 else 1 + down(k - 1)",
        "return n * n + down(100_000) - 99_999",
    ),
    "deep-cached-recursion": (
        "import sys, functools\nsys.setrecursionlimit(10**6)\n@functools.lru_cache(None)\n"
        "def down(k): return 0 if k == 0 else 1 + down(k - 1)",
        "return n * n + down(100_000) - 99_999",
    ),
    "recursion-in-a-big-thread": (
        "import sys, threading\nsys.setrecursionlimit(10**6)\nthreading.stack_size(1 << 27)\n"
        "def down(k): return 0 if k == 0 else 1 + down(k - 1)",
        "box = []\nt = threading.Thread(target=lambda: box.append(down(100_000)))\nt.start(); t.join()\n"
        "return n * n + box[0] - 99_999",
    ),
    "multiprocessing": (
        "import multiprocessing",
        "with multiprocessing.Pool(2) as pool: return pool.map(int, [n])[0] * n + 1",
    ),
    "sorted-containers": ("from sortedcontainers import SortedList", "return SortedList([n * n + 1, n])[-1]"),
    "files": ("", "open('a.txt', 'w').write(str(n * n + 1))\nreturn int(open('a.txt').read())"),
    "dataclass": ("from dataclasses import dataclass\n@dataclass\nclass P:\n    x: int", "return P(n).x * n + 1"),
}  # fmt: skip


@pytest.mark.parametrize("kind", ["stdin", "functional", "mbpp"])
@pytest.mark.parametrize("case", HONEST)
def test_honest_programs(case: str, kind: str) -> None:
    top, body = HONEST[case]
    result = judged(kind, wrapped(body, kind, top), rules=Rules(time_s=5))
    assert result.verdict is Verdict.AC, result.reason


@pytest.mark.parametrize("kind", ["functional", "humaneval", "mbpp"])
def test_debug_prints_and_reading_stdin_do_not_matter(kind: str) -> None:
    body = "print('debug', n, flush=True)\nimport sys; sys.stdin.read()\nreturn n * n + 1"
    assert judged(kind, wrapped(body, kind)).verdict is Verdict.AC


def test_large_input_that_nobody_reads() -> None:
    problem = stdin_problem(("1 " * 2_000_000, "5"))
    assert judge(problem, Program("print(5)"), shared_sandbox(), FAST).verdict is Verdict.AC


def test_verdict_names_the_first_failing_test_and_the_share_passed() -> None:
    code = f"n = int(input())\nprint(n * n + (n < {INPUTS[2]}))"
    result = judged("stdin", code)
    assert (result.verdict, result.first_failure, result.passed, result.total) == (Verdict.WA, 2, 2, 3)
    assert result.reason == "test 3 of 3: token 1: '49000014000001', not '49000014000002'"
    assert result.score().parts == {"tests": 2 / 3}
    assert result.score().total == 0.0
    assert result.cpu_s > 0
    assert result.memory_bytes is None or result.memory_bytes > 1 << 20


@pytest.mark.parametrize("failure", ["return 0", "import os; os._exit(1)"])
@pytest.mark.parametrize("kind", ["stdin", "functional"])
def test_early_stop_skips_what_follows(kind: str, failure: str) -> None:
    code = wrapped(f"if n == {INPUTS[0]}:\n    {failure}\nreturn n * n + 1", kind)
    stopped, full = judged(kind, code), judged(kind, code, rules=replace(FAST, stop_at_failure=False))
    if kind == "functional" and failure == "return 0":  # all results were there already
        stopped = full
    first = Verdict.WA if failure == "return 0" else Verdict.RE
    assert (stopped.verdict, full.verdict) == (first, first)
    assert [test.verdict for test in full.tests] == [first, Verdict.AC, Verdict.AC]
    if stopped is not full:
        assert [test.verdict for test in stopped.tests] == [first, Verdict.SKIPPED, Verdict.SKIPPED]


def test_tests_side_by_side_give_the_same_result() -> None:
    code = f"n = int(input())\nprint(n * n + (n != {INPUTS[1]}))"
    alone, beside = judged("stdin", code), judged("stdin", code, rules=replace(FAST, workers=2))
    assert [test.verdict for test in alone.tests] == [test.verdict for test in beside.tests]
    assert [test.verdict for test in beside.tests] == [Verdict.AC, Verdict.WA, Verdict.SKIPPED]


def test_each_call_has_the_whole_time_limit() -> None:
    """Three calls of 0.6 s under a limit of 1 s: together too slow for one process, each fast enough."""
    spin = "import time\nend = time.process_time() + {}\nwhile time.process_time() < end: pass\nreturn n * n + 1"
    rules = replace(FAST, time_s=0.5)
    assert judged("functional", wrapped(spin.format(0.6), "functional"), rules=rules).verdict is Verdict.AC
    slow = judged("functional", wrapped(spin.format(f"(9 if n == {INPUTS[1]} else 0)"), "functional"), rules=rules)
    assert (slow.verdict, slow.first_failure, slow.passed) == (Verdict.TLE, 1, 1)


def test_a_crash_costs_only_its_own_call() -> None:
    code = wrapped(f"import os\nif n == {INPUTS[1]}: os.abort()\nreturn n * n + 1", "functional")
    result = judged("functional", code, rules=replace(FAST, stop_at_failure=False))
    assert [test.verdict for test in result.tests] == [Verdict.AC, Verdict.RE, Verdict.AC]
    assert "signal 6" in result.reason


def test_stated_limits_are_scaled_to_the_language() -> None:
    problem = stdin_problem(("", "1"), time_limit_ms=100, memory_limit_mb=16)
    spin = "import time\nwhile time.process_time() < {}: pass\nprint(1)"
    assert judge(problem, Program(spin.format(0.6)), shared_sandbox()).verdict is Verdict.AC  # 0.5 + 5 * 0.1 s
    assert judge(problem, Program(spin.format(5)), shared_sandbox()).verdict is Verdict.TLE


def test_a_missing_compiler_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(LANGUAGES, "cpp", replace(LANGUAGES["cpp"], compiler=("no-such-compiler", "main.cpp")))
    result = judged("stdin", "int main() {}", "cpp")
    assert (result.verdict, result.reason) == (Verdict.CE, "no-such-compiler is not installed")


def test_a_language_that_the_problem_does_not_take() -> None:
    result = judged("functional", "int f(int n) {}", "cpp")
    assert (result.verdict, result.reason) == (Verdict.CE, "language 'cpp' is not taken here, only: python")
    assert judged("stdin", "", "cobol").verdict is Verdict.CE


def test_the_compiler_is_quoted() -> None:
    result = judged("stdin", "int main(void) { return x; }", "c")
    assert result.verdict is Verdict.CE
    assert "undeclared" in result.reason


class Failing:
    """A sandbox that breaks."""

    def run(self, job: Job) -> Outcome:
        raise SandboxFailure("sandbox: its supervisor ended")


@pytest.mark.parametrize("kind", ["stdin", "functional"])
def test_a_broken_sandbox_is_ungradable(kind: str) -> None:
    result = judge(PROBLEMS[kind], Program("print(1)"), Failing())
    assert (result.verdict, result.reason) == (Verdict.SE, "sandbox: its supervisor ended")
    assert result.score().total is None


def test_a_missing_package_is_ungradable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packages, "AVAILABLE", ("no_such_package",))
    result = judged("functional", "import no_such_package")
    assert result.verdict is Verdict.SE
    assert "no_such_package is not installed" in result.reason


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


def test_a_completion_is_a_program_too() -> None:
    assert judged("humaneval", "    return n * n + 1\n").verdict is Verdict.AC
    assert judged("humaneval", "    return n * n\n").verdict is Verdict.WA


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


def test_nothing_tested_is_nothing_shown() -> None:
    with pytest.raises(ValueError, match="without any test"):
        judgement([])
    passed, skipped = Result(Verdict.AC), Result(Verdict.SKIPPED, "an earlier call failed")
    assert judgement([passed, skipped]).verdict is Verdict.RE
    assert judgement([skipped, Result(Verdict.SE, "gone"), passed]).verdict is Verdict.SE
    assert judgement([passed, passed]).verdict is Verdict.AC


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


def test_expected_results_stay_out_of_the_programs_sandbox() -> None:
    """Every job of a judgement is looked at: only the test code's own sandbox, which runs no program, may hold them."""

    class Watching:
        def __init__(self) -> None:
            self.jobs: list[Job] = []

        def run(self, job: Job) -> Outcome:
            self.jobs.append(job)
            return shared_sandbox().run(job)

    secret = b"49000014000002"
    for kind in ROWS:
        watching = Watching()
        result: Judgement = judge(PROBLEMS[kind], Program(wrapped("return 1", kind)), watching, FAST)
        assert result.verdict is Verdict.WA
        programs = [job for job in watching.jobs if "main.py" in job.files or "solution.py" in job.files]
        assert programs
        for job in programs:
            assert "plan.json" not in job.files
            assert not any(secret in content for content in (job.stdin, *job.files.values()))
