"""Grading processes: ``python -m rewards.math.worker FD``.

Evaluating an answer that a model wrote is bounded in steps, digits and size; it happens here all the same, where it can
be killed, should a bound of ours have a hole. The process that is started is the *nursery*: it imports everything once
and then forks one worker for every byte that it receives on the socket FD, in a few milliseconds, and sends back the
worker's socket and pidfd. It never grades.

A worker's protocol: one JSON line ``{"gold", "answer", "tolerance"}`` in; out a line ``{"phase": "answer"}`` once the
reference alone has been worked out, so that what goes wrong afterwards is the answer's doing, then a line
``{"same", "reason"}``, or ``{"failed": reason}`` when the grader is at fault.
"""

from __future__ import annotations

import ctypes
import json
import os
import resource
import signal
import socket
import sys
from collections.abc import Callable
from fractions import Fraction

from rewards.math import equality
from rewards.math.compare import Comparer
from rewards.math.engine import Numeric
from rewards.math.exact import Beyond, TooLarge
from rewards.math.numeric import Uncertain
from rewards.math.points import points
from rewards.math.readings import read, read_gold
from rewards.math.tree import Unreadable, expressions
from rewards.math.verdict import Verdict

MEMORY_BYTES = 2**30
"""Address space of a worker."""
_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG

Announce = Callable[[], None]


def judged(gold: str, answer: str, tolerance: Fraction | None, announce: Announce) -> Verdict:
    """By evaluation to many digits (``rewards.math.equality``)."""
    golds = read_gold(gold)
    for node in golds:
        for leaf in expressions(node):
            for point in points(leaf):
                try:
                    equality.steady(leaf, point, 200)
                except (Beyond, TooLarge, Uncertain):
                    continue
    announce()
    return Comparer(Numeric(), tolerance).any_reading(golds, read(answer))


def answer_one(line: bytes, send: Callable[[dict], None]) -> None:
    """Serve one request."""
    request = json.loads(line)
    tolerance = Fraction(request["tolerance"]) if request["tolerance"] else None
    in_answer = False

    def announce() -> None:
        nonlocal in_answer
        in_answer = True
        send({"phase": "answer"})

    try:
        verdict = judged(request["gold"], request["answer"], tolerance, announce)
        reply: dict = {"same": verdict.same, "reason": verdict.reason}
    except (MemoryError, RecursionError, Unreadable) as error:
        what = "takes too much memory" if isinstance(error, MemoryError) else f"not readable as an answer: {error}"
        reply = {"same": False, "reason": what} if in_answer else {"failed": f"the reference {what}"}
    except Exception as error:  # noqa: BLE001 the boundary of the process: a defect of ours is no wrong answer
        reply = {"failed": f"{type(error).__name__}: {error}"[:200]}
    send(reply)


def serve(connection: socket.socket) -> None:
    """A worker's life: until its socket closes."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))

    def send(reply: dict) -> None:
        connection.sendall(json.dumps(reply).encode() + b"\n")

    with connection.makefile("rb") as lines:
        for line in lines:
            # The pool kills this process at its limit; should the pool be gone, the kernel does, a little later.
            usage = resource.getrusage(resource.RUSAGE_SELF)
            resource.setrlimit(resource.RLIMIT_CPU, (int(usage.ru_utime + usage.ru_stime) + 5, resource.RLIM_INFINITY))
            answer_one(line, send)


def nursery(control: socket.socket) -> None:
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
                serve(theirs)
            finally:
                os._exit(0)
        handle = os.pidfd_open(pid)
        theirs.close()
        socket.send_fds(control, [f"{pid}\n".encode()], [ours.fileno(), handle])
        ours.close()
        os.close(handle)


def main(arguments: list[str]) -> None:
    """Import everything, then fork workers on demand."""
    control = socket.socket(fileno=int(arguments[0]))
    # First-use tables are start-up, not anyone's time.
    judged("\\sqrt{2}+\\sin 1+\\ln 3", "\\sqrt{3}+\\sin 1+\\ln 3", None, lambda: None)
    nursery(control)


if __name__ == "__main__":
    main(sys.argv[1:])
