"""Ends the descendants of a process when that process is gone, even by SIGKILL and even while they start.

An engine guards the processes that vLLM starts, a run those of its local Ray cluster. Run as a script by a plain
interpreter (``python -I -S guard.py TOKEN``), so it imports nothing of k15. Its standard input is a pipe whose other
end only the guarded process holds: end of file means that the process ended. Every process that was started with the
token in ``K15_GUARDS`` in its environment is then killed. Needs /proc (Linux).
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
import uuid

MARK = "K15_GUARDS"
"""Environment variable with the tokens of all guards above a process: each of them ends it."""


class Guard:
    """Ends the children that this process starts from now on, when it is gone."""

    def __init__(self) -> None:
        self.token = uuid.uuid4().hex
        command = [sys.executable, "-I", "-S", __file__, self.token]
        # A session of its own: Ctrl-C in the terminal must not end the guard before its process.
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True)
        os.environ[MARK] = f"{os.environ.get(MARK, '')} {self.token}".strip()

    def close(self, patience_s: float = 5.0) -> None:
        """End what is left of the children, and the guard. Idempotent."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(patience_s)


def marked(token: str) -> list[int]:
    """Return the processes that were started with the token in their environment."""
    found = []
    for name in os.listdir("/proc"):
        if name.isdigit() and int(name) != os.getpid():
            with contextlib.suppress(OSError), open(f"/proc/{name}/environ", "rb") as file:
                mark = next((item for item in file.read().split(b"\0") if item.startswith(f"{MARK}=".encode())), b"")
                if token.encode() in mark.partition(b"=")[2].split():
                    found.append(int(name))
    return found


def main(token: str) -> None:
    """Wait for the end of the guarded process, then kill until nothing marked is left: some may be starting others."""
    sys.stdin.buffer.read()
    end = time.monotonic() + 10
    while (pids := marked(token)) and time.monotonic() < end:
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.05)


if __name__ == "__main__":
    main(sys.argv[1])
