"""The section ``reward`` of a run's configuration. Imports no torch, vLLM or Ray."""

from __future__ import annotations

from typing import Any, ClassVar, Self

from pydantic import Field, model_validator

from rewards.score import GRADER_TIMEOUT_S
from rollout.config import Config, UserCode
from rollout.reward_models.config import RewardModelConfig


class LengthRewardConfig(Config):
    """The k1.5 length reward [2501.12599 §2.3.3]: off, then constant."""

    weight: float = Field(0.2, ge=0, lt=2)
    """w; not published. Below 2 the worst correct answer stays above the best wrong one."""
    start_iteration: int = Field(20, ge=0)
    """Iterations with w = 0 first (a penalty early slows learning)."""


class QuotesConfig(Config):
    """What a response states as given is looked for in its prompt (docs/quotes.md); given as one number it is the
    ``weight``.
    """

    shorthand: ClassVar[str] = "weight"
    weight: float = Field(0.0, ge=0, lt=1)
    """Subtracted from the reward of a response that states something as given which its prompt does not have; 0: it is
    only recorded. Below 1 the worst right answer stays above the best wrong one."""


class RewardConfig(Config):
    """How finished rollouts are scored; given as one text it is the ``function``, ``--reward my_file.py:name``, or the
    ``model``, ``--reward model:PATH``.
    """

    shorthand: ClassVar[str] = "function"
    MODEL: ClassVar[str] = "model:"
    function: UserCode | None = None
    """A reward of your own in place of the problems' verifiers: ``my_file.py:name``, ``package.module:name``, or an
    entry point of ``k15.rewards``. It takes ``(problem, response)`` and returns a number or a ``Score``, or lists of
    them from ``(problems, responses)``; ``null``: each problem's own verifier (docs/rewards.md)."""
    timeout_s: float = Field(60.0, gt=0)
    """Longest call of ``function``; its responses are ungradable after that."""
    concurrency: int = Field(64, ge=1)
    """Calls of an ``async`` function at one time."""
    truncated: float | None = None
    """Reward of a response that was cut at the length cap or stopped for repetition, which is never correct; ``null``:
    what ``function`` says of its text, 0 from verifiers."""
    length: LengthRewardConfig | None = LengthRewardConfig()
    """Length reward; ``null``: none."""
    repetition_penalty: float = Field(0.0, ge=0, le=1)
    """Subtracted from the reward of a rollout that was stopped for repetition."""
    quotes: QuotesConfig | None = None
    """Faithful quotes: recorded as the parts ``misquotes`` and ``misquoted`` of each score, and rewarded if they have a
    weight; ``null``: nobody looks."""
    grader_timeout_s: float = Field(GRADER_TIMEOUT_S, gt=0)
    """Wall limit per maths answer; one that spends it is wrong, a grader without processor time is ungradable."""
    judges: int = Field(0, ge=0)
    """Ray actors that judge programs (verifier ``code``), spread over the cluster; 0: in the run's own process."""
    model: RewardModelConfig | None = None
    """A model that judges what the rule, ``function`` or else the problems' verifiers, is not trusted with: a classic
    head, a chain-of-thought judge, a verifier from few labels (docs/reward_models.md); ``null``: none."""

    @classmethod
    def spelled_out(cls, value: str | float) -> dict[str, Any]:
        """See ``Config``."""
        if isinstance(value, str) and value.startswith(cls.MODEL):
            return {"model": {"path": value.removeprefix(cls.MODEL)}}
        return super().spelled_out(value)

    @model_validator(mode="after")
    def _one_grader(self) -> Self:
        if self.function is None and self.truncated is not None:
            raise ValueError("reward.truncated goes with reward.function; to verifiers a truncated response is wrong")
        if self.function is not None and self.judges:
            raise ValueError("reward.judges run the verifier 'code', and reward.function grades in its place")
        return self
