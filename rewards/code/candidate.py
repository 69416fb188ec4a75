"""Runs inside of the sandbox: loads a program, makes the calls that it is told to, and writes down what came back.

This process belongs to the program as soon as its first line runs: it may change anything here and write any reply.
That is harmless by construction. No expected value is anywhere in this sandbox, and a reply is only data, which is
compared elsewhere; a forged reply earns exactly what the same value honestly returned would have earned.

``calls.json`` holds ``{"prelude": source, "calls": [[name, call], ...]}``; by its name later calls refer to one. A call
is one of

    ["call", name, args, kwargs]            a name of the program
    ["method", class, name, args, kwargs]   of a fresh object; without such a class, the name itself
    ["apply", ref, args, kwargs]            what an earlier call returned
    ["get", ref, name]  ["set", ref, name, value]
    ["iterate", ref, n]                     starts to go through it: a list of the first ``n`` items, or of all
    ["next", ref, n]                        the next ``n`` items of what an earlier "iterate" goes through

In arguments, ``{"ref": name}`` is what an earlier call returned and ``{"builtin": "int"}`` is ``int``.
Replies (``rewards.code.replies``), one JSON line each, go to descriptor 3, and what the program prints goes nowhere.
"""

from __future__ import annotations

import builtins
import json
import os
import sys
import types
from collections.abc import Callable
from itertools import islice
from typing import Any

from rewards.code.plain import Decoder, NotPlain, encode, type_name

CHANNEL = 3
RECURSION_LIMIT = 1_000_000
"""Depth is bounded by memory instead, as on the judges that these problems come from."""
MAX_TEXT = 300
"""Characters of an exception's text that are passed on."""


def open_replies() -> Callable[[str], None]:
    """Return what writes a line. Standard output goes nowhere from here on: debug prints are no answer and no
    offence.
    """
    os.set_inheritable(CHANNEL, False)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)

    def send(line: str) -> None:
        left = line.encode() + b"\n"
        while left:
            left = left[os.write(CHANNEL, left) :]

    return send


def perform(call: list[Any], namespace: dict[str, Any], results: dict[str, Any]) -> tuple[Any, Any]:
    """Carry out one call; return its result, and what is kept of it for later calls."""
    kind, rest = call[0], call[1:]
    if kind in ("iterate", "next"):
        iterator = iter(results[rest[0]]) if kind == "iterate" else results[rest[0]]
        return list(islice(iterator, rest[1])), iterator
    result = answer(kind, rest, namespace, results)
    return result, result


def answer(kind: str, rest: list[Any], namespace: dict[str, Any], results: dict[str, Any]) -> Any:
    """Carry out a call of any other kind and return its result."""
    decoder = Decoder(lambda tag, inner: results[inner] if tag == "ref" else getattr(builtins, inner))
    if kind == "get":
        return getattr(results[rest[0]], rest[1])
    if kind == "set":
        return setattr(results[rest[0]], rest[1], decoder.decode(rest[2]))
    args, kwargs = decoder.decode(rest[-2]), decoder.decode(rest[-1])
    if kind == "apply":
        function = results[rest[0]]
    elif kind == "method":
        owner = namespace.get(rest[0])
        function = namespace[rest[1]] if owner is None else getattr(owner(), rest[1])
    else:
        function = namespace[rest[0]]
    return function(*args, **kwargs)


def report(value: Any) -> list[Any]:
    """Return a result as a reply."""
    try:
        return ["value", encode(value)]
    except NotPlain:
        return ["object", type_name(value), bool(value)]


def run(source: str, plan: dict[str, Any], send: Callable[[str], None]) -> None:
    """Load the program and make the calls, in order."""
    module = types.ModuleType("solution")
    sys.modules["solution"] = module
    namespace = module.__dict__
    try:
        code = compile(source, "solution.py", "exec")
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        send(json.dumps(["refused", f"{type_name(error)}: {error}"[:MAX_TEXT]]))
        return
    exec(compile(plan["prelude"], "prelude.py", "exec"), namespace)
    results: dict[str, Any] = {}
    exec(code, namespace)
    for name, call in plan["calls"]:
        result = None
        try:
            returned, result = perform(call, namespace, results)
            reply = report(returned)
        except BaseException as error:  # noqa: BLE001  the program's own failure, SystemExit too: it is the reply
            reply = ["raised", type_name(error), _builtin(error), _text(error)]
        results[name] = result
        send(json.dumps(reply))


def _builtin(error: BaseException) -> str:
    """Return the first builtin class that an exception is one of: test code may catch it as that."""
    names = ((type.__getattribute__(kind, "__name__"), kind) for kind in type(error).__mro__)
    return next(name for name, kind in names if getattr(builtins, name, None) is kind)


def _text(error: BaseException) -> str:
    try:
        return str(error)[:MAX_TEXT]
    except Exception:  # noqa: BLE001  the program's own __str__
        return ""


def main() -> None:
    """Entry point; the working directory holds ``solution.py`` and ``calls.json``."""
    send = open_replies()
    with open("calls.json", encoding="utf-8") as file:
        plan = json.load(file)
    with open("solution.py", encoding="utf-8", errors="replace", newline="") as file:
        source = file.read()
    sys.setrecursionlimit(RECURSION_LIMIT)
    run(source, plan, send)
    os._exit(0)  # threads and exit hooks of the program have nothing to add
