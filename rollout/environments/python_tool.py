"""An environment that runs the Python code of a turn in the sandbox and feeds its output back."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor

from rewards.code.sandbox import Sandbox, shared_sandbox
from rewards.code.types import Ending, Job, Limits, Outcome
from rewards.response import after_thinking
from rollout.environments.config import PythonTool
from rollout.environments.protocol import Conversation, End, Feed
from rollout.plain import clip

RUNNER = b"""\
import ast, sys
source = open("code.py", encoding="utf-8").read()
body = ast.parse(source, "code.py").body
last = body.pop() if body and isinstance(body[-1], ast.Expr) else None
names = {"__name__": "__main__"}
exec(compile(ast.Module(body, []), "code.py", "exec"), names)
if last is not None:
    value = eval(compile(ast.Expression(last.value), "code.py", "eval"), names)
    if value is not None:
        print(value)
"""
"""Runs the code as an interactive Python does: the value of the last line is printed."""
MIB = 1 << 20
ENDINGS = {
    Ending.CPU: "the program took too long",
    Ending.WALL: "the program took too long",
    Ending.SLEEP: "the program took too long",
    Ending.MEMORY: "the program used too much memory",
    Ending.OUTPUT: "the program wrote too much",
}


class PythonToolEnvironment:
    """Each piece of code is run alone: names of earlier turns are gone. Programs see no network and no files of ours.

    ``sandbox``: where programs run; without, the one that this process shares. A sandbox that fails makes the rollout
    ungradable; a program that fails is answered like any other, with its error.
    """

    def __init__(self, config: PythonTool, sandbox: Sandbox | None = None) -> None:
        self.config = config
        self._sandbox = sandbox
        self._threads = ThreadPoolExecutor(config.concurrency, thread_name_prefix="python-tool")

    async def step(self, conversation: Conversation) -> Feed | End:
        """See ``Environment``."""
        code = code_of(conversation.text, self.config.opens, self.config.closes)
        if code is None or conversation.last:
            return End()
        loop = asyncio.get_running_loop()
        outcome = await loop.run_in_executor(self._threads, self._run, code)
        output = clip(output_of(outcome), self.config.output_chars)
        return Feed.text(self.config.reply.replace("{output}", output), self.config.role)

    def _run(self, code: str) -> Outcome:
        config = self.config
        limits = Limits(
            cpu_s=config.cpu_s,
            wall_s=2 * config.cpu_s + 10,
            sleep_s=config.cpu_s,
            memory_bytes=config.memory_mib * MIB,
            output_bytes=max(4 * config.output_chars, 4096),
        )
        files = {"code.py": code.encode("utf-8", "replace"), "run.py": RUNNER}
        return (self._sandbox or shared_sandbox()).run(Job(("python3", "run.py"), files, limits=limits))

    def close(self) -> None:
        """See ``Environment``."""
        self._threads.shutdown(wait=False, cancel_futures=True)


def code_of(text: str, opens: str, closes: str) -> str | None:
    """Return the last piece of code behind the thinking of a turn; ``None`` when there is none, or it does not end."""
    said = after_thinking(text) if "</think>" in text else text
    start = said.rfind(opens)
    if start < 0:
        return None
    code, close, _ = said[start + len(opens) :].partition(closes)
    return code if close else None


def output_of(outcome: Outcome) -> str:
    """Return what the program wrote and, if it failed, the last line of its error."""
    text = outcome.stdout.decode("utf-8", "replace").rstrip("\n")
    if outcome.ok:
        return text
    said = outcome.stderr.decode("utf-8", "replace").strip().splitlines()
    reason = ENDINGS.get(outcome.ending) or (said[-1] if said else f"the program ended with status {outcome.exit_code}")
    return f"{text}\n{reason}" if text else reason
