"""The environment that a configuration describes, and whether a chat template can speak its part."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable
from typing import Any

from rollout.environments.config import EnvironmentConfig, OwnEnvironment, PythonTool
from rollout.environments.protocol import Conversation, End, Environment, Feed
from rollout.grading import Grader
from rollout.models.prompts import PromptError, Transcript
from rollout.models.turns import Feeder
from rollout.types import Message
from rollout.user_code import UserCodeError, explain, load, source_of

logger = logging.getLogger(__name__)

GROUP = "k15.environments"
"""Entry points that name environments."""


def build_environment(config: EnvironmentConfig, grader: Callable[[], Grader]) -> Environment:
    """Build the environment; ``grader`` makes a grader for those that ask one. Raises ``UserCodeError`` for code that
    is no environment.
    """
    if isinstance(config, PythonTool):
        from rollout.environments.python_tool import PythonToolEnvironment

        return PythonToolEnvironment(config)
    if isinstance(config, OwnEnvironment):
        return own(config.path)
    from rollout.environments.retry import RetryEnvironment

    return RetryEnvironment(config, grader())


def own(spec: str) -> Environment:
    """Load the environment that ``spec`` names; a class or function is called. Raises ``UserCodeError``."""
    found = load(spec, GROUP)
    file, _ = source_of(spec, found)
    if isinstance(found, type) or (callable(found) and not hasattr(found, "step")):
        try:
            found = found()
        except Exception as error:
            raise UserCodeError(f"{explain(error, file)} (while {spec} was made)") from error
    if not inspect.iscoroutinefunction(getattr(found, "step", None)):
        raise UserCodeError(f"{spec}: no environment: it has no `async def step(self, conversation)`")
    return _Own(found, source_of(spec, found)[0])


class _Own:
    """The user's environment; its errors name the user's file and line."""

    def __init__(self, environment: Any, file: str) -> None:
        self._environment, self._file = environment, file

    async def step(self, conversation: Conversation) -> Feed | End:
        """See ``Environment``."""
        try:
            found: Feed | End = await self._environment.step(conversation)
        except Exception as error:
            raise UserCodeError(explain(error, self._file)) from error
        if not isinstance(found, Feed | End):
            raise UserCodeError(f"{self._file}: step returned {type(found).__name__}, neither Feed nor End")
        return found

    def close(self) -> None:
        """See ``Environment``; a user's needs no ``close``."""
        if close := getattr(self._environment, "close", None):
            try:
                close()
            except Exception as error:  # noqa: BLE001  what the run has made must not be lost by it
                logger.warning("environment: %s (while it was closed)", explain(error, self._file))


def check_turns(config: EnvironmentConfig, transcript: Transcript) -> None:
    """Raises ``PromptError`` when the chat template refuses what the environment will say, or the policy cannot write
    what calls it.
    """
    role = config.role if isinstance(config, PythonTool) else "user"
    feeder = Feeder(transcript.tokenizer, transcript.arguments)
    feeder.check(role)
    feeder.fitting([Message(role, "")], config.feed_tokens)
    tokenizer = transcript.tokenizer
    marks = [("opens", config.opens), ("closes", config.closes)] if isinstance(config, PythonTool) else []
    for name, mark in marks:
        if tokenizer.unk_token_id in tokenizer(mark, add_special_tokens=False)["input_ids"]:
            raise PromptError(
                f"environment.{name}: tokenizer {tokenizer.name_or_path!r} has no tokens for {mark!r}, so the policy "
                "can never call the tool; choose what it can write"
            )
