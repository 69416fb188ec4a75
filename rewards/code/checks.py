"""Runs inside of a sandbox of its own: a problem's test code, with the program out of reach.

Test code holds the expected values, so it never shares a process, or a sandbox, with the program. Where it calls the
program, the call is looked up in a transcript of calls that were made in the program's sandbox; a call that the
transcript lacks is noted down, and the judge makes it there and runs the tests again. Test code is deterministic (the
random seed is fixed), so the transcript is complete after one round, or a few. Results are plain builtin values:
there is no program code here that an ``==`` could run.

``plan.json``: ``prelude`` (source run as it is), ``remote`` (names that stand for the program), ``tests`` (source whose
asserts are counted one by one), ``replies`` (call with its name, as JSON -> ``{"claim": line}`` as
``rewards.code.replies`` describes it, or ``{"failed": [verdict, reason]}``). Out comes one JSON object (see
``Session.report``) and then the calls, one a line.
"""

from __future__ import annotations

import ast
import builtins
import json
import os
import random
import sys
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Any, NoReturn

from rewards.code.candidate import open_replies
from rewards.code.plain import Decoder, Encoder, NotPlain, has_nan
from rewards.code.replies import parse

MAX_TEXT = 200
MAX_CHECKS = 100_000
"""Asserts that are counted: with a loop over a result there is no end to them."""
ITEMS, NEXT_ITEMS, MORE = 1000, 4, 16
"""Items that are asked for at first when something of the program is gone through, by a loop or by ``next``, which may
ask for few of many that are slow to come by; and how many times as many after that.
"""


class Unknown(BaseException):
    """The transcript lacks a call. No ``Exception``, so that test code cannot swallow it."""


class Failed(BaseException):
    """The program did not answer a call; verdict and reason."""


class Raised(Exception):
    """The program raised an exception on a call; its text."""

    def __str__(self) -> str:
        return str(self.args[0])


def raised(name: str, base: str, text: str) -> Raised:
    """Return the program's exception, so that test code can catch it as the builtin exception that it is."""
    kind = getattr(builtins, base, None)
    if isinstance(kind, type) and issubclass(kind, Exception):
        try:
            error: Raised = type(name[:40], (Raised, kind), {})(text)
        except (TypeError, ValueError):  # one that wants more than a text, or its name is none
            return Raised(text)
        return error
    return Raised(text)


class Remote:
    """A function or an object of the program. It can be called, have attributes, be gone through, and be true or false
    (what a program gains by lying there, it would have by returning ``True``); everything else is refused.
    """

    def __init__(
        self, session: Session, name: str = "", ref: str = "", kind: str | None = None, truth: bool | None = None
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

    def __iter__(self) -> Iterator[Any]:
        if self._kind is None:
            self._refuse()
        return self.__dict__.get("_items") or self._session.items(self._ref, ITEMS)

    def __next__(self) -> Any:
        if self._kind is None:
            self._refuse()
        return next(self.__dict__.setdefault("_items", self._session.items(self._ref, NEXT_ITEMS)))

    def __len__(self) -> int:
        """Return an error that ``list()``, which asks in vain for a length first, puts up with."""
        if self._kind is None:
            self._refuse()
        raise TypeError(f"a {self._kind} is not plain data: it has no length here")

    def _refuse(self, *_: Any) -> NoReturn:
        if self._kind is None:  # not yet known; an object's type may well have an empty name
            self._session.complete = False
            raise Unknown
        raise Failed("WA", f"returned a {self._kind}, which is not plain data")

    __eq__ = __ne__ = __lt__ = __le__ = __gt__ = __ge__ = __hash__ = _refuse  # type: ignore[assignment]
    __getitem__ = __int__ = __float__ = __index__ = __str__ = __repr__ = _refuse
    __add__ = __radd__ = __sub__ = __rsub__ = __mul__ = __rmul__ = __abs__ = __round__ = __neg__ = _refuse


class Session:
    """One run of the tests against a transcript."""

    def __init__(self, replies: dict[str, dict[str, Any]]) -> None:
        self.replies = replies
        self.made: Counter[tuple[int, int]] = Counter()
        self.entered = 0
        self.calls: list[str] = []
        self.together = False
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
        """Return the program's result of a call, from the transcript."""
        text = json.dumps(call)
        name = self.name(text)
        line = json.dumps([name, call])
        self.calls.append(line)
        self.together = self.together or call[0] != "call" or '{"ref": ' in text
        if line not in self.replies:
            self.complete = False
            if self.depth:
                raise Unknown
            return Remote(self, ref=name)
        reply = self.replies[line]
        if "failed" in reply:
            raise Failed(*reply["failed"])
        kind, *rest = _read(reply["claim"])
        if kind == "value":
            return self.value(rest[0])
        if kind == "object":
            return Remote(self, ref=name, kind=rest[0], truth=rest[1])
        if kind == "raised":
            raise raised(*rest)
        raise Failed("WA", "wrote to the result channel")

    def name(self, text: str) -> str:
        """Return a name for a call: the same in each run of the tests, however many calls other asserts get to make
        before.
        """
        place = (self.entered, self.depth)
        self.made[place] += 1
        return f"{self.entered}.{self.depth}.{self.made[place]}.{zlib.crc32(text.encode()):x}"

    def value(self, encoded: Any) -> Any:
        """Return a fresh copy of a result. NaN equals nothing, so it is no right answer to anything."""
        try:
            value = Decoder().decode(encoded)
        except NotPlain as error:
            raise Failed("WA", str(error)) from error
        if has_nan(value):
            raise Failed("WA", "returned NaN")
        return value

    def items(self, ref: str, count: int) -> Iterator[Any]:
        """Yield what an object of the program gives when it is gone through."""
        call: list[Any] = ["iterate", ref, count]
        while True:
            found = self.ask(call)
            ref = json.loads(self.calls[-1])[0]
            if type(found) is Remote:
                found._refuse()
            if type(found) is not list:
                raise Failed("WA", "wrote to the result channel")
            yield from found
            if len(found) < count:
                return
            call = ["next", ref, MORE * count]
            count = call[2]

    def check(self, line: int, caught: Callable[[], tuple[Any, ...]]) -> Check:
        """Context of one assert; ``caught`` gives the types that handlers around it name."""
        return Check(self, line, caught)

    def settle(self, line: int, verdict: str, reason: str) -> None:
        """The outcome of one check."""
        if len(self.checks) >= MAX_CHECKS:
            raise Failed("WA", f"with its results the tests come to more than {MAX_CHECKS} asserts")
        self.checks.append([line, verdict, reason[:MAX_TEXT]])

    def report(self, ended: list[str]) -> dict[str, Any]:
        """``complete``: no call was missing; ``together``: calls refer to results of others; ``checks``: [line,
        verdict, reason]; ``ended``: verdict and reason when the tests broke off outside of an assert, else empty.
        """
        return {"complete": self.complete, "together": self.together, "checks": self.checks, "ended": ended}


def _read(claim: str) -> list[Any]:
    """Return the parts of a reply. Test code may read and write integers of any length, but the program does so at its
    own cost: long ones travel in hexadecimal.
    """
    sys.set_int_max_str_digits(sys.int_info.default_max_str_digits)
    try:
        return parse(claim) or [""]
    finally:
        sys.set_int_max_str_digits(0)


def special(value: Any) -> dict[str, Any] | None:
    """Return the encoding of an argument that is no plain data but can be named: an earlier result, ``int``,
    ``len``.
    """
    if type(value) is Remote:
        return None if value._name else {"ref": value._ref}
    name = getattr(value, "__name__", "")
    return {"builtin": name} if name and getattr(builtins, name, None) is value else None


class Check:
    """Counts one assert and goes on with the next.

    An exception of the program that the tests catch around the assert, by its own type, is what they expect.
    """

    def __init__(self, session: Session, line: int, caught: Callable[[], tuple[Any, ...]]) -> None:
        self.session = session
        self.line = line
        self.caught = caught

    def __enter__(self) -> None:
        self.session.depth += 1
        self.session.entered += 1

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> bool:
        self.session.depth -= 1
        if error is None:
            self.session.settle(self.line, "AC", "")
            return False
        if self.session.depth:
            return False
        if isinstance(error, Unknown):
            self.session.complete = False
        elif isinstance(error, Raised) and isinstance(error, expected(self.caught())):
            self.session.settle(self.line, "AC", "")
            return False
        else:
            self.session.settle(self.line, *verdict_of(error))
        return True


def expected(caught: tuple[Any, ...]) -> tuple[type, ...]:
    """Return the exceptions that handlers name, but for those that stand for all, or for an assert itself."""
    flat = [kind for part in caught for kind in (part if isinstance(part, tuple) else (part,))]
    return tuple(kind for kind in flat if kind not in (Exception, BaseException, AssertionError))


def verdict_of(error: BaseException) -> tuple[str, str]:
    """Verdict and reason of an exception that reached the tests."""
    if isinstance(error, Failed):
        return str(error.args[0]), str(error.args[1])
    if isinstance(error, Raised):
        return "RE", f"{type(error).__name__}: {error}"
    if isinstance(error, AssertionError):
        return "WA", "wrong result"
    return "WA", f"the test code raised {type(error).__name__}: {error}"[:MAX_TEXT]


class CountAsserts(ast.NodeTransformer):
    """Puts every ``assert`` into a ``with`` that counts it, and that knows which exceptions are caught around it."""

    def __init__(self) -> None:
        self.caught: list[ast.expr] = []

    def visit_Try(self, node: ast.Try) -> ast.AST:
        """Only the body is guarded by the handlers. One that catches everything expects nothing in particular."""
        outer = self.caught
        self.caught = [*outer, *(handler.type for handler in node.handlers if handler.type is not None)]
        node.body = [self.visit(statement) for statement in node.body]
        self.caught = outer
        for part in (node.handlers, node.orelse, node.finalbody):
            part[:] = [self.visit(statement) for statement in part]
        return node

    def visit_Assert(self, node: ast.Assert) -> ast.AST:
        name = ast.Name("_k15_check", ast.Load())
        if isinstance(node.test, ast.Constant):  # "assert True": says nothing about the program
            return node
        caught = ast.Lambda(_NO_ARGUMENTS, ast.Tuple([*self.caught], ast.Load()))
        item = ast.withitem(ast.Call(name, [ast.Constant(node.lineno), caught], []))
        return ast.copy_location(ast.With([item], [node]), node)


_NO_ARGUMENTS = ast.arguments(posonlyargs=[], args=[], kwonlyargs=[], kw_defaults=[], defaults=[])


def run(plan: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Run the tests of a plan against its transcript, and return the report, and all calls in order."""
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
    return session.report(ended), session.calls


def main() -> None:
    """Entry point; the working directory holds ``plan.json``."""
    send = open_replies()
    sys.setrecursionlimit(20_000)
    with open("plan.json", encoding="utf-8") as file:
        plan = json.load(file)
    report, calls = run(plan)
    send("\n".join([json.dumps(report), *calls]))
    os._exit(0)
