"""Other languages than Python: what a compiler says reaches the verdict, and what is not installed is named."""

from __future__ import annotations

import shutil
from dataclasses import replace

import pytest

from rewards.code.judge import Program, judge
from rewards.code.languages import LANGUAGES
from rewards.code.sandbox import shared_sandbox
from rewards.code.verdict import Verdict
from tests.code_kit import FAST, judged, stdin_problem

SQUARE = "#include <iostream>\nint main() {{ long long n; std::cin >> n; {} std::cout << n * n + 1 << std::endl; }}\n"
CPP = {
    "honest": (SQUARE.format(""), Verdict.AC, ""),
    "threads": (
        "#include <thread>\n" + SQUARE.format("long long m; std::thread t([&] { m = n; }); t.join(); n = m;"),
        Verdict.AC,
        "",
    ),
    "warning": (SQUARE.format("int unused; if (n = n) {}"), Verdict.AC, ""),
    "wrong": (SQUARE.format("n++;"), Verdict.WA, ""),
    "does not compile": (SQUARE.format("nonsense;"), Verdict.CE, "was not declared in this scope"),
    "does not link": ("int f(); int main() { return f(); }", Verdict.CE, "ld returned 1"),
    "no end to its templates": (
        "template <int N> struct S { S<N + 1> next; }; S<0> s; int main() {}",
        Verdict.CE,
        "template instantiation depth",
    ),
    "throws": (SQUARE.format("throw n;"), Verdict.RE, "terminate called"),
    "crashes": (SQUARE.format("volatile int *p = nullptr; *p = 1;"), Verdict.RE, "signal 11"),
}


@pytest.mark.skipif(shutil.which("g++") is None, reason="no g++")
@pytest.mark.parametrize("case", CPP)
def test_cpp(case: str) -> None:
    code, verdict, reason = CPP[case]
    result = judged("stdin", code, "cpp")
    assert result.verdict is verdict, result.reason
    assert reason in result.reason


@pytest.mark.parametrize("name", [name for name in LANGUAGES if name != "python"])
def test_what_a_language_needs_is_not_installed(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    language = LANGUAGES[name]
    command = language.compiler or language.run
    missing = ("no-such-tool", *command[1:])
    absent = replace(language, compiler=missing) if language.compiler else replace(language, run=missing)
    monkeypatch.setitem(LANGUAGES, name, absent)
    result = judged("stdin", "x", name)
    assert (result.verdict, result.reason) == (Verdict.CE, "no-such-tool is not installed")
    problem = stdin_problem(("3", "1"), checker={"code": "x", "language": name})
    result = judge(problem, Program("print(1)"), shared_sandbox(), FAST)
    assert result.verdict is Verdict.SE, "a checker that cannot run is not the program's fault"
    assert "no-such-tool, which is not installed" in result.reason


@pytest.mark.parametrize("name", ["java", "rust", "go", "Python", ""])
def test_a_language_outside_of_the_table(name: str) -> None:
    result = judged("stdin", "x", name)
    known = ", ".join(LANGUAGES)
    assert (result.verdict, result.reason) == (Verdict.CE, f"language {name!r} is not taken here, only: {known}")
