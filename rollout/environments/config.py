"""Configuration of environments. Imports no torch, vLLM or Ray."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from rollout.config import Config, UserCode


class Episode(Config):
    """What one conversation with an environment may use."""

    turns: int = Field(4, ge=1)
    """Turns of the policy at most; after the last one the episode is over, whatever the environment would answer."""
    feed_tokens: int = Field(256, ge=8)
    """Tokens of one answer of the environment at most; longer texts are clipped. All tokens count against the context,
    and only the policy's against ``rollout.max_tokens``."""
    seconds: float = Field(60.0, gt=0)
    """Wall time that the environment may take for one answer; then the rollout is ungradable."""
    concurrency: int = Field(64, ge=1)
    """Turns that it is asked about at one time; others wait their turn, and their time does not run."""


class PythonTool(Episode):
    """Python code in a turn is run in the sandbox, and its output is the answer; a turn without code ends it."""

    kind: Literal["python_tool"] = "python_tool"
    opens: str = Field("```python\n", min_length=1)
    """What begins the code; the last piece of code of a turn is run."""
    closes: str = Field("```", min_length=1)
    """What ends it."""
    role: Literal["tool", "user"] = "tool"
    """Whose message the output is, in the terms of the chat template."""
    reply: str = "{output}"
    """The message; ``{output}`` stands for what the program wrote, or said it died of."""
    output_chars: int = Field(2000, ge=1)
    """Characters of the output at most; head and tail of longer ones."""
    cpu_s: float = Field(5.0, gt=0)
    """Processor seconds of a program."""
    memory_mib: int = Field(256, ge=32)
    """Its memory."""
    concurrency: int = Field(8, ge=1)
    """Programs at one time; others wait their turn, and their time does not run."""

    @model_validator(mode="after")
    def _reply(self) -> Self:
        if "{output}" not in self.reply:
            raise ValueError(f"reply {self.reply!r} has no {{output}}")
        return self


class Retry(Episode):
    """A wrong answer is told, and the policy tries again; the last try counts."""

    kind: Literal["retry"] = "retry"
    turns: int = Field(2, ge=1)
    """Tries at most."""
    feedback: str = "That is wrong. Try again."
    """What the policy is told; ``{reason}`` stands for the grader's, which must not tell the answer: the verifier
    ``code`` tells what a test expects."""


class OwnEnvironment(Episode):
    """An environment from code of your own (docs/extend.md)."""

    kind: Literal["python"] = "python"
    path: UserCode
    """``my_file.py:name``, ``package.module:name``, or an entry point of ``k15.environments``: an object with an async
    ``step(conversation)``, or a class or function without arguments that makes one."""


EnvironmentConfig = Annotated[PythonTool | Retry | OwnEnvironment, Field(discriminator="kind")]
