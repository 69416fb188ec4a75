"""Honest programs are accepted, whatever idioms, streams and libraries they use."""

from __future__ import annotations

import pytest

from rewards.code.judge import Program, judge
from rewards.code.problem import problem_of_row
from rewards.code.rules import Rules
from rewards.code.sandbox import shared_sandbox
from rewards.code.verdict import Verdict
from tests.code_kit import FAST, ROWS, judged, stdin_problem, wrapped

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


def test_a_completion_is_a_program_too() -> None:
    assert judged("humaneval", "    return n * n + 1\n").verdict is Verdict.AC
    assert judged("humaneval", "    return n * n\n").verdict is Verdict.WA
