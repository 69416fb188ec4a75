"""Programs that try to be accepted without solving anything: attack x problem type x language. None is accepted.

Every program is judged for real, in the sandbox. A case that came out as ungradable (SE) would fail too: an attack must
not be able to get itself masked.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import cache

import pytest

from rewards.code.judge import Program, judge
from rewards.code.languages import LANGUAGES
from rewards.code.problem import problem_of_row
from rewards.code.sandbox import shared_sandbox
from rewards.code.verdict import Judgement, Verdict
from tests.code_attacks import ATTACKS
from tests.code_kit import FAST, PROBLEMS, judged, wrapped


@pytest.mark.parametrize("kind", PROBLEMS)
def test_the_honest_program_is_accepted(kind: str) -> None:
    result = judged(kind, wrapped("return n * n + 1", kind))
    assert (result.verdict, result.passed, result.reason) == (Verdict.AC, 3, "")
    assert result.score().correct


@cache
def attacked(attack: str) -> dict[str, Judgement]:
    """An attack on every problem type, side by side."""
    top, body = ATTACKS[attack]
    with ThreadPoolExecutor(len(PROBLEMS)) as threads:
        results = threads.map(lambda kind: judged(kind, wrapped(body, kind, top)), PROBLEMS)
        return dict(zip(PROBLEMS, results, strict=True))


@pytest.mark.parametrize("attack", ATTACKS)
def test_python_attacks(attack: str) -> None:
    for kind, result in attacked(attack).items():
        assert result.verdict not in (Verdict.AC, Verdict.SE), (kind, result.verdict, result.reason)
        assert result.score().reward == 0.0


@pytest.mark.parametrize(
    ("attack", "kind", "verdict"),
    [
        ("wrong", "stdin", Verdict.WA),
        ("wrong", "functional", Verdict.WA),
        ("wrong", "mbpp", Verdict.WA),
        ("exit-0", "functional", Verdict.RE),
        ("hard-exit-0", "humaneval", Verdict.RE),
        ("raise-assertion", "mbpp", Verdict.RE),
        ("always-equal", "functional", Verdict.WA),
        ("always-equal", "mbpp", Verdict.WA),
        ("swallowed-timeout", "stdin", Verdict.TLE),
        ("swallowed-timeout", "functional", Verdict.TLE),
        ("swallowed-timeout", "humaneval", Verdict.TLE),
        ("asleep", "mbpp", Verdict.TLE),
        ("output-flood", "stdin", Verdict.OLE),
        ("no-syntax", "stdin", Verdict.CE),
        ("no-syntax", "functional", Verdict.CE),
        ("no-syntax", "mbpp", Verdict.CE),
    ],
)
def test_verdicts(attack: str, kind: str, verdict: Verdict) -> None:
    result = attacked(attack)[kind]
    assert result.verdict is verdict, result.reason
    assert result.reason


@pytest.mark.parametrize("kind", ["stdin", "functional"])
def test_more_memory_than_allowed_reads_as_that(kind: str) -> None:
    """With time enough: where the machine takes a millisecond per touched MiB, a quarter second ends it first."""
    top, body = ATTACKS["memory"]
    result = judged(kind, wrapped(body, kind, top), rules=replace(FAST, time_s=30.0))
    assert result.verdict is Verdict.MLE, result.reason
    assert result.reason


NATIVE = {
    "exit-0": ("return 0;", "process.exit(0)"),
    "wrong": ('long long n; scanf("%lld", &n); printf("%lld", n * n);', "console.log(n * n)"),
    "nan": ('printf("nan");', "console.log(NaN)"),
    "infinity": ('printf("inf");', "console.log(Infinity)"),
    "abort": ("abort();", "process.abort()"),
    "no-return": ("for (;;);", "for (;;);"),
    "flood": ('for (;;) puts("1");', 'for (;;) require("fs").writeSync(1, "1\\n")'),
    "memory": (
        "for (long i = 1; ; i++) { char *p = malloc(1 << 24); if (p) memset(p, 1, 1 << 24); }",
        "let a = []; for (;;) a.push(Buffer.alloc(1 << 24, 1))",
    ),
    "no-syntax": ("int main(", "function ("),
    "right-but-fails": (
        'long long n; scanf("%lld", &n); printf("%lld\\n", n * n + 1); fflush(stdout); return 7;',
        "console.log(String(BigInt(n) * BigInt(n) + 1n)); process.exitCode = 7",
    ),
}
C_HEADERS = "#include <stdio.h>\n#include <stdlib.h>\n#include <string.h>\n"


def native(body: str, language: str) -> str:
    if language == "javascript":
        return f'const n = Number(require("fs").readFileSync(0, "utf8"));\n{body}\n'
    body = body.replace("malloc(", "(char *)malloc(") if language == "cpp" else body
    return f"{C_HEADERS}int main(void) {{ {body} return 0; }}\n"


@pytest.mark.parametrize("language", ["c", "javascript"])
@pytest.mark.parametrize("attack", NATIVE)
def test_attacks_in_other_languages(attack: str, language: str) -> None:
    result = judged("stdin", native(NATIVE[attack][language == "javascript"], language), language)
    assert result.verdict not in (Verdict.AC, Verdict.SE), (result.verdict, result.reason)


@pytest.mark.parametrize("attack", ["exit-0", "wrong", "no-syntax"])
def test_attacks_in_cpp(attack: str) -> None:
    result = judged("stdin", native(NATIVE[attack][0], "cpp"), "cpp")
    assert result.verdict not in (Verdict.AC, Verdict.SE), (result.verdict, result.reason)


def test_results_cannot_loosen_the_tests_that_judge_them() -> None:
    """Asserts with tolerances, orderings and truth values: NaN, infinities and objects fail all of them."""
    asserts = [
        "assert abs(f(1) - 2.0) < 1e-6",
        "assert not f(2) > 5",
        "assert f(3) in (10, 11)",
        "assert 9 < f(3) < 11",
    ]
    problem = problem_of_row({"test_list": asserts, "answer": ""})
    right = judge(problem, Program("def f(n): return n * n + 1"), shared_sandbox(), FAST)
    assert right.verdict is Verdict.AC
    for value in ("float('nan')", "float('inf')", "-float('inf')", "object()", "None", "''", "f", "[2, 5, 10]"):
        result = judge(problem, Program(f"def f(n): return {value}"), shared_sandbox(), FAST)
        assert result.verdict in (Verdict.WA, Verdict.RE), value


def test_an_output_is_compared_not_parsed() -> None:
    for text in ("nan", "inf", "49_000_014_000_002", "0x1", "True", "1e400", "４９"):
        result = judged("stdin", f"print({text!r})")
        assert result.verdict is Verdict.WA


def test_state_kept_between_calls_gains_nothing() -> None:
    """Calls share a process: it may see all inputs, but never what is expected."""
    code = (
        "import json\nseen = json.load(open('calls.json'))['calls']\n"
        "class Solution:\n    def f(self, n):\n        return len(seen)\n"
    )
    assert judged("functional", code).verdict is Verdict.WA


def test_every_language_has_an_honest_program() -> None:
    programs = {
        "python": wrapped("return n * n + 1", "stdin"),
        "c": native('long long n; scanf("%lld", &n); printf("%lld\\n", n * n + 1);', "c"),
        "cpp": "#include <iostream>\nint main() { long long n; std::cin >> n; std::cout << n * n + 1 << std::endl; }\n",
        "javascript": native("console.log(String(BigInt(n) * BigInt(n) + 1n))", "javascript"),
        "bash": "read n; echo $((n * n + 1))\n",
    }
    assert set(programs) == set(LANGUAGES)
    for language, code in programs.items():
        result = judged("stdin", code, language)
        assert result.verdict is Verdict.AC, (language, result.reason)
