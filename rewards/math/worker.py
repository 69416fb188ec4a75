"""The process that compares two answers symbolically: ``python -m rewards.math.worker``.

SymPy may take for ever, or all memory, on an answer that a model wrote. So it runs here, where it can be killed.
Protocol: one JSON line ``{"gold", "candidate", "limit_s"}`` in, one ``{"verdict", "reason"}`` out, after a first line
``ready``.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
from typing import Any

MEMORY_BYTES = 2 * 2**30
"""Address space of this process."""


def judge(gold: str, candidate: str) -> tuple[str, str]:
    """``("right" | "wrong" | "failed", reason)``: whether the two are the same by math-verify."""
    from math_verify import LatexExtractionConfig, parse, verify

    # LaTeX only: plain expressions would go through Python's eval.
    def read(text: str) -> Any:
        return parse(rf"\boxed{{{text}}}", [LatexExtractionConfig()], fallback_mode="no_fallback", parsing_timeout=None)

    try:
        expected, found = read(gold), read(candidate)
        if not found:
            return "wrong", "answer does not parse"
        if not expected:
            return "wrong", "another text"
        same = verify(expected, found, timeout_seconds=None, raise_on_error=True)
    except Exception as error:  # noqa: BLE001 the boundary to SymPy: whatever it raises, the grader failed and not the answer
        return "failed", f"{type(error).__name__}: {error}"[:200]
    return ("right", "") if same else ("wrong", "another value")


def main() -> None:
    """Serve until standard input closes."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)  # whatever a library prints must not look like an answer
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    judge("1+1", "2")  # imports and first-use tables are start-up, not part of anyone's limit
    answers.write("ready\n")
    answers.flush()
    for line in sys.stdin:
        request = json.loads(line)
        # The parent kills this process at the limit. Should the parent itself be gone, the alarm does, a little later.
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.setitimer(signal.ITIMER_REAL, request["limit_s"] + 1)
        verdict, reason = judge(request["gold"], request["candidate"])
        signal.setitimer(signal.ITIMER_REAL, 0)
        answers.write(json.dumps({"verdict": verdict, "reason": reason}) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
