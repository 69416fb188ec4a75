"""Runs inside of a sandbox of its own: a problem's test code, with the program out of reach.

Test code holds the expected values, so it never shares a process, or a sandbox, with the program. Where it calls the
program, the call is looked up in a transcript of calls that were made in the program's sandbox; a call that the
transcript lacks is noted down, and the judge makes it there and runs the tests again. Test code is deterministic (the
random seed is fixed), so the transcript is complete after one round, or a few. Results are plain builtin values:
there is no program code here that an ``==`` could run.

``plan.json``: ``prelude`` (source run as it is), ``remote`` (names that stand for the program), ``tests`` (source whose
asserts are counted one by one), ``replies`` (encoded call -> replies in order of occurrence; a reply is one of
``rewards.code.candidate`` or ``["failed", verdict, text]``). One JSON object comes out: see ``Session.report``.
"""

from __future__ import annotations

import ast
import builtins
import json
import os
import random
import sys
from collections import Counter
from types import TracebackType
from typing import Any, NoReturn

from rewards.code.candidate import open_replies
from rewards.code.plain import Decoder, Encoder, NotPlain, has_nan

MAX_TEXT = 200


class Unknown(BaseException):
    """The transcript lacks a call. No ``Exception``, so that test code cannot swallow it."""


class Failed(BaseException):
    """The program did not answer a call; verdict and reason."""


class Raised(Exception):
    """The program raised an exception on a call."""


class Remote:
    """A function or an object of the program. It can be called, have attributes, and be true or false (what a program
    gains by lying there, it would have by returning ``True``); everything else is refused.
    """

    def __init__(
        self, session: Session, name: str = "", ref: int = -1, kind: str | None = None, truth: bool | None = None
    ) -> None:
        self.__dict__.update(_session=session, _name=name, _ref=ref, _kind=kind, _truth=truth)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        sent = [self._session.encode(list(args)), self._session.encode(kwargs)]
        call = ["call", self._name, *sent] if self._name else ["apply", self._ref, *sent]
        return self._session.ask(call)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return self._session.ask(["get", self._ref, name])

    def __setattr__(self, name: str, value: Any) -> None:
        self._session.ask(["set", self._ref, name, self._session.encode(value)])

    def __bool__(self) -> bool:
        if self._truth is None:
            self._refuse()
        return bool(self._truth)

    def _refuse(self, *_: Any) -> NoReturn:
        if self._kind is None:  # not yet known; an object's type may well have an empty name
            self._session.complete = False
            raise Unknown
        raise Failed("WA", f"returned a {self._kind}, which is not plain data")

    __eq__ = __ne__ = __lt__ = __le__ = __gt__ = __ge__ = __hash__ = __iter__ = _refuse  # type: ignore[assignment]
    __len__ = __getitem__ = __contains__ = __int__ = __float__ = __index__ = __str__ = __repr__ = _refuse
    __add__ = __radd__ = __sub__ = __rsub__ = __mul__ = __rmul__ = __abs__ = __round__ = __neg__ = _refuse


class Session:
    """One run of the tests against a transcript."""

    def __init__(self, replies: dict[str, list[list[Any]]]) -> None:
        self.replies = replies
        self.seen: Counter[str] = Counter()
        self.calls: list[list[Any]] = []
        self.complete = True
        self.checks: list[list[Any]] = []
        self.depth = 0

    def encode(self, value: Any) -> Any:
        """Arguments of a call; an object of the program goes back as a reference to it."""
        try:
            return Encoder(special).encode(value)
        except NotPlain as error:
            # With no reply in the transcript it is the test's own doing; later a result may have grown too large.
            verdict = "WA" if self.replies else "SE"
            raise Failed(verdict, f"the test passes what cannot be passed on: {error}") from error

    def ask(self, call: list[Any]) -> Any:
        """The program's result of a call, from the transcript."""
        key = json.dumps(call)
        known, occurrence = self.replies.get(key, []), self.seen[key]
        self.seen[key] += 1
        self.calls.append(call)
        if occurrence >= len(known):
            self.complete = False
            if self.depth:
                raise Unknown
            return Remote(self, ref=len(self.calls) - 1)
        kind, *rest = known[occurrence]
        if kind == "value":
            return self.value(rest[0])
        if kind == "object":
            return Remote(self, ref=len(self.calls) - 1, kind=rest[0], truth=rest[1])
        if kind == "raised":
            raise Raised(f"{rest[0]}: {rest[1]}"[:MAX_TEXT])
        raise Failed(*rest)

    def value(self, encoded: Any) -> Any:
        """A fresh copy of a result. NaN equals nothing, so it is no right answer to anything."""
        try:
            value = Decoder().decode(encoded)
        except NotPlain as error:
            raise Failed("WA", str(error)) from error
        if has_nan(value):
            raise Failed("WA", "returned NaN")
        return value

    def check(self, line: int) -> Check:
        """Context of one assert."""
        return Check(self, line)

    def settle(self, line: int, verdict: str, reason: str) -> None:
        """The outcome of one check."""
        self.checks.append([line, verdict, reason[:MAX_TEXT]])

    def report(self, ended: list[str]) -> dict[str, Any]:
        """``complete``: no call was missing; ``calls`` in order; ``checks``: [line, verdict, reason]; ``ended``:
        verdict and reason when the tests broke off outside of an assert, else empty.
        """
        return {
            "complete": self.complete,
            "calls": self.calls,
            "checks": self.checks,
            "ended": ended,
        }


def special(value: Any) -> dict[str, Any] | None:
    """The encoding of an argument that is no plain data but can be named: an earlier result, ``int``, ``len``."""
    if type(value) is Remote:
        return None if value._name else {"ref": value._ref}
    name = getattr(value, "__name__", "")
    return {"builtin": name} if name and getattr(builtins, name, None) is value else None


class Check:
    """Counts one assert and goes on with the next."""

    def __init__(self, session: Session, line: int) -> None:
        self.session = session
        self.line = line

    def __enter__(self) -> None:
        self.session.depth += 1

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> bool:
        self.session.depth -= 1
        if error is None:
            self.session.settle(self.line, "AC", "")
            return False
        if self.session.depth:
            return False
        if isinstance(error, Unknown):
            self.session.complete = False
        else:
            self.session.settle(self.line, *verdict_of(error))
        return True


def verdict_of(error: BaseException) -> tuple[str, str]:
    """Verdict and reason of an exception that reached the tests."""
    if isinstance(error, Failed):
        return str(error.args[0]), str(error.args[1])
    if isinstance(error, Raised):
        return "RE", str(error)
    if isinstance(error, AssertionError):
        return "WA", "wrong result"
    return "WA", f"the test code raised {type(error).__name__}: {error}"[:MAX_TEXT]


class CountAsserts(ast.NodeTransformer):
    """Puts every ``assert`` into a ``with`` that counts it."""

    def visit_Assert(self, node: ast.Assert) -> ast.AST:
        name = ast.Name("_k15_check", ast.Load())
        if isinstance(node.test, ast.Constant):  # "assert True": says nothing about the program
            return node
        item = ast.withitem(ast.Call(name, [ast.Constant(node.lineno)], []))
        return ast.copy_location(ast.With([item], [node]), node)


def run(plan: dict[str, Any]) -> dict[str, Any]:
    """The tests of a plan against its transcript."""
    random.seed(0)
    session = Session(plan["replies"])
    namespace: dict[str, Any] = {"__name__": "tests"}
    tree = ast.fix_missing_locations(CountAsserts().visit(ast.parse(plan["tests"])))
    exec(compile(plan["prelude"], "prelude.py", "exec"), namespace)
    namespace.update({name: Remote(session, name=name) for name in plan["remote"]})
    namespace["_k15_check"] = session.check
    ended: list[str] = []
    try:
        exec(compile(tree, "tests.py", "exec"), namespace)
    except (Exception, Unknown, Failed) as error:  # noqa: BLE001  a named boundary: the report says so
        ended = [] if isinstance(error, Unknown) else list(verdict_of(error))
    return session.report(ended)


def main() -> None:
    """Entry point; the working directory holds ``plan.json``."""
    send = open_replies()
    sys.setrecursionlimit(20_000)
    with open("plan.json", encoding="utf-8") as file:
        plan = json.load(file)
    send([run(plan)])
    os._exit(0)
