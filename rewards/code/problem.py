"""The kinds of coding problems, read from a problem's ``Reference`` or from a row of a data file. No I/O."""

from __future__ import annotations

import ast
import builtins
import json
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, NoReturn

from rewards.code.compare import EXACT, Leeway, floats
from rewards.code.languages import LANGUAGES
from rewards.code.plain import encode
from rewards.code.stated import leeway
from rewards.reference import Reference

FUNCTIONAL_PRELUDE = """\
from typing import *
from string import *
from re import *
from collections import *
from heapq import *
from bisect import *
from itertools import *
from functools import *
from operator import *
from math import *
from builtins import *
import bisect, collections, copy, datetime, functools, heapq, itertools, math, operator, random, re, string, sys
"""
"""What starter code presumes to be imported, as on the platform that it comes from. Builtins come last: ``math.pow``
must not hide ``pow``."""


class ProblemInvalid(ValueError):
    """The problem cannot be judged; one line. No fault of any program."""


@dataclass(frozen=True)
class Checker:
    """A program that decides which outputs are right."""

    code: str
    language: str = "python"


@dataclass(frozen=True)
class Allowance:
    """A problem's own limits; ``None``: the judge's."""

    time_s: float | None = None
    memory_bytes: int | None = None


@dataclass(frozen=True)
class StdinProblem:
    """A program reads standard input and writes standard output."""

    tests: tuple[tuple[bytes, bytes], ...]
    """Input and expected output of each test."""
    leeway: Leeway = EXACT
    """Errors of numbers in the output that are accepted, orders, letter cases."""
    checker: Checker | None = None
    """Decides in place of comparison."""
    allowance: Allowance = Allowance()
    languages: tuple[str, ...] = tuple(LANGUAGES)


@dataclass(frozen=True)
class FunctionalProblem:
    """A method ``Solution().<name>(*args)``, Python only."""

    name: str
    tests: tuple[tuple[tuple[Any, ...], Any], ...]
    """Arguments and expected result of each test: JSON values."""
    leeway: Leeway = EXACT
    allowance: Allowance = Allowance()
    languages: tuple[str, ...] = ("python",)


@dataclass(frozen=True)
class AssertProblem:
    """Test code with asserts that call names of the program, Python only: HumanEval, MBPP."""

    prelude: str
    """Source that comes before the program; a completion of its last function is a program too."""
    tests: str
    """Source whose asserts are counted one by one."""
    remote: tuple[str, ...]
    """Names in ``tests`` that belong to the program."""
    test_prelude: str
    """Source that ``tests`` needs beside the program's names."""
    entry: str = ""
    """Function that ``prelude`` begins and a bare completion ends; empty: programs are always whole."""
    allowance: Allowance = Allowance()
    languages: tuple[str, ...] = ("python",)


CodeProblem = StdinProblem | FunctionalProblem | AssertProblem


def problem_of(reference: Reference) -> CodeProblem:
    """Return the problem of a reference: ``extra`` has ``tests`` (and ``testtype``, ``fn_name``), ``test`` and
    ``entry_point`` (HumanEval), or ``test_list`` (MBPP). Optional: ``tolerance``, ``checker`` (source, or an object
    with ``code`` and ``language``), ``time_limit_ms``, ``memory_limit_mb``. Raises ``ProblemInvalid``.
    """
    extra = reference.extra
    if extra.get("test_list") is not None:
        return _mbpp(reference)
    if extra.get("entry_point"):
        return _humaneval(reference)
    tests = extra.get("tests")
    if not isinstance(tests, list) or not tests:
        raise ProblemInvalid("the problem has no tests: it needs 'tests', 'test' with 'entry_point', or 'test_list'")
    for number, test in enumerate(tests, 1):
        for key in ("input", "output"):
            if not isinstance(test, Mapping) or not isinstance(test.get(key), str):
                raise ProblemInvalid(f"test {number} of the problem has no text {key!r}")
    kind = extra.get("testtype") or ("functional" if extra.get("fn_name") else "stdin")
    if kind == "stdin":
        pairs = tuple((test["input"].encode(), test["output"].encode()) for test in tests)
        return StdinProblem(pairs, _leeway(reference, printed=True), _checker(extra), _allowance(extra))
    if kind == "functional":
        return _functional(reference, tests)
    raise ProblemInvalid(f"unknown testtype {kind!r}; there are: stdin, functional")


def problem_of_row(row: Mapping[str, Any]) -> CodeProblem:
    """Return the problem of a row with ``problem``, ``answer`` and the fields above. Raises ``ProblemInvalid``."""
    return problem_of(Reference(str(row.get("answer", "")), str(row.get("problem", "")), row))


def statement_of(reference: Reference) -> str:
    """Return the statement as the source has it; ``Reference.problem`` may be what a model was asked
    (``extra.statement``).
    """
    return str(reference.extra.get("statement") or reference.problem)


def _functional(reference: Reference, tests: list[Mapping[str, str]]) -> FunctionalProblem:
    name = reference.extra.get("fn_name")
    if not isinstance(name, str) or not name.isidentifier():
        raise ProblemInvalid("a functional problem needs 'fn_name', the method to call")
    header = str(reference.extra.get("starter_code") or "")
    returns = header.rpartition("->")[2]
    pairs = []
    for number, test in enumerate(tests, 1):
        args = tuple(_json(line, f"input of test {number}") for line in test["input"].split("\n") if line.strip())
        expected = _json(test["output"], f"output of test {number}")
        pairs.append((args, floats(expected) if re.search(r"\bfloat\b", returns) else expected))
    return FunctionalProblem(name, tuple(pairs), _leeway(reference, printed=False), _allowance(reference.extra))


def _humaneval(reference: Reference) -> AssertProblem:
    entry, test = reference.extra["entry_point"], reference.extra.get("test")
    if not isinstance(test, str) or not test.strip():
        raise ProblemInvalid("a problem with 'entry_point' needs 'test', the code that defines check()")
    if not isinstance(entry, str) or not entry.isidentifier():
        raise ProblemInvalid("'entry_point' is no name of a function")
    prompt = statement_of(reference)
    _parse(prompt, "problem")
    tests = f"{test}\n\ncheck({entry})\n"
    _asserts(_parse(tests, "test"), "test")
    return AssertProblem(prompt, tests, (entry,), prompt, entry, _allowance(reference.extra))


def _mbpp(reference: Reference) -> AssertProblem:
    extra = reference.extra
    parts = [extra.get("test_imports") or [], [extra.get("test_setup_code") or ""], extra["test_list"]]
    if not all(isinstance(part, list) and all(isinstance(line, str) for line in part) for part in parts):
        raise ProblemInvalid("'test_imports' and 'test_list' must be lists of source text, 'test_setup_code' text")
    if not extra["test_list"]:
        raise ProblemInvalid("'test_list' is empty")
    imports, setup, asserts = ("\n".join(part) for part in parts)
    tests = f"{setup}\n{asserts}\n".replace("\r\n", "\n")
    remote, modules = remote_names(tests, reference.answer)
    imports += "\n" + "\n".join(f"import {name}" for name in modules)
    return AssertProblem(imports, tests, remote, imports, "", _allowance(extra))


def remote_names(tests: str, answer: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Names in test code that the program has to define, and modules that the tests use without importing them.

    ``answer`` is a right program (or anything else): a name that it defines may hide a builtin, e.g. ``sum``.
    """
    tree = _parse(tests, "test_list")
    _asserts(tree, "test_list")
    loads, stores = _names(tree)
    try:
        defined = _names(ast.parse(answer))[1]
    except SyntaxError:
        defined = set()
    free = {name for name in loads - stores if name in defined or not hasattr(builtins, name)}
    modules = {name for name in free - defined if name in sys.stdlib_module_names}
    if not free - modules:
        raise ProblemInvalid("the asserts call nothing that a program could define")
    return tuple(sorted(free - modules)), tuple(sorted(modules))


def _names(tree: ast.AST) -> tuple[set[str], set[str]]:
    """Names that a program reads, and those that it binds anywhere (imported modules left out)."""
    loads: set[str] = set()
    stores: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Name):
            (loads if isinstance(node.ctx, ast.Load) else stores).add(node.id)
        elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            stores.add(node.name)
        elif isinstance(node, ast.arg):
            stores.add(node.arg)
        elif isinstance(node, ast.ImportFrom):
            stores.update(alias.asname or alias.name for alias in node.names)
    return loads, stores


def _asserts(tree: ast.Module, field: str) -> None:
    if not any(isinstance(node, ast.Assert) and not isinstance(node.test, ast.Constant) for node in ast.walk(tree)):
        raise ProblemInvalid(f"{field!r} asserts nothing")


def _parse(source: str, field: str) -> ast.Module:
    try:
        return ast.parse(source)
    except SyntaxError as error:
        raise ProblemInvalid(f"{field!r} is no Python: {error.msg} (line {error.lineno})") from error


def _json(text: str, what: str) -> Any:
    def refuse(constant: str) -> NoReturn:
        raise ValueError(f"{constant} is no JSON")

    try:
        value = json.loads(text, parse_constant=refuse, parse_int=_int)
        encode(value)  # as deep and as large as may travel into a sandbox
    except (ValueError, RecursionError) as error:
        raise ProblemInvalid(f"{what} is no JSON value: {error}"[:200]) from error
    return value


def _int(digits: str) -> int:
    """Return an integer of any length: Python refuses to read more than 4300 digits in the usual way."""
    return int(digits) if len(digits) < 4300 else int(Decimal(digits))


def _leeway(reference: Reference, printed: bool) -> Leeway:
    given = reference.extra.get("tolerance")
    if given is None:
        return leeway(statement_of(reference), printed=printed)
    if isinstance(given, bool) or not isinstance(given, (int, float)) or not 0 <= given < 1:
        raise ProblemInvalid(f"'tolerance' is {given!r}; it must be a number from 0 to below 1")
    return leeway(statement_of(reference), float(given), printed)


def _checker(extra: Mapping[str, Any]) -> Checker | None:
    given = extra.get("checker")
    if given is None:
        return None
    if isinstance(given, str):
        return Checker(given)
    if not isinstance(given, Mapping) or not isinstance(given.get("code"), str):
        raise ProblemInvalid("'checker' is neither source text nor an object with 'code' and 'language'")
    language = given.get("language", "python")
    if language not in LANGUAGES:
        raise ProblemInvalid(f"the checker's language {language!r} is unknown; there are: {', '.join(LANGUAGES)}")
    return Checker(given["code"], language)


def _allowance(extra: Mapping[str, Any]) -> Allowance:
    values = []
    for key, unit in (("time_limit_ms", 1e-3), ("memory_limit_mb", 1 << 20)):
        given = extra.get(key)
        if given is not None and (isinstance(given, bool) or not isinstance(given, (int, float)) or not given > 0):
            raise ProblemInvalid(f"{key!r} is {given!r}; it must be a number above 0")
        values.append(None if given is None else given * unit)
    time_s, memory = values
    return Allowance(time_s, None if memory is None else int(memory))
