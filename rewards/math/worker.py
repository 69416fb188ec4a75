"""Grading processes: ``python -m rewards.math.worker FD (values|math_verify)``.

Evaluating an answer that a model wrote may take for ever, or all memory. So it happens here, where it can be killed.
The process that is started is the *nursery*: it imports everything once and then forks one worker for every byte that
it receives on the socket FD, in a few milliseconds, and sends back the worker's socket and pidfd. It never grades.

A worker's protocol: one JSON line ``{"gold", "answer", "tolerance", "limit_s"}`` in; out a line ``{"phase": "answer"}``
once the reference alone has been worked out, so that what goes wrong afterwards is the answer's doing, then a line
``{"same", "reason"}``, or ``{"failed": reason}`` when the reference or the grader is at fault.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import resource
import signal
import socket
import sys
from collections.abc import Callable
from fractions import Fraction

from rewards.math.compare import Comparer, Verdict, differs
from rewards.math.exact import Beyond, TooLarge
from rewards.math.parse import read
from rewards.math.tree import Expr, Listing, Matrix, Node, Num, Op, Relation, Seq, SetOf, Sym, Union, Unit, Unreadable

MEMORY_BYTES = 2**30
"""Address space of a worker."""
_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG


class ReferenceAtFault(Exception):
    """The reference cannot be worked out; nothing is said about the answer."""


Announce = Callable[[], None]


def judge_values(gold: str, answer: str, tolerance: Fraction | None, announce: Announce) -> Verdict:
    """By evaluation to many digits (``rewards.math.numeric``)."""
    from rewards.math import numeric

    golds = read(gold)
    for node in golds:
        for leaf in leaves(node):
            numeric.evaluates(leaf)
    announce()

    def decide(one: Expr, other: Expr, within: Fraction | None) -> bool:
        return numeric.identical(one, other, within)

    try:
        return Comparer(decide, tolerance).any_reading(golds, read(answer))
    except numeric.NoReference as error:
        raise ReferenceAtFault(f"the reference cannot be worked out: {error}") from error
    except (Beyond, TooLarge) as error:
        return differs(f"cannot be worked out: {error}")


def judge_math_verify(gold: str, answer: str, _: Fraction | None, announce: Announce) -> Verdict:
    """By math-verify, for references outside of the grammar."""
    from math_verify import LatexExtractionConfig, parse, verify

    # LaTeX only: plain expressions would go through Python's eval.
    def parsed(text: str) -> list:
        config = [LatexExtractionConfig()]
        return parse(rf"\boxed{{{text}}}", config, fallback_mode="no_fallback", parsing_timeout=None)  # type: ignore[no-any-return]

    expected = parsed(gold)
    for reference in expected:  # parsing works nothing out yet
        with contextlib.suppress(Exception):
            reference.doit().evalf()
    announce()
    if not expected:
        return differs("another text")
    found = parsed(answer)
    if not found:
        return differs("not readable as an answer")
    try:
        same = verify(expected, found, timeout_seconds=None, raise_on_error=True)
    except Exception as error:  # noqa: BLE001 the boundary to SymPy, which may raise anything on an answer's form
        return differs(f"cannot be compared: {type(error).__name__}")
    return Verdict(True) if same else differs("another value")


ENGINES = {"values": judge_values, "math_verify": judge_math_verify}


def leaves(node: Node) -> list[Expr]:
    """All expressions in a tree."""
    if isinstance(node, Num | Sym | Op | Unit):
        return [node]
    if isinstance(node, Seq | SetOf | Listing):
        parts = node.items
    elif isinstance(node, Union):
        parts = node.parts
    elif isinstance(node, Relation):
        parts = node.sides
    elif isinstance(node, Matrix):
        parts = sum(node.rows, ())
    else:
        return []
    return [leaf for part in parts for leaf in leaves(part)]


def answer_one(line: bytes, engine: str, send: Callable[[dict], None]) -> None:
    """Serve one request."""
    request = json.loads(line)
    tolerance = Fraction(request["tolerance"]) if request["tolerance"] else None
    in_answer = False

    def announce() -> None:
        nonlocal in_answer
        in_answer = True
        send({"phase": "answer"})

    try:
        verdict = ENGINES[engine](request["gold"], request["answer"], tolerance, announce)
        reply: dict = {"same": verdict.same, "reason": verdict.reason}
    except ReferenceAtFault as error:
        reply = {"failed": str(error)}
    except (MemoryError, RecursionError, Unreadable) as error:
        what = "takes too much memory" if isinstance(error, MemoryError) else f"not readable as an answer: {error}"
        reply = {"same": False, "reason": what} if in_answer else {"failed": f"the reference {what}"}
    except Exception as error:  # noqa: BLE001 the boundary of the process: a defect of ours is no wrong answer
        reply = {"failed": f"{type(error).__name__}: {error}"[:200]}
    send(reply)


def serve(connection: socket.socket, engine: str) -> None:
    """A worker's life: until its socket closes."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))

    def send(reply: dict) -> None:
        connection.sendall(json.dumps(reply).encode() + b"\n")

    with connection.makefile("rb") as lines:
        for line in lines:
            # The pool kills this process at its limit; should the pool be gone, the kernel does, a little later.
            usage = resource.getrusage(resource.RUSAGE_SELF)
            resource.setrlimit(resource.RLIMIT_CPU, (int(usage.ru_utime + usage.ru_stime) + 5, resource.RLIM_INFINITY))
            answer_one(line, engine, send)


def nursery(control: socket.socket, engine: str) -> None:
    """Fork a worker for each byte received, until the socket closes; workers die with this process."""
    libc = ctypes.CDLL(None, use_errno=True)
    null = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1):
        os.dup2(null, descriptor)  # whatever a library prints must not reach anybody
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # workers are reaped by the kernel
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # an interrupt at the terminal is for the pool's process
    control.sendall(b"ready\n")
    while control.recv(1):
        ours, theirs = socket.socketpair()
        pid = os.fork()
        if pid == 0:
            control.close()
            ours.close()
            libc.prctl(_DEATH_SIGNAL, signal.SIGKILL)
            try:
                serve(theirs, engine)
            finally:
                os._exit(0)
        handle = os.pidfd_open(pid)
        theirs.close()
        socket.send_fds(control, [f"{pid}\n".encode()], [ours.fileno(), handle])
        ours.close()
        os.close(handle)


def main(arguments: list[str]) -> None:
    """Import what the engine needs, then fork workers on demand."""
    control = socket.socket(fileno=int(arguments[0]))
    engine = arguments[1]
    if engine == "math_verify":
        import math_verify  # noqa: F401
    ENGINES[engine]("\\sqrt{2}", "\\sqrt{3}", None, lambda: None)  # first-use tables are start-up, not anyone's time
    nursery(control, engine)


if __name__ == "__main__":
    main(sys.argv[1:])
